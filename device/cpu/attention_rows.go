package cpu

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph/ops"
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
	e := ops.Exp32(-2 * a)
	return float32(math.Copysign(float64((1-e)/(1+e)), float64(x)))
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

// dotBytes is the inner product of two vectors of the dtype.
func dotBytes(dt tensor.DType, x, y []byte) float32 {
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
