// Package vec has the loops over float32 that CPU kernels spend their time in: conversions between 16-bit floats and float32, the
// pointwise functions, and sums over rows.
//
// Each loop exists in Go and, on amd64, in assembly for AVX2 (with FMA and F16C) and for AVX-512; which one runs is decided once, by
// internal/isa. Conversions and arithmetic give equal bits at every level; functions such as exp agree within a few units in the last
// place, which their documentation states. Where two slices have different lengths the shorter one counts, unless a function says
// otherwise, and dst may be the very slice of src.
package vec

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// loops are the assembly loops of one level. A nil entry means that Go does it all.
type loops struct {
	widenBF16, widenF16   func(blocks int, dst *float32, src *uint16) // blocks of eight elements
	narrowBF16, narrowF16 func(blocks int, dst *uint16, src *float32)
	expSum                func(n int, dst, src *float32, shift float32) float32
	ops                   [NumOps]pointwise
	rows                  [NumRowOps]rowLoop
	sums                  sums
	turnHalves            func(n int, y0, y1, x0, x1, cos, sin *float32, sign float32)
	random                randomLoops
	copyPast              func(lines int, dst, src *float32) // dst a multiple of 64
	fence                 func()
	transpose16           tileLoop
	transpose32           tileLoop
	turnNeighbours        func(pairs int, y, x, cos, sin *float32, sign float32) // pairs a multiple of 8
	addWide               func(n int, sum *float64, x *float32)                  // n a multiple of 16
}

// fast are the loops in use. It is set before main and never changed.
var fast loops

// Accelerated reports whether the assembly is in use.
func Accelerated() bool { return fast.expSum != nil }

// Widen converts elements of type dt (F32, BF16 or F16, row-major bytes aligned for dt) to float32 and returns how many: 0 for
// another type.
func Widen(dst []float32, src []byte, dt tensor.DType) int { return fast.widen(dst, src, dt) }

// Narrow rounds float32 to type dt (F32, BF16 or F16), to nearest, ties to even, and returns how many: 0 for another type. dst
// must be aligned for dt. A NaN stays a NaN.
func Narrow(dst []byte, src []float32, dt tensor.DType) int { return fast.narrow(dst, src, dt) }

// Exp sets dst[i] to e^src[i] within 2 units in the last place, subnormal results included.
func Exp(dst, src []float32) { unary(OpExp, dst, src) }

// Sigmoid sets dst[i] to 1/(1+e^-src[i]) within 4 units in the last place; a subnormal result is 0.
func Sigmoid(dst, src []float32) { unary(OpSigmoid, dst, src) }

// SiLU sets dst[i] to src[i]/(1+e^-src[i]) within 4 units in the last place; a result below 2^-119 is 0.
func SiLU(dst, src []float32) { unary(OpSiLU, dst, src) }

// Tanh sets dst[i] to the hyperbolic tangent of src[i] within 2 units in the last place.
func Tanh(dst, src []float32) { unary(OpTanh, dst, src) }

func unary(o Op, dst, src []float32) {
	n := min(len(dst), len(src))
	o.Run(dst[:n], src[:n], nil, nil)
}

// ExpSum sets dst[i] to e^(src[i]-shift) and returns the sum of the results: with shift the largest element, a softmax but for
// the division.
func ExpSum(dst, src []float32, shift float32) float32 { return fast.expShifted(dst, src, shift) }

func (l *loops) expShifted(dst, src []float32, shift float32) float32 {
	n := min(len(dst), len(src))
	if l.expSum != nil && n > 0 {
		return l.expSum(n, &dst[0], &src[0], shift)
	}
	var lanes [4]float32
	for i, x := range src[:n] {
		dst[i] = exp32(x - shift)
		lanes[i&3] += dst[i]
	}
	return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3])
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
