package gemm

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// TestTilePack: a tile that packs B on its way gives the sums of one over a packed strip, and the strip.
func TestTilePack(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	random := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(r.NormFloat64())
		}
		return x
	}
	for _, k := range kernels {
		if k == nil || k.tilePack == nil {
			continue
		}
		for _, kc := range []int{64, 128, 512} {
			for _, bs := range []int{k.nr, k.nr + 5} {
				for _, add := range []bool{false, true} {
					ldc := k.nr + 3
					a, b, want := random(k.mr*kc), random((kc-1)*bs+k.nr), random(k.mr*ldc)
					got, used := append([]float32{}, want...), float32(0)
					strip, packed := make([]float32, kc*k.nr), make([]float32, 0, kc*k.nr)
					for i := range kc {
						packed = append(packed, b[i*bs:i*bs+k.nr]...)
					}
					k.tile(k.mr, kc, &a[0], 1, k.mr, &packed[0], k.nr, &want[0], ldc, k.nr, 0.5, add, uintptr(unsafe.Pointer(&used)), 0)
					k.tilePack(kc, &a[0], &b[0], bs, &strip[0], &got[0], ldc, 0.5, add, uintptr(unsafe.Pointer(&used)), 0)
					what := fmt.Sprintf("kc %d, bs %d, add %v", kc, bs, add)
					require.Equal(t, packed, strip, what)
					require.Equal(t, want, got, what)
				}
			}
		}
	}
}

// TestTileTurn: a tile that packs half of the rows of A on its way gives the sums of one over a packed strip, and those rows of the strip.
func TestTileTurn(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	random := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(r.NormFloat64())
		}
		return x
	}
	for _, k := range kernels {
		if k == nil || k.tileTurn[0] == nil {
			continue
		}
		for _, kc := range []int{64, 128, 512} {
			for _, rs := range []int{kc, kc + 5, 1024} {
				for c := range 4 {
					odd, add := c&1, c&2 != 0
					ldc := k.nr + 3
					a, b, want := random((k.mr-1)*rs+kc), random(kc*k.nr), random(k.mr*ldc)
					got, used := append([]float32{}, want...), float32(0)
					strip, packed, half := make([]float32, kc*k.mr), make([]float32, kc*k.mr), make([]float32, kc*k.mr)
					for i := range packed {
						if packed[i] = a[i%k.mr*rs+i/k.mr]; i%k.mr%2 == odd {
							half[i] = packed[i]
						}
					}
					k.tile(k.mr, kc, &packed[0], 1, k.mr, &b[0], k.nr, &want[0], ldc, k.nr, 0.5, add, uintptr(unsafe.Pointer(&used)), 0)
					k.tileTurn[odd](kc, &a[0], rs, &strip[0], &b[0], &got[0], ldc, 0.5, add, uintptr(unsafe.Pointer(&used)), 0)
					what := fmt.Sprintf("kc %d, rs %d, odd %d, add %v", kc, rs, odd, add)
					require.Equal(t, half, strip, what)
					require.Equal(t, want, got, what)
				}
			}
		}
	}
}
