package gemm

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/device/cpu/pool"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func BenchmarkGemm(b *testing.B) {
	for _, d := range []struct {
		m, n, k int
		dt      tensor.DType
		trans   bool
	}{
		{512, 512, 512, tensor.F32, false}, {1024, 1024, 1024, tensor.F32, false}, {1024, 1024, 1024, tensor.F32, true},
		{1024, 1024, 1024, tensor.BF16, true}, {64, 512, 784, tensor.F32, true}, {64, 784, 512, tensor.F32, false},
		{64, 10, 512, tensor.F32, true}, {16, 2048, 2048, tensor.F32, true}, {12, 2048, 2048, tensor.F32, true},
		{4, 2048, 2048, tensor.F32, true}, {1, 2048, 2048, tensor.F32, true}, {1, 2048, 2048, tensor.BF16, true},
		{1, 2048, 2048, tensor.F32, false}, {12, 2048, 2048, tensor.F32, false}, {512, 2048, 16, tensor.F32, true},
	} {
		for _, threads := range []int{1, 2} {
			b.Run(fmt.Sprintf("%dx%dx%d/%v/transB=%v/threads=%d", d.m, d.n, d.k, d.dt, d.trans, threads), func(b *testing.B) {
				benchmark(b, d.m, d.n, d.k, d.dt, d.trans, threads, Auto)
			})
		}
	}
}

func BenchmarkGeneric(b *testing.B) { benchmark(b, 512, 512, 512, tensor.F32, false, 1, Generic) }

func benchmark(b *testing.B, m, n, k int, dt tensor.DType, trans bool, threads int, kern Kernel) {
	r := rand.New(rand.NewPCG(1, 1))
	p := pool.New(threads)
	defer p.Close()
	x, w := newMat(r, dt, false, m, k, 0), newMat(r, dt, trans, k, n, 0)
	c := tensor.New(tensor.T(dt, m, n))
	scratch := tensor.AlignedBytes(int(ScratchBytes(m, n, k, threads)))
	args := Args{M: m, N: n, K: k, A: x.Mat, B: w.Mat, C: Out{Data: c.Bytes(), DType: dt}, Kernel: kern}
	b.ReportAllocs()
	for b.Loop() {
		if err := Gemm(p, scratch, 1, args); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(2*float64(m)*float64(n)*float64(k)/1e9*float64(b.N)/b.Elapsed().Seconds(), "GFLOP/s")
}

// BenchmarkTile is the micro-kernel alone on strips in the first cache: the ceiling for the rest.
func BenchmarkTile(b *testing.B) {
	for _, kern := range available() {
		b.Run(kern.String(), func(b *testing.B) {
			k := kernels[kern]
			x, y, c := make([]float32, k.mr*maxKC), make([]float32, k.nr*maxKC), make([]float32, k.mr*k.nr)
			for i := range y {
				y[i] = float32(i)
			}
			for i := range x {
				x[i] = float32(i)
			}
			for b.Loop() {
				k.tile(k.mr, maxKC, &x[0], 1, k.mr, &y[0], k.nr, &c[0], k.nr, k.nr, 1, false, uintptr(unsafe.Pointer(&x[0])), 0)
			}
			b.ReportMetric(2*float64(k.mr*k.nr*maxKC)/1e9*float64(b.N)/b.Elapsed().Seconds(), "GFLOP/s")
		})
	}
}
