package vec

import "github.com/bitsandbyes/bitsandbyes/internal/isa"

// Op is a pointwise function of up to three float32 operands. Truth values are 1 and 0, and anything but 0 is true.
type Op uint8

// The functions. The first group is exact or correctly rounded, with equal bits at every level.
const (
	OpAdd       Op = iota // a+b
	OpSub                 // a-b
	OpMul                 // a*b
	OpDiv                 // a/b
	OpMin                 // the lesser, NaN if either is
	OpMax                 // the greater, NaN if either is
	OpEq                  // 1 if a == b, else 0
	OpNe                  // 1 if a != b, else 0
	OpLt                  // 1 if a < b, else 0
	OpLe                  // 1 if a <= b, else 0
	OpWhere               // b if a != 0, else c
	OpNeg                 // -a
	OpAbs                 // |a|
	OpSign                // -1, 0 or 1; NaN stays
	OpReLU                // a if a > 0, else 0
	OpFloor               // a rounded down
	OpCeil                // a rounded up
	OpRound               // a rounded to nearest, ties to even
	OpTrunc               // a rounded towards 0
	OpSqrt                // the square root of a
	OpFinite              // 1 if a is finite, else 0
	OpNot                 // 1 if a is 0, else 0
	OpRoundBF16           // a rounded to bfloat16
	OpRoundF16            // a rounded to binary16

	OpExp      // e^a
	OpExpm1    // e^a-1
	OpSigmoid  // 1/(1+e^-a)
	OpSiLU     // a/(1+e^-a)
	OpGELU     // a*(1+erf(a/sqrt(2)))/2
	OpGELUTanh // x/2*(1+tanh(u)), u = sqrt(2/pi)*(x+0.044715*x^3), computed as x/(1+e^-2u): Hendrycks and Gimpel, arXiv 1606.08415
	OpSoftplus // log(1+e^a)
	OpTanh     // the hyperbolic tangent
	OpErf      // the error function
	OpLog      // the natural logarithm
	OpLog1p    // log(1+a)
	OpRsqrt    // 1/sqrt(a)
	OpSin      // the sine
	OpCos      // the cosine

	NumOps
)

// pointwise is an assembly loop of a function: n elements of dst from those of a, b and c, as many as it takes.
type pointwise func(n int, dst, a, b, c *float32)

// twin is one element of a function in Go.
type twin struct {
	name  string
	arity int
	f     func(a, b, c float32) float32
}

// Run sets dst[i] to the function of a[i], b[i] and c[i]; operands that the function does not take may be nil, the others must not be
// shorter than dst. dst may be the very slice of an operand. An element's bits do not depend on the length or the position.
func (o Op) Run(dst, a, b, c []float32) { fast.run(o, dst, a, b, c) }

// Arity is the number of operands.
func (o Op) Arity() int { return twins[o].arity }

// String is the function's name.
func (o Op) String() string { return twins[o].name }

func (l *loops) run(o Op, dst, a, b, c []float32) {
	n := len(dst)
	if n == 0 {
		return
	}
	t := &twins[o]
	f := l.ops[o]
	if f == nil {
		t.run(dst, a, b, c)
		return
	}
	switch t.arity {
	case 1:
		f(n, &dst[0], &a[:n][0], nil, nil)
		if o == OpSin || o == OpCos {
			farWaves(t, dst)
		}
	case 2:
		f(n, &dst[0], &a[:n][0], &b[:n][0], nil)
	default:
		f(n, &dst[0], &a[:n][0], &b[:n][0], &c[:n][0])
	}
}

// farWaves finishes a sine or cosine: the vector loops leave arguments beyond 2^27 as they are, which no result can be.
func farWaves(t *twin, y []float32) {
	for i, v := range y {
		if v > 1 || v < -1 {
			y[i] = t.f(v, 0, 0)
		}
	}
}

func (t *twin) run(dst, a, b, c []float32) {
	n := len(dst)
	switch t.arity {
	case 1:
		for i, x := range a[:n] {
			dst[i] = t.f(x, 0, 0)
		}
	case 2:
		b = b[:n]
		for i, x := range a[:n] {
			dst[i] = t.f(x, b[i], 0)
		}
	default:
		b, c = b[:n], c[:n]
		for i, x := range a[:n] {
			dst[i] = t.f(x, b[i], c[i])
		}
	}
}

// Accelerated reports whether an assembly loop of the function is in use.
func (o Op) Accelerated() bool { return fast.ops[o] != nil }

// levels are the loops of each level of this processor; those of Go are empty.
var levels = map[isa.Level]*loops{isa.Generic: {}}
