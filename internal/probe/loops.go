package probe

import (
	"encoding/binary"

	"github.com/bitsandbyes/bitsandbyes/internal/isa"
)

// block is how many bytes a round of the assembly takes; parts of a working set are whole numbers of it.
const block = 512

// loops are what one level measures with.
type loops struct {
	fma        func(n int) float32 // n rounds; the sum of all numbers, which tend to fmaLimit
	fmaOps     int                 // floating-point operations of a round
	dot8       func(n int) int32   // n rounds; the sum of all numbers, mod 2^32; nil: none
	dot8Ops    int
	dotBF16    func(n int) float32 // n rounds; the sum of all numbers; nil: none
	dotBF16Ops int
	read       func(b []byte) uint64 // the sum of b as 64-bit numbers
	stream     func(dst, src []byte) // copies past the caches; nil: none
}

// The loop of multiply-adds is x = x*fmaScale + fmaAdd, which tends to fmaLimit: ordinary numbers, none of them denormal.
const (
	fmaScale = 0.5
	fmaAdd   = 1
	fmaLimit = 2
)

// assembly is what this build has beside the loops in Go.
var assembly = map[isa.Level]loops{}

func loopsOf(l isa.Level) (loops, bool) {
	if l == isa.Generic {
		return loops{fma: fmaGo, fmaOps: 2 * goSums, read: readGo}, true
	}
	found, ok := assembly[l]
	return found, ok && isa.Has(l)
}

// goSums is how many sums the loop in Go has.
const goSums = 8

func fmaGo(n int) float32 {
	var a, b, c, d, e, f, g, h float32
	for range n {
		a, b, c, d = float32(a*fmaScale)+fmaAdd, float32(b*fmaScale)+fmaAdd, float32(c*fmaScale)+fmaAdd, float32(d*fmaScale)+fmaAdd
		e, f, g, h = float32(e*fmaScale)+fmaAdd, float32(f*fmaScale)+fmaAdd, float32(g*fmaScale)+fmaAdd, float32(h*fmaScale)+fmaAdd
	}
	return a + b + c + d + e + f + g + h
}

func readGo(b []byte) uint64 {
	var s, t, u, v uint64
	for ; len(b) >= 32; b = b[32:] {
		s += binary.LittleEndian.Uint64(b)
		t += binary.LittleEndian.Uint64(b[8:])
		u += binary.LittleEndian.Uint64(b[16:])
		v += binary.LittleEndian.Uint64(b[24:])
	}
	return s + t + u + v
}
