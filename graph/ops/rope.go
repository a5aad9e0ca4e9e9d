package ops

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// RoPEOp rotates pairs of features by position (Su et al. 2021): x (B, T, H, D) with f32 tables cos, sin (B, T, R/2), R <= D
// even. The first R features of every head turn: pair i is (i, i+R/2), or (2i, 2i+1) with Interleaved; the others pass. Inverse
// turns back. The leading axes may be any, as long as x has those of the tables and then (H, D).
type RoPEOp struct{ Interleaved, Inverse bool }

var (
	_ graph.Differentiable = RoPEOp{}
	_ graph.Decomposable   = RoPEOp{}
	_ graph.Aliaser        = RoPEOp{}
	_ graph.Frozen         = RoPEOp{}
	_ graph.Coster         = RoPEOp{}
)

// Name implements graph.Op.
func (RoPEOp) Name() string { return "rope" }

// Infer implements graph.Op.
func (RoPEOp) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 3); err != nil {
		return nil, err
	}
	x, c := in[0], in[1]
	if err := floatRows(x); err != nil {
		return nil, err
	}
	if c != in[2] || c.DType != tensor.F32 || c.Rank() < 1 {
		return nil, fmt.Errorf("the tables must be f32 (..., R/2) and alike, got %v and %v", c, in[2])
	}
	if x.Rank() != c.Rank()+1 || 2*c.Dim(-1) > x.Dim(-1) {
		return nil, fmt.Errorf("tables %v do not fit %v: want (B, T, R/2) for (B, T, H, D) with R <= D", c, x)
	}
	for i := range c.Rank() - 1 {
		if c.Dim(i) != x.Dim(i) {
			return nil, fmt.Errorf("tables %v and input %v differ on axis %d", c, x, i)
		}
	}
	return in[:1], nil
}

// VJP implements graph.Differentiable: a rotation's transpose is its inverse.
func (o RoPEOp) VJP(n *graph.Node, gy []Value, _ []bool) []Value {
	o.Inverse = !o.Inverse
	return grads(3, indexed{0, one(o, gy[0], n.In[1], n.In[2])})
}

// FrozenInput implements graph.Frozen.
func (RoPEOp) FrozenInput(i int) string {
	if i == 0 {
		return ""
	}
	return "rotary tables are not trained"
}

// Decompose implements graph.Decomposable.
func (o RoPEOp) Decompose(in []Value) []Value {
	d := in[0].DType()
	x := Cast(in[0], wide(d))
	half := in[1].Dim(-1)
	if half == 0 {
		return in[:1]
	}
	table := func(v Value) Value {
		dims := v.Shape().Dims()
		dims = append(dims[:len(dims)-1], 1, half)
		return Cast(Reshape(v, dims...), wide(d))
	}
	c, s := table(in[1]), table(in[2])
	if o.Inverse {
		s = Neg(s)
	}
	var a, b Value
	if o.Interleaved {
		a, b = SliceStep(x, -1, 0, 2*half, 2), SliceStep(x, -1, 1, 2*half, 2)
	} else {
		a, b = Slice(x, -1, 0, half), Slice(x, -1, half, 2*half)
	}
	first, second := Sub(Mul(a, c), Mul(b, s)), Add(Mul(b, c), Mul(a, s))
	rest := Slice(x, -1, 2*half, x.Dim(-1))
	if !o.Interleaved {
		return []Value{Cast(Concat(-1, first, second, rest), d)}
	}
	dims := x.Shape().Dims()
	dims[len(dims)-1] = 2 * half
	turned := Reshape(Transpose(Concat(-2, pairRow(first), pairRow(second))), dims...)
	return []Value{Cast(Concat(-1, turned, rest), d)}
}

// pairRow turns (..., n) into (..., 1, n).
func pairRow(x Value) Value {
	dims := x.Shape().Dims()
	return Reshape(x, append(dims[:len(dims)-1:len(dims)-1], 1, dims[len(dims)-1])...)
}

// Alias implements graph.Aliaser.
func (RoPEOp) Alias() []graph.AliasPair { return []graph.AliasPair{{Out: 0, In: 0}} }

// Cost implements graph.Coster.
func (RoPEOp) Cost(in, out []tensor.Type) (flops, bytes int64) { return rowCost(3, in, out) }

// RoPE rotates x (B, T, H, D) by the f32 tables cos, sin (B, T, R/2) of RopeTables. interleaved chooses the pairs (2i, 2i+1) of
// llama2.c and GGUF files over the pairs (i, i+R/2) of Hugging Face checkpoints.
func RoPE(x, cos, sin Value, interleaved bool) Value {
	return one(RoPEOp{Interleaved: interleaved}, x, cos, sin)
}

// RopeTables returns cos and sin (B, T, R/2) of the angles pos·invFreq, in f32: pos (B, T) i32, invFreq f32 (R/2).
func RopeTables(pos, invFreq Value) (cos, sin Value) {
	if !pos.Valid() || !invFreq.Valid() {
		bad := one(Pointwise{F: FnMul}, pos, invFreq)
		return bad, bad
	}
	angle := Mul(keepLast(Cast(pos, tensor.F32)), invFreq)
	return Cos(angle), Sin(angle)
}

// InvFreq returns the dim/2 rotary frequencies in radians a position, 1/theta^(2i/dim), rounded to float32 after every step as
// PyTorch does.
func InvFreq(theta float64, dim int) []float32 {
	out := make([]float32, max(dim+1, 0)/2)
	for i := range out {
		e := float32(2*i) / float32(dim)
		out[i] = 1 / float32(math.Pow(float64(float32(theta)), float64(e)))
	}
	return out
}

// InvFreqLlama3 returns the frequencies of Llama 3.1 ("rope_type": "llama3" in Hugging Face's config.json): wavelengths above
// original/low positions are stretched by factor, those below original/high are kept, those between are interpolated.
func InvFreqLlama3(theta float64, dim int, factor, low, high float64, original int) []float32 {
	out := InvFreq(theta, dim)
	ctx := float64(original)
	longest, shortest := float32(ctx/low), float32(ctx/high)
	for i, f := range out {
		wave := float32(2*math.Pi) / f
		switch {
		case wave > longest:
			out[i] = f / float32(factor)
		case !(wave < shortest):
			smooth := (float32(ctx)/wave - float32(low)) / float32(high-low)
			out[i] = float32((1-smooth)*f)/float32(factor) + float32(smooth*f)
		}
	}
	return out
}
