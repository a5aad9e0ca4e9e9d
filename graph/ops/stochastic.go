package ops

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// StochasticRound rounds a float32 slab to parameters of 16 bits: up or down with the probabilities that make the expected value the
// value itself, so that steps below half a unit in the last place are not lost but taken now and then (Gupta et al. 2015, arXiv
// 1502.02551; for training in bfloat16: Zamirai et al. 2020, arXiv 2010.06192). Values that the type has are kept.
//
// The choice for an element follows from Seed, the step, the tensor's site in the layout and the element's index in its tensor alone:
// not from where the tensor lies, what else is in the slab or how the work is cut. Inputs: x f32 (the layout's elements), step f32
// scalar. Output: the layout's type. Padding, which is zero, stays zero.
type StochasticRound struct {
	Seed   uint64
	Layout *Layout
}

// Name implements graph.Op.
func (StochasticRound) Name() string { return "stochastic_round" }

// Infer implements graph.Op.
func (o StochasticRound) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 2); err != nil {
		return nil, err
	}
	if err := o.Layout.Check(); err != nil {
		return nil, err
	}
	switch {
	case o.Layout.dtype() == tensor.F32:
		return nil, fmt.Errorf("the layout's parameters are f32, to which nothing is rounded; set its DType to bf16 or f16")
	case in[0] != o.Layout.TypeOf(tensor.F32) || in[1] != tensor.T(tensor.F32):
		return nil, fmt.Errorf("takes %v and a step f32[], got %v and %v", o.Layout.TypeOf(tensor.F32), in[0], in[1])
	}
	return []tensor.Type{o.Layout.Type()}, nil
}

// Cost implements graph.Coster.
func (o StochasticRound) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return 12 * int64(o.Layout.Total), sumBytes(in) + sumBytes(out)
}

var _ graph.Coster = StochasticRound{}

// RoundStep emits a StochasticRound.
func RoundStep(o StochasticRound, x, step Value) Value { return one(o, x, step) }

// stochasticTag tells the words of rounding from those of dropout, whose last counter word is a small number.
const stochasticTag = 0x80000000

// RoundingElements is how many elements one call of RoundingWords serves.
const RoundingElements = 8

// RoundingWords are the random bits of elements 8·block to 8·block+7 of the tensor with a site at a step, 16 for each: element i has the
// lower half of word i/2 if i is even, else the upper half.
func RoundingWords(seed uint64, step, site, block uint32) [4]uint32 {
	c := RoundingCounter(step, site, block)
	var w [4]uint32
	w[0], w[1], w[2], w[3] = Philox4x32(c[0], c[1], c[2], c[3], uint32(seed), uint32(seed>>32))
	return w
}

// RoundingCounter is the generator's counter for RoundingWords; the key is the seed, lower half first. Its first part counts blocks.
func RoundingCounter(step, site, block uint32) [4]uint32 {
	return [4]uint32{block, step, site, stochasticTag}
}

// RoundToBF16 rounds to one of the neighbours of x in bfloat16: to the one away from zero with the probability that 16 random bits are
// less than the part of x between them.
func RoundToBF16(x float32, random uint16) uint16 {
	b := math.Float32bits(x)
	if x-x != 0 { // infinite or NaN: nothing to choose
		return uint16(tensor.ToBF16(x))
	}
	return uint16(b>>16 + less(random, b&0xffff))
}

// RoundToF16 is RoundToBF16 for float16, whose neighbours lie further apart below 2⁻¹⁴. Beyond the largest number it is infinite.
func RoundToF16(x float32, random uint16) uint16 {
	const maxF16, unit, normal = 65504, 1 << 24, 1 << 10 // units of the smallest float16, 2⁻²⁴, and where they end
	a := math.Abs(float64(x))
	if !(a < maxF16) {
		return uint16(tensor.ToF16(x))
	}
	sign := uint16(math.Float32bits(x) >> 16 & 0x8000)
	if units := a * unit; units < normal {
		down := math.Floor(units)
		if (units-down)*(1<<16) > float64(random) {
			down++
		}
		return sign | uint16(down) // unit 1024 is the code of the first normal number
	}
	b := math.Float32bits(float32(a))
	code := uint16((b - 112<<23) >> 13) // the exponent's bias is 15 instead of 127
	return sign | (code + uint16(less(random, b&0x1fff<<3)))
}

// less is 1 where random is less than part, a number of 16 bits, else 0: without a branch, which no processor could predict.
func less(random uint16, part uint32) uint32 { return (uint32(random) - part) >> 31 }

// Site returns what names tensor i to random generators: Sites[i], or i.
func (l *Layout) Site(i int) uint32 {
	if len(l.Sites) == 0 {
		return uint32(i)
	}
	return l.Sites[i]
}
