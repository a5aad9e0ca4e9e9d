package layers

import (
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Embedding4bit looks up rows of a frozen (vocabulary, features) table in 4 bits. Only the rows asked for are decoded, whether or not a
// row is a whole number of blocks. Its table is saved like any quantized weight.
type Embedding4bit struct {
	Weight *Quantized   `name:"weight"`
	DType  tensor.DType // of the result; Invalid: the table's before quantization
}

// NewEmbedding4bit takes the table named "weight" from src and quantizes it as it is loaded. The library's own tables have no double
// quantization.
func NewEmbedding4bit(src Source, vocab, dim int, init Init, cfg quant.Config) *Embedding4bit {
	return &Embedding4bit{Weight: src.Quantized("weight", cfg, init, vocab, dim)}
}

// NewEmbeddingNF4 is NewEmbedding4bit with NF4 in blocks of 64.
func NewEmbeddingNF4(src Source, vocab, dim int, init Init) *Embedding4bit {
	return NewEmbedding4bit(src, vocab, dim, init, quant.Config{Scheme: quant.NF4})
}

// NewEmbeddingFP4 is NewEmbedding4bit with FP4 in blocks of 64.
func NewEmbeddingFP4(src Source, vocab, dim int, init Init) *Embedding4bit {
	return NewEmbedding4bit(src, vocab, dim, init, quant.Config{Scheme: quant.FP4})
}

// Forward maps i32 ids (...) to (..., features).
func (e *Embedding4bit) Forward(ids graph.Value) graph.Value {
	if !ids.Valid() {
		return ids
	}
	q := e.Weight
	rows, cols := q.Matrix()
	o := ops.QuantEmbed{Scheme: q.Scheme, Blocksize: q.Blocksize, Rows: rows, Cols: cols, To: orElse(e.DType, q.DType), Nested: q.Nested()}
	return ops.EmbedQuant(o, ids, q.read(ids.Graph())...)
}

func orElse(d, other tensor.DType) tensor.DType {
	if d == tensor.Invalid {
		return other
	}
	return d
}

// Embedding8bit looks up rows of a frozen (vocabulary, features) table in int8 with one scale a row. Only the rows asked for are
// dequantized. Its table is saved like any int8 weight.
type Embedding8bit struct {
	Weight *Quantized   `name:"weight"`
	DType  tensor.DType // of the result
}

// NewEmbedding8bit takes the table named "weight" from src and quantizes it as it is loaded. Results have the dtype that the table had.
func NewEmbedding8bit(src Source, vocab, dim int, init Init) *Embedding8bit {
	return &Embedding8bit{Weight: src.Quantized("weight", quant.Config{Scheme: quant.Int8}, init, vocab, dim), DType: src.paramType("weight")}
}

// Forward maps i32 ids (...) to (..., features).
func (e *Embedding8bit) Forward(ids graph.Value) graph.Value {
	if !ids.Valid() {
		return ids
	}
	parts := e.Weight.read(ids.Graph())
	return ops.EmbedInt8(ids, parts[0], parts[1], orElse(e.DType, e.Weight.DType))
}

// StableEmbedding is an embedding followed by a layer normalisation in float32, which keeps the gradients of 8-bit training in
// bounds (Dettmers et al. 2022, arXiv 2110.02861, §2.3). It begins Xavier-uniform and asks for 32-bit optimizer states of its table.
type StableEmbedding struct {
	Weight *graph.Var `name:"weight"`
	Norm   *LayerNorm `name:"norm"`
}

// NewStableEmbedding takes the table "weight" and the normalisation "norm.weight", "norm.bias" from src.
func NewStableEmbedding(src Source, vocab, dim int) *StableEmbedding {
	return &StableEmbedding{src.Var("weight", XavierUniform(dim, vocab), vocab, dim), NewLayerNorm(src.Sub("norm"), dim)}
}

// Forward maps i32 ids (...) to (..., features) in the table's dtype.
func (e *StableEmbedding) Forward(ids graph.Value) graph.Value {
	if !ids.Valid() {
		return ids
	}
	x := ops.Cast(ops.Embed(ids.Graph().Read(e.Weight), ids), tensor.F32)
	return ops.Cast(e.Norm.Forward(x), e.Weight.Type.DType)
}

// FullState returns the table.
func (e *StableEmbedding) FullState() []*graph.Var { return []*graph.Var{e.Weight} }
