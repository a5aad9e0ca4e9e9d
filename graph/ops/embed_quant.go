package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// QuantEmbed looks rows of a 4-bit table (Rows, Cols) up by i32 ids (...): the result is (..., Cols) of dtype To. The inputs are the ids
// and the parts of the table as for Dequantize. Only the rows asked for are decoded, also where blocks span rows. An id outside [0, Rows)
// gives zeros.
type QuantEmbed struct {
	Scheme     quant.Scheme
	Blocksize  int
	Rows, Cols int
	To         tensor.DType // a float
	Nested     bool
}

var (
	_ graph.Decomposable = QuantEmbed{}
	_ graph.Frozen       = QuantEmbed{}
	_ graph.Coster       = QuantEmbed{}
)

// EmbedQuant looks rows of a quantized table up; see QuantEmbed.
func EmbedQuant(o QuantEmbed, ids Value, table ...Value) Value {
	return one(o, append([]Value{ids}, table...)...)
}

// Name implements graph.Op.
func (QuantEmbed) Name() string { return "quant_embed" }

// String prints the attributes with the scheme's name.
func (o QuantEmbed) String() string {
	return fmt.Sprintf("quant_embed{%v}", weightText(o.Scheme, o.Blocksize, o.Rows, o.Cols, o.Nested))
}

// Infer implements graph.Op.
func (o QuantEmbed) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if !o.To.IsFloat() {
		return nil, fmt.Errorf("cannot dequantize to %v; use a float", o.To)
	}
	if len(in) == 0 || in[0].DType != tensor.I32 {
		return nil, fmt.Errorf("the ids must be i32; cast them")
	}
	if in[0].Rank() >= tensor.MaxRank {
		return nil, fmt.Errorf("ids of rank %d leave no room for the features' axis", in[0].Rank())
	}
	if err := checkWeight(in[1:], o.Scheme, o.Blocksize, o.Rows, o.Cols, o.Nested); err != nil {
		return nil, err
	}
	return []tensor.Type{tensor.T(o.To, append(in[0].Shape.Dims(), o.Cols)...)}, nil
}

// FrozenInput implements graph.Frozen.
func (QuantEmbed) FrozenInput(int) string { return frozenWeight }

// Cost implements graph.Coster: what is read is the rows looked up, not the table.
func (o QuantEmbed) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return int64(out[0].Size()), in[0].Bytes() + out[0].Bytes() + int64(out[0].Size())/2
}

// Decompose implements graph.Decomposable: the whole table is dequantized.
func (o QuantEmbed) Decompose(in []Value) []Value {
	w := one(Dequantize(o), in[1:]...)
	return []Value{Gather(w, 0, in[0])}
}

// EmbedInt8 looks rows of an int8 table up by i32 ids (...): codes i8 (V, C) and one absmax f32 a row give code·(absmax/127) in float32,
// rounded once to d: (..., C). Only the rows asked for are read and scaled. An id outside [0, V) gives zeros.
func EmbedInt8(ids, codes, stats Value, d tensor.DType) Value {
	if !ids.Valid() || !codes.Valid() || !stats.Valid() {
		return absorb(ids)
	}
	if err := checkWeight8(codes.Type(), stats.Type()); err != nil {
		return ids.Graph().Fail("int8_embed", []Value{ids, codes, stats}, err)
	}
	values := Cast(Embed(codes, ids), tensor.F32)
	if !values.Valid() {
		return values
	}
	scales := Embed(Reshape(stats, codes.Dim(0), 1), ids)
	return Cast(Mul(values, Div(scales, Scalar(scales, 127))), d)
}
