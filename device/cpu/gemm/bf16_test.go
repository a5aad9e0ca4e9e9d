package gemm

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/stretchr/testify/require"
)

// pairTileGo is the micro-kernel for pairs with the rounding of VDPBF16PS: the upper product is added before the lower one, each sum rounded
// to nearest even, and denormal numbers are zero on the way in and out.
func pairTileGo(rows, kc int, a *uint32, rs, ks int, b *uint32, bs int, c *float32, ldc, cols int, alpha float32, add bool, _ uintptr, _ int) {
	as, bv, cs := unsafe.Slice(a, (rows-1)*rs+(kc-1)*ks+1), unsafe.Slice(b, (kc-1)*bs+cols), unsafe.Slice(c, (rows-1)*ldc+cols)
	flush := func(x float32) float32 {
		if math.Abs(float64(x)) < 0x1p-126 {
			return 0
		}
		return x
	}
	half := func(u uint32) float32 { return flush(math.Float32frombits(u & 0xffff0000)) }
	for i := range rows {
		for j := range cols {
			var s float32
			for k := range kc {
				x, y := as[i*rs+k*ks], bv[k*bs+j]
				for _, up := range []int{0, 16} {
					// Exact in float64, for factors of moderate size.
					s = flush(float32(float64(s) + float64(half(x<<up))*float64(half(y<<up))))
				}
			}
			if s *= alpha; add {
				s += cs[i*ldc+j]
			}
			cs[i*ldc+j] = s
		}
	}
}

// withPairs runs f with each kernel for pairs that runs here, and with the one in Go.
func withPairs(t *testing.T, f func(t *testing.T)) {
	saved := kernels[AVX512BF16]
	defer func() { kernels[AVX512BF16] = saved }()
	if saved != nil {
		t.Run("assembly", f)
	}
	plain := generic
	plain.pairs = &pairKernel{tile: pairTileGo}
	kernels[AVX512BF16] = &plain
	t.Run("go", f)
}

func TestPairTilesAgree(t *testing.T) {
	k := kernels[AVX512BF16]
	if k == nil {
		t.Skip("no AVX512-BF16 here")
	}
	r := rand.New(rand.NewPCG(51, 52))
	random := func(n int) []uint32 {
		s := make([]uint32, n)
		for i := range s {
			for h := range 2 {
				bits := uint32(r.IntN(1<<7)) | uint32(127+r.IntN(8)-4)<<7 | uint32(r.IntN(2))<<15
				switch r.IntN(20) {
				case 0:
					bits = uint32(1 + r.IntN(1<<7-1)) // denormal
				case 1:
					bits = 0
				}
				s[i] |= bits << (16 * h)
			}
		}
		return s
	}
	for rows := 1; rows <= k.mr; rows++ {
		for _, kc := range []int{1, 2, 3, 17, 64, 67, 130, 199} {
			cols, ldc := 1+r.IntN(k.nr), k.nr+1
			a, b := random(rows*kc), random(k.nr*kc)
			got, want := make([]float32, rows*ldc), make([]float32, rows*ldc)
			k.pairs.tile(rows, kc, &a[0], 1, rows, &b[0], k.nr, &got[0], ldc, cols, 1, rows%2 == 0, uintptr(unsafe.Pointer(&a[0])), 64)
			pairTileGo(rows, kc, &a[0], 1, rows, &b[0], k.nr, &want[0], ldc, cols, 1, rows%2 == 0, uintptr(unsafe.Pointer(&a[0])), 64)
			require.Equal(t, want, got, "rows %d kc %d cols %d", rows, kc, cols)
		}
	}
}

// TestPairProducts drives packing by pairs: odd K, every layout, and threads.
func TestPairProducts(t *testing.T) {
	withPairs(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(53, 54))
		for _, d := range [][3]int{{9, 9, 1}, {14, 32, 8}, {61, 67, 71}, {29, 83, 1301}, {130, 300, 64}, {300, 20, 33}} {
			for c := range 8 {
				ta, tb, acc := c&1 != 0, c&2 != 0, c&4 != 0
				out := []tensor.DType{tensor.F32, tensor.BF16, tensor.F16}[c%3]
				t.Run(fmt.Sprint(d, c), func(t *testing.T) {
					p := product{a: newMat(r, tensor.BF16, ta, d[0], d[2], c%3), b: newMat(r, tensor.BF16, tb, d[2], d[1], 1), out: out,
						accumulate: acc, alpha: 0.5, kernel: AVX512BF16, threads: 1}
					p.check(t)
					one, _ := p.run(t)
					p.threads = 2
					two, _ := p.run(t)
					require.Equal(t, one.Bytes(), two.Bytes())
				})
			}
		}
	})
}
