package plan_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// inPlace are sums with the number of products in them that are added in place.
var inPlace = map[string]struct {
	build func(x, y graph.Value, w *graph.Var) []graph.Value
	want  int
}{
	"two products": {func(x, y graph.Value, _ *graph.Var) []graph.Value {
		return []graph.Value{ops.Add(ops.Dot(x, y), ops.Dot(y, x))}
	}, 1},
	"a chain": {func(x, y graph.Value, _ *graph.Var) []graph.Value {
		return []graph.Value{ops.Sub(ops.Add(ops.Dot(x, y), ops.Scale(ops.Neg(ops.Dot(y, x)), 3)), ops.Dot(x, x))}
	}, 2},
	"through views": {func(x, y graph.Value, _ *graph.Var) []graph.Value {
		c := ops.Reshape(ops.Sigmoid(x), 8, 2, 4)
		return []graph.Value{ops.Add(ops.Reshape(ops.Scale(ops.Reshape(ops.Dot(x, y), 64), 0.5), 8, 2, 4), c)}
	}, 1},
	"an update": {func(x, y graph.Value, w *graph.Var) []graph.Value {
		g := x.Graph()
		g.Write(w, ops.Sub(g.Read(w), ops.Scale(ops.Dot(x, y), 0.1)))
		return []graph.Value{ops.Dot(x, g.Read(w))} // of the old value
	}, 1},
	"a variable that stays": {func(x, y graph.Value, w *graph.Var) []graph.Value {
		return []graph.Value{ops.Add(x.Graph().Read(w), ops.Dot(x, y))}
	}, 0},
	"an input": {func(x, y graph.Value, _ *graph.Var) []graph.Value { return []graph.Value{ops.Add(x, ops.Dot(x, y))} }, 0},
	"a product that is an output": {func(x, y graph.Value, _ *graph.Var) []graph.Value {
		p := ops.Dot(x, y)
		return []graph.Value{p, ops.Add(ops.Sigmoid(x), p)}
	}, 0},
	"a product used twice": {func(x, y graph.Value, _ *graph.Var) []graph.Value {
		p := ops.Dot(x, y)
		return []graph.Value{ops.Mul(ops.Add(ops.Sigmoid(x), p), p)}
	}, 0},
	"a sum that is needed without": {func(x, y graph.Value, _ *graph.Var) []graph.Value {
		c := ops.Sigmoid(x)
		return []graph.Value{ops.Mul(ops.Add(c, ops.Dot(x, y)), c)}
	}, 0},
	"a negative sum": {func(x, y graph.Value, _ *graph.Var) []graph.Value {
		return []graph.Value{ops.Sub(ops.Dot(x, y), ops.Sigmoid(x))}
	}, 0},
	"a broadcast": {func(x, y graph.Value, _ *graph.Var) []graph.Value {
		return []graph.Value{ops.Add(ops.Sigmoid(ops.Slice(x, 0, 0, 1)), ops.Dot(x, y))}
	}, 0},
	"a product that waits": {func(x, y graph.Value, _ *graph.Var) []graph.Value {
		return []graph.Value{ops.Add(ops.Sigmoid(x), ops.After(ops.Dot(x, y), ops.Exp(y)))}
	}, 0},
	"a product's bits": {func(x, y graph.Value, _ *graph.Var) []graph.Value {
		return []graph.Value{ops.Add(ops.BitCast(ops.Sigmoid(x), tensor.I32), ops.BitCast(ops.Dot(x, y), tensor.I32))}
	}, 0},
	"half precision": {func(x, y graph.Value, _ *graph.Var) []graph.Value {
		half := func(v graph.Value) graph.Value { return ops.Cast(v, tensor.BF16) }
		return []graph.Value{ops.Add(ops.Dot(half(x), half(y)), ops.Dot(half(y), half(x)))}
	}, 1},
}

