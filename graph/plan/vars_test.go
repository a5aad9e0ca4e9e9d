package plan_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

var vec4 = tensor.T(tensor.F32, 4)

func vec(vals ...float32) *tensor.Tensor {
	t := tensor.New(tensor.T(tensor.F32, len(vals)))
	copy(tensor.Data[float32](t), vals)
	return t
}

// fixture is a graph with a store on one thread.
type fixture struct {
	t     *testing.T
	dev   *cpu.Device
	g     *graph.Graph
	store *plan.Store
}

func newFixture(t *testing.T) *fixture {
	dev := cpu.New(cpu.Options{Threads: 1})
	return &fixture{t: t, dev: dev, g: graph.New("step"), store: plan.NewStore(dev)}
}

func (f *fixture) newVar(name string, vals ...float32) *graph.Var {
	v := graph.NewVar(name, tensor.T(tensor.F32, len(vals)))
	require.NoError(f.t, f.store.Set(v, vec(vals...)))
	return v
}

func (f *fixture) compile(outs ...graph.Value) *plan.Plan {
	f.t.Helper()
	p, err := plan.Compile(outs, plan.Options{Device: f.dev, Store: f.store, Verify: true})
	require.NoError(f.t, err)
	require.NoError(f.t, p.CheckArena())
	return p
}

func (f *fixture) get(v *graph.Var) []float32 {
	f.t.Helper()
	x, err := f.store.Get(v)
	require.NoError(f.t, err)
	return x.Float32s()
}

func run(t *testing.T, p *plan.Plan, feed plan.Feed) plan.Result {
	t.Helper()
	r, err := p.Run(context.Background(), feed)
	require.NoError(t, err)
	return r
}

func TestReadsSeeTheOldValue(t *testing.T) {
	f := newFixture(t)
	v := f.newVar("v", 1, 2, 3, 4)
	old := f.g.Read(v)
	next := ops.AddScalar(old, 10)
	f.g.Write(v, next)
	late := ops.Mul(ops.Sum(next), old) // needs the new value and the old one
	p := f.compile(late, old, next)
	r := run(t, p, nil)
	require.Equal(t, []float32{50, 100, 150, 200}, r.Tensor(late).Float32s())
	require.Equal(t, []float32{1, 2, 3, 4}, r.Tensor(old).Float32s())
	require.Equal(t, []float32{11, 12, 13, 14}, r.Tensor(next).Float32s())
	require.Equal(t, []float32{11, 12, 13, 14}, f.get(v))
	r = run(t, p, nil)
	require.Equal(t, []float32{11, 12, 13, 14}, r.Tensor(old).Float32s())
}

func TestSwap(t *testing.T) {
	f := newFixture(t)
	a, b := f.newVar("a", 1, 1, 1, 1), f.newVar("b", 2, 2, 2, 2)
	f.g.Write(a, f.g.Read(b))
	f.g.Write(b, f.g.Read(a))
	p := f.compile(ops.Sum(f.g.Read(a)))
	run(t, p, nil)
	require.Equal(t, []float32{2, 2, 2, 2}, f.get(a))
	require.Equal(t, []float32{1, 1, 1, 1}, f.get(b))
}

func TestOneValueForTwoVariables(t *testing.T) {
	f := newFixture(t)
	a, b, c := f.newVar("a", 0, 0, 0, 0), f.newVar("b", 0, 0, 0, 0), f.newVar("c", 0, 0, 0, 0)
	x := f.g.Input("x", vec4)
	f.g.Write(a, x)
	f.g.Write(b, x)
	y := ops.Tanh(x)
	d := f.newVar("d", 0, 0, 0, 0)
	f.g.Write(c, y)
	f.g.Write(d, y)
	run(t, f.compile(x), plan.Feed{x: vec(1, 2, 3, 4)})
	for _, v := range []*graph.Var{a, b} {
		require.Equal(t, []float32{1, 2, 3, 4}, f.get(v))
	}
	require.Equal(t, f.get(c), f.get(d))
	require.NotZero(t, f.get(d)[0])
}

func TestAccumulationIsInPlace(t *testing.T) {
	f := newFixture(t)
	acc := f.newVar("acc", make([]float32, 4096)...)
	x := f.g.Input("x", acc.Type)
	f.g.Write(acc, ops.Add(f.g.Read(acc), ops.Scale(x, 2)))
	p := f.compile(ops.Sum(x))
	_, inVars, copies := p.InPlace()
	require.Equal(t, 1, inVars)
	require.Zero(t, copies)
	in := filled(acc.Type, 1)
	for range 3 {
		run(t, p, plan.Feed{x: in})
	}
	require.InDelta(t, 6*in.At(7), f.get(acc)[7], 1e-5)
}

func TestLastWriteWins(t *testing.T) {
	f := newFixture(t)
	v := f.newVar("v", 1, 2, 3, 4)
	f.g.Write(v, ops.AddScalar(f.g.Read(v), 1))
	f.g.Write(v, ops.AddScalar(f.g.Read(v), 2))
	run(t, f.compile(ops.Sum(f.g.Read(v))), nil)
	require.Equal(t, []float32{3, 4, 5, 6}, f.get(v))
}

