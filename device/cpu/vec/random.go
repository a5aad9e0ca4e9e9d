package vec

import (
	"math"
	"math/bits"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Philox writes the words of the generator Philox4x32 with ten rounds (Salmon et al., SC 2011) for a key: four for each counter, of which
// counter[0] counts up. What does not fill a counter at the end of dst is cut off.
func Philox(dst []uint32, counter [4]uint32, key [2]uint32) { fast.philox(dst, counter, key) }

// philoxStep is how many counters the assembly takes at a time.
const philoxStep = 8

func (l *loops) philox(dst []uint32, counter [4]uint32, key [2]uint32) {
	if l.random.philox != nil && len(dst) >= 4*philoxStep {
		n := len(dst) / (4 * philoxStep) * philoxStep
		l.random.philox(n, &dst[0], counter[0], counter[1], counter[2], counter[3], key[0], key[1])
		dst, counter[0] = dst[4*n:], counter[0]+uint32(n)
	}
	for len(dst) > 0 {
		w := philox(counter, key)
		dst = dst[copy(dst, w[:]):]
		counter[0]++
	}
}

const (
	philoxKey0 = 0x9E3779B9
	philoxKey1 = 0xBB67AE85
)

func philox(c [4]uint32, key [2]uint32) [4]uint32 {
	for range 10 {
		hi0, lo0 := bits.Mul32(c[0], 0xD2511F53)
		hi1, lo1 := bits.Mul32(c[2], 0xCD9E8D57)
		c = [4]uint32{hi1 ^ c[1] ^ key[0], lo1, hi0 ^ c[3] ^ key[1], lo0}
		key[0] += philoxKey0
		key[1] += philoxKey1
	}
	return c
}

// Drop sets dst[i] to src[i]·scale, or 0 where words[i] is below threshold, for each element of dst. dst may be src.
func Drop(dst, src []float32, words []uint32, threshold uint32, scale float32) {
	fast.drop(dst, src, words, threshold, scale)
}

func (l *loops) drop(dst, src []float32, words []uint32, threshold uint32, scale float32) {
	n := len(dst)
	src, words = src[:n], words[:n]
	if n > 0 && l.random.drop != nil {
		l.random.drop(n, &dst[0], &src[0], &tensor.View[float32](tensor.AsBytes(words))[0], threshold, scale)
		return
	}
	for i, x := range src {
		if words[i] < threshold {
			x = 0
		} else {
			x *= scale
		}
		dst[i] = x
	}
}

// RoundRandomly rounds float32 to bfloat16, away from zero where the 16 random bits are less than the part of the number between its
// neighbours. A NaN stays one. Every slice has an element for each of dst.
func RoundRandomly(dst []uint16, src []float32, random []uint16) {
	fast.roundRandomly(dst, src, random)
}

func (l *loops) roundRandomly(dst []uint16, src []float32, random []uint16) {
	n, done := len(dst), 0
	src, random = src[:n], random[:n]
	if l.random.round != nil {
		if done = n / 16 * 16; done > 0 {
			l.random.round(done, &dst[0], &src[0], &random[0])
		}
	}
	for i, x := range src[done:] {
		b := math.Float32bits(x)
		if x != x {
			dst[done+i] = uint16(b>>16 | 0x40)
			continue
		}
		dst[done+i] = uint16(b>>16 + (uint32(random[done+i])-b&0xffff)>>31)
	}
}

// randomLoops are the assembly loops of random numbers.
type randomLoops struct {
	philox func(n int, dst *uint32, c0, c1, c2, c3, k0, k1 uint32) // n a multiple of philoxStep
	drop   func(n int, dst, src, words *float32, threshold uint32, scale float32)
	round  func(n int, dst *uint16, src *float32, random *uint16) // n a multiple of 16
}
