package plan_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/optest/interp"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// world is a random graph with everything it touches.
type world struct {
	g    *graph.Graph
	vars []*graph.Var // some are views of slabs
	slab *graph.Var
	vals []graph.Value // all f32
	outs []graph.Value
	feed plan.Feed
	in   map[graph.Value]*tensor.Tensor
}

func filled(typ tensor.Type, seed uint64) *tensor.Tensor {
	rng := rand.New(rand.NewPCG(seed, 3))
	t := tensor.New(typ)
	for i := range typ.Size() {
		t.Set(i, rng.NormFloat64())
	}
	return t
}

// newWorld draws a graph: inputs, variables of which three lie in one slab, up to thirty ops, and writes.
func newWorld(t *rapid.T) *world {
	w := &world{g: graph.New("random"), feed: plan.Feed{}, in: map[graph.Value]*tensor.Tensor{}}
	shapes := [][]int{{4, 4}, {4, 8}, {8, 4}, {16}, {8, 16}}
	for i := range rapid.IntRange(1, 3).Draw(t, "inputs") {
		v := w.g.Input(fmt.Sprint("x", i), tensor.T(tensor.F32, rapid.SampledFrom(shapes).Draw(t, "shape")...))
		w.in[v] = filled(v.Type(), uint64(i))
		w.feed[v] = w.in[v]
		w.vals = append(w.vals, v)
	}
	w.slab = graph.NewVar("slab", tensor.T(tensor.F32, 1024))
	for i := range rapid.IntRange(1, 5).Draw(t, "vars") {
		v := graph.NewVar(fmt.Sprint("v", i), tensor.T(tensor.F32, rapid.SampledFrom(shapes).Draw(t, "shape")...))
		if i < 3 {
			v.Slab, v.Offset = w.slab, int64(i)*256
		}
		w.vars = append(w.vars, v)
	}
	if rapid.Bool().Draw(t, "read slab") {
		w.vars = append(w.vars, w.slab)
	}
	for range rapid.IntRange(1, 30).Draw(t, "ops") {
		w.step(t)
	}
	w.writes(t)
	for range rapid.IntRange(1, 3).Draw(t, "outs") {
		w.outs = append(w.outs, w.pick(t))
	}
	return w
}

func (w *world) pick(t *rapid.T) graph.Value {
	return w.vals[rapid.IntRange(0, len(w.vals)-1).Draw(t, "value")]
}

// like returns some value of the same shape as v.
func (w *world) like(t *rapid.T, v graph.Value) graph.Value {
	var same []graph.Value
	for _, o := range w.vals {
		if o.Shape() == v.Shape() {
			same = append(same, o)
		}
	}
	return rapid.SampledFrom(same).Draw(t, "other")
}

func (w *world) step(t *rapid.T) {
	x := w.pick(t)
	var y graph.Value
	switch rapid.IntRange(0, 15).Draw(t, "kind") {
	case 0:
		y = ops.Tanh(x)
	case 1:
		y = ops.Sigmoid(ops.Scale(x, 0.5))
	case 2:
		y = ops.Add(x, w.like(t, x))
	case 3:
		y = ops.Tanh(ops.Mul(x, w.like(t, x)))
	case 4:
		y = ops.Add(x, ops.Scalar(x, 1))
	case 5:
		y = ops.Where(ops.Less(x, w.like(t, x)), x, ops.Neg(x))
	case 6:
		y = ops.Reshape(x, -1, 4)
	case 7:
		y = ops.Transpose(ops.Reshape(x, 4, -1))
	case 8:
		y = ops.Tanh(ops.Linear(ops.Reshape(x, -1, 4), ops.Reshape(w.pick(t), -1, 4)))
	case 9:
		y = ops.Concat(0, x, w.like(t, x))
	case 10:
		y = ops.Slice(x, 0, 0, max(x.Dim(0)/2, 1))
	case 11:
		y = ops.BroadcastTo(ops.Mean(x, 0), x.Shape().Dims()...)
	case 12:
		y = w.g.Read(rapid.SampledFrom(w.vars).Draw(t, "var"))
	case 13:
		y = ops.Cast(ops.Cast(x, tensor.BF16), tensor.F32)
	case 14: // a product is added in place: to the bit, as the factor is a power of two and the product has one block
		x = ops.Reshape(x, -1, 4)
		y = ops.Add(ops.Tanh(ops.Linear(x, ops.Neg(x))), ops.Scale(ops.Linear(x, ops.Sigmoid(x)), 0.25))
	case 15: // on another lane
		y = ops.ReduceAll(x, ops.CombineSum)
	}
	if y.Type().Size() <= 4096 && y.Type().Size() > 0 && y.Type().Size()%4 == 0 {
		w.vals = append(w.vals, y)
	}
}

