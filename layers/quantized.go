package layers

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Quantized is a frozen weight in 4 bits: a struct of variables, not a dtype. Walking a model shows it as one parameter of its
// logical shape; only package checkpoint expands its keys.
type Quantized struct {
	Name       string
	Scheme     quant.Scheme
	Blocksize  int          // elements per scale, flat row-major; blocks may span rows
	Rows, Cols int          // (out, in)
	DType      tensor.DType // of the weight before quantization

	Codes        *graph.Var // u8 [ceil(n/2)], first element in the high nibble
	Absmax       *graph.Var // f32 [blocks], or u8 [blocks] with double quantization
	NestedAbsmax *graph.Var // f32 [ceil(blocks/256)]; nil without double quantization
	Offset       *graph.Var // f32 scalar, the mean of the scales; nil without double quantization
}

// newQuantized declares the variables of a quantized weight.
func newQuantized(name string, cfg quant.Config, rows, cols int) *Quantized {
	if cfg.Blocksize == 0 {
		cfg.Blocksize = quant.DefaultBlocksize
	}
	n := rows * cols
	blocks := quant.Blocks(n, cfg.Blocksize)
	q := &Quantized{Name: name, Scheme: cfg.Scheme, Blocksize: cfg.Blocksize, Rows: rows, Cols: cols, DType: tensor.F32}
	q.Codes = graph.NewVar(name, tensor.T(tensor.U8, quant.PackedSize(n)))
	if !cfg.Double {
		q.Absmax = graph.NewVar(name+".absmax", tensor.T(tensor.F32, blocks))
		return q
	}
	q.Absmax = graph.NewVar(name+".absmax", tensor.T(tensor.U8, blocks))
	q.NestedAbsmax = graph.NewVar(name+".nested_absmax", tensor.T(tensor.F32, quant.Blocks(blocks, quant.StateBlocksize)))
	q.Offset = graph.NewVar(name+".nested_offset", tensor.T(tensor.F32))
	return q
}

// Logical is the type of the weight that the codes stand for.
func (q *Quantized) Logical() tensor.Type { return tensor.T(q.DType, q.Rows, q.Cols) }

// Nested reports double quantization.
func (q *Quantized) Nested() bool { return q.NestedAbsmax != nil }

// Vars returns the variables that hold the weight.
func (q *Quantized) Vars() []*graph.Var {
	if !q.Nested() {
		return []*graph.Var{q.Codes, q.Absmax}
	}
	return []*graph.Var{q.Codes, q.Absmax, q.NestedAbsmax, q.Offset}
}

// Bytes is the storage of the weight.
func (q *Quantized) Bytes() int64 {
	var n int64
	for _, v := range q.Vars() {
		n += v.Type.Bytes()
	}
	return n
}

// store quantizes t and hands the parts to values.
func (q *Quantized) store(t *tensor.Tensor, cfg quant.Config, values Values) error {
	st, err := quant.Quantize(t, cfg)
	if err != nil {
		return fmt.Errorf("tensor %q: %w", q.Name, err)
	}
	return q.SetState(st, values)
}

// SetState stores an already quantized weight of the same shape, scheme and block size.
func (q *Quantized) SetState(st *quant.State, values Values) error {
	if st.Scheme != q.Scheme || st.Blocksize != q.Blocksize || st.Shape != tensor.S(q.Rows, q.Cols) || st.Nested() != q.Nested() {
		return fmt.Errorf("tensor %q: the quantized state does not match the layer", q.Name)
	}
	set := func(v *graph.Var, b []byte) error {
		t, err := tensor.FromBytes(v.Type, b)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", v.Name, err)
		}
		return values.Set(v, t)
	}
	if err := set(q.Codes, st.Codes); err != nil {
		return err
	}
	if !st.Nested() {
		return set(q.Absmax, tensor.AsBytes(st.Absmax))
	}
	if err := set(q.Absmax, st.AbsmaxU8); err != nil {
		return err
	}
	if err := set(q.NestedAbsmax, tensor.AsBytes(st.NestedAbsmax)); err != nil {
		return err
	}
	return values.Set(q.Offset, tensor.Scalar(st.NestedOffset))
}

// Reader gives the values of variables: a plan.Store.
type Reader interface {
	Get(v *graph.Var) (*tensor.Tensor, error)
}

// State reads the weight back as a quant.State.
func (q *Quantized) State(values Reader) (*quant.State, error) {
	st := &quant.State{Scheme: q.Scheme, Blocksize: q.Blocksize, Shape: tensor.S(q.Rows, q.Cols), DType: q.DType, Storage: tensor.U8}
	var parts []*tensor.Tensor
	for _, v := range q.Vars() {
		t, err := values.Get(v)
		if err != nil {
			return nil, err
		}
		parts = append(parts, t)
	}
	st.Codes = parts[0].Bytes()
	if !q.Nested() {
		st.Absmax = tensor.Data[float32](parts[1])
		return st, st.Validate()
	}
	st.AbsmaxU8 = parts[1].Bytes()
	st.NestedAbsmax = tensor.Data[float32](parts[2])
	st.NestedOffset = tensor.Data[float32](parts[3])[0]
	return st, st.Validate()
}

// Linear4bit is y = x·Wᵀ + b with W frozen in 4 bits (Dettmers et al. 2023). Gradients flow to x only.
type Linear4bit struct {
	Weight *Quantized `name:"weight"`
	Bias   *graph.Var `name:"bias"`
}

// Forward implements Projection.
func (l *Linear4bit) Forward(x graph.Value) graph.Value {
	if !x.Valid() {
		return x
	}
	return addBias(l.Weight.MatMul(x), l.Bias)
}

// Features implements Projection.
func (l *Linear4bit) Features() (in, out int) { return l.Weight.Cols, l.Weight.Rows }

// MatMul returns x·Wᵀ: x (..., Cols) -> (..., Rows).
func (q *Quantized) MatMul(x graph.Value) graph.Value {
	g := x.Graph()
	in := []graph.Value{x}
	for _, v := range q.Vars() {
		in = append(in, g.Read(v))
	}
	op := ops.QuantMatMul{Scheme: q.Scheme, Blocksize: q.Blocksize, N: q.Rows, K: q.Cols, Nested: q.Nested()}
	return g.Apply(op, in...)[0]
}
