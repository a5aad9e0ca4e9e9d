package plan_test

import (
	"context"
	"errors"
	"math"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func TestPassOrder(t *testing.T) { require.NoError(t, plan.PassOrder()) }

// mlp is a deep network with a constant and an accumulated loss.
func mlp(g *graph.Graph, depth, width int, checkpoint func(f func())) (x, loss graph.Value, vars []*graph.Var) {
	x = g.Input("x", tensor.T(tensor.F32, 32, width))
	h := x
	for range depth {
		w := graph.NewVar("w", tensor.T(tensor.F32, width, width))
		vars = append(vars, w)
		checkpoint(func() {
			h = ops.Add(h, ops.GELU(ops.Linear(ops.SiLU(h), g.Read(w))))
		})
	}
	return x, ops.Mean(ops.Square(h)), vars
}

func plainly(f func()) { f() }

func TestPeakIsExact(t *testing.T) {
	dev := cpu.New(cpu.Options{Threads: 1})
	g := graph.New("peak")
	x, loss, vars := mlp(g, 4, 24, plainly)
	loss = ops.Add(loss, ops.Sum(g.Const(filled(tensor.T(tensor.F32, 100), 1))))
	grads, err := autograd.Grad(loss, vars...)
	require.NoError(t, err)
	for i, v := range vars {
		g.Write(v, ops.Sub(g.Read(v), ops.Scale(grads[i], 0.1)))
	}
	p, err := plan.Compile([]graph.Value{loss}, plan.Options{Device: dev})
	require.NoError(t, err)
	peak := p.Report().Peak()
	run(t, p, plan.Feed{x: filled(x.Type(), 2)})
	require.Equal(t, peak, dev.Allocated())
	require.NoError(t, p.Close())
	require.Zero(t, dev.Allocated())

	_, err = plan.Compile([]graph.Value{loss}, plan.Options{Device: dev, Budget: peak})
	require.NoError(t, err, "the exact peak is enough")
	_, err = plan.Compile([]graph.Value{loss}, plan.Options{Device: dev, Budget: peak - 1})
	var be *plan.BudgetError
	require.ErrorAs(t, err, &be)
	require.Equal(t, peak, be.Report.Peak())
	require.Contains(t, err.Error(), "smaller micro-batch")
	require.Contains(t, err.Error(), "inputs")
	_, err = plan.Compile([]graph.Value{loss}, plan.Options{Device: dev, Budget: 100})
	require.ErrorContains(t, err, "variables alone do not fit")
}

func TestCheckpoint(t *testing.T) {
	dev := cpu.New(cpu.Options{Threads: 1})
	type result struct {
		grads []*tensor.Tensor
		arena int64
	}
	measure := func(wrap func(g *graph.Graph) func(f func())) result {
		g := graph.New("deep")
		x, loss, vars := mlp(g, 12, 32, wrap(g))
		grads, err := autograd.Grad(loss, vars...)
		require.NoError(t, err)
		require.NoError(t, g.Verify())
		store := plan.NewStore(dev)
		for i, v := range vars {
			require.NoError(t, store.Set(v, filled(v.Type, uint64(i))))
		}
		p, err := plan.Compile(grads, plan.Options{Device: dev, Store: store, Verify: true})
		require.NoError(t, err)
		require.NoError(t, p.CheckArena())
		r := run(t, p, plan.Feed{x: filled(x.Type(), 77)})
		var out []*tensor.Tensor
		for _, v := range grads {
			out = append(out, r.Tensor(v))
		}
		return result{out, p.Report().Arena - int64(len(vars))*vars[0].Type.Bytes()}
	}
	plain := measure(func(*graph.Graph) func(func()) { return plainly })
	once := measure(func(g *graph.Graph) func(func()) {
		return func(f func()) { autograd.Checkpoint(g, f) }
	})
	nested := measure(func(g *graph.Graph) func(func()) {
		return func(f func()) { autograd.Checkpoint(g, func() { autograd.Checkpoint(g, f) }) }
	})
	for i := range plain.grads {
		require.Equal(t, plain.grads[i].Bytes(), once.grads[i].Bytes(), "gradient %d", i)
		require.Equal(t, plain.grads[i].Bytes(), nested.grads[i].Bytes(), "gradient %d, nested", i)
	}
	t.Logf("arena without the gradients: %d B plain, %d B checkpointed, %d B nested", plain.arena, once.arena, nested.arena)
	require.Less(t, once.arena, plain.arena*2/3)
	require.Less(t, nested.arena, plain.arena*2/3)
}

func TestErrorsOfCompileAndRun(t *testing.T) {
	dev := cpu.New(cpu.Options{Threads: 1})
	g := graph.New("g")
	x, y := g.Input("x", vec4), g.Input("y", tensor.T(tensor.F32))
	out := ops.Mul(x, y)
	p, err := plan.Compile([]graph.Value{out}, plan.Options{Device: dev})
	require.NoError(t, err)
	ok := vec(1, 2, 3, 4)
	for _, c := range []struct {
		name string
		feed plan.Feed
		want string
	}{
		{"missing", plan.Feed{x: ok}, `input "y" f32[] is not fed; the graph needs: x, y`},
		{"type", plan.Feed{x: vec(1), y: 1.0}, `input "x": fed f32[1], the graph declares f32[4]`},
		{"number for a vector", plan.Feed{x: 1.0, y: 1.0}, "fed one number, the graph declares f32[4]"},
		{"go type", plan.Feed{x: "no", y: 1.0}, "fed a string"},
		{"nil", plan.Feed{x: (*tensor.Tensor)(nil), y: 1.0}, "fed nil"},
		{"not an input", plan.Feed{out: ok, x: ok, y: 1.0}, "is not an input of the graph"},
		{"absent", plan.Feed{graph.Value{}: ok}, "is not an input of the graph"},
	} {
		_, err := p.Run(context.Background(), c.feed)
		require.ErrorContains(t, err, c.want, c.name)
	}
	for _, n := range []any{2.0, float32(2), 2, int32(2), int64(2)} {
		require.Equal(t, float64(4), run(t, p, plan.Feed{x: ok, y: n}).Tensor(out).At(1))
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = p.Run(ctx, plan.Feed{x: ok, y: 1})
	require.ErrorIs(t, err, context.Canceled)
	require.True(t, math.IsNaN(run(t, p, plan.Feed{x: ok, y: 2}).Float(x)), "not an output")

	_, err = plan.Compile([]graph.Value{out}, plan.Options{})
	require.ErrorContains(t, err, "Device")
	_, err = plan.Compile(nil, plan.Options{Device: dev})
	require.ErrorContains(t, err, "nothing to compute")
	_, err = plan.Compile([]graph.Value{{}}, plan.Options{Device: dev})
	require.ErrorContains(t, err, "absent")
	_, err = plan.Compile([]graph.Value{out, graph.New("h").Input("x", vec4)}, plan.Options{Device: dev})
	require.ErrorContains(t, err, `belongs to graph "h"`)
	ops.Add(x, ops.Cast(x, tensor.I32))
	_, err = plan.Compile([]graph.Value{out}, plan.Options{Device: dev})
	require.ErrorContains(t, err, "dtypes differ")
}

// wrong claims to double its input; its kernel triples it, in place where it may.
type wrong struct{ Err bool }

func (wrong) Name() string                                  { return "wrong" }
func (wrong) Infer(in []tensor.Type) ([]tensor.Type, error) { return in[:1], nil }
func (wrong) Alias() []graph.AliasPair                      { return []graph.AliasPair{{}} }
func (wrong) Decompose(in []graph.Value) []graph.Value {
	return []graph.Value{ops.Add(in[0], in[0])}
}

func init() {
	cpu.Register(func(_ *cpu.Device, op wrong, _ device.Spec) (*cpu.Kernel, error) {
		return &cpu.Kernel{Run: func(c *cpu.Call) error {
			if op.Err {
				return errors.New("broken")
			}
			for i, x := range tensor.View[float32](c.In[0]) {
				tensor.View[float32](c.Out[0])[i] = 3 * x
			}
			return nil
		}}, nil
	})
}

func TestCheckNamesTheNode(t *testing.T) {
	dev := cpu.New(cpu.Options{Threads: 1})
	compile := func(f func(g *graph.Graph, x graph.Value) graph.Value, check bool) (*plan.Plan, graph.Value) {
		g := graph.New("check")
		x := g.Input("x", vec4)
		undo := g.Scope("layers.3")
		y := f(g, x)
		undo()
		p, err := plan.Compile([]graph.Value{y}, plan.Options{Device: dev, Check: check})
		require.NoError(t, err)
		return p, x
	}
	kernelBug := func(g *graph.Graph, x graph.Value) graph.Value { return g.Apply(wrong{}, ops.Exp(x))[0] }
	p, x := compile(kernelBug, true)
	_, err := p.Run(context.Background(), plan.Feed{x: vec(0, 0, 0, 1)})
	var m *plan.MismatchError
	require.ErrorAs(t, err, &m)
	require.Equal(t, 3, m.Index)
	require.InDelta(t, 3*math.E, m.Got, 1e-5)
	require.InDelta(t, 2*math.E, m.Want, 1e-5)
	require.Regexp(t, `^plan_test\.go:\d+ \(layers\.3\): %2 = wrong\(%1\) f32\[4\]: the kernel gives`, err.Error())
	p, x = compile(kernelBug, false)
	run(t, p, plan.Feed{x: vec(0, 0, 0, 1)})

	p, x = compile(func(_ *graph.Graph, x graph.Value) graph.Value { return ops.Sum(ops.Log(x)) }, true)
	run(t, p, plan.Feed{x: vec(1, 2, 3, 4)})
	_, err = p.Run(context.Background(), plan.Feed{x: vec(1, -2, 3, 4)})
	var nf *plan.NonFiniteError
	require.ErrorAs(t, err, &nf)
	require.Equal(t, 1, nf.Index)
	require.Regexp(t, `^plan_test\.go:\d+ \(layers\.3\): .*log.* gives NaN at element 1`, err.Error())

	p, x = compile(func(g *graph.Graph, x graph.Value) graph.Value { return g.Apply(wrong{Err: true}, x)[0] }, false)
	_, err = p.Run(context.Background(), plan.Feed{x: vec(1, 2, 3, 4)})
	require.Regexp(t, `^plan_test\.go:\d+ \(layers\.3\): wrong: broken`, err.Error())
}

func TestProbeSeesEveryKernel(t *testing.T) {
	dev := cpu.New(cpu.Options{Threads: 1})
	g := graph.New("probe")
	x := g.Input("x", vec4)
	y := ops.Sum(ops.Exp(ops.Neg(x)))
	var seen []string
	p, err := plan.Compile([]graph.Value{y}, plan.Options{Device: dev, NoFuse: true, Probe: func(n *graph.Node, out []*tensor.Tensor) {
		require.Len(t, out, 1)
		seen = append(seen, n.Op.Name())
	}})
	require.NoError(t, err)
	run(t, p, plan.Feed{x: vec(1, 2, 3, 4)})
	require.Equal(t, []string{"neg", "exp", "reduce_sum"}, seen)
}

// TestMissingKernels: all of them are named in one error.
func TestMissingKernels(t *testing.T) {
	g := graph.New("g")
	x := g.Input("x", vec4)
	a := g.Apply(unknown{1}, x)[0]
	b := g.Apply(unknown{2}, a)[0]
	_, err := plan.Compile([]graph.Value{b}, plan.Options{Device: cpu.New(cpu.Options{Threads: 1})})
	require.ErrorIs(t, err, device.ErrNoKernel)
	require.ErrorContains(t, err, "unknown{N:1}(f32[4]); unknown{N:2}(f32[4])")
}

type unknown struct{ N int }

func (unknown) Name() string                                  { return "unknown" }
func (unknown) Infer(in []tensor.Type) ([]tensor.Type, error) { return in[:1], nil }

// TestLongChains: chains longer than one kernel takes are cut, immediates counted.
func TestLongChains(t *testing.T) {
	dev := cpu.New(cpu.Options{Threads: 1})
	g := graph.New("chain")
	x := g.Input("x", tensor.T(tensor.F32, 700))
	y := x
	for i := range 100 {
		y = ops.Clip(ops.AddScalar(ops.Scale(y, 1-float64(i)*1e-3), float64(i)*1e-2), -50-float64(i), 60+float64(i))
	}
	feed := plan.Feed{x: filled(x.Type(), 5)}
	for _, o := range []plan.Options{{Device: dev, Verify: true}, {Device: dev, NoFuse: true}} {
		p, err := plan.Compile([]graph.Value{y}, o)
		require.NoError(t, err)
		r := run(t, p, feed)
		if !o.NoFuse {
			require.Less(t, p.Report().Launches, 40)
			feed[x] = filled(x.Type(), 5)
			g.Write(graph.NewVar("v", y.Type()), y)
		}
		require.False(t, math.IsNaN(r.Tensor(y).At(0)))
	}
}

// TestSteadyStateHeap: running a step again and again does not grow the heap.
func TestSteadyStateHeap(t *testing.T) {
	dev := cpu.New(cpu.Options{Threads: 2})
	g := graph.New("steady")
	x, loss, vars := mlp(g, 3, 64, plainly)
	grads, err := autograd.Grad(loss, vars...)
	require.NoError(t, err)
	for i, v := range vars {
		g.Write(v, ops.Sub(g.Read(v), ops.Scale(grads[i], 0.1)))
	}
	p, err := plan.Compile([]graph.Value{loss}, plan.Options{Device: dev})
	require.NoError(t, err)
	feed := plan.Feed{x: filled(x.Type(), 1)}
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for range 10 {
		run(t, p, feed)
	}
	before := heap()
	for range 50 {
		run(t, p, feed)
	}
	after := heap()
	t.Logf("heap %d B before, %d B after 50 steps", before, after)
	require.Less(t, after, before+64<<10)
}
