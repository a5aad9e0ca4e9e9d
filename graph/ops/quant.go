package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Dequantize gives the values of a weight in 4 bits, table[code]·absmax in float32, rounded once to To. The inputs are the codes
// (u8, two to a byte, quant.PackedSize elements of any shape) and one float32 absmax a block; Nested, the absmax is u8 with a
// float32 nested_absmax for each 256 of them and a float32 scalar offset (double quantization, QLoRA, arXiv 2305.14314). The result
// is (Rows, Cols); blocks are cut from it in flat row-major order and may span rows.
type Dequantize struct {
	Scheme    quant.Scheme
	Blocksize int // elements a scale, even, quant.MinBlocksize to quant.MaxBlocksize
	Rows      int
	Cols      int
	To        tensor.DType // a float
	Nested    bool
}

var (
	_ graph.Decomposable = Dequantize{}
	_ graph.Frozen       = Dequantize{}
	_ graph.Coster       = Dequantize{}
)

// DequantizeWeight applies o to the parts of a quantized weight: codes, absmax and, nested, nested_absmax and offset.
func DequantizeWeight(o Dequantize, weight ...Value) Value { return one(o, weight...) }

// Name implements graph.Op.
func (Dequantize) Name() string { return "dequantize" }

// String prints the attributes with the scheme's name.
func (o Dequantize) String() string {
	return fmt.Sprintf("dequantize{%v}", weightText(o.Scheme, o.Blocksize, o.Rows, o.Cols, o.Nested))
}

func weightText(s quant.Scheme, blocksize, rows, cols int, nested bool) string {
	text := fmt.Sprintf("%v/%d %dx%d", s, blocksize, rows, cols)
	if nested {
		text += " nested"
	}
	return text
}

// Infer implements graph.Op.
func (o Dequantize) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if !o.To.IsFloat() {
		return nil, fmt.Errorf("cannot dequantize to %v; use a float", o.To)
	}
	if err := checkWeight(in, o.Scheme, o.Blocksize, o.Rows, o.Cols, o.Nested); err != nil {
		return nil, err
	}
	return []tensor.Type{tensor.T(o.To, o.Rows, o.Cols)}, nil
}

// checkWeight checks the parts of a quantized weight.
func checkWeight(in []tensor.Type, s quant.Scheme, blocksize, rows, cols int, nested bool) error {
	want := 2
	if nested {
		want = 4
	}
	if err := checkScheme(s, blocksize); err != nil {
		return err
	}
	if shape := tensor.S(rows, cols); rows < 0 || cols < 0 || !shape.Valid() {
		return fmt.Errorf("a weight of %d x %d is not valid", rows, cols)
	}
	if err := arity(in, want); err != nil {
		return fmt.Errorf("parts of the weight: %w", err)
	}
	n := rows * cols
	blocks := quant.Blocks(n, blocksize)
	scale := tensor.F32
	if nested {
		scale = tensor.U8
	}
	parts := []struct {
		name  string
		dtype tensor.DType
		size  int
	}{
		{"codes", tensor.U8, quant.PackedSize(n)}, {"absmax", scale, blocks},
		{"nested_absmax", tensor.F32, quant.Blocks(blocks, quant.StateBlocksize)}, {"offset", tensor.F32, 1},
	}
	for i, p := range parts[:want] {
		if in[i].DType != p.dtype || in[i].Size() != p.size {
			return fmt.Errorf("%s of a %d x %d weight with blocksize %d must be %v with %d elements, got %v", p.name, rows, cols,
				blocksize, p.dtype, p.size, in[i])
		}
	}
	return nil
}

func checkScheme(s quant.Scheme, blocksize int) error {
	if !s.FourBit() {
		return fmt.Errorf("%v is not a 4-bit scheme; use NF4 or FP4", s)
	}
	if blocksize < quant.MinBlocksize || blocksize > quant.MaxBlocksize || blocksize%2 != 0 {
		return fmt.Errorf("blocksize %d must be even and from %d to %d (usual: %d)", blocksize, quant.MinBlocksize,
			quant.MaxBlocksize, quant.DefaultBlocksize)
	}
	return nil
}

const frozenWeight = "a quantized weight is frozen: its codes and scales have no gradient; train an adapter (LoRA) beside it, or load it unquantized"

// FrozenInput implements graph.Frozen.
func (Dequantize) FrozenInput(int) string { return frozenWeight }

// Cost implements graph.Coster.
func (Dequantize) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return int64(out[0].Size()), sumBytes(in) + sumBytes(out)
}

// Decompose implements graph.Decomposable with the same roundings.
func (o Dequantize) Decompose(in []Value) []Value {
	g := in[0].Graph()
	n := o.Rows * o.Cols
	blocks := quant.Blocks(n, o.Blocksize)
	scales := Reshape(in[1], blocks)
	if o.Nested {
		scales = Reshape(scaledBlocks(bookTable(g, false), Cast(scales, tensor.I32), in[2], quant.StateBlocksize), blocks)
		scales = Add(scales, Reshape(in[3], 1))
	}
	bytes := Cast(Reshape(in[0], quant.PackedSize(n), 1), tensor.I32)
	high := Div(bytes, Scalar(bytes, 16))
	low := Sub(bytes, Scale(high, 16))
	codes := Slice(Reshape(Concat(1, high, low), 2*quant.PackedSize(n)), 0, 0, n)
	values := o.Scheme.Values()
	w := scaledBlocks(table(g, values[:]), codes, scales, o.Blocksize)
	return []Value{Cast(Reshape(w, o.Rows, o.Cols), o.To)}
}

