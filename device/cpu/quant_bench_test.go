package cpu

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

const (
	benchSide   = 4096 // rows and columns of the weight
	benchMemory = 1 << 29
)

// BenchmarkQuantMatMul is a layer of 4096 x 4096 in NF4 with double quantization, forward and backward, beside the same product with an
// unquantized weight. Products of few rows go round weights of 512 MiB, so that they come from memory.
func BenchmarkQuantMatMul(b *testing.B) {
	for _, m := range []int{1, 2, 4, 8, 16, 32, 56, 256, 512} {
		for _, dt := range []tensor.DType{tensor.F32, tensor.BF16} {
			for _, trans := range []bool{false, true} {
				for _, threads := range []int{1, 2} {
					name := fmt.Sprintf("m=%d/%v/trans=%v/threads=%d/", m, dt, trans, threads)
					op := ops.QuantMatMul{Blocksize: 64, N: benchSide, K: benchSide, Nested: true, Trans: trans}
					b.Run(name+"nf4", func(b *testing.B) {
						copies := 1
						if m <= 4 {
							copies = benchMemory / (benchSide * benchSide / 2)
						}
						weights := make([][]*tensor.Tensor, copies)
						for i := range weights {
							weights[i] = randomParts(benchSide * benchSide)
						}
						benchProduct(b, threads, op, repeated(dt, m, benchSide), weights...)
					})
					if m > 4 {
						b.Run(name+"dense", func(b *testing.B) {
							benchProduct(b, threads, ops.MatMul{TransB: !trans}, repeated(dt, m, benchSide), []*tensor.Tensor{repeated(dt, benchSide, benchSide)})
						})
					}
				}
			}
		}
	}
}

// repeated is a tensor that repeats a few random numbers: drawing as many as a large one has takes longer than to measure.
func repeated(dt tensor.DType, dims ...int) *tensor.Tensor {
	few := nnRandom(nnRand(3), dt, 1021).Bytes()
	x := tensor.New(tensor.T(dt, dims...))
	for to := x.Bytes(); len(to) > 0; {
		to = to[copy(to, few):]
	}
	return x
}

// randomParts are the parts of a weight of n elements, without quantizing any.
func randomParts(n int) []*tensor.Tensor {
	blocks := n / 64
	codes, scales := make([]byte, 4093), nnRand(4)
	for i := range codes {
		codes[i] = byte(scales.Uint32())
	}
	bytes := func(n int) *tensor.Tensor {
		x := tensor.New(tensor.T(tensor.U8, n))
		for to := x.Bytes(); len(to) > 0; {
			to = to[copy(to, codes):]
		}
		return x
	}
	nested := tensor.New(tensor.T(tensor.F32, quant.Blocks(blocks, quant.StateBlocksize)))
	for i := range nested.Type().Size() {
		nested.Set(i, 0.01)
	}
	return []*tensor.Tensor{bytes(n / 2), bytes(blocks), nested, tensor.Scalar(float32(0.02))}
}

// benchProduct times a product by weights in turn: the rate of all calls and of the fastest, and the bytes of weights a second.
func benchProduct(b *testing.B, threads int, op graph.Op, x *tensor.Tensor, weights ...[]*tensor.Tensor) {
	bytes := 0
	for _, w := range weights[0] {
		bytes += int(w.Type().Bytes())
	}
	sets := make([][]*tensor.Tensor, len(weights))
	for i, w := range weights {
		sets[i] = append([]*tensor.Tensor{x}, w...)
	}
	usual, fastest := benchLaunches(b, threads, op, sets...)
	flops := 2 * float64(x.Type().Size()) * benchSide / 1e9
	b.ReportMetric(flops/usual.Seconds(), "GFLOP/s")
	b.ReportMetric(flops/fastest.Seconds(), "best-GFLOP/s")
	b.ReportMetric(float64(bytes)/1e9/fastest.Seconds(), "best-GB/s")
}

// benchLaunches runs a kernel on its inputs in turn and returns the usual and the least time of a launch: other work on the machine
// disturbs the least one least.
func benchLaunches(b *testing.B, threads int, op graph.Op, sets ...[]*tensor.Tensor) (usual, fastest time.Duration) {
	dev := New(Options{Threads: threads})
	defer func() { require.NoError(b, dev.Close()) }()
	place := func(t *tensor.Tensor) device.Ptr {
		buf, err := dev.Alloc(t.Type().Bytes())
		require.NoError(b, err)
		require.NoError(b, dev.Stream(0).Upload(device.Ptr{Buf: buf}, t.Bytes()))
		return device.Ptr{Buf: buf}
	}
	s := device.Spec{Op: op}
	ins := make([][]device.Ptr, len(sets))
	for i, set := range sets {
		for _, t := range set {
			ins[i] = append(ins[i], place(t))
			if i == 0 {
				s.In = append(s.In, t.Type())
			}
		}
	}
	var err error
	s.Out, err = op.Infer(s.In)
	require.NoError(b, err)
	k, err := dev.Kernel(s)
	require.NoError(b, err)
	scratch, err := dev.Alloc(k.Scratch())
	require.NoError(b, err)
	outs, i := []device.Ptr{place(tensor.New(s.Out[0]))}, 0
	fastest = math.MaxInt64
	b.ReportAllocs()
	for b.Loop() {
		from := time.Now()
		require.NoError(b, k.Launch(dev.Stream(0), ins[i%len(ins)], outs, device.Ptr{Buf: scratch}))
		fastest = min(fastest, time.Since(from))
		i++
	}
	return b.Elapsed() / time.Duration(b.N), fastest
}

// BenchmarkDequantize is a weight of 4096 x 4096 in NF4 with double quantization. Bytes are those read and written.
func BenchmarkDequantize(b *testing.B) {
	const n = benchSide * benchSide
	parts := randomParts(n)
	for _, dt := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16} {
		for _, threads := range []int{1, 2} {
			op := ops.Dequantize{Blocksize: 64, Rows: benchSide, Cols: benchSide, To: dt, Nested: true}
			b.Run(fmt.Sprintf("%v/threads=%d", dt, threads), func(b *testing.B) {
				usual, fastest := benchLaunches(b, threads, op, parts)
				bytes := float64(n/2+n/64+n*dt.Size()) / 1e9
				b.ReportMetric(bytes/usual.Seconds(), "GB/s")
				b.ReportMetric(bytes/fastest.Seconds(), "best-GB/s")
			})
		}
	}
}
