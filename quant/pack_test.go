package quant

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Packing is a stream of bits; any part of it can be read and parts can be written apart.
func TestPackCodes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		bits := rapid.IntRange(1, 8).Draw(rt, "bits")
		codes := rapid.SliceOfN(rapid.Uint8Range(0, uint8(1<<bits-1)), 0, 70).Draw(rt, "codes")
		want := make([]byte, codeBytes(len(codes), bits))
		for i, c := range codes {
			for b := range bits {
				at := i*bits + b
				want[at/8] |= c >> b & 1 << (at % 8)
			}
		}
		got := make([]byte, len(want))
		cut := rapid.IntRange(0, len(codes)/8).Draw(rt, "cut") * 8
		require.Zero(rt, PackCodes(got, codes[:cut], 0, bits))
		require.Zero(rt, PackCodes(got, codes[cut:], cut, bits))
		require.Equal(rt, want, got)
		lo := rapid.IntRange(0, len(codes)).Draw(rt, "lo")
		hi := rapid.IntRange(lo, len(codes)).Draw(rt, "hi")
		back := make([]uint8, hi-lo)
		UnpackCodes(back, got, lo, bits)
		require.Equal(rt, codes[lo:hi], back)
	})
	require.EqualValues(t, 9, PackCodes(make([]byte, 1), []uint8{3, 9, 4}, 0, 2))
}

// float8Naive searches all codes for the nearest value, ties to the even code.
func float8Naive(f Float8, x float32, saturate bool) uint8 {
	sign := uint8(0)
	if math.Signbit(float64(x)) {
		sign = 0x80
	}
	if x != x {
		return sign | 0x7f
	}
	a := math.Abs(float64(x))
	_, _, top := f.layout()
	// One step beyond the largest value decides where rounding leaves the range.
	beyond := float64(f.Decode(top)) + float64(f.Decode(top)-f.Decode(top-1))
	best, distance := top+1, math.Abs(a-beyond)
	if a > beyond {
		distance = 0
	}
	for c := int(top); c >= 0; c-- {
		d := math.Abs(a - float64(f.Decode(uint8(c))))
		if d < distance || d == distance && c%2 == 0 {
			best, distance = uint8(c), d
		}
	}
	if best > top && saturate {
		best = top
	}
	return sign | best
}

func TestFloat8(t *testing.T) {
	for _, f := range []Float8{E4M3, E5M2} {
		var marks []float32
		for c := range 256 {
			v := f.Decode(uint8(c))
			for _, saturate := range []bool{true, false} {
				want := uint8(c)
				switch {
				case v != v:
					want = uint8(c) | 0x7f
				case math.IsInf(float64(v), 0) && saturate:
					want = uint8(c) - 1
				}
				require.Equal(t, want, f.Encode(v, saturate), "%v code %02x", f, c)
			}
			if v == v && c&0x7f > 0 {
				marks = append(marks, v, (v+f.Decode(uint8(c-1)))/2)
			}
		}
		inf := float32(math.Inf(1))
		marks = append(marks, f.Max()*1.01, f.Max()*1.0715, 1e30, math.MaxFloat32, math.SmallestNonzeroFloat32, 1e-40, 0, float32(math.NaN()), inf)
		for _, m := range marks {
			for n := -2; n <= 2; n++ {
				for _, x := range []float32{step(m, n), -step(m, n)} {
					for _, saturate := range []bool{true, false} {
						require.Equal(t, float8Naive(f, x, saturate), f.Encode(x, saturate), "%v of %v (%08x)", f, x, math.Float32bits(x))
					}
				}
			}
		}
	}
	require.Equal(t, float32(448), E4M3.Decode(0x7e))
	require.Equal(t, float32(math.Ldexp(1, -9)), E4M3.Decode(1))
	require.Equal(t, float32(57344), E5M2.Decode(0x7b))
	require.Equal(t, float32(math.Ldexp(1, -16)), E5M2.Decode(1))
	require.Equal(t, "e4m3fn e5m2", E4M3.String()+" "+E5M2.String())
	require.Equal(t, float32(-240), E4M3.Values()[0xf7])
}
