//go:build amd64 && !noasm

package quant

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/internal/isa"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// rowCodesStep is what the number of codes of rowCodes must be a multiple of.
func rowCodesStep() int {
	switch level {
	case isa.AVX512:
		return 16
	case isa.AVX2:
		return 32
	}
	return math.MaxInt
}

// limits is inlierBits for a multiple of step8.
func limits[E Real](x []E, threshold float32, mask []bool) float32 {
	n, wide := len(x), level == isa.AVX512
	switch x := any(x).(type) {
	case []float32:
		if wide {
			return limitsF32AVX512(n, &x[0], threshold, &mask[0])
		}
		return limitsF32AVX2(n, &x[0], threshold, &mask[0])
	case []tensor.BFloat16:
		if wide {
			return limitsBF16AVX512(n, words(x), threshold, &mask[0])
		}
		return limitsBF16AVX2(n, words(x), threshold, &mask[0])
	case []tensor.Float16:
		if wide {
			return limitsF16AVX512(n, words(x), threshold, &mask[0])
		}
		return limitsF16AVX2(n, words(x), threshold, &mask[0])
	}
	return 0
}

// rowCodes writes len(codes) codes, a multiple of rowCodesStep, of x·r, or 0 where |x| is not below threshold.
func rowCodes[E Real](codes []int8, x []E, r, threshold float32) {
	n, wide := len(codes), level == isa.AVX512
	switch x := any(x).(type) {
	case []float32:
		if wide {
			rowCodesF32AVX512(n, &codes[0], &x[0], r, threshold)
		} else {
			rowCodesF32AVX2(n, &codes[0], &x[0], r, threshold)
		}
	case []tensor.BFloat16:
		if wide {
			rowCodesBF16AVX512(n, &codes[0], words(x), r, threshold)
		} else {
			rowCodesBF16AVX2(n, &codes[0], words(x), r, threshold)
		}
	case []tensor.Float16:
		if wide {
			rowCodesF16AVX512(n, &codes[0], words(x), r, threshold)
		} else {
			rowCodesF16AVX2(n, &codes[0], words(x), r, threshold)
		}
	}
}

// productRow writes len(dst) values, a multiple of step8, of one row of a product. bias may be nil.
func productRow[E Real](dst []E, acc []int32, row float32, cols []float32, bias []E) {
	n, wide := len(dst), level == isa.AVX512
	switch dst := any(dst).(type) {
	case []float32:
		var b *float32
		if bias != nil {
			b = &any(bias).([]float32)[0]
		}
		if wide {
			productRowF32AVX512(n, &dst[0], &acc[0], row, &cols[0], b)
		} else {
			productRowF32AVX2(n, &dst[0], &acc[0], row, &cols[0], b)
		}
	case []tensor.BFloat16:
		var b *uint16
		if bias != nil {
			b = words(any(bias).([]tensor.BFloat16))
		}
		if wide {
			productRowBF16AVX512(n, words(dst), &acc[0], row, &cols[0], b)
		} else {
			productRowBF16AVX2(n, words(dst), &acc[0], row, &cols[0], b)
		}
	case []tensor.Float16:
		var b *uint16
		if bias != nil {
			b = words(any(bias).([]tensor.Float16))
		}
		if wide {
			productRowF16AVX512(n, words(dst), &acc[0], row, &cols[0], b)
		} else {
			productRowF16AVX2(n, words(dst), &acc[0], row, &cols[0], b)
		}
	}
}

// outlierRow is AddOutliers for whole strips.
func outlierRow[E Real](dst []E, kept, weight []float32) {
	strips, found, wide := len(dst)/OutlierStrip, len(kept), level == isa.AVX512
	switch dst := any(dst).(type) {
	case []float32:
		if wide {
			outlierRowF32AVX512(strips, found, &dst[0], &kept[0], &weight[0])
		} else {
			outlierRowF32AVX2(strips, found, &dst[0], &kept[0], &weight[0])
		}
	case []tensor.BFloat16:
		if wide {
			outlierRowBF16AVX512(strips, found, words(dst), &kept[0], &weight[0])
		} else {
			outlierRowBF16AVX2(strips, found, words(dst), &kept[0], &weight[0])
		}
	case []tensor.Float16:
		if wide {
			outlierRowF16AVX512(strips, found, words(dst), &kept[0], &weight[0])
		} else {
			outlierRowF16AVX2(strips, found, words(dst), &kept[0], &weight[0])
		}
	}
}

// decodeInt writes ((codes^flip)-zero)·scale·post for len(dst) codes, a multiple of step8.
func decodeInt[E Real](dst []E, codes []uint8, flip, zero int32, scale, post float32) {
	n, from, wide := len(dst), &codes[0], level == isa.AVX512
	switch dst := any(dst).(type) {
	case []float32:
		if wide {
			decodeIntF32AVX512(n, &dst[0], from, flip, zero, scale, post)
		} else {
			decodeIntF32AVX2(n, &dst[0], from, flip, zero, scale, post)
		}
	case []tensor.BFloat16:
		if wide {
			decodeIntBF16AVX512(n, words(dst), from, flip, zero, scale, post)
		} else {
			decodeIntBF16AVX2(n, words(dst), from, flip, zero, scale, post)
		}
	case []tensor.Float16:
		if wide {
			decodeIntF16AVX512(n, words(dst), from, flip, zero, scale, post)
		} else {
			decodeIntF16AVX2(n, words(dst), from, flip, zero, scale, post)
		}
	}
}

// affineCodes writes the codes of a multiple of 8 elements and reports whether it could.
func affineCodes(codes []uint8, x []float32, a affine) bool {
	n := len(x)
	switch {
	case level < isa.AVX2 || n == 0 || a.stochastic && level < isa.AVX512:
		return false
	case a.stochastic:
		encodeStochasticAVX512(n, &codes[0], &x[0], a.step, a.lowest, a.highest, int32(a.zero), a.base, a.first)
	case level == isa.AVX512:
		encodeAffineAVX512(n, &codes[0], &x[0], a.step, a.lowest, a.highest, int32(a.zero))
	default:
		encodeAffineAVX2(n, &codes[0], &x[0], a.step, a.lowest, a.highest, int32(a.zero))
	}
	return true
}

// float8Codes writes the codes of x/scale, a multiple of step8.
func float8Codes(f Float8, codes []uint8, x []float32, scale float32) {
	n, wide, to, from := len(x), level == isa.AVX512, &codes[0], &x[0]
	switch {
	case f == E4M3 && wide:
		encodeE4M3AVX512(n, to, from, scale)
	case f == E4M3:
		encodeE4M3AVX2(n, to, from, scale)
	case wide:
		encodeE5M2AVX512(n, to, from, scale)
	default:
		encodeE5M2AVX2(n, to, from, scale)
	}
}