// scaledBlocks returns table[codes]·absmax[block] for n codes in blocks: (n) f32.
func scaledBlocks(table, codes, absmax Value, blocksize int) Value {
	n, blocks := codes.Dim(0), absmax.Type().Size()
	x := PadAxis(Gather(table, 0, codes), 0, 0, blocks*blocksize-n, 0)
	x = Mul(Reshape(x, blocks, blocksize), Reshape(absmax, blocks, 1))
	return Slice(Reshape(x, blocks*blocksize), 0, 0, n)
}

// table embeds the values of a code book.
func table(g *graph.Graph, values []float32) Value {
	t, err := tensor.Of(values)
	if err != nil {
		return g.Fail("code book", nil, err)
	}
	return g.Const(t)
}

func bookTable(g *graph.Graph, unsigned bool) Value {
	book := quant.DynamicSigned()
	if unsigned {
		book = quant.DynamicUnsigned()
	}
	values := book.Values()
	return table(g, values[:])
}

// QuantMatMul multiplies by a frozen weight W (N, K) in 4 bits: y = x·Wᵀ, x (..., K) -> (..., N), or with Trans y = x·W, x (..., N)
// -> (..., K). The inputs are x (a float) and the parts of the weight as for Dequantize. The weight's values are rounded to the dtype
// of x, products are summed in float32 and rounded once. It is differentiable in x alone: dx is the same op with Trans flipped.
type QuantMatMul struct {
	Scheme    quant.Scheme
	Blocksize int
	N, K      int // of the stored weight (out, in), whatever Trans
	Nested    bool
	Trans     bool
}

var (
	_ graph.Differentiable = QuantMatMul{}
	_ graph.Decomposable   = QuantMatMul{}
	_ graph.Frozen         = QuantMatMul{}
	_ graph.Coster         = QuantMatMul{}
)

// QuantLinear returns x·Wᵀ (x·W with o.Trans) for the parts of a quantized weight: codes, absmax and, nested, nested_absmax and
// offset.
func QuantLinear(o QuantMatMul, x Value, weight ...Value) Value {
	return one(o, append([]Value{x}, weight...)...)
}

// Name implements graph.Op.
func (QuantMatMul) Name() string { return "quant_matmul" }

// String prints the attributes with the scheme's name.
func (o QuantMatMul) String() string {
	text := weightText(o.Scheme, o.Blocksize, o.N, o.K, o.Nested)
	if o.Trans {
		text += " trans"
	}
	return "quant_matmul{" + text + "}"
}

// inner and outer are the extents of x's and y's last axis.
func (o QuantMatMul) inner() int {
	if o.Trans {
		return o.N
	}
	return o.K
}

func (o QuantMatMul) outer() int { return o.N + o.K - o.inner() }

// Infer implements graph.Op.
func (o QuantMatMul) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if len(in) == 0 || !in[0].DType.IsFloat() {
		return nil, fmt.Errorf("x must be a float; cast it to the compute dtype")
	}
	if err := checkWeight(in[1:], o.Scheme, o.Blocksize, o.N, o.K, o.Nested); err != nil {
		return nil, err
	}
	dims := in[0].Shape.Dims()
	if len(dims) == 0 || dims[len(dims)-1] != o.inner() {
		return nil, fmt.Errorf("x is %v, its last axis must be %d", in[0], o.inner())
	}
	dims[len(dims)-1] = o.outer()
	return []tensor.Type{tensor.T(in[0].DType, dims...)}, nil
}

// VJP implements graph.Differentiable.
func (o QuantMatMul) VJP(n *graph.Node, gy []Value, _ []bool) []Value {
	back := o
	back.Trans = !o.Trans
	return grads(len(n.In), indexed{0, QuantLinear(back, gy[0], n.In[1:]...)})
}

// FrozenInput implements graph.Frozen.
func (QuantMatMul) FrozenInput(i int) string {
	if i == 0 {
		return ""
	}
	return frozenWeight
}

// Cost implements graph.Coster.
func (o QuantMatMul) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return 2 * int64(in[0].Size()) * int64(o.outer()), sumBytes(in) + sumBytes(out)
}

// Decompose implements graph.Decomposable: the whole weight is dequantized.
func (o QuantMatMul) Decompose(in []Value) []Value {
	x := in[0]
	w := one(Dequantize{o.Scheme, o.Blocksize, o.N, o.K, x.DType(), o.Nested}, in[1:]...)
	rows := Reshape(x, leadSize(x), o.inner())
	dims := x.Shape().Dims()
	dims[len(dims)-1] = o.outer()
	return []Value{Reshape(one(MatMul{TransB: !o.Trans}, rows, w), dims...)}
}

// leadSize is the number of vectors along the last axis of x.
func leadSize(x Value) int {
	if !x.Valid() || x.Rank() == 0 {
		return 1
	}
	return rows(x.Shape().Dims())
}
