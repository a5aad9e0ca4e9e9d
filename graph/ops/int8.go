package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// QuantizeRows8 quantizes the vectors along the last axis of x (f32, f16 or bf16) to int8 as quant.QuantizeRows does: codes i8 of x's
// shape, one absmax f32 a vector, and a bool for each column that says whether it holds an outlier. Elements with |x| >= Threshold > 0
// are outliers: they count for no absmax and have code 0, and with more than one vector so has their whole column.
//
// NaN has code 0 and counts for nothing, as in the library. Strict gives a vector that holds one the absmax NaN instead, so that whatever
// is computed from it shows it.
type QuantizeRows8 struct {
	Threshold float32
	Strict    bool
}

// QuantizeColumns8 quantizes the columns of x (rows, cols) to int8 as quant.QuantizeColumns does: codes i8 of x's shape and one absmax
// f32 a column. Elements with |x| >= Threshold > 0 count for no absmax and have code 0. Strict is as for QuantizeRows8, by column.
type QuantizeColumns8 struct {
	Threshold float32
	Strict    bool
}

// DequantizeRows8 gives code·absmax·(1/127) in float32, rounded once to To, for codes i8 (..., cols) and one absmax f32 a vector.
// ScaleFirst multiplies absmax with 1/127 before the code; the last bit of the float32 product may differ. bitsandbytes computes the
// input gradient of Linear8bitLt in that order and everything else in the other.
type DequantizeRows8 struct {
	To         tensor.DType // a float
	ScaleFirst bool
}

// DequantizeProduct8 gives the values of an int8 product as quant.DequantizeProduct does: acc i32 (rows, cols), one absmax f32 a row and
// a column, and an optional bias (cols) of dtype To. Values pass through f16 whatever To is, as the CUDA kernel writes nothing else.
type DequantizeProduct8 struct{ To tensor.DType }

var (
	_ graph.Frozen       = QuantizeRows8{}
	_ graph.Frozen       = QuantizeColumns8{}
	_ graph.Frozen       = DequantizeRows8{}
	_ graph.Frozen       = DequantizeProduct8{}
	_ graph.Decomposable = DequantizeRows8{}
	_ graph.Decomposable = DequantizeProduct8{}
	_ graph.Coster       = DequantizeRows8{}
	_ graph.Coster       = DequantizeProduct8{}
)

// strictRows and strictColumns are what layers quantize with: a NaN in x, a weight or a gradient must not vanish.
var (
	strictRows    = QuantizeRows8{Strict: true}
	strictColumns = QuantizeColumns8{Strict: true}
)

// QuantizeRowsTo8 returns the codes and statistics of x and which columns hold outliers; see QuantizeRows8.
func QuantizeRowsTo8(x Value, threshold float32) (codes, stats, outliers Value) {
	return quantizeRows(QuantizeRows8{Threshold: threshold}, x)
}

func quantizeRows(o QuantizeRows8, x Value) (codes, stats, outliers Value) {
	out := apply(o, x)
	return out[0], out[1], out[2]
}

// QuantizeColumnsTo8 returns the codes and statistics of x; see QuantizeColumns8.
func QuantizeColumnsTo8(x Value, threshold float32) (codes, stats Value) {
	return quantizeColumns(QuantizeColumns8{Threshold: threshold}, x)
}

func quantizeColumns(o QuantizeColumns8, x Value) (codes, stats Value) {
	out := apply(o, x)
	return out[0], out[1]
}

// DequantizeRowsFrom8 returns the values of codes; see DequantizeRows8.
func DequantizeRowsFrom8(o DequantizeRows8, codes, stats Value) Value { return one(o, codes, stats) }

// DequantizeProductFrom8 returns the values of an int32 product; bias may be absent. See DequantizeProduct8.
func DequantizeProductFrom8(acc, rowStats, colStats, bias Value, to tensor.DType) Value {
	return one(DequantizeProduct8{to}, acc, rowStats, colStats, bias)
}

// Name implements graph.Op.
func (QuantizeRows8) Name() string { return "int8_quantize_rows" }

// Name implements graph.Op.
func (QuantizeColumns8) Name() string { return "int8_quantize_columns" }

// Name implements graph.Op.
func (DequantizeRows8) Name() string { return "int8_dequantize_rows" }

// Name implements graph.Op.
func (DequantizeProduct8) Name() string { return "int8_dequantize_product" }

// NumOut is the number of outputs.
func (QuantizeRows8) NumOut() int { return 3 }

// NumOut is the number of outputs.
func (QuantizeColumns8) NumOut() int { return 2 }

func checkThreshold(t float32) error {
	if !(t >= 0) {
		return fmt.Errorf("outlier threshold %v: use 0 (no outliers) or a positive number such as 6", t)
	}
	return nil
}

// Infer implements graph.Op.
func (o QuantizeRows8) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := checkThreshold(o.Threshold); err != nil {
		return nil, err
	}
	if err := quantizable(in); err != nil {
		return nil, err
	}
	if in[0].Rank() == 0 {
		return nil, fmt.Errorf("x is a scalar, it needs an axis of columns")
	}
	dims := in[0].Shape.Dims()
	last := len(dims) - 1
	return []tensor.Type{{DType: tensor.I8, Shape: in[0].Shape}, tensor.T(tensor.F32, dims[:last]...), tensor.T(tensor.Bool, dims[last])}, nil
}

