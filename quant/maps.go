package quant

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// defaultMap is the name of DynamicSigned's map.
const defaultMap = "dynamic_signed"

// MapByName returns a map of 256 ascending values by the name kind_sign[_variant]: dynamic_signed, dynamic_unsigned, and with fewer bits
// dynamic_signed_total4 to 7; linear_signed, linear_unsigned; fp8_signed_e4m3, fp8_unsigned_e5m3 and so on; normal (16 quantiles).
func MapByName(name string) (values [256]float32, err error) {
	kind, rest, _ := strings.Cut(name, "_")
	sign, variant, _ := strings.Cut(rest, "_")
	signed := sign == "signed"
	unknown := fmt.Errorf("quant: unknown map %q: use dynamic_signed, dynamic_unsigned, linear_signed, linear_unsigned, fp8_signed_e4m3 "+
		"(other splits too), dynamic_signed_total4 to 7, or normal", name)
	var e, m, total int
	switch {
	case name == "normal":
		return NormalMap(0.9677083, true)
	case !signed && sign != "unsigned":
		return values, unknown
	case kind == "linear" && variant == "":
		return LinearMap(signed, 8)
	case kind == "dynamic" && variant == "":
		return DynamicMap(signed, 7, 8)
	case kind == "dynamic" && scanAll(variant, "total%d", &total):
		return DynamicMap(signed, total-1, total)
	case kind == "fp8" && scanAll(variant, "e%dm%d", &e, &m):
		return FP8Map(signed, e, m)
	}
	return values, unknown
}

// scanAll is Sscanf of integers that accepts only what Sprintf would have written.
func scanAll(text, format string, into ...*int) bool {
	args, values := make([]any, len(into)), make([]any, len(into))
	for i, p := range into {
		args[i] = p
	}
	if n, _ := fmt.Sscanf(text, format, args...); n != len(into) {
		return false
	}
	for i, p := range into {
		values[i] = *p
	}
	return fmt.Sprintf(format, values...) == text
}

// DynamicMap returns the values of dynamic tree quantization (8-bit Approximations for Parallelism in Deep Learning, Dettmers 2015,
// arXiv 1511.04561; block-wise in arXiv 2110.02861): decades of growing resolution below 1. The usual book has 7 exponent bits of 8
// in total. Fewer total bits pad with zeros to 256 values. totalBits is 2 to 8 and maxExponentBits 1 to totalBits-1.
func DynamicMap(signed bool, maxExponentBits, totalBits int) ([256]float32, error) {
	if totalBits < 2 || totalBits > 8 || maxExponentBits < 1 || maxExponentBits >= totalBits {
		return [256]float32{}, fmt.Errorf("quant: dynamic map of %d exponent bits in %d bits: total is 2 to 8 and the exponent smaller",
			maxExponentBits, totalBits)
	}
	return dynamicValues(signed, maxExponentBits, totalBits), nil
}

func dynamicValues(signed bool, maxExponentBits, totalBits int) [256]float32 {
	data := []float32{0, 1}
	decade := func(points int, exponent int) {
		b := linspace(0.1, 1, points+1)
		scale := float32(math.Pow(10, float64(exponent)))
		for i := range points {
			v := scale * float32(float32(b[i]+b[i+1])/2)
			data = append(data, v)
			if signed {
				data = append(data, -v)
			}
		}
	}
	spare := totalBits - 1 - maxExponentBits
	for i := range maxExponentBits {
		points := 1 << (i + spare)
		if !signed {
			points *= 2
		}
		decade(points, i-maxExponentBits+1)
	}
	if extra := 1<<spare - 1; extra > 0 {
		decade(extra, 0)
	}
	return padded(data)
}

// AF4Values returns the table of AbnormalFloat4 for blocks of 64 (Yoshida 2023, arXiv 2306.06965), from the largest value down, as the
// library has it. No operation of the library or of this package takes it; it is for comparing tables.
func AF4Values() [16]float32 {
	return [16]float32{1, 0.72424863, 0.55496234, 0.42563882, 0.31675666, 0.21961274, 0.12934483, 0.04273164, 0, -0.04934812, -0.14982478,
		-0.25607552, -0.3736951, -0.51243739, -0.69441008, -1}
}

