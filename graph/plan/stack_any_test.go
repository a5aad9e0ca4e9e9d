package plan_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// anyGraph draws products of squares, columns and rows, whichever fit, views of them, sums, and sums that are kept in variables.
type anyGraph struct {
	r    *rand.Rand
	g    *graph.Graph
	feed plan.Feed
	pool []graph.Value
	outs []graph.Value
	vars []*graph.Var
}

const anySide, anyGiven = 64, 5

func drawAny(seed uint64) *anyGraph {
	a := &anyGraph{r: rand.New(rand.NewPCG(seed, 1)), g: graph.New("any"), feed: plan.Feed{}}
	for i, dims := range [][]int{{anySide, anySide}, {anySide, anySide}, {anySide, 1}, {1, anySide}, {1, anySide}} {
		x := filled(tensor.T(tensor.F32, dims...), uint64(i))
		v := a.g.Const(x)
		if dims[0] > 1 { // rows are weights
			v = a.g.Input(fmt.Sprint("in", i), x.Type())
			a.feed[v] = x
		}
		a.pool = append(a.pool, v)
	}
	for range 16 + a.r.IntN(24) {
		a.node()
	}
	read := map[graph.Value]bool{}
	for _, n := range a.g.Nodes() {
		for _, v := range n.In {
			read[v] = true
		}
	}
	for _, v := range a.pool[anyGiven:] {
		switch {
		case read[v] || a.r.IntN(5) == 0:
		case v.Dim(1) == 1: // a product of thin ones, which reads either layout
			a.outs = append(a.outs, a.g.Apply(ops.MatMul{}, v, a.pool[3])[0])
		case v.Dim(0) == 1:
			a.outs = append(a.outs, a.g.Apply(ops.MatMul{}, a.pool[2], v)[0])
		default:
			a.outs = append(a.outs, v)
		}
	}
	a.outs = append(a.outs, a.pool[len(a.pool)-1])
	return a
}

// pick prefers what is given, which many then read.
func (a *anyGraph) pick() graph.Value {
	if a.r.IntN(3) > 0 {
		return a.pool[a.r.IntN(anyGiven)]
	}
	return a.pool[a.r.IntN(len(a.pool))]
}

// kept is a variable of x's type.
func (a *anyGraph) kept(x graph.Value) *graph.Var {
	v := graph.NewVar(fmt.Sprint("v", len(a.vars)), x.Type())
	a.vars = append(a.vars, v)
	return v
}

func (a *anyGraph) node() {
	switch x := a.pick(); a.r.IntN(40) {
	default:
		y := a.pick()
		op := ops.MatMul{TransA: x.Dim(1) == 1 && y.Dim(1) > 1 && y.Dim(0) > 1, TransB: y.Dim(0) == 1 && x.Dim(1) > 1} // as of an adapter
		if a.r.IntN(4) == 0 {
			op = ops.MatMul{TransA: a.r.IntN(2) == 0, TransB: a.r.IntN(2) == 0}
		}
		if out, err := op.Infer([]tensor.Type{x.Type(), y.Type()}); err != nil || out[0].Size() == 1 {
			return
		}
		p := ops.Scale(a.g.Apply(op, x, y)[0], []float64{1, 0.125}[a.r.IntN(2)])
		switch a.r.IntN(4) {
		case 0: // added to what is there
			for _, c := range a.pool {
				if c.Type() == p.Type() && (c.Type().Size() > anySide && a.r.IntN(2) == 0 || a.r.IntN(16) == 0) {
					p = ops.Add(c, p)
				}
			}
		case 1:
			v := a.kept(p)
			p = ops.Add(a.g.Read(v), p)
			a.g.Write(v, p)
		case 2: // added to a variable that stays, as others may be
			if len(a.vars) > 0 {
				if v := a.vars[a.r.IntN(len(a.vars))]; v.Type == p.Type() {
					p = ops.Add(a.g.Read(v), p)
				}
			}
		}
		a.pool = append(a.pool, p)
	case 0:
		a.pool = append(a.pool, ops.Tanh(x))
	case 1:
		a.pool = append(a.pool, ops.Reshape(x, x.Dim(1), x.Dim(0)))
	case 2:
		a.pool = append(a.pool, ops.Reshape(ops.Reshape(x, -1), x.Dim(0), x.Dim(1)))
	case 3:
		a.outs = append(a.outs, x)
	}
}

