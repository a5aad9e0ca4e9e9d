package ops

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// The bias corrections 1 - beta^t of bitsandbytes' kernels come from the fast powf of CUDA, 2^(t·log2(beta)) with the GPU's approximate
// logarithm. That is about 2^-24 too large near 1, which is nothing beside beta^t but 6e-5 of 1 - 0.999 and 6e-4 of 1 - 0.9999: it shows
// in every parameter whose steps are long. log2Deviations holds the approximation for usual betas, measured on an H100, as the
// difference to the correctly rounded logarithm in units of its last place.
var log2Deviations = map[float32]int32{
	0.5: -2, 0.6: -2, 0.7: -2, 0.75: -3, 0.8: -5, 0.81: -4, 0.82: -4, 0.83: -1, 0.84: -3, 0.85: -5, 0.86: -7, 0.87: -6, 0.88: -3, 0.89: -5,
	0.9: -2, 0.91: -4, 0.92: -8, 0.93: -10, 0.94: -9, 0.95: -5, 0.96: -18, 0.97: -18, 0.975: -5, 0.98: -25, 0.985: -27, 0.99: -61,
	0.995: -66, 0.996: -93, 0.997: -116, 0.998: -282, 0.999: -621, 0.9995: -1226, 0.9998: -2333, 0.9999: -4664, 0.99995: -9374,
	0.99999: -75005, 0.999999: -640485,
}

// FastLog2 is log2(beta) as the GPU approximates it where that is known, else rounded correctly. It is -Inf for 0.
func FastLog2(beta float32) float32 {
	l := float32(math.Log2(float64(beta)))
	if d, ok := log2Deviations[beta]; ok {
		l = math.Float32frombits(uint32(int32(math.Float32bits(l)) + d))
	}
	return l
}

// BetaPower is beta^step as bitsandbytes' CUDA kernels have it, up to two units in the last place for the betas in use; step is at least 1.
func BetaPower(beta float32, step float64) float32 {
	return float32(math.Exp(float64(float32(float32(step)*FastLog2(beta))) * math.Ln2))
}

// fastCorrection is 1 - BetaPower(beta, step) in float32.
func fastCorrection(beta float64, step Value) Value {
	if beta == 0 {
		return Scalar(step, 1)
	}
	y := Cast(Scale(step, float64(FastLog2(float32(beta)))), tensor.F64)
	return Sub(Scalar(step, 1), Cast(Exp(Scale(y, math.Ln2)), tensor.F32))
}
