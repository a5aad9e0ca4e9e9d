package quant

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

const (
	infBits = 0x7f800000
	signBit = 1 << 31
	// Between these bit patterns of absmax (2^-100 and 2^126) its reciprocal is a normal number and no denormal input can reach the
	// first threshold of any table, so the fast paths need not flush.
	fastLow, fastHigh = 27 << 23, 253 << 23
)

// PlainScale reports whether an absmax is one for which the reciprocal is a normal number and neither it nor products nor codes need
// flushing: 2^-100 up to 2^126, both NaN and infinities excluded. Kernels leave other blocks to the functions of this package.
func PlainScale(absmax float32) bool {
	bits := math.Float32bits(absmax)
	return bits >= fastLow && bits < fastHigh
}

// AbsMax is the largest magnitude in x as the kernels see it: NaN is ignored and denormal numbers count as zero.
func AbsMax(x []float32) float32 {
	b := maxAbsBits(x)
	if b > infBits {
		b = 0
		for _, v := range x {
			if a := math.Float32bits(v) &^ (1 << 31); a <= infBits {
				b = max(b, a)
			}
		}
	}
	return flush(math.Float32frombits(b))
}

// maxAbsBits is the largest of the bit patterns without sign; a NaN shows as a pattern above infinity's.
func maxAbsBits(x []float32) uint32 {
	var largest [1]float32
	if n := len(x) &^ 15; n > 0 && n >= step8() {
		maxima(largest[:], x[:n], n)
		x = x[n:]
	}
	return max(math.Float32bits(largest[0]), maxAbsBitsGo(x))
}

// largestBits is maxAbsBits of any elements, widened.
func largestBits[E Real](x []E) (bits uint32) {
	if f, ok := any(x).([]float32); ok {
		return maxAbsBits(f)
	}
	if n := len(x) &^ 15; n > 0 && n >= step8() {
		var largest [1]float32
		maxima(largest[:], x[:n], n)
		bits, x = math.Float32bits(largest[0]), x[n:]
	}
	var wide [128]float32
	for lo := 0; lo < len(x); lo += len(wide) {
		bits = max(bits, maxAbsBitsGo(toFloat32(wide[:], x[lo:min(lo+len(wide), len(x))])))
	}
	return bits
}

// HasNaN reports whether an element is NaN.
func HasNaN[E Real](x []E) bool { return largestBits(x) > infBits }

func maxAbsBitsGo(x []float32) uint32 {
	var m0, m1, m2, m3 uint32
	for ; len(x) >= 4; x = x[4:] {
		m0 = max(m0, math.Float32bits(x[0])<<1)
		m1 = max(m1, math.Float32bits(x[1])<<1)
		m2 = max(m2, math.Float32bits(x[2])<<1)
		m3 = max(m3, math.Float32bits(x[3])<<1)
	}
	for _, v := range x {
		m0 = max(m0, math.Float32bits(v)<<1)
	}
	return max(m0, m1, m2, m3) >> 1
}

// toFloat32 converts exactly into dst, or returns src itself where it is float32 already.
func toFloat32[E Real](dst []float32, src []E) []float32 {
	switch s := any(src).(type) {
	case []float32:
		return s
	case []tensor.BFloat16:
		dst = dst[:len(s)]
		for i, v := range s {
			dst[i] = math.Float32frombits(uint32(v) << 16)
		}
	case []tensor.Float16:
		dst = dst[:len(s)]
		for i, v := range s {
			dst[i] = v.Float32()
		}
	}
	return dst
}

// fromFloat32 rounds to nearest even.
func fromFloat32[E Real](v float32) E {
	var e E
	switch any(e).(type) {
	case tensor.Float16:
		return E(tensor.ToF16(v))
	case tensor.BFloat16:
		return E(tensor.ToBF16(v))
	}
	return E(v)
}

// narrow rounds to nearest even.
func narrow[E Real](dst []E, src []float32) {
	switch d := any(dst).(type) {
	case []float32:
		copy(d, src)
	case []tensor.BFloat16:
		for i, v := range src {
			d[i] = tensor.ToBF16(v)
		}
	case []tensor.Float16:
		for i, v := range src {
			d[i] = tensor.ToF16(v)
		}
	}
}

// widened converts exactly.
func widened[E Real](x E) float32 {
	switch x := any(x).(type) {
	case tensor.Float16:
		return x.Float32()
	case tensor.BFloat16:
		return x.Float32()
	case float32:
		return x
	}
	return 0
}

// rounded is x as an element of E has it.
func rounded[E Real](x float32) float32 { return widened(fromFloat32[E](x)) }
