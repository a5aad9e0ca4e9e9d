package plan_test

import (
	"context"
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// threeAdapters is a layer's three projections of one input with adapters, their sum as loss, and the gradients of the adapters added to variables.
type threeAdapters struct {
	d       tensor.DType
	ranks   [3]int
	shared  bool // the projections read one input
	blocked bool // s is needed as it is
	again   bool // the layer is computed again in the backward pass
	rows    int  // 0: 256
}

const threeIn, threeOut = 192, 48

func (a threeAdapters) build(t *testing.T) (g *graph.Graph, outs []graph.Value, vars []*graph.Var, feed plan.Feed) {
	g = graph.New("threeAdapters")
	rows := a.rows
	if rows == 0 {
		rows = 256
	}
	x := g.Input("x", tensor.T(a.d, 2, rows/2, threeIn))
	other := g.Input("other", x.Type())
	feed = plan.Feed{x: filled(x.Type(), 1), other: filled(x.Type(), 2)}
	var params []*graph.Var
	layer := func(in ...graph.Value) graph.Value {
		sum := graph.Value{}
		for i, r := range a.ranks {
			read := func(name string, dims ...int) graph.Value {
				k := 2*i + map[string]int{"A": 0, "B": 1}[name]
				if k == len(params) {
					params = append(params, graph.NewVar(string(rune('0'+i))+name, tensor.T(tensor.F32, dims...)))
				}
				return ops.Cast(g.Read(params[k]), a.d)
			}
			from := in[0]
			if !a.shared {
				from = ops.Add(in[0], ops.Scale(in[1], float64(i)))
			}
			s := ops.Linear(from, read("A", r, threeIn))
			y := ops.Linear(ops.Scale(s, 2), read("B", threeOut, r))
			if a.blocked {
				y = ops.Add(y, ops.Sum(s))
			}
			if y = ops.Tanh(y); sum.Absent() {
				sum = y
			} else {
				sum = ops.Add(sum, ops.Mul(y, y))
			}
		}
		return sum
	}
	h := ops.Sigmoid(x)
	var y graph.Value
	if a.again {
		autograd.Checkpoint(g, func() { y = layer(h, other) })
	} else {
		y = layer(h, other)
	}
	loss := ops.Sum(ops.Cast(y, tensor.F32))
	grads, err := autograd.Grad(loss, params...)
	require.NoError(t, err)
	dx, err := autograd.GradValues(loss, x)
	require.NoError(t, err)
	for i, v := range params {
		acc := graph.NewVar(v.Name+".grad", v.Type)
		g.Write(acc, ops.Add(g.Read(acc), ops.Cast(grads[i], tensor.F32)))
		vars = append(vars, acc)
	}
	return g, []graph.Value{y, dx[0]}, append(vars, params...), feed
}

// stacking is a device on which thin products pay from so many bytes on.
type stacking struct {
	device.Device
	from int64
}

func (d stacking) StackFrom() int64 { return d.from }

func newStacking(bytes int64) stacking { return stacking{withKernels(ops.AddMatMulParts{}), bytes} }

func (a threeAdapters) run(t *testing.T, dev device.Device) (names map[string]int, got []*tensor.Tensor, arena int64) {
	_, outs, vars, feed := a.build(t)
	store := plan.NewStore(dev)
	for i, v := range vars {
		require.NoError(t, store.Set(v, filled(v.Type, uint64(50+i))))
	}
	p, err := plan.Compile(outs, plan.Options{Device: dev, Store: store, Verify: true})
	require.NoError(t, err)
	require.NoError(t, p.CheckArena())
	names = map[string]int{}
	for _, l := range p.Launches() {
		names[l.Node.Op.Name()]++
	}
	for range 2 { // the second adds to the gradients of the first
		res, err := p.Run(t.Context(), feed)
		require.NoError(t, err)
		got = got[:0]
		for _, v := range outs {
			got = append(got, res.Tensor(v))
		}
	}
	for _, v := range vars {
		x, err := store.Get(v)
		require.NoError(t, err)
		got = append(got, x)
	}
	arena = p.Report().Arena
	require.NoError(t, p.Close())
	return names, got, arena
}

// TestStack: products that share an input are one, and so are their gradients and the sum of what goes back to the input. Results are equal to the
// bit but for that sum, which is rounded less often. What does not share, is needed as it is, or is no less than what it shares, stays.
func TestStack(t *testing.T) {
	all := map[string]int{"add_matmul": 3, "add_matmul_parts": 1, "concat": 2, "scale_matmul": 4} // s, and t of each layer; A and t are joined once
	for name, c := range map[string]struct {
		threeAdapters
		want map[string]int
	}{
		"f32":        {threeAdapters{d: tensor.F32, ranks: [3]int{4, 4, 4}, shared: true}, all},
		"bf16":       {threeAdapters{d: tensor.BF16, ranks: [3]int{4, 4, 4}, shared: true}, all},
		"f16, ranks": {threeAdapters{d: tensor.F16, ranks: [3]int{2, 8, 3}, shared: true}, all},
		"rank 1":     {threeAdapters{d: tensor.F32, ranks: [3]int{1, 1, 1}, shared: true}, all},
		"recomputed": {threeAdapters{d: tensor.BF16, ranks: [3]int{4, 4, 4}, shared: true, again: true},
			map[string]int{"add_matmul": 3, "add_matmul_parts": 1, "concat": 3, "scale_matmul": 5}}, // A is joined again too
		"not shared": {threeAdapters{d: tensor.BF16, ranks: [3]int{4, 4, 4}}, // but what goes back is a sum
			map[string]int{"add_matmul": 6, "concat": 2, "scale_matmul": 6}},
		"needed": {threeAdapters{d: tensor.F32, ranks: [3]int{4, 4, 4}, shared: true, blocked: true},
			map[string]int{"add_matmul": 6, "add_matmul_parts": 1, "concat": 2, "matmul": 7}},
		"not thin": {threeAdapters{d: tensor.F32, ranks: [3]int{64, 64, 64}, shared: true}, map[string]int{"add_matmul": 8, "scale_matmul": 6}},
		"odd rows": {threeAdapters{d: tensor.BF16, ranks: [3]int{4, 4, 4}, shared: true, rows: 510},
			map[string]int{"add_matmul": 3, "add_matmul_parts": 1, "concat": 2, "scale_matmul": 6}},
	} {
		t.Run(name, func(t *testing.T) {
			_, want, before := c.run(t, withKernels(ops.AddMatMulParts{}))
			names, got, arena := c.run(t, newStacking(1))
			for op, n := range c.want {
				require.Equal(t, n, names[op], "%s in %v", op, names)
			}
			joined := int64(0)
			for _, r := range c.ranks {
				joined += 2 * 4 * int64(r) * (threeIn + 2*512)
			}
			require.LessOrEqual(t, arena, before+joined+(150<<10), "no more than what is joined, and what products on the CPU want to pack")
			for i := range want {
				for k := range want[i].Type().Size() {
					if i != 1 {
						require.Equal(t, want[i].At(k), got[i].At(k), "value %d, element %d", i, k)
						continue
					}
					limit := map[tensor.DType]float64{tensor.F32: 1e-6, tensor.BF16: 1.0 / 64, tensor.F16: 1.0 / 512}[c.d] // three roundings
					require.InDelta(t, want[1].At(k), got[1].At(k), limit*(1+math.Abs(want[1].At(k))), "gradient of x, element %d", k)
				}
			}
			_, same, _ := c.run(t, newStacking(1<<40))
			require.Equal(t, want, same, "too little to be worth it")
		})
	}
}

// TestStackRandom: whatever the order and the dependencies of products, no bit changes: some share an input, some need another's result, some results
// are needed as they are.
func TestStackRandom(t *testing.T) {
	const rows, in, out = 64, 32, 8
	rapid.Check(t, func(t *rapid.T) {
		g, feed := graph.New("random"), plan.Feed{}
		input := func(seed int, dims ...int) graph.Value {
			v := g.Input(fmt.Sprint("in", seed), tensor.T(tensor.F32, dims...))
			feed[v] = filled(v.Type(), uint64(seed))
			return v
		}
		xs := []graph.Value{input(0, rows, in), input(1, 2, rows/2, in)}
		xs = append(xs, ops.Sigmoid(xs[1]))
		var outs, thin []graph.Value
		var vars []*graph.Var
		for i := range rapid.IntRange(2, 8).Draw(t, "products") {
			x := rapid.SampledFrom(xs).Draw(t, "x")
			w := input(2+2*i, 1, in)
			if len(thin) > 0 && rapid.Bool().Draw(t, "depends") {
				w = ops.Add(w, ops.Mean(rapid.SampledFrom(thin).Draw(t, "on"), 0, 1))
			}
			s := ops.Linear(ops.Reshape(x, rows, in), w)
			if rapid.Bool().Draw(t, "scaled") {
				s = ops.Scale(s, 2)
			}
			thin = append(thin, s)
			switch rapid.IntRange(0, 3).Draw(t, "use") {
			case 0:
				outs = append(outs, s)
			case 1:
				xs = append(xs, ops.Tanh(ops.Linear(ops.Reshape(ops.Reshape(s, 2, -1, 1), rows, 1), input(3+2*i, in, 1))))
			case 2:
				outs = append(outs, ops.Linear(s, input(3+2*i, out, 1)))
			case 3: // a gradient
				v := graph.NewVar(fmt.Sprint("v", i), tensor.T(tensor.F32, 1, in))
				vars = append(vars, v)
				g.Write(v, ops.Add(g.Read(v), g.Apply(ops.MatMul{TransA: true}, s, ops.Reshape(x, rows, in))[0]))
			}
		}
		outs = append(outs, ops.Sum(xs[len(xs)-1]))
		require.NoError(t, g.Err())
		run := func(dev device.Device) (got []*tensor.Tensor) {
			store := plan.NewStore(dev)
			for i, v := range vars {
				require.NoError(t, store.Set(v, filled(v.Type, uint64(50+i))))
			}
			p, err := plan.Compile(outs, plan.Options{Device: dev, Store: store, Verify: true})
			require.NoError(t, err)
			require.NoError(t, p.CheckArena())
			res, err := p.Run(context.Background(), feed)
			require.NoError(t, err)
			for _, v := range outs {
				got = append(got, res.Tensor(v))
			}
			for _, v := range vars {
				x, err := store.Get(v)
				require.NoError(t, err)
				got = append(got, x)
			}
			require.NoError(t, p.Close())
			return got
		}
		require.Equal(t, run(withKernels(ops.AddMatMulParts{})), run(newStacking(1)), "%v", g)
	})
}
