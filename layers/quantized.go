package layers

import (
	"errors"
	"fmt"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Quantized is a frozen weight of any rank in 4 bits or, with scheme Int8, in int8 rows: a struct of variables, not a dtype. Walking a
// model shows it as one parameter of its logical shape; only package checkpoint expands its keys.
type Quantized struct {
	Name      string
	Scheme    quant.Scheme // NF4, FP4 or Int8
	Blocksize int          // elements per scale, flat row-major; blocks may span rows. Int8: the length of a row
	Shape     tensor.Shape // of the weight: (out, in) of a linear layer
	DType     tensor.DType // of the weight before quantization; F16 for Int8, as the library rounds to it first
	Storage   tensor.DType // under which a checkpoint shows 4-bit codes: U8, F16, BF16 or F32; kept from the file that the weight came from

	Codes        *graph.Var // u8 [ceil(n/2)], first element in the high nibble; Int8: i8 of the weight's shape
	Absmax       *graph.Var // f32 [blocks], or u8 [blocks] with double quantization; Int8: f32 [rows], which files call SCB
	NestedAbsmax *graph.Var // f32 [ceil(blocks/256)]; nil without double quantization
	Offset       *graph.Var // f32 scalar, the mean of the scales; nil without double quantization
}

// NewQuantized declares the variables of a quantized weight, for weights that are made outside a Source. SetState gives them values.
func NewQuantized(name string, cfg quant.Config, dims ...int) (*Quantized, error) {
	switch shape := tensor.S(dims...); {
	case !shape.Valid() || len(dims) == 0:
		return nil, fmt.Errorf("tensor %q: a quantized weight cannot have the shape %v", name, dims)
	case cfg.Scheme > quant.Int8:
		return nil, fmt.Errorf("tensor %q: layers compute with nf4, fp4 and int8, not with %v; convert the weight or dequantize it", name, cfg.Scheme)
	}
	if _, err := cfg.New(tensor.T(tensor.F16, min(dims[len(dims)-1], 1))); err != nil {
		return nil, fmt.Errorf("tensor %q: %w", name, err)
	}
	return newQuantized(name, cfg, dims...), nil
}

// newQuantized declares the variables of a quantized weight.
func newQuantized(name string, cfg quant.Config, dims ...int) *Quantized {
	if cfg.Blocksize == 0 {
		cfg.Blocksize = quant.DefaultBlocksize
	}
	q := &Quantized{Name: name, Scheme: cfg.Scheme, Blocksize: cfg.Blocksize, Shape: tensor.S(dims...), DType: tensor.F32, Storage: tensor.U8}
	n := q.Shape.Size()
	if cfg.Scheme == quant.Int8 {
		rows, cols := q.Matrix()
		q.DType, q.Blocksize = tensor.F16, max(cols, 1)
		q.Codes = graph.NewVar(name, tensor.Type{DType: tensor.I8, Shape: q.Shape})
		q.Absmax = graph.NewVar(strings.TrimSuffix(name, "weight")+"SCB", tensor.T(tensor.F32, rows))
		return q
	}
	blocks := quant.Blocks(n, cfg.Blocksize)
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
func (q *Quantized) Logical() tensor.Type { return tensor.Type{DType: q.DType, Shape: q.Shape} }

// Matrix is the weight as rows along its last axis: (out, in) of a linear layer.
func (q *Quantized) Matrix() (rows, cols int) {
	cols = q.Shape.Dim(-1)
	rows = 1
	for i := range q.Shape.Rank() - 1 {
		rows *= q.Shape.Dim(i)
	}
	return rows, cols
}

// Nested reports double quantization.
func (q *Quantized) Nested() bool { return q.NestedAbsmax != nil }

// Config says how the weight is quantized.
func (q *Quantized) Config() quant.Config {
	if q.Scheme == quant.Int8 {
		return quant.Config{Scheme: quant.Int8}
	}
	return quant.Config{Scheme: q.Scheme, Blocksize: q.Blocksize, Double: q.Nested()}
}

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

// Quantize quantizes t as the weight is and stores it. An int8 weight is rounded to f16 first, as the library does.
func (q *Quantized) Quantize(t *tensor.Tensor, values Values) error {
	if q.Scheme == quant.Int8 {
		var err error
		if t, err = t.Narrow(tensor.F16); err != nil {
			return fmt.Errorf("tensor %q: int8 takes weights through float16: %w", q.Name, err)
		}
	}
	st, err := quant.QuantizeTensor(t, q.Config(), quant.Options{Parallel: quant.Parallel})
	if err != nil {
		return fmt.Errorf("tensor %q: %w", q.Name, err)
	}
	st.Storage = q.Storage
	return q.SetState(st, values)
}

// SetState stores an already quantized weight of the same shape, scheme and block size.
func (q *Quantized) SetState(st *quant.State, values Values) error {
	if err := st.Validate(); err != nil {
		return fmt.Errorf("tensor %q: %w", q.Name, err)
	}
	if st.Scheme != q.Scheme || st.Blocksize != q.Blocksize || st.Shape != q.Shape || st.Nested() != q.Nested() {
		return fmt.Errorf("tensor %q: the quantized state (%v of %v in blocks of %d, double %v) does not match the layer (%v of %v in blocks of %d, double %v)",
			q.Name, st.Scheme, st.Shape, st.Blocksize, st.Nested(), q.Scheme, q.Shape, q.Blocksize, q.Nested())
	}
	if m := st.NestedMap; st.Nested() && (st.NestedBlocksize > 0 && st.NestedBlocksize != quant.StateBlocksize || m != nil && *m != quant.DynamicSigned().Values()) {
		return fmt.Errorf("tensor %q: its second-level scales have another block size or table than kernels know; call State.Flatten first", q.Name)
	}
	if q.Scheme.FourBit() && st.Storage != tensor.Invalid {
		q.Storage = st.Storage
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

// State reads the weight back as a quant.State, whose StateDict is what files hold.
func (q *Quantized) State(values Reader) (*quant.State, error) {
	st := &quant.State{Scheme: q.Scheme, Blocksize: q.Blocksize, ByRow: q.Scheme == quant.Int8, Shape: q.Shape, DType: q.DType, Storage: q.Storage}
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

// Read dequantizes the weight in graph g: its logical shape in dtype d. This is how a weight that no quantized product exists for is used,
// such as experts in three dimensions; a graph that reads it twice dequantizes it once.
func (q *Quantized) Read(g *graph.Graph, d tensor.DType) graph.Value {
	parts := q.read(g)
	if q == nil {
		return parts[0]
	}
	if q.Scheme == quant.Int8 {
		return ops.DequantizeRowsFrom8(ops.DequantizeRows8{To: d}, parts[0], parts[1])
	}
	rows, cols := q.Matrix()
	o := ops.Dequantize{Scheme: q.Scheme, Blocksize: q.Blocksize, Rows: rows, Cols: cols, To: d, Nested: q.Nested()}
	return ops.Reshape(ops.DequantizeWeight(o, parts...), q.Shape.Dims()...)
}

// read reads the parts in a graph.
func (q *Quantized) read(g *graph.Graph) []graph.Value {
	if q == nil {
		bad := g.Fail("read", nil, errNoQuantized)
		return []graph.Value{bad, bad}
	}
	var parts []graph.Value
	for _, v := range q.Vars() {
		parts = append(parts, g.Read(v))
	}
	return parts
}

var errNoQuantized = errors.New("the quantized weight is nil: a layer's weight was never set")

// MatMul returns x·Wᵀ for a weight of two axes: x (..., in) -> (..., out) in x's dtype. In 4 bits weights are rounded to the dtype of x;
// in int8 x stays in floating point (Linear8bitLt has the product in int8).
func (q *Quantized) MatMul(x graph.Value) graph.Value {
	if !x.Valid() {
		return x
	}
	if q == nil {
		return x.Graph().Fail("quant_matmul", []graph.Value{x}, errNoQuantized)
	}
	if q.Shape.Rank() != 2 {
		return x.Graph().Fail("quant_matmul", []graph.Value{x}, fmt.Errorf("the weight %q is %v, a product needs a matrix; use Read", q.Name, q.Shape))
	}
	parts := q.read(x.Graph())
	if q.Scheme == quant.Int8 {
		return ops.Int8WeightLinear(ops.Int8WeightMatMul{}, x, parts[0], parts[1])
	}
	rows, cols := q.Matrix()
	o := ops.QuantMatMul{Scheme: q.Scheme, Blocksize: q.Blocksize, N: rows, K: cols, Nested: q.Nested()}
	return ops.QuantLinear(o, x, parts...)
}
