package ops

import "math"

// The Go functions of the pointwise table. float32 loops are written out where a call an element would dominate.

func first64(a, _, _ float64) float64 { return a }
func first(a, _, _ int64) int64       { return a }

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func truthInt(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func where64(a, b, c float64) float64 {
	if a != 0 {
		return b
	}
	return c
}

func whereInt(a, b, c int64) int64 {
	if a != 0 {
		return b
	}
	return c
}

func divInt(a, b, _ int64) int64 {
	if b == 0 {
		return 0
	}
	return a / b
}

func remInt(a, b, _ int64) int64 {
	if b == 0 {
		return 0
	}
	return a % b
}

// mod64 has the sign of the divisor, as Python's %.
func mod64(a, b, _ float64) float64 {
	r := math.Mod(a, b)
	if r != 0 && (r < 0) != (b < 0) {
		r += b
	}
	return r
}

func modInt(a, b, _ int64) int64 {
	r := remInt(a, b, 0)
	if r != 0 && (r < 0) != (b < 0) {
		r += b
	}
	return r
}

func shlInt(a, b, _ int64) int64 {
	if b < 0 {
		return 0
	}
	return a << uint64(b)
}

func shrInt(a, b, _ int64) int64 {
	if b < 0 {
		return 0
	}
	return a >> uint64(b)
}

func softplus64(a, _, _ float64) float64 {
	if a < 0 {
		return math.Log1p(math.Exp(a))
	}
	return a + math.Log1p(math.Exp(-a))
}

func sign64(a, _, _ float64) float64 {
	switch {
	case a > 0:
		return 1
	case a < 0:
		return -1
	}
	return a // keeps NaN, gives 0 for 0
}

func signInt(a, _, _ int64) int64 {
	switch {
	case a > 0:
		return 1
	case a < 0:
		return -1
	}
	return 0
}

func sigmoid64(a, _, _ float64) float64 { return 1 / (1 + math.Exp(-a)) }
func silu64(a, _, _ float64) float64    { return a / (1 + math.Exp(-a)) }
func gelu64(a, _, _ float64) float64    { return 0.5 * a * (1 + math.Erf(a/math.Sqrt2)) }

func geluTanh64(a, _, _ float64) float64 {
	return 0.5 * a * (1 + math.Tanh(geluC*(a+geluK*a*a*a)))
}

// Constants of the tanh approximation of GELU.
const (
	geluC = 0.79788456080286535588 // sqrt(2/pi)
	geluK = 0.044715
)

func relu64(a float64) float64 {
	if a > 0 {
		return a
	}
	return 0
}

func add32(dst, a, b, _ []float32) {
	a, b = a[:len(dst)], b[:len(dst)]
	for i := range dst {
		dst[i] = a[i] + b[i]
	}
}

func sub32(dst, a, b, _ []float32) {
	a, b = a[:len(dst)], b[:len(dst)]
	for i := range dst {
		dst[i] = a[i] - b[i]
	}
}

func mul32(dst, a, b, _ []float32) {
	a, b = a[:len(dst)], b[:len(dst)]
	for i := range dst {
		dst[i] = a[i] * b[i]
	}
}

func div32(dst, a, b, _ []float32) {
	a, b = a[:len(dst)], b[:len(dst)]
	for i := range dst {
		dst[i] = a[i] / b[i]
	}
}

func min32(dst, a, b, _ []float32) {
	a, b = a[:len(dst)], b[:len(dst)]
	for i := range dst {
		dst[i] = min(a[i], b[i])
	}
}

func max32(dst, a, b, _ []float32) {
	a, b = a[:len(dst)], b[:len(dst)]
	for i := range dst {
		dst[i] = max(a[i], b[i])
	}
}

func where32(dst, a, b, c []float32) {
	a, b, c = a[:len(dst)], b[:len(dst)], c[:len(dst)]
	for i := range dst {
		if a[i] != 0 {
			dst[i] = b[i]
		} else {
			dst[i] = c[i]
		}
	}
}

func neg32(dst, a, _, _ []float32) {
	for i, x := range a[:len(dst)] {
		dst[i] = -x
	}
}

func relu32(dst, a, _, _ []float32) {
	for i, x := range a[:len(dst)] {
		if x > 0 {
			dst[i] = x
		} else {
			dst[i] = 0
		}
	}
}

func sqrt32(dst, a, _, _ []float32) {
	for i, x := range a[:len(dst)] {
		dst[i] = float32(math.Sqrt(float64(x)))
	}
}

func exp32(dst, a, _, _ []float32) {
	for i, x := range a[:len(dst)] {
		dst[i] = Exp32(x)
	}
}

func sigmoid32(dst, a, _, _ []float32) {
	for i, x := range a[:len(dst)] {
		dst[i] = 1 / (1 + Exp32(-x))
	}
}

func silu32(dst, a, _, _ []float32) {
	for i, x := range a[:len(dst)] {
		dst[i] = x / (1 + Exp32(-x))
	}
}

// Exp32 is e^x in float32 within 2 ulp: x = n·ln2 + r with ln2 split in two parts (Cody & Waite), a degree-6 polynomial on r,
// and a scale by 2^n in the exponent field. Every product is rounded, so that platforms with fused multiply-add agree.
func Exp32(x float32) float32 {
	switch {
	case x > 88.72283:
		return float32(math.Inf(1))
	case x < -87.33655: // the result would be denormal: flushed, as vector units do
		return 0
	case x != x:
		return x
	}
	const (
		log2e = 1.44269504088896341
		ln2Hi = 0.693359375
		ln2Lo = -2.12194440e-4
	)
	t := float32(x*log2e) + 12582912 // 1.5·2^23 rounds to an integer in the low mantissa bits
	n := t - 12582912
	r := x - float32(n*ln2Hi)
	r -= float32(n * ln2Lo)
	p := float32(1.9875691500e-4)
	p = float32(p*r) + 1.3981999507e-3
	p = float32(p*r) + 8.3334519073e-3
	p = float32(p*r) + 4.1665795894e-2
	p = float32(p*r) + 1.6666665459e-1
	p = float32(p*r) + 5.0000001201e-1
	p = float32(float32(p*r)*r) + r + 1
	e := int32(n)
	if e > 127 { // 2^128 is no float32: scale in two steps
		return p * math.Float32frombits(uint32(e-1+127)<<23) * 2
	}
	return p * math.Float32frombits(uint32(e+127)<<23)
}
