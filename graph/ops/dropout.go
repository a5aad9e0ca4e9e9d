package ops

import (
	"fmt"
	"math/bits"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// DropoutOp zeroes each element with probability Rate in [0, 1) and divides the others by 1-Rate (Srivastava et al. 2014).
// Inputs: x (B, T, ...), key u32 or i32 [2] = (seed, step), sample (B, T) i32, pos (B, T) i32. sample and pos may have any
// leading axes of x; a feature is the flat index over the rest.
//
// The mask is not stored: element f of token (sample, pos) is kept when word f%4 of Philox4x32 at counter
// (f/4, pos, sample, Site) and key (seed, step) is at least Threshold. It depends on what the token is, not on where in the
// batch it lies.
type DropoutOp struct {
	Rate float32
	Site uint32 // tells the dropouts of one step apart
}

var (
	_ graph.Differentiable = DropoutOp{}
	_ graph.Decomposable   = DropoutOp{}
	_ graph.Aliaser        = DropoutOp{}
	_ graph.Coster         = DropoutOp{}
)

// Name implements graph.Op.
func (DropoutOp) Name() string { return "dropout" }

// Infer implements graph.Op.
func (o DropoutOp) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 4); err != nil {
		return nil, err
	}
	x := in[0]
	if !x.DType.IsFloat() {
		return nil, fmt.Errorf("not defined on %v", x.DType)
	}
	if !(o.Rate >= 0 && o.Rate < 1) {
		return nil, fmt.Errorf("the rate must be in [0, 1), got %v", o.Rate)
	}
	if err := tokenIDs(in[1], in[2], in[3]); err != nil {
		return nil, err
	}
	if in[2].Rank() > x.Rank() {
		return nil, fmt.Errorf("sample %v has more axes than the input %v", in[2], x)
	}
	for i := range in[2].Rank() {
		if in[2].Dim(i) != x.Dim(i) {
			return nil, fmt.Errorf("sample %v and input %v differ on axis %d", in[2], x, i)
		}
	}
	return in[:1], nil
}

// Threshold is the smallest word that keeps an element: Rate·2³².
func (o DropoutOp) Threshold() uint32 { return uint32(float64(o.Rate) * (1 << 32)) }

// Scale is what kept elements are multiplied by: 1/(1-Rate).
func (o DropoutOp) Scale() float64 { return 1 / (1 - float64(o.Rate)) }

// VJP implements graph.Differentiable: the same mask on the cotangent.
func (o DropoutOp) VJP(n *graph.Node, gy []Value, _ []bool) []Value {
	return grads(4, indexed{0, one(o, gy[0], n.In[1], n.In[2], n.In[3])})
}

// Decompose implements graph.Decomposable.
func (o DropoutOp) Decompose(in []Value) []Value {
	x := in[0]
	features := 1
	for i := in[2].Rank(); i < x.Rank(); i++ {
		features *= x.Dim(i)
	}
	words := Reshape(one(PhiloxOp{o.Site, int64(features)}, in[1], in[2], in[3]), x.Shape().Dims()...)
	keep := GreaterEqual(words, Fill(x.Graph(), tensor.U32, float64(o.Threshold())))
	y := Cast(Scale(Cast(x, wide(x.DType())), o.Scale()), x.DType())
	return []Value{Where(keep, y, Scalar(x, 0))}
}

// Alias implements graph.Aliaser.
func (DropoutOp) Alias() []graph.AliasPair { return []graph.AliasPair{{Out: 0, In: 0}} }

// Cost implements graph.Coster.
func (DropoutOp) Cost(in, out []tensor.Type) (flops, bytes int64) { return rowCost(12, in, out) }

// Dropout zeroes elements of x (B, T, ...) with probability rate in [0, 1) and scales the rest; rate 0 gives x itself. key is
// u32 or i32 [2] = (seed, step), sample and pos (B, T) i32 name each token, site tells the dropouts of one step apart.
func Dropout(x, key, sample, pos Value, rate float32, site uint32) Value {
	if rate == 0 {
		return x
	}
	return one(DropoutOp{rate, site}, x, key, sample, pos)
}

// PhiloxOp gives random words: for key u32 or i32 [2], sample and pos i32 of one shape (S...), the result is u32 (S..., N),
// entry f being word f%4 of Philox4x32 at counter (f/4, pos, sample, Site).
type PhiloxOp struct {
	Site uint32
	N    int64
}

// Name implements graph.Op.
func (PhiloxOp) Name() string { return "philox" }

// Infer implements graph.Op.
func (o PhiloxOp) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 3); err != nil {
		return nil, err
	}
	if err := tokenIDs(in[0], in[1], in[2]); err != nil {
		return nil, err
	}
	if o.N < 0 || in[1].Rank() == tensor.MaxRank {
		return nil, fmt.Errorf("cannot give %d words for each of %v", o.N, in[1])
	}
	return []tensor.Type{tensor.T(tensor.U32, append(in[1].Shape.Dims(), int(o.N))...)}, nil
}

func tokenIDs(key, sample, pos tensor.Type) error {
	if key.Rank() != 1 || key.Dim(0) != 2 || (key.DType != tensor.U32 && key.DType != tensor.I32) {
		return fmt.Errorf("the key must be u32 or i32 [2] (seed, step), got %v", key)
	}
	if sample.DType != tensor.I32 || pos != sample {
		return fmt.Errorf("sample and pos must be i32 of one shape, got %v and %v", sample, pos)
	}
	return nil
}

// Philox4x32 is the counter-based generator of Salmon et al. (SC 2011) with 10 rounds: four words for a counter and a key.
func Philox4x32(c0, c1, c2, c3, k0, k1 uint32) (r0, r1, r2, r3 uint32) {
	for range 10 {
		hi0, lo0 := bits.Mul32(c0, 0xD2511F53)
		hi1, lo1 := bits.Mul32(c2, 0xCD9E8D57)
		c0, c1, c2, c3 = hi1^c1^k0, lo1, hi0^c3^k1, lo0
		k0 += 0x9E3779B9
		k1 += 0xBB67AE85
	}
	return c0, c1, c2, c3
}
