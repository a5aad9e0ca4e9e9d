// Package step has the loops of optimizer updates: the equations of each ops.Rule over slices of float32, from gradient to parameter in
// one pass, the same over blocks of 8-bit moments, random rounding to bfloat16, and sums of squares.
//
// Each loop exists in Go and, on amd64, for AVX2 and AVX-512; which one runs is decided once, by internal/isa. All give equal bits: every
// operation of a rule is rounded on its own, in the order of the Go loop, lane by lane. (NaNs are alike and may differ in payload.)
package step

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/internal/isa"
)

// Factors are the constants of one tensor's update: the gradient of the rule is g·GScale, and its step d makes
// p = (p·Before - Rate·d)·After. The assembly knows the fields up to Nesterov by their place.
type Factors struct {
	GScale, Before, Rate, After float32
	B1, N1, B2, N2, B3, N3      float32 // betas and one minus them
	C1, C2                      float32 // 1-b1^t and sqrt(1-b2^t)
	OverC2                      float32 // 1/C2, set by prepare
	Alpha, Eps                  float32
	WD                          float32 // of a coupled decay
	coupled, first, nesterov    uint32  // all ones or 0, set by prepare

	Rule     ops.Rule
	Moments  int
	First    bool // the moment of Momentum is the gradient
	Nesterov bool
	Scale    float64 // the rate is the learning rate times Scale
}

// variants are the loops: the rules, and Momentum without a moment.
const (
	plain = ops.Adagrad + 1 + iota
	variants
)

// loops are those of one instruction set, over blocks of 16 elements. A nil entry means that Go does it all.
type loops struct {
	update  [variants]func(blocks int, p, g, s0, s1, s2, k *float32)
	update8 [variants]func(b *byte, p, g, m, before, next, k *float32) // over a block of 256
	scaled  func(blocks int, dst, src *float32, s float32) uint32
	planes  bool // update8 takes the values of codes cut into bytes
}

// byLevel is filled before main and never changed; fast is what is in use.
var (
	byLevel [isa.AVX512 + 1]loops
	fast    = &byLevel[isa.Generic]
)

// Advance moves p and the moments in s, all of p's length, by the gradient g. After and Before must be 1 where the rule has no decay at
// that place.
func (f *Factors) Advance(p, g []float32, s *[3][]float32) { f.advance(fast, p, g, s) }

func (f *Factors) variant() ops.Rule {
	if f.Rule == ops.Momentum && f.Moments == 0 {
		return plain
	}
	return f.Rule
}

func (f *Factors) advance(l *loops, p, g []float32, s *[3][]float32) {
	n := len(p)
	blocks := n / 16
	loop := l.update[f.variant()]
	if loop == nil || blocks == 0 {
		f.advanceGo(p, g[:n], s)
		return
	}
	f.prepare()
	_ = g[n-1]
	var at [3]*float32
	for j := range f.Moments {
		at[j] = &s[j][:n][0]
	}
	loop(blocks, &p[0], &g[0], at[0], at[1], at[2], &f.GScale)
	if done := 16 * blocks; done < n {
		var rest [3][]float32
		for j := range f.Moments {
			rest[j] = s[j][done:n]
		}
		f.advanceGo(p[done:], g[done:n], &rest)
	}
}

// prepare sets what the assembly reads besides.
func (f *Factors) prepare() {
	f.OverC2 = 1 / f.C2
	f.coupled, f.first, f.nesterov = mask(f.WD != 0), mask(f.First), mask(f.Nesterov)
}

func mask(on bool) uint32 {
	if on {
		return math.MaxUint32
	}
	return 0
}

// exponentCarry has its highest bit set if x is not finite.
func exponentCarry(x float32) uint32 { return math.Float32bits(x)&^(1<<31) + 1<<23 }
