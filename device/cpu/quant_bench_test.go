package cpu

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// BenchmarkQuantMatMul is a layer of 2048 x 2048 in NF4 with double quantization, forward and backward, beside the same product with
// an unquantized weight.
func BenchmarkQuantMatMul(b *testing.B) {
	const n = 2048
	r := nnRand(3)
	parts := quantWeight(b, r, quant.NF4, 64, n, n, true)
	for _, dt := range []tensor.DType{tensor.F32, tensor.BF16} {
		dense := nnRandom(r, dt, n, n)
		for _, m := range []int{1, 8, 64, 512} {
			x := nnRandom(r, dt, m, n)
			for _, trans := range []bool{false, true} {
				name := fmt.Sprintf("%v/m=%d/trans=%v/", dt, m, trans)
				op := ops.QuantMatMul{Blocksize: 64, N: n, K: n, Nested: true, Trans: trans}
				b.Run(name+"nf4", func(b *testing.B) { benchKernel(b, op, append([]*tensor.Tensor{x}, parts...)) })
				b.Run(name+"dense", func(b *testing.B) { benchKernel(b, ops.MatMul{TransB: !trans}, []*tensor.Tensor{x, dense}) })
			}
		}
	}
}

// benchKernel times one kernel on two threads.
func benchKernel(b *testing.B, op graph.Op, in []*tensor.Tensor) {
	dev := New(Options{Threads: 2})
	defer func() { require.NoError(b, dev.Close()) }()
	s := device.Spec{Op: op}
	alloc := func(bytes int64) device.Ptr {
		buf, err := dev.Alloc(bytes)
		require.NoError(b, err)
		return device.Ptr{Buf: buf}
	}
	var ins []device.Ptr
	for _, x := range in {
		s.In, ins = append(s.In, x.Type()), append(ins, alloc(x.Type().Bytes()))
		require.NoError(b, dev.Stream(0).Upload(ins[len(ins)-1], x.Bytes()))
	}
	var err error
	s.Out, err = op.Infer(s.In)
	require.NoError(b, err)
	k, err := dev.Kernel(s)
	require.NoError(b, err)
	outs, scratch := []device.Ptr{alloc(s.Out[0].Bytes())}, alloc(k.Scratch())
	b.ReportAllocs()
	for b.Loop() {
		require.NoError(b, k.Launch(dev.Stream(0), ins, outs, scratch))
	}
	rows := s.Out[0].Size() / s.Out[0].Dim(-1)
	b.ReportMetric(2*float64(rows)*2048*2048/1e9*float64(b.N)/b.Elapsed().Seconds(), "GFLOP/s")
}
