package plan_test

import (
	"fmt"
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

// TestShare: of three adapters on a frozen layer each, where the gradients of A and B are added to variables or returned, both products that read the
// gradient of a layer's output become one, on a device that can. What they give are the same bits here, where the kernel is those products.
func TestShare(t *testing.T) {
	const rows, dim, rank, layers = 20, 16, 4, 3
	step := func(dev device.Device, kept, noFuse bool) (names map[string]int, out []*tensor.Tensor) {
		g := graph.New("adapters")
		store := plan.NewStore(dev)
		x := g.Input("x", tensor.T(tensor.F32, rows, dim))
		h := x
		variable := func(name string, seed uint64, dims ...int) *graph.Var {
			v := graph.NewVar(fmt.Sprint(name, seed), tensor.T(tensor.F32, dims...))
			require.NoError(t, store.Set(v, filled(v.Type, seed)))
			return v
		}
		var factors []graph.Value
		var sums []*graph.Var
		for i := range uint64(layers) {
			w := g.Const(filled(tensor.T(tensor.F32, dim, dim), i))
			a := g.Read(variable("a", i, rank, dim))
			b := g.Read(variable("b", i, dim, rank))
			sums = append(sums, variable("da", i, rank, dim), variable("db", i, dim, rank))
			h = ops.Tanh(ops.Add(ops.Linear(h, w), ops.Linear(ops.Scale(ops.Linear(h, a), 2), b)))
			factors = append(factors, a, b)
		}
		grads, err := autograd.GradValues(ops.Sum(ops.Square(h)), factors...)
		require.NoError(t, err)
		outs := []graph.Value{h}
		for i, d := range grads {
			if kept {
				g.Write(sums[i], ops.Add(g.Read(sums[i]), d))
			} else {
				outs = append(outs, d)
			}
		}
		p, err := plan.Compile(outs, plan.Options{Device: dev, Store: store, Verify: true, NoFuse: noFuse})
		require.NoError(t, err)
		require.NoError(t, p.CheckArena())
		names = map[string]int{}
		for _, l := range p.Launches() {
			names[l.Node.Op.Name()]++
		}
		res, err := p.Run(t.Context(), plan.Feed{x: filled(x.Type(), 1)})
		require.NoError(t, err)
		for _, o := range outs {
			out = append(out, res.Tensor(o))
		}
		for _, v := range sums {
			got, err := store.Get(v)
			require.NoError(t, err)
			out = append(out, got)
		}
		require.NoError(t, p.Close())
		return names, out
	}
	for _, kept := range []bool{false, true} {
		plain, want := step(cpu.New(cpu.Options{Threads: 1}), kept, false)
		require.Zero(t, plain["matmul_pair"])
		names, got := step(withKernels(ops.MatMulPair{}), kept, false)
		require.Equal(t, layers, names["matmul_pair"])
		require.Equal(t, want, got)
		names, _ = step(withKernels(ops.MatMulPair{}), kept, true)
		require.Zero(t, names["matmul_pair"])
	}
}

// TestShareForms: the second product may come first, have a factor, and read its thin operand in either layout. What is not thin, or of another
// matrix, or needs the other's result, stays apart.
func TestShareForms(t *testing.T) {
	const m, n, rank = 20, 16, 4
	dev := withKernels(ops.MatMulPair{})
	names := func(build func(g *graph.Graph, x, b graph.Value) []graph.Value) map[string]int {
		g := graph.New("forms")
		x, b := g.Input("x", tensor.T(tensor.F32, m, n)), g.Input("b", tensor.T(tensor.F32, n, rank))
		p, err := plan.Compile(build(g, x, b), plan.Options{Device: dev, Verify: true})
		require.NoError(t, err)
		defer func() { require.NoError(t, p.Close()) }()
		out := map[string]int{}
		for _, l := range p.Launches() {
			out[l.Node.Op.Name()]++
		}
		return out
	}
	product := func(g *graph.Graph, op graph.Op, in ...graph.Value) graph.Value { return g.Apply(op, in...)[0] }
	for _, trans := range []bool{false, true} {
		for _, first := range []bool{false, true} {
			got := names(func(g *graph.Graph, x, b graph.Value) []graph.Value {
				s := g.Input("s", tensor.T(tensor.F32, m, rank))
				if trans {
					s = g.Input("s", tensor.T(tensor.F32, rank, m))
				}
				second := func() graph.Value { return ops.Scale(product(g, ops.MatMul{TransA: true, TransB: trans}, x, s), 3) }
				if first {
					d := second()
					return []graph.Value{d, product(g, ops.MatMul{}, x, b)}
				}
				return []graph.Value{product(g, ops.MatMul{}, x, b), second()}
			})
			require.Equal(t, map[string]int{"matmul_pair": 1}, got, "trans %v, second first %v", trans, first)
		}
	}
	for name, build := range map[string]func(g *graph.Graph, x, b graph.Value) []graph.Value{
		"needs the other": func(g *graph.Graph, x, b graph.Value) []graph.Value {
			s := product(g, ops.MatMul{}, x, b)
			return []graph.Value{product(g, ops.MatMul{TransA: true}, x, s)}
		},
		"another matrix": func(g *graph.Graph, x, b graph.Value) []graph.Value {
			y, s := g.Input("y", tensor.T(tensor.F32, m, n)), g.Input("s", tensor.T(tensor.F32, m, rank))
			return []graph.Value{product(g, ops.MatMul{}, x, b), product(g, ops.MatMul{TransA: true}, y, s)}
		},
		"not thin": func(g *graph.Graph, x, _ graph.Value) []graph.Value {
			w, s := g.Input("w", tensor.T(tensor.F32, n, 8)), g.Input("s", tensor.T(tensor.F32, m, 8))
			return []graph.Value{product(g, ops.MatMul{}, x, w), product(g, ops.MatMul{TransA: true}, x, s)}
		},
	} {
		require.Zero(t, names(build)["matmul_pair"], name)
	}
}
