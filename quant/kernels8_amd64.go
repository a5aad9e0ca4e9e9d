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