// writes draws values for some variables: any value of the size, the variable plus a value, or another variable's old value.
func (w *world) writes(t *rapid.T) {
	for _, v := range w.vars {
		if v == w.slab {
			continue
		}
		var fit []graph.Value
		for _, x := range w.vals {
			if x.Type().Size() == v.Type.Size() {
				fit = append(fit, x)
			}
		}
		dims := v.Type.Shape.Dims()
		switch rapid.IntRange(0, 3).Draw(t, "write "+v.Name) {
		case 1:
			if len(fit) > 0 {
				w.g.Write(v, ops.Reshape(rapid.SampledFrom(fit).Draw(t, "value"), dims...))
			}
		case 2:
			acc := w.g.Read(v)
			for _, x := range fit {
				acc = ops.Add(acc, ops.Reshape(x, dims...))
			}
			w.g.Write(v, ops.Tanh(acc))
		case 3:
			if o := rapid.SampledFrom(w.vars).Draw(t, "from"); o.Type.Size() == v.Type.Size() {
				w.g.Write(v, ops.Reshape(w.g.Read(o), dims...))
			}
		}
	}
}

// expect interprets the step node by node from given storage (slab and variables outside it) and returns the outputs and the
// new storage.
func (w *world) expect(t require.TestingT, dev *cpu.Device, store map[*graph.Var]*tensor.Tensor) ([]*tensor.Tensor, map[*graph.Var]*tensor.Tensor) {
	vars := map[*graph.Var]*tensor.Tensor{}
	for _, v := range w.vars {
		root, off := v.Root()
		vt, err := tensor.FromBytes(v.Type, store[root].Bytes()[off:off+v.Type.Bytes()])
		require.NoError(t, err)
		vars[v] = vt.Clone()
	}
	outs := append([]graph.Value(nil), w.outs...)
	for _, wr := range w.g.Writes() {
		outs = append(outs, wr.Value)
	}
	got, err := interp.Run(interp.Options{Device: dev}, interp.Env{Feed: w.in, Vars: vars}, outs...)
	require.NoError(t, err)
	next := map[*graph.Var]*tensor.Tensor{}
	for v, x := range store {
		next[v] = x.Clone()
	}
	for i, wr := range w.g.Writes() {
		root, off := wr.Var.Root()
		copy(next[root].Bytes()[off:], got[len(w.outs)+i].Bytes())
	}
	return got[:len(w.outs)], next
}

func (w *world) storage() map[*graph.Var]*tensor.Tensor {
	out := map[*graph.Var]*tensor.Tensor{w.slab: filled(w.slab.Type, 99)}
	for i, v := range w.vars {
		if root, _ := v.Root(); out[root] == nil {
			out[root] = filled(root.Type, uint64(100+i))
		}
	}
	return out
}

// TestRandomGraphs: whatever the passes, threads and schedule, three steps give bit for bit what the naive reading gives, in
// outputs and variables, and no operand is overwritten before its last use.
func TestRandomGraphs(t *testing.T) {
	one, two := cpu.New(cpu.Options{Threads: 1}), cpu.New(cpu.Options{Threads: 2})
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		require.NoError(t, w.g.Err())
		require.NoError(t, w.g.Verify())
		seed := rapid.Uint64().Draw(t, "schedule")
		shuffled := func(id int) int { return int((uint64(id)*0x9e3779b97f4a7c15 ^ seed) >> 40) }
		for _, o := range []plan.Options{
			{Device: one, Verify: true}, {Device: one, NoFuse: true, Verify: true}, {Device: two},
			plan.WithRank(plan.Options{Device: one}, shuffled), plan.WithRank(plan.Options{Device: one, NoFuse: true}, shuffled),
			{Device: one, Check: false, Probe: func(*graph.Node, []*tensor.Tensor) {}},
		} {
			w.runPlan(t, one, o)
		}
	})
}

func (w *world) runPlan(t *rapid.T, ref *cpu.Device, o plan.Options) {
	store := w.storage()
	o.Store = plan.NewStore(o.Device)
	for v, x := range store {
		require.NoError(t, o.Store.Set(v, x))
	}
	p, err := plan.Compile(w.outs, o)
	require.NoError(t, err)
	require.NoError(t, p.CheckArena(), "%v", w.g)
	r := p.Report()
	require.LessOrEqual(t, r.Live, r.Arena)
	for range 3 {
		var want []*tensor.Tensor
		want, store = w.expect(t, ref, store)
		res, err := p.Run(context.Background(), w.feed)
		require.NoError(t, err)
		for i, v := range w.outs {
			require.True(t, bytes.Equal(want[i].Bytes(), res.Tensor(v).Bytes()), "output %v of\n%v", v, w.g)
		}
		for v, x := range store {
			got, err := o.Store.Get(v)
			require.NoError(t, err)
			require.True(t, bytes.Equal(x.Bytes(), got.Bytes()), "variable %s after\n%v", v.Name, w.g)
		}
	}
	require.NoError(t, p.Close())
}
