package layers

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Conv1D is y = x·W + b with W stored (in, out), the linear layer of GPT-2's checkpoints. PEFT calls such a base fan_in_fan_out: A
// (r, in) and B (out, r) of an adapter are those of a Linear, and what is merged into W is the transpose of s·B·A.
type Conv1D struct {
	Weight *graph.Var `name:"weight"`
	Bias   *graph.Var `name:"bias"`
}

// Forward implements Projection.
func (l *Conv1D) Forward(x graph.Value) graph.Value {
	return addBias(l.MatMul(x), l.Bias)
}

// MatMul returns x·W in x's dtype, without the bias.
func (l *Conv1D) MatMul(x graph.Value) graph.Value {
	if !x.Valid() {
		return x
	}
	return ops.Dot(x, ops.Cast(x.Graph().Read(l.Weight), x.DType()))
}

// BiasVar returns the bias.
func (l *Conv1D) BiasVar() *graph.Var { return l.Bias }

// ReadWeight returns the weight as that of a Linear, (out, in), in float32.
func (l *Conv1D) ReadWeight(values Reader) (*tensor.Tensor, error) {
	t, err := values.Get(l.Weight)
	if err != nil {
		return nil, err
	}
	if t, err = t.Convert(tensor.F32); err != nil {
		return nil, err
	}
	return t.Transpose()
}

// WriteWeight stores a weight that is given as that of a Linear, (out, in), in the layer's dtype.
func (l *Conv1D) WriteWeight(w *tensor.Tensor, values Values) error {
	w, err := w.Transpose()
	if err != nil {
		return err
	}
	if w.Shape() != l.Weight.Type.Shape {
		return fmt.Errorf("tensor %q: a weight of %v does not fit %v", l.Weight.Name, w.Shape(), l.Weight.Type.Shape)
	}
	if w, err = w.Convert(l.Weight.Type.DType); err != nil {
		return err
	}
	return values.Set(l.Weight, w)
}

// Features implements Projection.
func (l *Conv1D) Features() (in, out int) { return l.Weight.Type.Dim(0), l.Weight.Type.Dim(1) }

// Conv1D supplies a linear layer with bias whose weight is stored (in, out). Quantized it is a Linear4bit or Linear8bitLt of the
// transposed weight, (out, in), both while it is loaded and in files: so transformers has it for bitsandbytes.
func (s Source) Conv1D(name string, in, out int) Projection {
	sub := s.Sub("%s", name)
	s.state().inOut[sub.fileName("weight")] = true
	b := sub.Var("bias", Zeros(), out)
	if p := sub.stored(in, out, b); p != nil {
		return p
	}
	if q := s.state().opts.Quantize; q != nil {
		if cfg, ok := q(sub.path("weight")); ok {
			return s.computing(quantizedLinear(sub.quantizedTransposed("weight", cfg, sub.linearInit(in), out, in), b, cfg))
		}
	}
	return &Conv1D{Weight: sub.Var("weight", sub.linearInit(in), in, out), Bias: b}
}