func TestSlabViews(t *testing.T) {
	f := newFixture(t)
	slab := f.newVar("slab", make([]float32, 512)...)
	a, b := graph.NewVar("a", vec4), graph.NewVar("b", vec4)
	a.Slab, b.Slab, b.Offset = slab, slab, 256
	require.NoError(t, f.store.Set(a, vec(1, 2, 3, 4)))
	f.g.Write(b, ops.Scale(f.g.Read(a), 3))
	whole := f.g.Read(slab)
	run(t, f.compile(ops.Sum(whole)), nil)
	require.Equal(t, []float32{3, 6, 9, 12}, f.get(slab)[256:260])
	require.Equal(t, int64(2048), f.store.Bytes(), "views own no storage")

	f.g.Write(slab, ops.Scale(whole, 2))
	_, err := plan.Compile([]graph.Value{ops.Sum(whole)}, plan.Options{Device: f.dev, Store: f.store})
	require.ErrorContains(t, err, "overlap")
}

// cacheWrite insists on updating its first input in place; it adds its second.
type cacheWrite struct{}

func (cacheWrite) Name() string                                  { return "cache_write" }
func (cacheWrite) Infer(in []tensor.Type) ([]tensor.Type, error) { return in[:1], nil }
func (cacheWrite) Alias() []graph.AliasPair {
	return []graph.AliasPair{{Out: 0, In: 0, Required: true}}
}

func init() {
	cpu.Register(func(*cpu.Device, cacheWrite, device.Spec) (*cpu.Kernel, error) {
		return &cpu.Kernel{Run: func(c *cpu.Call) error {
			dst, a, b := tensor.View[float32](c.Out[0]), tensor.View[float32](c.In[0]), tensor.View[float32](c.In[1])
			for i := range dst {
				dst[i] = a[i] + b[i]
			}
			return nil
		}}, nil
	})
}

func TestRequiredAlias(t *testing.T) {
	build := func(f *fixture) (*graph.Var, graph.Value, graph.Value) {
		cache := f.newVar("cache", 1, 2, 3, 4)
		x := f.g.Input("x", vec4)
		return cache, x, f.g.Apply(cacheWrite{}, f.g.Read(cache), x)[0]
	}
	t.Run("in place", func(t *testing.T) {
		f := newFixture(t)
		cache, x, y := build(f)
		f.g.Write(cache, y)
		a, b := f.newVar("a", 1, 1, 1, 1), f.newVar("b", 2, 2, 2, 2) // a swap beside it is no reason to refuse
		f.g.Write(a, ops.Add(f.g.Read(b), ops.Scale(y, 0)))
		f.g.Write(b, f.g.Read(a))
		run(t, f.compile(ops.Sum(y)), plan.Feed{x: vec(1, 1, 1, 1)})
		require.Equal(t, []float32{2, 3, 4, 5}, f.get(cache))
		require.Equal(t, []float32{2, 2, 2, 2}, f.get(a))
		require.Equal(t, []float32{1, 1, 1, 1}, f.get(b))
	})
	t.Run("old value read later", func(t *testing.T) {
		f := newFixture(t)
		cache, _, y := build(f)
		f.g.Write(cache, y)
		late := ops.Mul(ops.Sum(y), f.g.Read(cache))
		_, err := plan.Compile([]graph.Value{late}, plan.Options{Device: f.dev, Store: f.store})
		require.ErrorContains(t, err, "cache_write must update cache in place")
		require.ErrorContains(t, err, "vars_test.go:")
	})
	t.Run("not written back", func(t *testing.T) {
		f := newFixture(t)
		_, _, y := build(f)
		_, err := plan.Compile([]graph.Value{y}, plan.Options{Device: f.dev, Store: f.store})
		require.ErrorContains(t, err, "write its result back")
	})
	t.Run("written elsewhere", func(t *testing.T) {
		f := newFixture(t)
		_, _, y := build(f)
		f.g.Write(f.newVar("other", 0, 0, 0, 0), y)
		_, err := plan.Compile([]graph.Value{y}, plan.Options{Device: f.dev, Store: f.store})
		require.ErrorContains(t, err, "written to other")
	})
}

func TestSessionGrows(t *testing.T) {
	dev := cpu.New(cpu.Options{Threads: 1})
	s := plan.NewSession(plan.NewStore(dev))
	v := graph.NewVar("v", tensor.T(tensor.F32, 8))
	var plans []*plan.Plan
	var outs, ins []graph.Value
	for i, n := range []int{8, 64, 512} {
		g := graph.New(fmt.Sprint("g", n))
		x := g.Input("x", tensor.T(tensor.F32, n))
		y := ops.Tanh(ops.Add(ops.Sum(x), g.Read(v)))
		g.Write(v, ops.AddScalar(g.Read(v), 1))
		p, err := plan.Compile([]graph.Value{y}, plan.Options{Device: dev, Session: s})
		require.NoError(t, err)
		plans, outs, ins = append(plans, p), append(outs, y), append(ins, x)
		for j := range plans { // every earlier plan again, at the new addresses
			r := run(t, plans[j], plan.Feed{ins[j]: tensor.New(ins[j].Type())})
			require.NotNil(t, r.Tensor(outs[j]))
		}
		require.Equal(t, s.ArenaBytes()+s.Store().Bytes(), dev.Allocated())
		require.Len(t, plans, i+1)
	}
	got, err := s.Store().Get(v)
	require.NoError(t, err)
	require.Equal(t, float64(1+2+3), got.At(0))
	for _, p := range plans {
		require.NoError(t, p.Close())
		require.NoError(t, p.Close(), "closing twice is harmless")
	}
	_, err = plans[0].Run(context.Background(), nil)
	require.ErrorContains(t, err, "closed")
	require.NoError(t, s.Close())
	require.Zero(t, dev.Allocated())
}
