package cpu_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func eval(t *testing.T, f func(g *graph.Graph, in []graph.Value) graph.Value, in ...*tensor.Tensor) *tensor.Tensor {
	t.Helper()
	g := graph.New("t")
	feed := plan.Feed{}
	var vals []graph.Value
	for i, x := range in {
		v := g.Input(string(rune('a'+i)), x.Type())
		vals, feed[v] = append(vals, v), x
	}
	out, err := plan.Eval(cpu.New(cpu.Options{Threads: 2}), feed, f(g, vals))
	require.NoError(t, err)
	return out[0]
}

func of[E tensor.Element](t *testing.T, vals ...E) *tensor.Tensor {
	t.Helper()
	x, err := tensor.Of(vals)
	require.NoError(t, err)
	return x
}

// TestUnsigned64 covers values beyond the signed range.
func TestUnsigned64(t *testing.T) {
	a, b := of[uint64](t, 1<<63+5, 3, math.MaxUint64, 8), of[uint64](t, 2, 1<<63+1, math.MaxUint64, 0)
	bin := func(f func(x, y graph.Value) graph.Value) *tensor.Tensor {
		return eval(t, func(_ *graph.Graph, in []graph.Value) graph.Value { return f(in[0], in[1]) }, a, b)
	}
	require.Equal(t, []uint64{1<<62 + 2, 0, 1, 0}, tensor.Data[uint64](bin(ops.Div)))
	require.Equal(t, []uint64{1<<63 + 5, 1<<63 + 1, math.MaxUint64, 8}, tensor.Data[uint64](bin(ops.Max)))
	require.Equal(t, []uint64{2, 3, math.MaxUint64, 0}, tensor.Data[uint64](bin(ops.Min)))
	require.Equal(t, []bool{false, true, false, false}, tensor.Data[bool](bin(ops.Less)))
	require.Equal(t, []bool{false, true, true, false}, tensor.Data[bool](bin(ops.LessEqual)))
	un := func(f func(x graph.Value) graph.Value) []uint64 {
		return tensor.Data[uint64](eval(t, func(_ *graph.Graph, in []graph.Value) graph.Value { return f(in[0]) }, a))
	}
	require.Equal(t, tensor.Data[uint64](a), un(ops.Abs))
	require.Equal(t, []uint64{1, 1, 1, 1}, un(ops.Sign))
}

// TestNaNWins: NaN passes through min and max in every float type, against infinities too, and through their reductions.
func TestNaNWins(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	for _, d := range []tensor.DType{tensor.F64, tensor.F32, tensor.BF16, tensor.F16} {
		a, err := of(t, nan, inf, -inf, nan, 1).Convert(d)
		require.NoError(t, err)
		b, err := of(t, inf, nan, nan, -inf, 2).Convert(d)
		require.NoError(t, err)
		for _, f := range []func(x, y graph.Value) graph.Value{ops.Min, ops.Max} {
			got := eval(t, func(_ *graph.Graph, in []graph.Value) graph.Value { return f(in[0], in[1]) }, a, b)
			for i := range 4 {
				require.True(t, math.IsNaN(got.At(i)), "%v element %d", d, i)
			}
		}
		for _, f := range []func(graph.Value, ...int) graph.Value{ops.MaxOf, ops.MinOf, ops.Sum} {
			got := eval(t, func(_ *graph.Graph, in []graph.Value) graph.Value { return f(in[0]) }, a)
			require.True(t, math.IsNaN(got.At(0)), d.String())
		}
	}
}

// TestFillSaturates: a constant beyond an integer type becomes its limit, as in a cast.
func TestFillSaturates(t *testing.T) {
	for _, c := range []struct {
		d       tensor.DType
		v, want float64
	}{{tensor.U8, 300, 255}, {tensor.U8, -1, 0}, {tensor.I8, -1e9, -128}, {tensor.I32, 1e12, math.MaxInt32}, {tensor.Bool, 0.5, 1}, {tensor.I32, 2.9, 2}} {
		got := eval(t, func(g *graph.Graph, _ []graph.Value) graph.Value {
			return ops.BroadcastTo(ops.Fill(g, c.d, c.v), 3)
		})
		require.Equal(t, c.want, got.At(2), "%v into %v", c.v, c.d)
	}
}

// TestProgramLimit: a chain longer than the machine holds is refused by the kernel, not run wrongly.
func TestProgramLimit(t *testing.T) {
	typ := tensor.T(tensor.F32, 8)
	prog := &graph.Program{}
	for i := range 80 {
		prog.Instrs = append(prog.Instrs, graph.Instr{Op: ops.Pointwise{F: ops.FnNeg}, Args: []int{i - 1}, Type: typ})
	}
	_, err := cpu.New(cpu.Options{Threads: 1}).Kernel(device.Spec{Op: graph.Fused{Prog: prog}, In: []tensor.Type{typ}, Out: []tensor.Type{typ}})
	require.ErrorIs(t, err, device.ErrNoKernel)
}

// TestExp32 is within 2 ulp of the exact value over the normal range.
func TestExp32(t *testing.T) {
	worst := 0.0
	for x := float32(-87.3); x < 88.7; x += 0.00731 {
		want := math.Exp(float64(x))
		ulp := float64(math.Nextafter32(float32(want), math.MaxFloat32)) - float64(float32(want))
		worst = max(worst, math.Abs(float64(ops.Exp32(x))-want)/ulp)
	}
	t.Logf("%.3f ulp", worst)
	require.LessOrEqual(t, worst, 2.0)
}

// TestSumOrder: a long sum has the same bits on any number of threads.
func TestSumOrder(t *testing.T) {
	x := tensor.New(tensor.T(tensor.F32, 3, 70001))
	for i := range x.Type().Size() {
		x.Set(i, math.Sin(float64(i))*1e3)
	}
	var first []byte
	for _, threads := range []int{1, 2, 3, 7} {
		g := graph.New("t")
		v := g.Input("x", x.Type())
		out, err := plan.Eval(cpu.New(cpu.Options{Threads: threads}), plan.Feed{v: x}, ops.Sum(v, 1), ops.Sum(v), ops.Sum(v, 0))
		require.NoError(t, err)
		var all []byte
		for _, o := range out {
			all = append(all, o.Bytes()...)
		}
		if first == nil {
			first = all
		}
		require.Equal(t, first, all)
	}
}

// TestLargeResultsGoPastTheCaches: the same values, also where the size is no multiple of a block and rows broadcast.
func TestLargeResultsGoPastTheCaches(t *testing.T) {
	const rows, n = 4099, 1031
	x, row := tensor.New(tensor.T(tensor.F32, rows, n)), tensor.New(tensor.T(tensor.F32, n))
	data, add := tensor.Data[float32](x), tensor.Data[float32](row)
	for i := range data {
		data[i] = float32(i%977) / 7
	}
	for i := range add {
		add[i] = float32(i)
	}
	got := tensor.Data[float32](eval(t, func(_ *graph.Graph, in []graph.Value) graph.Value { return ops.Add(in[0], in[1]) }, x, row))
	for i, v := range got {
		if v != data[i]+add[i%n] {
			require.Equal(t, data[i]+add[i%n], v, "element %d", i)
		}
	}
}