// LinearMap returns evenly spaced values over [-1, 1] or, unsigned, [0, 1], padded with zeros in the middle to 256 values. totalBits
// is 2 to 8.
func LinearMap(signed bool, totalBits int) ([256]float32, error) {
	var out [256]float32
	if totalBits < 2 || totalBits > 8 {
		return out, fmt.Errorf("quant: linear map of %d bits: use 2 to 8", totalBits)
	}
	n, first := 1<<totalBits, float32(0)
	if signed {
		n, first = n-1, -1
	}
	v := linspace(first, 1, n)
	copy(out[:], v[:n/2])
	copy(out[256-(n-n/2):], v[n/2:])
	return out, nil
}

// FP8Map returns the values of a small float with the given exponent and precision bits (with the sign 8 bits together), scaled to a
// largest value of 1.
func FP8Map(signed bool, exponentBits, precisionBits int) ([256]float32, error) {
	bits := exponentBits + precisionBits
	if signed {
		bits++
	}
	if bits != 8 || exponentBits < 1 || exponentBits > 6 || precisionBits < 0 {
		return [256]float32{}, fmt.Errorf("quant: fp8 map of %d exponent and %d precision bits: sign, 1 to 6 exponent and precision bits must be 8",
			exponentBits, precisionBits)
	}
	var data []float32
	bias := 1 << (exponentBits - 1)
	for e := range 1 << exponentBits {
		for p := range 1 << precisionBits {
			frac := float64(p) / float64(int(1)<<precisionBits)
			v := float32(math.Ldexp(1+frac, bias+1-e))
			if e == 0 {
				v = float32(math.Ldexp(frac, -bias))
			}
			data = append(data, v)
			if signed {
				data = append(data, -v)
			}
		}
	}
	top := slices.Max(data)
	for i := range data {
		data[i] /= top
	}
	return padded(data), nil
}

// NormalMap returns quantiles of the normal distribution scaled to [-1, 1], 8 positive and 7 negative ones around zeros that pad to 256
// values (QLoRA, arXiv 2305.14314, section 3). offset is the outermost probability, 0.5 < offset < 1; 0.9677083 gives the values of
// NF4 up to rounding. extra false leaves out one positive value, which makes the map symmetric.
func NormalMap(offset float64, extra bool) ([256]float32, error) {
	if !(offset > 0.5 && offset < 1) {
		return [256]float32{}, fmt.Errorf("quant: normal map with offset %v: must lie between 0.5 and 1", offset)
	}
	positive := 7
	if extra {
		positive = 8
	}
	var data []float32
	for i := range positive {
		data = append(data, float32(normalQuantile(offset, i, positive)))
	}
	for i := range 7 {
		data = append(data, float32(-normalQuantile(offset, i, 7)))
	}
	top := slices.Max(data)
	for i := range data {
		data[i] /= top
	}
	return padded(data), nil
}

// normalQuantile is the inverse of the normal distribution at step i of n from offset down to one half.
func normalQuantile(offset float64, i, n int) float64 {
	p := offset + (0.5-offset)*float64(i)/float64(n)
	return math.Sqrt2 * math.Erfinv(2*p-1)
}

// linspace spaces n points as PyTorch does in float32: from the nearer end, with one rounding for step*i + start.
func linspace(start, end float32, n int) []float32 {
	v := make([]float32, n)
	step := float32(end-start) / float32(n-1)
	for i := range v {
		// The float64 product is exact and leaves room for the sum, so the rounding to float32 is that of a fused multiply-add.
		if i < n/2 {
			v[i] = float32(float64(step)*float64(i) + float64(start))
		} else {
			v[i] = float32(float64(end) - float64(step)*float64(n-1-i))
		}
	}
	return v
}

// padded sorts up to 256 values with zeros to make up their number.
func padded(data []float32) (out [256]float32) {
	copy(out[:], data)
	slices.SortStableFunc(out[:], func(a, b float32) int {
		switch {
		case a < b:
			return -1
		case a > b:
			return 1
		}
		return 0
	})
	return out
}
