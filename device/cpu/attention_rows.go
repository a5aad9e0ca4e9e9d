package cpu

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Row operations of attention on float32.

func maxOf(x []float32) float32 {
	a, b := float32(lowest), float32(lowest)
	for len(x) >= 2 {
		if x[0] > a {
			a = x[0]
		}
		if x[1] > b {
			b = x[1]
		}
		x = x[2:]
	}
	if len(x) > 0 && x[0] > a {
		a = x[0]
	}
	if b > a {
		return b
	}
	return a
}

func scaleRow(x []float32, by float32) {
	for i := range x {
		x[i] *= by
	}
}

// expSum replaces x by e^(x-shift) and returns the sum. It is ops.Exp32 without its branches for large arguments: x-shift must
// not exceed 88, below -87 the result is 0, and NaN stays NaN.
func expSum(x []float32, shift float32) float32 {
	var even, odd float32
	for len(x) >= 2 {
		a, b := expBelow(x[0]-shift), expBelow(x[1]-shift)
		x[0], x[1] = a, b
		even += a
		odd += b
		x = x[2:]
	}
	if len(x) > 0 {
		x[0] = expBelow(x[0] - shift)
		even += x[0]
	}
	return even + odd
}

func expBelow(x float32) float32 {
	const (
		log2e = 1.44269504088896341
		ln2Hi = 0.693359375
		ln2Lo = -2.12194440e-4
	)
	if x < -87 {
		return 0
	}
	t := float32(x*log2e) + 12582912 // 1.5·2^23 rounds to an integer in the low mantissa bits
	n := t - 12582912
	r := x - float32(n*ln2Hi) - float32(n*ln2Lo)
	p := float32(1.9875691500e-4)
	p = float32(p*r) + 1.3981999507e-3
	p = float32(p*r) + 8.3334519073e-3
	p = float32(p*r) + 4.1665795894e-2
	p = float32(p*r) + 1.6666665459e-1
	p = float32(p*r) + 5.0000001201e-1
	p = float32(float32(p*r)*r) + r + 1
	return p * math.Float32frombits(math.Float32bits(t)<<23+127<<23)
}

// tanh32 is the hyperbolic tangent within 2e-7: a series near zero, where the quotient of exponentials cancels.
func tanh32(x float32) float32 {
	a := float32(math.Abs(float64(x)))
	switch {
	case a < 0.3:
		y := x * x
		return x * (1 + y*(-1.0/3+y*(2.0/15+y*(-17.0/315+y*(62.0/2835)))))
	case a > 10:
		return float32(math.Copysign(1, float64(x)))
	}
	return float32(math.Copysign(float64(1-2/(1+1/expBelow(-2*a))), float64(x)))
}

// capScores replaces x by c·tanh(x/c).
func capScores(x []float32, c float32) {
	for i, v := range x {
		x[i] = c * tanh32(v/c)
	}
}

// capScoresGrad does so too, and multiplies dx by the derivative 1 - tanh².
func capScoresGrad(x, dx []float32, c float32) {
	dx = dx[:len(x)]
	for i, v := range x {
		t := tanh32(v / c)
		x[i] = c * t
		dx[i] *= 1 - t*t
	}
}

// storeScaled stores x·by, rounded to the dtype.
func storeScaled(dt tensor.DType, dst []byte, x []float32, by float32) {
	switch dt {
	case tensor.BF16:
		out := tensor.View[tensor.BFloat16](dst)[:len(x)]
		for i, v := range x {
			out[i] = tensor.ToBF16(v * by)
		}
	case tensor.F16:
		out := tensor.View[tensor.Float16](dst)[:len(x)]
		for i, v := range x {
			out[i] = tensor.ToF16(v * by)
		}
	default:
		out := tensor.View[float32](dst)[:len(x)]
		for i, v := range x {
			out[i] = v * by
		}
	}
}

// dotRow is the inner product of two vectors of the dtype.
func dotRow(dt tensor.DType, x, y []byte) float32 {
	var sum float32
	switch dt {
	case tensor.BF16:
		b := tensor.View[tensor.BFloat16](y)
		for i, v := range tensor.View[tensor.BFloat16](x) {
			sum += v.Float32() * b[i].Float32()
		}
	case tensor.F16:
		b := tensor.View[tensor.Float16](y)
		for i, v := range tensor.View[tensor.Float16](x) {
			sum += v.Float32() * b[i].Float32()
		}
	default:
		b := tensor.View[float32](y)
		for i, v := range tensor.View[float32](x) {
			sum += v * b[i]
		}
	}
	return sum
}
