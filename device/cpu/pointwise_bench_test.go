package cpu

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// chain is a fused program of the operands -1 (x), -2 (y) and -3, one row that broadcasts.
type chain struct {
	name   string
	in     int // operands
	instrs []ops.Pointwise
	args   [][]int
}

// BenchmarkPointwise counts the bytes of full operands and of the result. The large size is far beyond every cache; "copy" beside it
// is what memory gives to one load and one store.
func BenchmarkPointwise(b *testing.B) {
	f := func(f ops.Func) ops.Pointwise { return ops.Pointwise{F: f} }
	num := func(v float64) ops.Pointwise { return ops.Pointwise{F: ops.FnFill, Val: v} }
	chains := []chain{
		{"add", 2, []ops.Pointwise{f(ops.FnAdd)}, [][]int{{-1, -2}}},
		{"mul", 2, []ops.Pointwise{f(ops.FnMul)}, [][]int{{-1, -2}}},
		{"scale", 1, []ops.Pointwise{num(3), f(ops.FnMul)}, [][]int{{}, {-1, 0}}},
		{"bias", 3, []ops.Pointwise{f(ops.FnAdd)}, [][]int{{-1, -3}}},
		{"gelu", 1, []ops.Pointwise{f(ops.FnGELU)}, [][]int{{-1}}},
		{"swiglu", 2, []ops.Pointwise{f(ops.FnSiLU), f(ops.FnMul)}, [][]int{{-1}, {0, -2}}},
		{"silu_gradient", 2, []ops.Pointwise{f(ops.FnSigmoid), num(1), f(ops.FnSub), f(ops.FnMul), f(ops.FnAdd), f(ops.FnMul), f(ops.FnMul)},
			[][]int{{-1}, {}, {1, 0}, {-1, 2}, {3, 1}, {0, 4}, {-2, 5}}},
	}
	for _, rows := range []int{64, 16384} {
		for _, d := range []tensor.DType{tensor.F32, tensor.BF16} {
			for _, threads := range []int{1, 2} {
				name := func(op string) string { return fmt.Sprintf("%s/%v/rows=%d/threads=%d", op, d, rows, threads) }
				b.Run(name("copy"), func(b *testing.B) {
					typ := tensor.T(d, rows, 1024)
					benchLaunch(b, threads, device.Spec{Op: ops.ReshapeTo{}, In: []tensor.Type{typ}, Out: []tensor.Type{typ}}, 2*typ.Bytes())
				})
				for _, c := range chains {
					b.Run(name(c.name), func(b *testing.B) { c.bench(b, d, rows, threads) })
				}
			}
		}
	}
}

func (c chain) bench(b *testing.B, d tensor.DType, rows, threads int) {
	typ := tensor.T(d, rows, 1024)
	prog := &graph.Program{}
	for i, op := range c.instrs {
		out := typ
		if op.F == ops.FnFill {
			op.To, out = d, tensor.T(d)
		}
		prog.Instrs = append(prog.Instrs, graph.Instr{Op: op, Args: c.args[i], Type: out})
	}
	s := device.Spec{Op: graph.Fused{Prog: prog}, Out: []tensor.Type{typ}}
	bytes := 2 * typ.Bytes()
	if c.in == 2 {
		bytes += typ.Bytes()
	}
	s.In = []tensor.Type{typ, typ, tensor.T(d, 1024)}[:c.in]
	benchLaunch(b, threads, s, bytes)
}

// BenchmarkRows times kernels that go through rows; bytes are those of full operands and of the result.
func BenchmarkRows(b *testing.B) {
	for _, shape := range [][2]int{{2048, 256}, {64, 32768}, {16384, 1024}} {
		for _, d := range []tensor.DType{tensor.F32, tensor.BF16} {
			x, w, sum := tensor.T(d, shape[0], shape[1]), tensor.T(d, shape[1]), tensor.T(d, shape[0])
			for _, c := range []struct {
				name    string
				op      graph.Op
				in, out []tensor.Type
				full    int64
			}{
				{"rmsnorm", ops.RMSNormOp{Eps: 1e-5}, []tensor.Type{x, w}, []tensor.Type{x}, 2},
				{"rmsnorm_grad", ops.RMSNormGradOp{Eps: 1e-5, NeedX: true, NeedW: true}, []tensor.Type{x, w, x}, []tensor.Type{x, w}, 3},
				{"layernorm", ops.LayerNormOp{Eps: 1e-5}, []tensor.Type{x, w, w}, []tensor.Type{x}, 2},
				{"softmax", ops.SoftmaxOp{}, []tensor.Type{x}, []tensor.Type{x}, 2},
				{"softmax_grad", ops.SoftmaxGradOp{}, []tensor.Type{x, x}, []tensor.Type{x}, 3},
				{"sum_rows", ops.Reduce{Kind: ops.RedSum, Axes: 2}, []tensor.Type{x}, []tensor.Type{sum}, 1},
				{"sum_columns", ops.Reduce{Kind: ops.RedSum, Axes: 1}, []tensor.Type{x}, []tensor.Type{w}, 1},
				{"max_rows", ops.Reduce{Kind: ops.RedMax, Axes: 2}, []tensor.Type{x}, []tensor.Type{sum}, 1},
			} {
				for _, threads := range []int{1, 2} {
					b.Run(fmt.Sprintf("%s/%v/%dx%d/threads=%d", c.name, d, shape[0], shape[1], threads), func(b *testing.B) {
						benchLaunch(b, threads, device.Spec{Op: c.op, In: c.in, Out: c.out}, c.full*x.Bytes())
					})
				}
			}
		}
	}
}

// benchLaunch times the launches of one kernel on zeros.
func benchLaunch(b *testing.B, threads int, s device.Spec, bytes int64) {
	dev := New(Options{Threads: threads})
	defer func() { require.NoError(b, dev.Close()) }()
	alloc := func(bytes int64) device.Ptr {
		buf, err := dev.Alloc(bytes)
		require.NoError(b, err)
		p := device.Ptr{Buf: buf}
		require.NoError(b, dev.Stream(0).Upload(p, make([]byte, bytes))) // pages exist
		return p
	}
	var in, out []device.Ptr
	for _, t := range s.In {
		in = append(in, alloc(t.Bytes()))
	}
	for _, t := range s.Out {
		out = append(out, alloc(t.Bytes()))
	}
	k, err := dev.Kernel(s)
	require.NoError(b, err)
	scratch := alloc(k.Scratch())
	b.SetBytes(bytes)
	b.ReportAllocs()
	for b.Loop() {
		require.NoError(b, k.Launch(dev.Stream(0), in, out, scratch))
	}
}