// Infer implements graph.Op.
func (o QuantizeColumns8) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := checkThreshold(o.Threshold); err != nil {
		return nil, err
	}
	if err := quantizable(in); err != nil {
		return nil, err
	}
	if in[0].Rank() != 2 {
		return nil, fmt.Errorf("x is %v, it must be a matrix; reshape it", in[0])
	}
	return []tensor.Type{{DType: tensor.I8, Shape: in[0].Shape}, tensor.T(tensor.F32, in[0].Dim(1))}, nil
}

// Infer implements graph.Op.
func (o DequantizeRows8) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if !o.To.IsFloat() {
		return nil, fmt.Errorf("cannot dequantize to %v; use a float", o.To)
	}
	if err := arity(in, 2); err != nil {
		return nil, err
	}
	if in[0].DType != tensor.I8 || in[0].Rank() == 0 {
		return nil, fmt.Errorf("codes must be i8 with an axis of columns, got %v", in[0])
	}
	if err := checkStats("absmax", in[1], vectors(in[0])); err != nil {
		return nil, err
	}
	return []tensor.Type{{DType: o.To, Shape: in[0].Shape}}, nil
}

// vectors is the number of vectors along the last axis.
func vectors(t tensor.Type) int { return rows(t.Shape.Dims()) }

func checkStats(name string, t tensor.Type, n int) error {
	if t.DType != tensor.F32 || t.Size() != n {
		return fmt.Errorf("%s must be f32 with %d elements, got %v", name, n, t)
	}
	return nil
}

// Infer implements graph.Op.
func (o DequantizeProduct8) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if !o.To.IsFloat() || o.To == tensor.F64 {
		return nil, fmt.Errorf("cannot dequantize a product to %v; use f32, f16 or bf16", o.To)
	}
	if len(in) != 4 {
		return nil, fmt.Errorf("takes 4 inputs (the bias may be absent), got %d", len(in))
	}
	acc, bias := in[0], in[3]
	if acc.DType != tensor.I32 || acc.Rank() != 2 {
		return nil, fmt.Errorf("the product must be an i32 matrix, got %v", acc)
	}
	if err := checkStats("the rows' absmax", in[1], acc.Dim(0)); err != nil {
		return nil, err
	}
	if err := checkStats("the columns' absmax", in[2], acc.Dim(1)); err != nil {
		return nil, err
	}
	if bias.DType != tensor.Invalid && bias != tensor.T(o.To, acc.Dim(1)) {
		return nil, fmt.Errorf("the bias must be %v, got %v; cast it", tensor.T(o.To, acc.Dim(1)), bias)
	}
	return []tensor.Type{{DType: o.To, Shape: acc.Shape}}, nil
}

// FrozenInput implements graph.Frozen.
func (QuantizeRows8) FrozenInput(int) string { return "quantization is not differentiable" }

// FrozenInput implements graph.Frozen.
func (QuantizeColumns8) FrozenInput(int) string { return "quantization is not differentiable" }

// FrozenInput implements graph.Frozen.
func (DequantizeRows8) FrozenInput(int) string { return frozenWeight }

// FrozenInput implements graph.Frozen.
func (DequantizeProduct8) FrozenInput(int) string {
	return "an int8 product is not differentiable; ops.Int8Linear has the gradient of LLM.int8()"
}

// Cost implements graph.Coster.
func (DequantizeRows8) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return 2 * int64(out[0].Size()), sumBytes(in) + sumBytes(out)
}

// Cost implements graph.Coster.
func (DequantizeProduct8) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return 4 * int64(out[0].Size()), sumBytes(in) + sumBytes(out)
}

// Decompose implements graph.Decomposable with the same roundings.
func (o DequantizeRows8) Decompose(in []Value) []Value {
	x := Cast(in[0], tensor.F32)
	dims := in[0].Shape().Dims()
	dims[len(dims)-1] = 1
	stats := Reshape(in[1], dims...)
	if o.ScaleFirst {
		return []Value{Cast(Mul(x, Scale(stats, float64(quant.Int8RowScale))), o.To)}
	}
	return []Value{Cast(Scale(Mul(x, stats), float64(quant.Int8RowScale)), o.To)}
}

// Decompose implements graph.Decomposable. With an f16 bias the kernel rounds product and sum together; here the product is a float32
// first, so that one value in thousands differs by a unit of f16.
func (o DequantizeProduct8) Decompose(in []Value) []Value {
	m, n := in[0].Dim(0), in[0].Dim(1)
	p := Mul(Mul(Cast(in[0], tensor.F32), Reshape(in[1], m, 1)), Reshape(in[2], 1, n))
	p = Scale(p, float64(quant.Int8ProductScale))
	if bias := in[3]; !bias.Absent() {
		if o.To != tensor.F16 {
			p = Cast(Cast(p, tensor.F16), tensor.F32)
		}
		p = Add(p, Cast(bias, tensor.F32))
	}
	return []Value{Cast(Cast(p, tensor.F16), o.To)}
}
