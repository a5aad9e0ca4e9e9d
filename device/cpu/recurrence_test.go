package cpu

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestTanhOfGates: digits of small elements are kept, in place too, and what is not finite is what tanh makes of it.
func TestTanhOfGates(t *testing.T) {
	src := []float32{0, float32(math.Inf(1)), float32(math.Inf(-1)), 200, -200}
	for x := 1e-30; x < 20; x *= 1.07 {
		src = append(src, float32(x), float32(-x))
	}
	require.Greater(t, len(src), 2*tanhBlock)
	got := append([]float32(nil), src...)
	tanhRow32(got, got)
	for i, x := range src {
		want := math.Tanh(float64(x))
		require.LessOrEqual(t, math.Abs(want-float64(got[i])), 2e-6*math.Abs(want), "tanh(%v)", x)
	}
	nan := []float32{float32(math.NaN())}
	tanhRow32(nan, nan)
	require.True(t, nan[0] != nan[0])
}
