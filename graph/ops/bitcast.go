package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// BitCastTo reads the same bytes as elements of another type of the same size. It computes nothing and has no gradient.
type BitCastTo struct{ To tensor.DType }

var (
	_ graph.Viewer = BitCastTo{}
	_ graph.Frozen = BitCastTo{}
)

// Name implements graph.Op.
func (BitCastTo) Name() string { return "bit_cast" }

// Infer implements graph.Op.
func (o BitCastTo) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 1); err != nil {
		return nil, err
	}
	if o.To.Size() == 0 || o.To.Size() != in[0].DType.Size() || (o.To == tensor.Bool) != (in[0].DType == tensor.Bool) {
		return nil, fmt.Errorf("cannot read %v as %v: elements of one size are needed, and bool holds only 0 and 1", in[0].DType, o.To)
	}
	return []tensor.Type{in[0].With(o.To)}, nil
}

// View implements graph.Viewer.
func (BitCastTo) View([]tensor.Type) (int64, bool) { return 0, true }

// FrozenInput implements graph.Frozen.
func (BitCastTo) FrozenInput(int) string { return "bits have no slope" }

// BitCast reads the bytes of x as elements of another type of the same size.
func BitCast(x Value, d tensor.DType) Value {
	if x.Valid() && x.DType() == d {
		return x
	}
	return one(BitCastTo{d}, x)
}