// TestAccumulate: products are added in place exactly where nothing else needs them, nor what they are added to.
func TestAccumulate(t *testing.T) {
	dev := cpu.New(cpu.Options{Threads: 1})
	for name, c := range inPlace {
		t.Run(name, func(t *testing.T) {
			var got [2][]*tensor.Tensor
			for i, noFuse := range []bool{false, true} {
				g := graph.New("sum")
				x, y := g.Input("x", tensor.T(tensor.F32, 8, 8)), g.Input("y", tensor.T(tensor.F32, 8, 8))
				w := graph.NewVar("w", x.Type())
				outs := c.build(x, y, w)
				store := plan.NewStore(dev)
				require.NoError(t, store.Set(w, filled(w.Type, 3)))
				p, err := plan.Compile(outs, plan.Options{Device: dev, Store: store, Verify: true, NoFuse: noFuse})
				require.NoError(t, err)
				require.NoError(t, p.CheckArena())
				n := 0
				for _, l := range p.Launches() {
					if l.Node.Op.Name() == "add_matmul" {
						n++
					}
				}
				if !noFuse {
					require.Equal(t, c.want, n)
				}
				res, err := p.Run(t.Context(), plan.Feed{x: filled(x.Type(), 1), y: filled(y.Type(), 2)})
				require.NoError(t, err)
				for _, v := range outs {
					got[i] = append(got[i], res.Tensor(v))
				}
				after, err := store.Get(w)
				require.NoError(t, err)
				got[i] = append(got[i], after)
				require.NoError(t, p.Close())
			}
			for i := range got[0] {
				for j := range got[0][i].Type().Size() {
					limit := 1e-6
					if got[0][i].Type().DType == tensor.BF16 {
						limit = 1.0 / 32 // two units in the last place of sums up to 4
					}
					require.InDelta(t, got[1][i].At(j), got[0][i].At(j), limit, "result %d, element %d", i, j)
				}
			}
		})
	}
}

// TestAccumulateAdapter: of an adapter's product and the frozen weight's the second is added to the first, and the gradient of a factor in bf16
// is summed in float32 where it lies: there is no addition and no cast of a product left.
func TestAccumulateAdapter(t *testing.T) {
	dev := cpu.New(cpu.Options{Threads: 1})
	const rows, in, out, rank = 24, 64, 96, 8
	q := ops.QuantMatMul{Scheme: quant.NF4, Blocksize: 64, N: out, K: in}
	g := graph.New("adapter")
	x := g.Input("x", tensor.T(tensor.BF16, rows, in))
	codes := graph.NewVar("codes", tensor.T(tensor.U8, quant.PackedSize(out*in)))
	absmax := graph.NewVar("absmax", tensor.T(tensor.F32, quant.Blocks(out*in, 64)))
	a, b := graph.NewVar("a", tensor.T(tensor.F32, rank, in)), graph.NewVar("b", tensor.T(tensor.F32, out, rank))
	sum := graph.NewVar("sum", b.Type)
	low := ops.Linear(x, ops.Cast(g.Read(a), tensor.BF16))
	y := ops.Add(ops.QuantLinear(q, x, g.Read(codes), g.Read(absmax)), ops.Linear(low, ops.Cast(g.Read(b), tensor.BF16)))
	loss := ops.Sum(ops.Square(ops.Cast(y, tensor.F32)))
	grads, err := autograd.Grad(loss, b)
	require.NoError(t, err)
	g.Write(sum, ops.Add(g.Read(sum), grads[0]))
	p, err := plan.Compile([]graph.Value{loss}, plan.Options{Device: dev, Verify: true})
	require.NoError(t, err)
	counts := map[string]int{}
	for _, l := range p.Launches() {
		counts[l.Node.Op.Name()]++
		if l.Node.Op.Name() == "add_matmul" {
			require.Equal(t, tensor.F32, l.Node.Out[0].DType)
		}
	}
	require.Equal(t, []int{1, 1, 0, 0}, []int{counts["add_quant_matmul"], counts["add_matmul"], counts["quant_matmul"], counts["add"]}, "%v", counts)
	require.NoError(t, p.Close())
}
