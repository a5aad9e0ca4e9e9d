// Package linalg takes matrices apart in float64: the largest singular triplets, exactly or by random sampling, and the first columns
// of a QR decomposition. It serves initialisations of adapters, which need a few of hundreds of triplets of hundreds of matrices: cost and
// memory of what is not asked for are left out. Results depend on the arguments alone, on no thread count.
package linalg

import (
	"fmt"
	"math"
)

// Matrix is a dense matrix, row-major.
type Matrix struct {
	Rows, Cols int
	Data       []float64
}

// New returns a zero matrix.
func New(rows, cols int) Matrix { return Matrix{rows, cols, make([]float64, rows*cols)} }

// FromFloat32 widens a row-major matrix.
func FromFloat32(rows, cols int, x []float32) (Matrix, error) {
	if rows < 1 || cols < 1 || len(x) != rows*cols {
		return Matrix{}, fmt.Errorf("linalg: %d values are no matrix of %d x %d", len(x), rows, cols)
	}
	m := New(rows, cols)
	for i, v := range x {
		if v-v != 0 {
			return m, fmt.Errorf("linalg: element (%d, %d) is %v", i/cols, i%cols, v)
		}
		m.Data[i] = float64(v)
	}
	return m, nil
}

// Row returns a view of row i.
func (m Matrix) Row(i int) []float64 { return m.Data[i*m.Cols : (i+1)*m.Cols] }

// T returns the transposed matrix, copied.
func (m Matrix) T() Matrix {
	out := New(m.Cols, m.Rows)
	for r := range m.Rows {
		for c, v := range m.Row(r) {
			out.Data[c*m.Rows+r] = v
		}
	}
	return out
}

// Mul returns a·b.
func Mul(a, b Matrix) Matrix {
	out := New(a.Rows, b.Cols)
	for r := range a.Rows {
		to := out.Row(r)
		for k, f := range a.Row(r) {
			axpy(f, b.Row(k), to)
		}
	}
	return out
}

// MulT returns a·bᵀ.
func MulT(a, b Matrix) Matrix {
	out := New(a.Rows, b.Rows)
	for r := range a.Rows {
		for c := range b.Rows {
			out.Data[r*b.Rows+c] = dot(a.Row(r), b.Row(c))
		}
	}
	return out
}

// dot adds in four interleaved sums.
func dot(x, y []float64) float64 {
	var s0, s1, s2, s3 float64
	y = y[:len(x)]
	i := 0
	for ; i+4 <= len(x); i += 4 {
		s0 += float64(x[i] * y[i])
		s1 += float64(x[i+1] * y[i+1])
		s2 += float64(x[i+2] * y[i+2])
		s3 += float64(x[i+3] * y[i+3])
	}
	for ; i < len(x); i++ {
		s0 += float64(x[i] * y[i])
	}
	return (s0 + s1) + (s2 + s3)
}

// axpy adds f·x to y.
func axpy(f float64, x, y []float64) {
	y = y[:len(x)]
	for i, v := range x {
		y[i] += float64(f * v)
	}
}

func norm(x []float64) float64 { return math.Sqrt(dot(x, x)) }

func scale(x []float64, f float64) {
	for i := range x {
		x[i] *= f
	}
}

// gram is a·aᵀ. Four rows at a time share what is read of a fifth.
func gram(a Matrix) Matrix {
	n := a.Rows
	out := New(n, n)
	for i := range n {
		x := a.Row(i)
		j := 0
		for ; j+4 <= i+1; j += 4 {
			s0, s1, s2, s3 := dot4(x, a.Row(j), a.Row(j+1), a.Row(j+2), a.Row(j+3))
			out.Data[i*n+j], out.Data[i*n+j+1], out.Data[i*n+j+2], out.Data[i*n+j+3] = s0, s1, s2, s3
		}
		for ; j <= i; j++ {
			out.Data[i*n+j] = dot(x, a.Row(j))
		}
	}
	for i := range n {
		for j := range i {
			out.Data[j*n+i] = out.Data[i*n+j]
		}
	}
	return out
}

func dot4(x, a, b, c, d []float64) (s0, s1, s2, s3 float64) {
	n := len(x)
	a, b, c, d = a[:n], b[:n], c[:n], d[:n]
	for i, v := range x {
		s0 += float64(v * a[i])
		s1 += float64(v * b[i])
		s2 += float64(v * c[i])
		s3 += float64(v * d[i])
	}
	return s0, s1, s2, s3
}
