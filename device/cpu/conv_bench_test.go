package cpu

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// BenchmarkWindows times the kernels of windows and recurrences beside their decompositions. The recurrent ones run 128 steps,
// because the decomposition has some twenty nodes a step.
func BenchmarkWindows(b *testing.B) {
	r := nnRand(3)
	f32 := func(dims ...int) *tensor.Tensor { return nnRandom(r, tensor.F32, dims...) }
	at := func(k int, o ops.WindowOptions) ops.Window {
		w, err := o.Window(k, k)
		require.NoError(b, err)
		return w
	}
	same := at(3, ops.WindowOptions{Pad: []int{1}})
	x, w, y := f32(4, 64, 28, 28), f32(64, 64, 3, 3), f32(4, 64, 28, 28)
	half := at(2, ops.WindowOptions{Stride: []int{2}})
	const steps, rows, h = 128, 16, 128
	small := func(dims ...int) *tensor.Tensor {
		t := f32(dims...)
		for i := range t.Type().Size() {
			t.Set(i, t.At(i)/8)
		}
		return t
	}
	for _, c := range []struct {
		name string
		op   graph.Op
		in   []*tensor.Tensor
	}{
		{"conv", ops.ConvOp{Window: same, Groups: 1}, []*tensor.Tensor{x, w}},
		{"conv_depthwise", ops.ConvOp{Window: same, Groups: 64}, []*tensor.Tensor{x, f32(64, 1, 3, 3)}},
		{"conv_1x1", ops.ConvOp{Window: at(1, ops.WindowOptions{}), Groups: 1}, []*tensor.Tensor{x, f32(64, 64, 1, 1)}},
		{"conv_transpose", ops.ConvTransposeOp{Window: same, Groups: 1, Size: [3]int64{28, 28}}, []*tensor.Tensor{y, w}},
		{"conv_weight", ops.ConvWeightOp{Window: same, Groups: 1}, []*tensor.Tensor{x, y}},
		{"max_pool", ops.MaxPoolOp{Window: half}, []*tensor.Tensor{x}},
		{"avg_pool", ops.SumPoolOp{Window: half, Count: ops.PoolSeen}, []*tensor.Tensor{x}},
		{"batch_norm", ops.BatchNormOp{Eps: 1e-5}, []*tensor.Tensor{x, f32(64), f32(64)}},
		{"lstm", ops.RecurrenceOp{Cell: ops.CellLSTM}, []*tensor.Tensor{f32(steps, rows, 4*h), small(4*h, h), f32(rows, h), nil, f32(rows, h), nil}},
		{"gru", ops.RecurrenceOp{Cell: ops.CellGRU}, []*tensor.Tensor{f32(steps, rows, 3*h), small(3*h, h), f32(rows, h), f32(h), nil, nil}},
	} {
		b.Run(c.name+"/kernel", func(b *testing.B) { benchOp(b, c.op, c.in, false) })
		b.Run(c.name+"/decomposed", func(b *testing.B) { benchOp(b, c.op, c.in, true) })
	}
}
