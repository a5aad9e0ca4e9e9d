package layers

import (
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Linear4bit is y = x·Wᵀ + b with W frozen in 4 bits (Dettmers et al. 2023). Gradients flow to x and b only.
type Linear4bit struct {
	Weight *Quantized `name:"weight"`
	Bias   *graph.Var `name:"bias"`

	// Compute is the dtype of the product: x is cast to it and y back to x's dtype. Invalid computes in x's dtype.
	Compute tensor.DType
}

// NewLinear4bit takes a weight, quantized as cfg says, and with bias one of those from src.
func NewLinear4bit(src Source, in, out int, bias bool, cfg quant.Config) *Linear4bit {
	l := &Linear4bit{Weight: src.Quantized("weight", cfg, src.linearInit(in), out, in)}
	if bias {
		l.Bias = src.Var("bias", Zeros(), out)
	}
	return l
}

// NewLinearNF4 is NewLinear4bit with NF4 in blocks of 64 and double quantization, the library's defaults of LinearNF4.
func NewLinearNF4(src Source, in, out int, bias bool) *Linear4bit {
	return NewLinear4bit(src, in, out, bias, quant.Config{Scheme: quant.NF4, Double: true})
}

// NewLinearFP4 is NewLinear4bit with FP4 in blocks of 64 and double quantization, the library's defaults of LinearFP4.
func NewLinearFP4(src Source, in, out int, bias bool) *Linear4bit {
	return NewLinear4bit(src, in, out, bias, quant.Config{Scheme: quant.FP4, Double: true})
}

// Forward implements Projection.
func (l *Linear4bit) Forward(x graph.Value) graph.Value {
	if !x.Valid() {
		return x
	}
	compute := l.Compute
	if compute == tensor.Invalid {
		compute = x.DType()
	}
	return ops.Cast(addBias(l.Weight.MatMul(ops.Cast(x, compute)), l.Bias), x.DType())
}

// Features implements Projection.
func (l *Linear4bit) Features() (in, out int) {
	out, in = l.Weight.Matrix()
	return in, out
}
