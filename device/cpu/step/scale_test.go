package step

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/isa"
)

func TestScale(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for _, level := range isa.Levels {
		if !isa.Has(level) {
			continue
		}
		for _, n := range []int{0, 1, 15, 16, 17, 256, 1000} {
			x := make([]float32, n+1)[1:]
			for i := range x {
				x[i] = float32(r.NormFloat64())
			}
			y := make([]float32, n)
			require.True(t, byLevel[level].scale(y, x, -0.7), "%v, %d elements", level, n)
			for i := range x {
				require.Equal(t, x[i]*-0.7, y[i])
			}
			for i := range x {
				for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(-1)), 3e38} {
					was := x[i]
					x[i] = bad
					require.False(t, byLevel[level].scale(y, x, 2), "%v, %v in place %d of %d", level, bad, i, n)
					x[i] = was
				}
			}
			require.True(t, byLevel[level].scale(x, x, 1))
		}
	}
}

func BenchmarkScale(b *testing.B) {
	const n = 2048
	x := make([]float32, n)
	for _, level := range isa.Levels {
		if isa.Has(level) {
			b.Run(level.String(), func(b *testing.B) {
				b.SetBytes(8 * n)
				cheapest(b, n, func() { byLevel[level].scale(x, x, 1) })
			})
		}
	}
}
