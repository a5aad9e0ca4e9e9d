package calib

import (
	"fmt"
)

// Hessian accumulates H = 2/n · Σ x·xᵀ over n samples, the second derivative of the squared error of a linear layer's output with
// respect to a row of its weight (Frantar et al. 2023, arXiv 2210.17323). Products and sums are float64; memory is one Cols x Cols matrix.
type Hessian struct {
	cols int
	n    int64
	sum  []float64 // Σ x·xᵀ, lower triangle
}

// hessianRows is how many samples are added at once; the order of the sum follows from it.
const hessianRows = 64

// NewHessian returns an empty accumulator for samples of cols values.
func NewHessian(cols int) (*Hessian, error) {
	if cols < 1 || cols > 1<<16 {
		return nil, fmt.Errorf("calib: a Hessian of %d columns: must be from 1 to %d", cols, 1<<16)
	}
	return &Hessian{cols: cols, sum: make([]float64, cols*cols)}, nil
}

// Cols is the number of columns.
func (h *Hessian) Cols() int { return h.cols }

// Samples is the number of samples added.
func (h *Hessian) Samples() int64 { return h.n }

// Add adds the rows of x. NaN and infinities are refused and leave the Hessian as it was.
func (h *Hessian) Add(x Matrix, par Parallel) error {
	if x.Rows == 0 {
		return nil
	}
	if err := x.check("samples"); err != nil {
		return err
	}
	if x.Cols != h.cols {
		return fmt.Errorf("calib: samples have %d columns, the Hessian %d", x.Cols, h.cols)
	}
	xt := make([]float64, h.cols*hessianRows)
	for at := 0; at < x.Rows; at += hessianRows {
		rows := min(hessianRows, x.Rows-at)
		for r := range rows {
			for j, v := range x.Row(at + r) {
				xt[j*rows+r] = float64(v)
			}
		}
		par.run(h.cols, func(lo, hi int) { h.addTransposed(xt, rows, lo, hi) })
	}
	h.n += int64(x.Rows)
	return nil
}

// addTransposed adds rows samples, xt (cols, rows), to rows lo to hi-1 of the lower triangle, four columns at a time.
func (h *Hessian) addTransposed(xt []float64, rows, lo, hi int) {
	for i := lo; i < hi; i++ {
		a := xt[i*rows : (i+1)*rows]
		out := h.sum[i*h.cols : i*h.cols+i+1]
		j := 0
		for ; j+4 <= len(out); j += 4 {
			b0, b1 := xt[j*rows:][:len(a)], xt[(j+1)*rows:][:len(a)]
			b2, b3 := xt[(j+2)*rows:][:len(a)], xt[(j+3)*rows:][:len(a)]
			var s0, s1, s2, s3 float64
			for k, v := range a {
				s0 += float64(v * b0[k])
				s1 += float64(v * b1[k])
				s2 += float64(v * b2[k])
				s3 += float64(v * b3[k])
			}
			out[j] += s0
			out[j+1] += s1
			out[j+2] += s2
			out[j+3] += s3
		}
		for ; j < len(out); j++ {
			s := 0.0
			for k, v := range xt[j*rows:][:len(a)] {
				s += float64(a[k] * v)
			}
			out[j] += s
		}
	}
}

// AddProduct adds n samples whose Σ x·xᵀ was computed elsewhere, as a device does it faster: a symmetric matrix of Cols x Cols. Only its lower
// triangle is read. NaN and infinities are refused.
func (h *Hessian) AddProduct(xx Matrix, n int, par Parallel) error {
	if xx.Rows != h.cols || xx.Cols != h.cols || n < 1 {
		return fmt.Errorf("calib: a product of %d x %d over %d samples for a Hessian of %d columns", xx.Rows, xx.Cols, n, h.cols)
	}
	if err := xx.check("products of samples"); err != nil {
		return err
	}
	par.run(h.cols, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			sum := h.sum[i*h.cols : i*h.cols+i+1]
			for j, v := range xx.Row(i)[:i+1] {
				sum[j] += float64(v)
			}
		}
	})
	h.n += int64(n)
	return nil
}

// Merge adds the samples of o.
func (h *Hessian) Merge(o *Hessian) error {
	if o.cols != h.cols {
		return fmt.Errorf("calib: a Hessian of %d columns cannot take in one of %d", h.cols, o.cols)
	}
	for i, v := range o.sum {
		h.sum[i] += v
	}
	h.n += o.n
	return nil
}

// Matrix returns H in full, row-major.
func (h *Hessian) Matrix() ([]float64, error) {
	if h.n == 0 {
		return nil, ErrNoData
	}
	out := make([]float64, len(h.sum))
	for i := range h.cols {
		for j := range i + 1 {
			v := h.at(i, j)
			out[i*h.cols+j], out[j*h.cols+i] = v, v
		}
	}
	return out, nil
}

// at is element (i, j) of H.
func (h *Hessian) at(i, j int) float64 {
	if i < j {
		i, j = j, i
	}
	return 2 / float64(h.n) * h.sum[i*h.cols+j]
}
