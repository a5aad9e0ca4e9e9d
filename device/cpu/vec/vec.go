// Package vec has the elementwise loops that CPU kernels spend their time in: conversions between 16-bit floats and float32, and
// functions built on exp.
//
// Each loop exists in Go and, on amd64, in assembly for AVX2, FMA and F16C; which one runs is decided once, by the processor.
// Conversions give equal bits either way; exp and its kin agree within a few units in the last place. Where two slices have
// different lengths the shorter one counts, and dst may be the very slice of src.
package vec

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// loops are the inner loops over blocks of eight elements. A nil entry means that Go does it all.
type loops struct {
	widenBF16, widenF16          func(blocks int, dst *float32, src *uint16)
	narrowBF16, narrowF16        func(blocks int, dst *uint16, src *float32)
	exp, sigmoid, silu, geluTanh func(blocks int, dst, src *float32)
	expSum                       func(blocks int, dst, src *float32, shift float32) float32
}

// fast is set before main and never changed.
var fast loops

// Accelerated reports whether the assembly is in use.
func Accelerated() bool { return fast.exp != nil }

// Widen converts elements of type dt (F32, BF16 or F16, row-major bytes aligned for dt) to float32 and returns how many: 0 for
// another type.
func Widen(dst []float32, src []byte, dt tensor.DType) int { return fast.widen(dst, src, dt) }

// Narrow rounds float32 to type dt (F32, BF16 or F16), to nearest, ties to even, and returns how many: 0 for another type. dst
// must be aligned for dt. A NaN stays a NaN.
func Narrow(dst []byte, src []float32, dt tensor.DType) int { return fast.narrow(dst, src, dt) }

// Exp sets dst[i] to e^src[i] within 2 units in the last place, subnormal results included.
func Exp(dst, src []float32) { apply(fast.exp, exp32, dst, src) }

// Sigmoid sets dst[i] to 1/(1+e^-src[i]).
func Sigmoid(dst, src []float32) { apply(fast.sigmoid, sigmoid32, dst, src) }

// SiLU sets dst[i] to src[i]/(1+e^-src[i]).
func SiLU(dst, src []float32) { apply(fast.silu, silu32, dst, src) }

// GELUTanh sets dst[i] to x/2*(1+tanh(u)) with u = sqrt(2/pi)*(x+0.044715*x^3), x = src[i], computed as x/(1+e^-2u): the
// approximation of Hendrycks and Gimpel, arXiv 1606.08415.
func GELUTanh(dst, src []float32) { apply(fast.geluTanh, geluTanh32, dst, src) }

// ExpSum sets dst[i] to e^(src[i]-shift) and returns the sum of the results: with shift the largest element, a softmax but for
// the division.
func ExpSum(dst, src []float32, shift float32) float32 { return fast.expShifted(dst, src, shift) }

// apply runs the assembly on whole blocks and f on the rest.
func apply(blocks8 func(blocks int, dst, src *float32), f func(float32) float32, dst, src []float32) {
	n := min(len(dst), len(src))
	done := 0
	if blocks8 != nil && n >= 8 {
		done = n / 8 * 8
		blocks8(n/8, &dst[0], &src[0])
	}
	for i := done; i < n; i++ {
		dst[i] = f(src[i])
	}
}

func (l *loops) expShifted(dst, src []float32, shift float32) float32 {
	n := min(len(dst), len(src))
	done, sum := 0, float32(0)
	if l.expSum != nil && n >= 8 {
		done = n / 8 * 8
		sum = l.expSum(n/8, &dst[0], &src[0], shift)
	}
	var lanes [4]float32
	for i := done; i < n; i++ {
		dst[i] = exp32(src[i] - shift)
		lanes[i&3] += dst[i]
	}
	return sum + (lanes[0] + lanes[1]) + (lanes[2] + lanes[3])
}

func (l *loops) widen(dst []float32, src []byte, dt tensor.DType) int {
	switch dt {
	case tensor.F32:
		return copy(dst, tensor.View[float32](src))
	case tensor.BF16:
		return widen(dst, tensor.View[uint16](src), l.widenBF16, func(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) })
	case tensor.F16:
		return widen(dst, tensor.View[uint16](src), l.widenF16, func(h uint16) float32 { return tensor.Float16(h).Float32() })
	}
	return 0
}

func widen(dst []float32, src []uint16, blocks8 func(int, *float32, *uint16), f func(uint16) float32) int {
	n := min(len(dst), len(src))
	done := 0
	if blocks8 != nil && n >= 8 {
		done = n / 8 * 8
		blocks8(n/8, &dst[0], &src[0])
	}
	for i := done; i < n; i++ {
		dst[i] = f(src[i])
	}
	return n
}

func (l *loops) narrow(dst []byte, src []float32, dt tensor.DType) int {
	switch dt {
	case tensor.F32:
		return copy(tensor.View[float32](dst), src)
	case tensor.BF16:
		return narrow(tensor.View[uint16](dst), src, l.narrowBF16, func(v float32) uint16 { return uint16(tensor.ToBF16(v)) })
	case tensor.F16:
		return narrow(tensor.View[uint16](dst), src, l.narrowF16, func(v float32) uint16 { return uint16(tensor.ToF16(v)) })
	}
	return 0
}

func narrow(dst []uint16, src []float32, blocks8 func(int, *uint16, *float32), f func(float32) uint16) int {
	n := min(len(dst), len(src))
	done := 0
	if blocks8 != nil && n >= 8 {
		done = n / 8 * 8
		blocks8(n/8, &dst[0], &src[0])
	}
	for i := done; i < n; i++ {
		dst[i] = f(src[i])
	}
	return n
}