func (a *anyGraph) run(t require.TestingT, dev device.Device) (names map[string]int, got []*tensor.Tensor) {
	store := plan.NewStore(dev)
	for i, v := range a.vars {
		require.NoError(t, store.Set(v, filled(v.Type, uint64(50+i))))
	}
	p, err := plan.Compile(a.outs, plan.Options{Device: dev, Store: store, Verify: true})
	require.NoError(t, err)
	require.NoError(t, p.CheckArena())
	names = map[string]int{}
	for _, l := range p.Launches() {
		names[l.Node.Op.Name()]++
	}
	for range 2 {
		res, err := p.Run(context.Background(), a.feed)
		require.NoError(t, err)
		got = got[:0]
		for _, v := range a.outs {
			got = append(got, res.Tensor(v))
		}
	}
	for _, v := range a.vars {
		x, err := store.Get(v)
		require.NoError(t, err)
		got = append(got, x)
	}
	require.NoError(t, p.Close())
	return names, got
}

// TestStackAny: whatever is multiplied by what, stacking and sharing change results by roundings only.
func TestStackAny(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(120) {
		a := drawAny(seed)
		require.NoError(t, a.g.Err())
		_, want := a.run(t, withKernels())
		names, got := a.run(t, stacking{withKernels(ops.AddMatMulParts{}, ops.MatMulPair{}), 1})
		for k, n := range names {
			seen[k] += n
		}
		for i := range want {
			most := 1.0
			for k := range want[i].Type().Size() {
				most = max(most, math.Abs(want[i].At(k)))
			}
			for k := range want[i].Type().Size() {
				require.False(t, math.Abs(want[i].At(k)-got[i].At(k)) > 1e-3*most, "result %d, element %d: %v, not %v: %v", i, k, got[i].At(k), want[i].At(k), a.g)
			}
		}
	}
	for _, op := range []string{"concat", "add_matmul_parts", "matmul_pair"} {
		require.NotZero(t, seen[op], "%s in none: %v", op, seen)
	}
}

// TestStackParts: a loss that is computed of few tokens at a time, so that few scores are held, stays in parts: forward, again, and the gradients of the
// tokens' states and of the head, added to a variable.
func TestStackParts(t *testing.T) {
	const part, parts, dim, vocab = 4, 3, 512, 64
	run := func(dev device.Device) (names map[string]int, arena int64) {
		g := graph.New("parts")
		x, head, acc := g.Input("x", tensor.T(tensor.F32, part*parts, dim)), graph.NewVar("head", tensor.T(tensor.F32, vocab, dim)), graph.NewVar("acc", tensor.T(tensor.F32, vocab, dim))
		w, loss := g.Read(head), graph.Value{}
		for i := range parts {
			autograd.Checkpoint(g, func() {
				y := ops.Sum(ops.Square(ops.Tanh(ops.Linear(ops.Slice(x, 0, i*part, (i+1)*part), w))))
				if loss.Absent() {
					loss = y
				} else {
					loss = ops.Add(loss, y)
				}
			})
		}
		grads, err := autograd.GradValues(loss, x, w)
		require.NoError(t, err)
		g.Write(acc, ops.Add(g.Read(acc), grads[1]))
		p, err := plan.Compile([]graph.Value{loss, grads[0]}, plan.Options{Device: dev, Verify: true})
		require.NoError(t, err)
		names, arena = map[string]int{}, p.Report().Arena
		for _, l := range p.Launches() {
			names[l.Node.Op.Name()]++
		}
		require.NoError(t, p.Close())
		return names, arena
	}
	want, before := run(withKernels(ops.AddMatMulParts{}))
	names, arena := run(newStacking(1))
	require.Equal(t, want, names)
	require.Equal(t, before, arena)
}

// TestStackDiamonds: what is brought to a product is looked at once, however many ways lead to it.
func TestStackDiamonds(t *testing.T) {
	g := graph.New("diamonds")
	x, w := g.Input("x", tensor.T(tensor.F32, 256, 64)), g.Input("w", tensor.T(tensor.F32, 2, 64))
	late := g.Input("late", w.Type())
	first := ops.Linear(x, w)
	for range 60 {
		late = ops.Mul(late, ops.Tanh(late)) // twice as many ways
	}
	out := g.Input("out", tensor.T(tensor.F32, 5, 2))
	outs := []graph.Value{ops.Linear(first, out), ops.Linear(ops.Linear(x, late), out)}
	require.NoError(t, g.Err())
	done := make(chan error)
	go func() {
		p, err := plan.Compile(outs, plan.Options{Device: newStacking(1), Verify: true})
		if err == nil {
			err = p.Close()
		}
		done <- err
	}()
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(time.Minute):
		require.Fail(t, "a plan of 130 nodes takes more than a minute")
	}
}
