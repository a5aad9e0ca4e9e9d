package models

import (
	"fmt"
	"math"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Rope is the rotary position embedding and its scaling to longer contexts. The scalings and their names are those of
// transformers' rope_type; formulas and roundings too.
type Rope struct {
	Theta       float64
	Interleaved bool        // pairs (2i, 2i+1), as llama2.c files have it; else (i, i+R/2)
	Dim         int         // R, the features of a head that turn, its first ones; 0 = all
	Scaling     RopeScaling // "" = none
	Factor      float64     // how many times longer contexts are; LongRope has lists instead
	Original    int         // context length before scaling, of Llama3, Yarn, LongRope and Dynamic

	Low, High float64 // Llama3: wavelengths of Original/Low are the longest, of Original/High the shortest to be interpolated

	BetaFast, BetaSlow float64 // Yarn: rotations in Original positions from which on, and up to which, frequencies are kept, or divided
	NoTruncate         bool    // Yarn: the border dimensions are not rounded to whole ones

	// Attention multiplies the tables, and so the scores by its square (Yarn, LongRope); 0 = 1.
	Attention float64

	// Short and Long divide each frequency of a document of up to, or more than, Original tokens (LongRope), R/2 numbers each.
	Short, Long []float64
}

// RopeScaling is a way to stretch rotary positions, by transformers' name.
type RopeScaling string

// The scalings.
const (
	Linear   RopeScaling = "linear"   // every frequency divided
	Dynamic  RopeScaling = "dynamic"  // theta grows with the length of the document beyond Original (NTK-aware)
	Yarn     RopeScaling = "yarn"     // Peng et al. 2023
	LongRope RopeScaling = "longrope" // Ding et al. 2024
	Llama3   RopeScaling = "llama3"   // bands of frequencies, Llama 3.1
)

var scalings = []RopeScaling{Linear, Dynamic, Yarn, LongRope, Llama3}

// dim is the number of features of a head that turn.
func (r Rope) dim(headDim int) int {
	if r.Dim != 0 {
		return r.Dim
	}
	return headDim
}

func (r Rope) validate(headDim int) error {
	d := r.dim(headDim)
	switch {
	case !(r.Theta > 0) || math.IsInf(r.Theta, 0):
		return fmt.Errorf("config.json: rope_theta %v must be positive", r.Theta)
	case d < 2 || d%2 != 0 || d > headDim:
		return fmt.Errorf("config.json: %d of the %d features of a head turn; it must be an even number of them", d, headDim)
	case r.Scaling != "" && !slices.Contains(scalings, r.Scaling):
		return fmt.Errorf("config.json: rope_type %q is not supported; supported: default, linear, dynamic, yarn, longrope, llama3", r.Scaling)
	case r.Attention < 0 || math.IsInf(r.Attention, 0) || math.IsNaN(r.Attention):
		return fmt.Errorf("config.json: the attention factor %v of rope scaling must be positive", r.Attention)
	}
	return r.validateScaling(d)
}

func (r Rope) validateScaling(d int) error {
	positive := func(x float64) bool { return x > 0 && !math.IsInf(x, 0) }
	bad := func(needs string) error { return fmt.Errorf("config.json: %s rope scaling needs %s", r.Scaling, needs) }
	if r.Scaling == LongRope {
		for _, list := range [][]float64{r.Short, r.Long} {
			if len(list) != d/2 || slices.ContainsFunc(list, func(x float64) bool { return !positive(x) }) {
				return bad(fmt.Sprintf("short_factor and long_factor of %d positive numbers each", d/2))
			}
		}
		if r.Original <= 1 {
			return bad("original_max_position_embeddings > 1")
		}
		return nil
	}
	switch {
	case r.Scaling != "" && !positive(r.Factor):
		return bad("factor > 0")
	case r.Scaling == Llama3 && !(r.High > r.Low && r.Low > 0 && r.Original > 0):
		return bad("high_freq_factor > low_freq_factor > 0 and original_max_position_embeddings > 0")
	case r.Scaling == Yarn && !(r.Original > 0 && positive(r.BetaFast) && positive(r.BetaSlow) && r.Theta != 1):
		return bad("original_max_position_embeddings, beta_fast and beta_slow > 0")
	case r.Scaling == Dynamic && !(r.Original > 0 && d > 2 && r.Factor >= 1):
		return bad("factor >= 1, max_position_embeddings > 0 and heads of more than 2 rotary features")
	}
	return nil
}

// lengthDependent reports whether positions turn differently in a document of another length.
func (r Rope) lengthDependent() bool { return r.Scaling == Dynamic || r.Scaling == LongRope }

// sameFor reports whether positions turn alike in documents of a and b tokens.
func (r Rope) sameFor(a, b int) bool {
	switch r.Scaling {
	case LongRope:
		return (a > r.Original) == (b > r.Original)
	case Dynamic:
		return max(a, r.Original) == max(b, r.Original)
	}
	return true
}

// frequencies returns the radians a position of the R/2 pairs in documents of up to Original tokens, rounded to float32 where
// PyTorch rounds.
func (r Rope) frequencies(headDim int) []float32 {
	d := r.dim(headDim)
	switch r.Scaling {
	case Llama3:
		return ops.InvFreqLlama3(r.Theta, d, r.Factor, r.Low, r.High, r.Original)
	case Yarn:
		return r.yarn(d)
	case LongRope:
		return r.divided(d, r.Short)
	}
	out := ops.InvFreq(r.Theta, d)
	if r.Scaling == Linear {
		for i := range out {
			out[i] /= float32(r.Factor)
		}
	}
	return out
}

// wavelengths is theta^(2i/d).
func (r Rope) wavelengths(d int) []float32 {
	out := make([]float32, d/2)
	for i := range out {
		out[i] = float32(math.Pow(float64(float32(r.Theta)), float64(float32(2*i)/float32(d))))
	}
	return out
}

// divided is 1/(factor·theta^(2i/d)) with a factor of its own for each pair.
func (r Rope) divided(d int, factors []float64) []float32 {
	out := r.wavelengths(d)
	for i, w := range out {
		out[i] = 1 / (float32(factors[i]) * w)
	}
	return out
}

// yarn keeps pairs that turn more than BetaFast times within the original context, divides those that turn less than BetaSlow
// times, and blends between, linearly in the number of the pair.
func (r Rope) yarn(d int) []float32 {
	border := func(rotations float64) float64 {
		return float64(d) * math.Log(float64(r.Original)/(rotations*2*math.Pi)) / (2 * math.Log(r.Theta))
	}
	low, high := border(r.BetaFast), border(r.BetaSlow)
	if !r.NoTruncate {
		low, high = math.Floor(low), math.Ceil(high)
	}
	low, high = max(low, 0), min(high, float64(d-1))
	if low == high {
		high += 0.001
	}
	out := r.wavelengths(d)
	for i, w := range out {
		ramp := min(max((float32(i)-float32(low))/float32(high-low), 0), 1)
		keep := 1 - ramp
		out[i] = float32((1/(float32(r.Factor)*w))*(1-keep)) + float32((1/w)*keep)
	}
	return out
}

// tables returns cos and sin (B, T, R/2) for the positions of a call.
func (r Rope) tables(in Inputs, headDim int) (cos, sin graph.Value) {
	if !in.Pos.Valid() {
		return in.Pos, in.Pos
	}
	g := in.Pos.Graph()
	freq := r.constant(g, r.frequencies(headDim))
	if r.lengthDependent() {
		freq = r.byLength(freq, in, headDim)
		angle := ops.Mul(ops.Reshape(ops.Cast(in.Pos, tensor.F32), in.Pos.Dim(0), in.Pos.Dim(1), 1), freq)
		cos, sin = ops.Cos(angle), ops.Sin(angle)
	} else {
		cos, sin = ops.RopeTables(in.Pos, freq)
	}
	if r.Attention != 0 && r.Attention != 1 {
		cos, sin = ops.Scale(cos, r.Attention), ops.Scale(sin, r.Attention)
	}
	return cos, sin
}

func (r Rope) constant(g *graph.Graph, x []float32) graph.Value {
	t, err := tensor.Of(x)
	if err != nil {
		return g.Fail("rope", nil, err)
	}
	return g.Const(t)
}

// byLength returns the frequencies (B, T, R/2) of each token: base where its document has at most Original tokens.
func (r Rope) byLength(base graph.Value, in Inputs, headDim int) graph.Value {
	d := r.dim(headDim)
	b, t := in.Pos.Dim(0), in.Pos.Dim(1)
	length := ops.Reshape(in.lengths(), b, t, 1)
	long := r.constant(base.Graph(), r.divided(d, orOnes(r.Long, d/2)))
	if r.Scaling == Dynamic {
		// theta·(factor·length/original − (factor−1))^(d/(d−2)), and of it the powers 2i/d
		grown := ops.AddScalar(ops.Scale(ops.Cast(length, tensor.F32), r.Factor/float64(r.Original)), 1-r.Factor)
		exponents := make([]float32, d/2)
		for i := range exponents {
			exponents[i] = float32(2*i) / float32(d)
		}
		theta := ops.Scale(ops.Pow(ops.Max(grown, ops.Scalar(grown, 1)), ops.Scalar(grown, float64(d)/float64(d-2))), r.Theta)
		long = ops.Reciprocal(ops.Pow(theta, r.constant(base.Graph(), exponents)))
	}
	beyond := ops.Greater(length, ops.Scalar(length, float64(r.Original)))
	full := func(x graph.Value) graph.Value { return ops.BroadcastTo(x, b, t, d/2) }
	return ops.Where(full(beyond), full(long), full(base))
}

func orOnes(x []float64, n int) []float64 {
	if x == nil {
		return slices.Repeat([]float64{1}, n)
	}
	return x
}

// lengths is the number of tokens i32 (B, T) of the document that each token is in: one more than the largest position. A row
// without DocStart is one document.
func (in Inputs) lengths() graph.Value {
	n := ops.AddScalar(in.Pos, 1)
	if in.DocStart.Absent() {
		return ops.BroadcastTo(ops.Reshape(ops.MaxOf(n, 1), n.Dim(0), 1), n.Shape().Dims()...)
	}
	most := ops.ScatterElements(ops.ZerosLike(n), 1, in.DocStart, n, ops.ScatterMax)
	return ops.GatherElements(most, 1, in.DocStart)
}
