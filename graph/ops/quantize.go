package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Quantize4 quantizes x (f32, f16 or bf16, any shape, flat row-major) to 4 bits: codes u8 (PackedSize) and absmax f32 (Blocks), with
// the bytes of bitsandbytes' quantize_4bit.
type Quantize4 struct {
	Scheme    quant.Scheme
	Blocksize int // even, quant.MinBlocksize to quant.MaxBlocksize
}

// Quantize8 quantizes x (f32, f16 or bf16, any shape, flat row-major) to 8 bits with a dynamic code book: codes u8 of x's shape and
// absmax f32 (Blocks), with the bytes of bitsandbytes' quantize_blockwise. Moment adds the correction that its optimizers make to
// the first moment: a code whose value has not the sign of its element moves one code towards it.
type Quantize8 struct {
	Blocksize int
	Unsigned  bool // the book of squares instead of the signed one
	Moment    bool // not with Unsigned
}

// Dequantize8 is the inverse of Quantize8: value[code]·absmax in float32, rounded once to To. Inputs are the codes u8 and absmax f32
// (Blocks).
type Dequantize8 struct {
	Blocksize int
	Unsigned  bool
	To        tensor.DType // a float
}

var (
	_ graph.Frozen       = Quantize4{}
	_ graph.Frozen       = Quantize8{}
	_ graph.Frozen       = Dequantize8{}
	_ graph.Decomposable = Dequantize8{}
)

// QuantizeTo4 returns the codes and scales of x; see Quantize4.
func QuantizeTo4(x Value, scheme quant.Scheme, blocksize int) (codes, absmax Value) {
	out := apply(Quantize4{scheme, blocksize}, x)
	return out[0], out[1]
}

// QuantizeTo8 returns the codes and scales of x; see Quantize8.
func QuantizeTo8(o Quantize8, x Value) (codes, absmax Value) {
	out := apply(o, x)
	return out[0], out[1]
}

// DequantizeFrom8 returns the float32 values of codes; see Dequantize8.
func DequantizeFrom8(codes, absmax Value, blocksize int, unsigned bool) Value {
	return one(Dequantize8{blocksize, unsigned, tensor.F32}, codes, absmax)
}

// Name implements graph.Op.
func (Quantize4) Name() string { return "quantize_4bit" }

// Name implements graph.Op.
func (Quantize8) Name() string { return "quantize_blockwise" }

// Name implements graph.Op.
func (Dequantize8) Name() string { return "dequantize_blockwise" }

// NumOut is the number of outputs.
func (Quantize4) NumOut() int { return 2 }

// NumOut is the number of outputs.
func (Quantize8) NumOut() int { return 2 }

// Infer implements graph.Op.
func (o Quantize4) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := checkScheme(o.Scheme, o.Blocksize); err != nil {
		return nil, err
	}
	if err := quantizable(in); err != nil {
		return nil, err
	}
	n := in[0].Size()
	return []tensor.Type{tensor.T(tensor.U8, quant.PackedSize(n)), tensor.T(tensor.F32, quant.Blocks(n, o.Blocksize))}, nil
}

// Infer implements graph.Op.
func (o Quantize8) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := quantizable(in); err != nil {
		return nil, err
	}
	switch {
	case o.Blocksize < 1:
		return nil, fmt.Errorf("blocksize %d must be at least 1", o.Blocksize)
	case o.Unsigned && o.Moment:
		return nil, fmt.Errorf("the sign correction needs the signed code book")
	}
	return []tensor.Type{{DType: tensor.U8, Shape: in[0].Shape}, tensor.T(tensor.F32, quant.Blocks(in[0].Size(), o.Blocksize))}, nil
}

func quantizable(in []tensor.Type) error {
	if err := arity(in, 1); err != nil {
		return err
	}
	if d := in[0].DType; !d.IsFloat() || d == tensor.F64 {
		return fmt.Errorf("cannot quantize %v; cast to f32, f16 or bf16", d)
	}
	return nil
}

// Infer implements graph.Op.
func (o Dequantize8) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 2); err != nil {
		return nil, err
	}
	switch {
	case !o.To.IsFloat():
		return nil, fmt.Errorf("cannot dequantize to %v; use a float", o.To)
	case o.Blocksize < 1:
		return nil, fmt.Errorf("blocksize %d must be at least 1", o.Blocksize)
	case in[0].DType != tensor.U8:
		return nil, fmt.Errorf("codes must be u8, got %v", in[0])
	}
	if want := quant.Blocks(in[0].Size(), o.Blocksize); in[1].DType != tensor.F32 || in[1].Size() != want {
		return nil, fmt.Errorf("absmax must be f32 with %d elements, got %v", want, in[1])
	}
	return []tensor.Type{{DType: o.To, Shape: in[0].Shape}}, nil
}

// FrozenInput implements graph.Frozen.
func (Quantize4) FrozenInput(int) string { return "quantization is not differentiable" }

// FrozenInput implements graph.Frozen.
func (Quantize8) FrozenInput(int) string { return "quantization is not differentiable" }

// FrozenInput implements graph.Frozen.
func (Dequantize8) FrozenInput(int) string { return "quantized values are not differentiable" }

// Decompose implements graph.Decomposable with the same roundings.
func (o Dequantize8) Decompose(in []Value) []Value {
	n := in[0].Type().Size()
	codes := Cast(Reshape(in[0], n), tensor.I32)
	x := scaledBlocks(bookTable(in[0].Graph(), o.Unsigned), codes, in[1], o.Blocksize)
	return []Value{Cast(Reshape(x, in[0].Shape().Dims()...), o.To)}
}
