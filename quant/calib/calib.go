// Package calib chooses how a tensor is quantized from data that flows through a model: the range that a grid of integers spans
// (observers), scales that move difficulty from activations to weights (SmoothQuant, AWQ), and codes that make up for each other's
// errors (GPTQ).
//
// It is plain arithmetic on host memory. Who runs the model and gathers its activations stands above: package trainer/calibrate.
// Weights are (out, in) and samples (tokens, in), both row-major; "channel" means a column of samples, which is an input of the
// weight. Everything is deterministic: sums are taken in an order that does not depend on how Parallel cuts the work.
package calib

import (
	"errors"
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// ErrNoData is returned where a result is asked for before anything was observed.
var ErrNoData = errors.New("calib: nothing was observed; run at least one batch")

// Parallel runs f over parts of [0, n) that together cover it, possibly at the same time. nil runs f(0, n). It is the function that
// quant.Config takes.
type Parallel func(n int, f func(lo, hi int))

func (p Parallel) run(n int, f func(lo, hi int)) {
	switch {
	case n <= 0:
	case p == nil:
		f(0, n)
	default:
		p(n, f)
	}
}

// Matrix is a row-major float32 matrix: a weight (out, in) or samples (tokens, in).
type Matrix struct {
	Rows, Cols int
	Data       []float32
}

// NewMatrix returns zeros.
func NewMatrix(rows, cols int) Matrix { return Matrix{rows, cols, make([]float32, rows*cols)} }

// Row returns row i, not a copy.
func (m Matrix) Row(i int) []float32 { return m.Data[i*m.Cols : (i+1)*m.Cols] }

// Clone returns a deep copy.
func (m Matrix) Clone() Matrix {
	return Matrix{m.Rows, m.Cols, append([]float32(nil), m.Data...)}
}

// check refuses a matrix whose parts disagree, that is empty or that holds NaN or an infinity; what names it.
func (m Matrix) check(what string) error {
	if m.Rows < 1 || m.Cols < 1 || len(m.Data) != m.Rows*m.Cols {
		return fmt.Errorf("calib: %s: %d values do not fill %d x %d", what, len(m.Data), m.Rows, m.Cols)
	}
	if i := firstNonFinite(m.Data); i >= 0 {
		return fmt.Errorf("calib: %s: element (%d, %d) is %v: repair it or leave this tensor out", what, i/m.Cols, i%m.Cols, m.Data[i])
	}
	return nil
}

// firstNonFinite returns the index of the first NaN or infinity, -1 for none.
func firstNonFinite(x []float32) int {
	for i, v := range x {
		if v-v != 0 {
			return i
		}
	}
	return -1
}

// ColumnAbsMax returns the largest magnitude of each column.
func (m Matrix) ColumnAbsMax() []float32 {
	out := make([]float32, m.Cols)
	for r := range m.Rows {
		for j, v := range m.Row(r) {
			out[j] = max(out[j], float32(math.Abs(float64(v))))
		}
	}
	return out
}

// ScaleColumns multiplies column j by s[j].
func (m Matrix) ScaleColumns(s []float32) error {
	if len(s) != m.Cols {
		return fmt.Errorf("calib: %d factors for %d columns", len(s), m.Cols)
	}
	for r := range m.Rows {
		row := m.Row(r)
		for j := range row {
			row[j] *= s[j]
		}
	}
	return nil
}

// FromTensor copies a tensor of rank 2 into a matrix.
func FromTensor(t *tensor.Tensor) (Matrix, error) {
	if t == nil || t.Shape().Rank() != 2 || !t.DType().IsFloat() {
		return Matrix{}, fmt.Errorf("calib: only a matrix of floats can be calibrated")
	}
	m := Matrix{t.Shape().Dim(0), t.Shape().Dim(1), t.Float32s()}
	return m, m.check("tensor")
}

// Source is the matrix as a source of a tensor of type d; Invalid = F32. Its values are read as they are.
func (m Matrix) Source(d tensor.DType) quant.Source {
	if d == tensor.Invalid {
		d = tensor.F32
	}
	return source{m, d}
}

type source struct {
	m Matrix
	d tensor.DType
}

// Type implements quant.Source.
func (s source) Type() tensor.Type { return tensor.T(s.d, s.m.Rows, s.m.Cols) }

// Read implements quant.Source.
func (s source) Read(dst []float32, lo int) error {
	if lo < 0 || len(dst) > len(s.m.Data)-lo {
		return fmt.Errorf("calib: %d elements from %d on do not fit %d x %d", len(dst), lo, s.m.Rows, s.m.Cols)
	}
	copy(dst, s.m.Data[lo:])
	return nil
}
