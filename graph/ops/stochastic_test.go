package ops_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// half is one of the two 16-bit types.
type half struct {
	round   func(x float32, random uint16) uint16
	widen   func(code uint16) float64
	nearest func(x float32) uint16
	slack   float64 // of a probability, in 65536ths
}

var halves = map[string]half{
	"bf16": {ops.RoundToBF16, func(c uint16) float64 { return float64(tensor.BFloat16(c).Float32()) },
		func(x float32) uint16 { return uint16(tensor.ToBF16(x)) }, 0},
	"f16": {ops.RoundToF16, func(c uint16) float64 { return float64(tensor.Float16(c).Float32()) },
		func(x float32) uint16 { return uint16(tensor.ToF16(x)) }, 8},
}

// check goes through all random numbers: the results are the two neighbours, and their mean is x.
func (h half) check(t require.TestingT, x float32) {
	lo, hi := h.widen(h.round(x, math.MaxUint16)), h.widen(h.round(x, 0))
	if x < 0 {
		lo, hi = hi, lo
	}
	require.True(t, lo <= float64(x) && float64(x) <= hi, "%v is not in [%v, %v]", x, lo, hi)
	up := 0
	for r := range 1 << 16 {
		switch v := h.widen(h.round(x, uint16(r))); v {
		case hi:
			up++
		case lo:
		default:
			require.Fail(t, "not a neighbour", "%v became %v, expected %v or %v", x, v, lo, hi)
		}
	}
	if lo == hi {
		require.Equal(t, float64(x), lo)
		return
	}
	near := h.widen(h.nearest(x))
	require.True(t, near == lo || near == hi, "%v: the nearest is %v, the neighbours are %v and %v", x, near, lo, hi)
	want := (float64(x) - lo) / (hi - lo) * (1 << 16)
	require.InDelta(t, want, up, 1+h.slack, "%v between %v and %v", x, lo, hi)
}

func TestStochasticRounding(t *testing.T) {
	for name, h := range halves {
		t.Run(name, func(t *testing.T) {
			for _, x := range []float32{0, 1, -1, 1.00001, -1.00001, 0.1, 65500, 3e-5, 6.1e-5, 6.1035156e-5, 5.9e-8, 3e-8, 1e-9, -2e-7, 1023.5 / (1 << 24)} {
				h.check(t, x)
			}
			rapid.Check(t, func(t *rapid.T) { h.check(t, rapid.Float32Range(-60000, 60000).Draw(t, "x")) })
			rapid.Check(t, func(t *rapid.T) { h.check(t, rapid.Float32Range(-1e-4, 1e-4).Draw(t, "x")) })
			for _, c := range []uint16{0, 1, 0x0400, 0x3c00, 0x8001, 0xbc00} { // what the type has stays
				x := float32(h.widen(c))
				require.Equal(t, c, h.round(x, 0))
				require.Equal(t, c, h.round(x, math.MaxUint16))
			}
			inf := float32(math.Inf(1))
			require.Equal(t, math.Inf(1), h.widen(h.round(inf, 3)))
			require.Equal(t, math.Inf(-1), h.widen(h.round(-inf, 3)))
			require.True(t, math.IsNaN(h.widen(h.round(float32(math.NaN()), 0xffff))))
		})
	}
	require.Equal(t, math.Inf(1), halves["f16"].widen(ops.RoundToF16(70000, 0)))
}

// TestRoundingWords: each part of the key matters.
func TestRoundingWords(t *testing.T) {
	base := ops.RoundingWords(1, 2, 3, 4)
	seen := map[[4]uint32]bool{base: true}
	for _, w := range [][4]uint32{ops.RoundingWords(2, 2, 3, 4), ops.RoundingWords(1|1<<32, 2, 3, 4), ops.RoundingWords(1, 3, 3, 4),
		ops.RoundingWords(1, 2, 4, 4), ops.RoundingWords(1, 2, 3, 5)} {
		require.False(t, seen[w])
		seen[w] = true
	}
	require.Equal(t, base, ops.RoundingWords(1, 2, 3, 4))
}
