package layers

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Weighted is a projection y = x·Wᵀ + b whose weight can be used apart from its bias, in a graph and on the host: what adapters need that
// scale a weight, fold into it or begin from it. The weight is always seen as (out, in), however it is stored.
type Weighted interface {
	Projection
	// MatMul returns x·Wᵀ in x's dtype, x (..., in) in floating point.
	MatMul(x graph.Value) graph.Value
	// BiasVar returns the bias, nil without one.
	BiasVar() *graph.Var
	// ReadWeight returns the weight in float32, dequantized if it is quantized.
	ReadWeight(values Reader) (*tensor.Tensor, error)
	// WriteWeight stores a weight, rounded or quantized as the layer's is.
	WriteWeight(w *tensor.Tensor, values Values) error
}

// readFloat32 reads a variable in float32.
func readFloat32(v *graph.Var, values Reader) (*tensor.Tensor, error) {
	t, err := values.Get(v)
	if err != nil {
		return nil, err
	}
	return t.Convert(tensor.F32)
}

// writeRounded stores a tensor in the dtype of a variable of its shape.
func writeRounded(v *graph.Var, w *tensor.Tensor, values Values) error {
	if w.Shape() != v.Type.Shape {
		return fmt.Errorf("tensor %q is %v, not %v", v.Name, v.Type.Shape, w.Shape())
	}
	t, err := w.Convert(v.Type.DType)
	if err != nil {
		return err
	}
	return values.Set(v, t)
}

// MatMul implements Weighted.
func (l *Linear) MatMul(x graph.Value) graph.Value {
	if !x.Valid() {
		return x
	}
	return ops.Linear(x, ops.Cast(x.Graph().Read(l.Weight), x.DType()))
}

// BiasVar implements Weighted.
func (l *Linear) BiasVar() *graph.Var { return l.Bias }

// ReadWeight implements Weighted.
func (l *Linear) ReadWeight(values Reader) (*tensor.Tensor, error) {
	return readFloat32(l.Weight, values)
}

// WriteWeight implements Weighted.
func (l *Linear) WriteWeight(w *tensor.Tensor, values Values) error {
	return writeRounded(l.Weight, w, values)
}

// MatMul implements Weighted.
func (l *Linear4bit) MatMul(x graph.Value) graph.Value { return l.Weight.MatMul(x) }

// BiasVar implements Weighted.
func (l *Linear4bit) BiasVar() *graph.Var { return l.Bias }

// ReadWeight implements Weighted.
func (l *Linear4bit) ReadWeight(values Reader) (*tensor.Tensor, error) {
	return l.Weight.Dequantized(values)
}

// WriteWeight implements Weighted.
func (l *Linear4bit) WriteWeight(w *tensor.Tensor, values Values) error {
	return l.Weight.Quantize(w, values)
}

// MatMul implements Weighted: unlike Forward it does not quantize x.
func (l *Linear8bitLt) MatMul(x graph.Value) graph.Value {
	if !x.Valid() || l.Master == nil {
		return l.Weight.MatMul(x)
	}
	return ops.Linear(x, ops.Cast(x.Graph().Read(l.Master), x.DType()))
}

// BiasVar implements Weighted.
func (l *Linear8bitLt) BiasVar() *graph.Var { return l.Bias }

// ReadWeight implements Weighted.
func (l *Linear8bitLt) ReadWeight(values Reader) (*tensor.Tensor, error) {
	if l.Master != nil {
		return readFloat32(l.Master, values)
	}
	return l.Weight.Dequantized(values)
}

// WriteWeight implements Weighted.
func (l *Linear8bitLt) WriteWeight(w *tensor.Tensor, values Values) error {
	if l.Master != nil {
		return writeRounded(l.Master, w, values)
	}
	return l.Weight.Quantize(w, values)
}

// MatMul implements Weighted: unlike Forward it does not quantize x.
func (l *SwitchBack) MatMul(x graph.Value) graph.Value {
	if !x.Valid() {
		return x
	}
	return ops.Linear(x, ops.Cast(x.Graph().Read(l.Weight), x.DType()))
}

// BiasVar implements Weighted.
func (l *SwitchBack) BiasVar() *graph.Var { return l.Bias }

// ReadWeight implements Weighted.
func (l *SwitchBack) ReadWeight(values Reader) (*tensor.Tensor, error) {
	return readFloat32(l.Weight, values)
}

// WriteWeight implements Weighted.
func (l *SwitchBack) WriteWeight(w *tensor.Tensor, values Values) error {
	return writeRounded(l.Weight, w, values)
}

// Dequantized reads the weight back in float32.
func (q *Quantized) Dequantized(values Reader) (*tensor.Tensor, error) {
	st, err := q.State(values)
	if err != nil {
		return nil, err
	}
	return st.Dequantize(tensor.F32)
}
