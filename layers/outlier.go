package layers

import (
	"fmt"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// OutlierAwareLinear is a linear layer that keeps some input columns of its weight in full precision beside a quantized rest, in which
// those columns are zero: y = x·Weightᵀ + x[columns]·Keptᵀ + b. The columns are those whose activations or weights
// OutlierTracer found to be outliers; without them the others share finer scales.
type OutlierAwareLinear struct {
	Weight  *Quantized `name:"weight"`         // (out, in), zero in Columns
	Kept    *graph.Var `name:"outlier_weight"` // (out, len(Columns))
	Bias    *graph.Var `name:"bias"`
	Columns []int      // ascending

	Threshold float32 // of the product in int8, if the rest is int8; see Linear8bitLt
}

// NewOutlierAwareLinear takes a weight and with bias one of those from src, keeps the columns given and quantizes the others as cfg says.
func NewOutlierAwareLinear(src Source, in, out int, bias bool, cfg quant.Config, columns []int) *OutlierAwareLinear {
	l := &OutlierAwareLinear{Columns: ascending(columns), Threshold: cfg.Threshold}
	rest, err := NewQuantized(src.path("weight"), cfg, out, in)
	if err == nil {
		err = checkColumns(l.Columns, in)
	}
	if err != nil {
		src.fail(fmt.Errorf("%s: %w", src.path("weight"), err))
		rest, l.Columns = newQuantized(src.path("weight"), quant.Config{}, out, in), nil
	}
	full := src.full("weight", src.linearInit(in), out, in)
	l.Weight = rest
	l.Kept = graph.NewVar(src.path("outlier_weight"), tensor.T(src.paramType("weight"), out, len(l.Columns)))
	src.later(func(values Values) error {
		w, err := full()
		if err != nil {
			return err
		}
		return l.split(w, values)
	}, append(rest.Vars(), l.Kept)...)
	if bias {
		l.Bias = src.Var("bias", Zeros(), out)
	}
	return l
}

// OutlierAware returns the outlier-aware twin of a linear layer whose weight lies in memory, which is dropped in full precision.
func OutlierAware(l *Linear, memory Memory, cfg quant.Config, columns []int) (*OutlierAwareLinear, error) {
	w, err := memory.Get(l.Weight)
	if err != nil {
		return nil, err
	}
	in, out := l.Features()
	a := &OutlierAwareLinear{Columns: ascending(columns), Bias: l.Bias, Threshold: cfg.Threshold}
	rest, err := NewQuantized(l.Weight.Name, cfg, out, in)
	if err == nil {
		err = checkColumns(a.Columns, in)
	}
	if err != nil {
		return nil, fmt.Errorf("tensor %q: %w", l.Weight.Name, err)
	}
	a.Weight = rest
	a.Kept = graph.NewVar(l.Weight.Name+".outliers", tensor.T(w.DType(), out, len(a.Columns)))
	if err := a.split(w, memory); err != nil {
		return nil, err
	}
	return a, memory.Drop(l.Weight)
}

func ascending(columns []int) []int {
	c := slices.Clone(columns)
	slices.Sort(c)
	return slices.Compact(c)
}

func checkColumns(columns []int, in int) error {
	if n := len(columns); n > 0 && (columns[0] < 0 || columns[n-1] >= in) {
		return fmt.Errorf("outlier columns %d to %d do not fit %d input features", columns[0], columns[n-1], in)
	}
	return nil
}

// split stores the columns kept of w and the quantized rest.
func (l *OutlierAwareLinear) split(w *tensor.Tensor, values Values) error {
	kept, err := w.Convert(l.Kept.Type.DType)
	if err != nil {
		return err
	}
	w = w.Clone()
	out, in := w.Shape().Dim(0), w.Shape().Dim(1)
	part := tensor.New(l.Kept.Type)
	for r := range out {
		for j, c := range l.Columns {
			part.Set(r*len(l.Columns)+j, kept.At(r*in+c))
			w.Set(r*in+c, 0)
		}
	}
	if err := values.Set(l.Kept, part); err != nil {
		return err
	}
	if l.Weight.Scheme.FourBit() && w.DType() != tensor.F64 {
		l.Weight.DType = w.DType()
	}
	return l.Weight.Quantize(w, values)
}

// Forward implements Projection.
func (l *OutlierAwareLinear) Forward(x graph.Value) graph.Value {
	if !x.Valid() {
		return x
	}
	g := x.Graph()
	rest := quantizedLinear(l.Weight, nil, quant.Config{Threshold: l.Threshold})
	if len(l.Columns) == 0 {
		return addBias(rest.Forward(x), l.Bias)
	}
	mask, columns, err := l.constants()
	if err != nil {
		return g.Fail("outlier_aware_linear", []graph.Value{x}, err)
	}
	// The rest has zeros in these columns; they are taken out of x all the same, or their size would set the scale of an int8 product.
	y := rest.Forward(ops.Where(g.Const(mask), x, ops.Scalar(x, 0)))
	y = ops.Add(y, ops.Linear(ops.Gather(x, -1, g.Const(columns)), castRead(g, l.Kept, x.DType())))
	return addBias(y, l.Bias)
}

// constants are the mask of the columns that are not kept, bool (in), and the indices of those that are, i32.
func (l *OutlierAwareLinear) constants() (mask, columns *tensor.Tensor, err error) {
	in, _ := l.Features()
	rest, index := make([]bool, in), make([]int32, len(l.Columns))
	for i := range rest {
		rest[i] = true
	}
	for i, c := range l.Columns {
		rest[c], index[i] = false, int32(c)
	}
	if mask, err = tensor.Of(rest); err != nil {
		return nil, nil, err
	}
	columns, err = tensor.Of(index)
	return mask, columns, err
}

// Features implements Projection.
func (l *OutlierAwareLinear) Features() (in, out int) {
	out, in = l.Weight.Matrix()
	return in, out
}
