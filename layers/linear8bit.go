package layers

import (
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Linear8bitLt is y = x·Wᵀ + b computed in int8 (LLM.int8(), Dettmers et al. 2022): x is quantized by row at each step and the product is
// int8 x int8 -> int32, with the columns of x that hold outliers computed in x's dtype beside it; see ops.Int8Linear for the arithmetic, which
// passes through f16.
//
// The weight is either Weight, frozen in int8 (has_fp16_weights=False of the library), or Master, a trained weight in floating point that
// each step quantizes anew (has_fp16_weights=True; see ops.Int8MasterLinear for its gradient). Exactly one of them is set.
type Linear8bitLt struct {
	Weight *Quantized `name:"weight"`
	Master *graph.Var `name:"weight"`
	Bias   *graph.Var `name:"bias"`

	Threshold float32 // an element of x of this magnitude makes its column an outlier; 0 = there are none
}

// NewLinear8bitLt takes a weight, quantized to int8 as it is loaded, and with bias one of those from src. The usual threshold is 6, or 0
// for speed where activations have no outliers.
func NewLinear8bitLt(src Source, in, out int, bias bool, threshold float32) *Linear8bitLt {
	l := &Linear8bitLt{Weight: src.Quantized("weight", quant.Config{Scheme: quant.Int8}, src.linearInit(in), out, in), Threshold: threshold}
	if bias {
		l.Bias = src.Var("bias", Zeros(), out)
	}
	return l
}

// NewLinear8bitMaster takes a weight to be trained in floating point, and with bias one of those from src.
func NewLinear8bitMaster(src Source, in, out int, bias bool, threshold float32) *Linear8bitLt {
	l := &Linear8bitLt{Master: src.Var("weight", src.linearInit(in), out, in), Threshold: threshold}
	if bias {
		l.Bias = src.Var("bias", Zeros(), out)
	}
	return l
}

// Forward implements Projection.
func (l *Linear8bitLt) Forward(x graph.Value) graph.Value {
	if !x.Valid() {
		return x
	}
	g := x.Graph()
	bias := castRead(g, l.Bias, x.DType())
	if l.Master != nil {
		return ops.LinearInt8Master(x, g.Read(l.Master), bias, l.Threshold)
	}
	parts := l.Weight.read(g)
	return ops.LinearInt8(x, parts[0], parts[1], bias, l.Threshold)
}

// castRead reads an optional variable in a dtype; a nil one is absent.
func castRead(g *graph.Graph, v *graph.Var, d tensor.DType) graph.Value {
	if v == nil {
		return graph.Value{}
	}
	return ops.Cast(g.Read(v), d)
}

// Features implements Projection.
func (l *Linear8bitLt) Features() (in, out int) {
	if l.Master != nil {
		return l.Master.Type.Dim(1), l.Master.Type.Dim(0)
	}
	out, in = l.Weight.Matrix()
	return in, out
}

// SwitchBack is y = x·Wᵀ + b for training in int8 from the start (Wortsman et al. 2023): products of the forward pass and of the input
// gradient are int8, the weight gradient is not; see ops.SwitchBack. The weight stays in floating point.
type SwitchBack struct {
	Weight *graph.Var `name:"weight"`
	Bias   *graph.Var `name:"bias"`
	Kind   ops.SwitchBack
}

// NewSwitchBackGlobal scales the weight as a whole: bitsandbytes' SwitchBackLinearGlobal.
func NewSwitchBackGlobal(src Source, in, out int, bias bool) *SwitchBack {
	return newSwitchBack(src, in, out, bias, ops.SwitchBack{})
}

// NewSwitchBackGlobalMemEfficient is NewSwitchBackGlobal that keeps the int8 codes of x for the backward pass instead of x:
// bitsandbytes' SwitchBackLinearGlobalMemEfficient.
func NewSwitchBackGlobalMemEfficient(src Source, in, out int, bias bool) *SwitchBack {
	return newSwitchBack(src, in, out, bias, ops.SwitchBack{Saved: true})
}

// NewSwitchBackVectorwise scales each row of the weight, and each column in the backward pass: bitsandbytes' SwitchBackLinearVectorwise.
func NewSwitchBackVectorwise(src Source, in, out int, bias bool) *SwitchBack {
	return newSwitchBack(src, in, out, bias, ops.SwitchBack{Vectorwise: true})
}

func newSwitchBack(src Source, in, out int, bias bool, kind ops.SwitchBack) *SwitchBack {
	l := &SwitchBack{Weight: src.Var("weight", src.linearInit(in), out, in), Kind: kind}
	if bias {
		l.Bias = src.Var("bias", Zeros(), out)
	}
	return l
}

// Forward implements Projection.
func (l *SwitchBack) Forward(x graph.Value) graph.Value {
	if !x.Valid() {
		return x
	}
	g := x.Graph()
	return ops.SwitchBackLinear(l.Kind, x, g.Read(l.Weight), castRead(g, l.Bias, x.DType()))
}

// Features implements Projection.
func (l *SwitchBack) Features() (in, out int) { return l.Weight.Type.Dim(1), l.Weight.Type.Dim(0) }
