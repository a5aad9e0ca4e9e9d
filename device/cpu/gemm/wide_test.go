package gemm

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/stretchr/testify/require"
)

// tileOf is the micro-kernel of any size, in Go.
func tileOf(mr, nr int) func(kc int, a, b, c *float32, ldc int, alpha float32, add bool) {
	return func(kc int, a, b, c *float32, ldc int, alpha float32, add bool) {
		as, bs, cs := unsafe.Slice(a, kc*mr), unsafe.Slice(b, kc*nr), unsafe.Slice(c, (mr-1)*ldc+nr)
		for i := range mr {
			for j := range nr {
				var s float32
				for k := range kc {
					s += as[k*mr+i] * bs[k*nr+j]
				}
				if add {
					cs[i*ldc+j] += alpha * s
				} else {
					cs[i*ldc+j] = alpha * s
				}
			}
		}
	}
}

// TestWideStrips drives packing and blocking with the strips of the AVX-512 kernel on processors without it, and with those of
// the AVX2 kernel where there is no assembly.
func TestWideStrips(t *testing.T) {
	r := rand.New(rand.NewPCG(21, 22))
	saved := kernels[AVX512]
	defer func() { kernels[AVX512] = saved }()
	for _, size := range [][2]int{{14, 32}, {6, 16}} {
		wide := *kernels[Best()]
		wide.mr, wide.nr, wide.tile = size[0], size[1], tileOf(size[0], size[1])
		kernels[AVX512] = &wide
		for c := range 8 {
			for _, d := range [][3]int{{14, 32, 9}, {61, 67, 71}, {1930, 9, 17}, {20, 1030, 17}, {130, 70, 401}} {
				out := []tensor.DType{tensor.F32, tensor.BF16}[c>>2]
				t.Run(fmt.Sprint(size, d, c), func(t *testing.T) {
					product{a: newMat(r, tensor.F32, c&1 != 0, d[0], d[2], 1), b: newMat(r, tensor.F32, c&2 != 0, d[2], d[1], 1),
						out: out, accumulate: c&1 != 0, alpha: 1, kernel: AVX512, threads: 2}.check(t)
				})
			}
		}
	}
}

// TestTilesAgree compares each micro-kernel with the Go one at every length around the unrolled steps, and checks that it writes
// its tile only.
func TestTilesAgree(t *testing.T) {
	r := rand.New(rand.NewPCG(31, 32))
	for _, kern := range available() {
		k := kernels[kern]
		for kc := 1; kc < 40; kc++ {
			ldc := k.nr + kc%3
			a, b, c := make([]float32, kc*k.mr), make([]float32, kc*k.nr), make([]float32, k.mr*ldc)
			for _, s := range [][]float32{a, b, c} {
				for i := range s {
					s[i] = r.Float32() - 0.5
				}
			}
			want := append([]float32(nil), c...)
			add := kc%2 == 0
			k.tile(kc, &a[0], &b[0], &c[0], ldc, 1.5, add)
			tileOf(k.mr, k.nr)(kc, &a[0], &b[0], &want[0], ldc, 1.5, add)
			require.InDeltaSlice(t, want, c, 1e-5, "%v kc %d", kern, kc)
			for i := range c {
				if i%ldc >= k.nr {
					require.Equal(t, want[i], c[i])
				}
			}
		}
	}
}
