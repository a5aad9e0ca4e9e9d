package linalg

import (
	"fmt"
	"math"
)

// SVD holds singular triplets in descending order: a ≈ U·diag(S)·V.
type SVD struct {
	U Matrix    // (rows, r), orthonormal columns
	S []float64 // r
	V Matrix    // (r, cols), orthonormal rows; where S is 0 beside its largest, those of U or of V may be zero
}

// TopSVD returns the r largest singular triplets. It takes the eigenvectors of the smaller Gram matrix, which squares the condition: a
// singular value s comes out within about 1e-16·s1²/s, far below the rounding of float32 input unless s is millions of times smaller
// than the largest, s1. r is at most the smaller side.
func TopSVD(a Matrix, r int) (SVD, error) {
	if r < 1 || r > min(a.Rows, a.Cols) {
		return SVD{}, fmt.Errorf("linalg: a matrix of %d x %d has no %d singular triplets", a.Rows, a.Cols, r)
	}
	if a.Rows > a.Cols {
		t, err := TopSVD(a.T(), r)
		return SVD{t.V.T(), t.S, t.U.T()}, err
	}
	vectors, err := topEigenvectors(gram(a), r) // (r, rows)
	if err != nil {
		return SVD{}, err
	}
	out := SVD{S: make([]float64, r), V: Mul(vectors, a), U: vectors.T()}
	for i := range r {
		row := out.V.Row(i)
		if out.S[i] = norm(row); out.S[i] > 0 {
			scale(row, 1/out.S[i])
		}
	}
	orthonormal(out.V) // rounding leaves rows i and j as much as 1e-16·s1²/(si·sj) along each other
	return out, nil
}

// LowRank approximates the r largest singular triplets by iters steps of a randomised subspace iteration (Halko et al. 2011, algorithm 4.4,
// as torch.svd_lowrank has it). draw gives independent normal numbers.
func LowRank(a Matrix, r, iters int, draw func() float64) (SVD, error) {
	if r < 1 || r > min(a.Rows, a.Cols) {
		return SVD{}, fmt.Errorf("linalg: a matrix of %d x %d has no %d singular triplets", a.Rows, a.Cols, r)
	}
	if a.Rows < a.Cols { // torch samples the longer side
		t, err := LowRank(a.T(), r, iters, draw)
		return SVD{t.V.T(), t.S, t.U.T()}, err
	}
	q := New(r, a.Cols)
	for i := range q.Data {
		q.Data[i] = draw()
	}
	q = orthonormal(MulT(q, a)) // (r, rows): rows of q span the range of a
	for range iters {
		q = orthonormal(Mul(q, a))
		q = orthonormal(MulT(q, a))
	}
	small, err := TopSVD(Mul(q, a), r) // (r, cols)
	if err != nil {
		return SVD{}, err
	}
	return SVD{Mul(q.T(), small.U), small.S, small.V}, nil
}

// orthonormal makes the rows of m orthonormal, in place, by Gram-Schmidt done twice. A row that depends on those before it becomes zero.
func orthonormal(m Matrix) Matrix {
	for i := range m.Rows {
		row := m.Row(i)
		before := norm(row)
		for range 2 {
			for j := range i {
				axpy(-dot(row, m.Row(j)), m.Row(j), row)
			}
		}
		if after := norm(row); after > before*1e-14 {
			scale(row, 1/after)
		} else {
			clear(row)
		}
	}
	return m
}

// QR returns the first r columns of Q (rows, r) and the first r rows of R (r, cols) of a = Q·R, with the signs that LAPACK gives: the
// diagonal of R is negative where the column above was positive.
func QR(a Matrix, r int) (q, upper Matrix, err error) {
	if r < 1 || r > min(a.Rows, a.Cols) {
		return q, upper, fmt.Errorf("linalg: a matrix of %d x %d has no QR decomposition of rank %d", a.Rows, a.Cols, r)
	}
	t := a.T() // rows of t are columns of a
	reflectors := make([][]float64, r)
	for k := range r {
		x := t.Row(k)[k:]
		v := make([]float64, len(x))
		copy(v, x)
		reflectors[k] = v
		length := norm(x)
		if length == 0 || len(x) == 1 {
			reflectors[k] = nil
			continue
		}
		v[0] += math.Copysign(length, x[0])
		scale(v, math.Sqrt2/norm(v)) // I - v·vᵀ reflects
		for c := k; c < t.Rows; c++ {
			col := t.Row(c)[k:]
			axpy(-dot(v, col), v, col)
		}
	}
	upper = New(r, a.Cols)
	for k := range r {
		for c := k; c < a.Cols; c++ {
			upper.Data[k*a.Cols+c] = t.Data[c*a.Rows+k]
		}
	}
	columns := New(r, a.Rows)
	for c := range r {
		row := columns.Row(c)
		row[c] = 1
		for k := r - 1; k >= 0; k-- {
			if v := reflectors[k]; v != nil {
				axpy(-dot(v, row[k:]), v, row[k:])
			}
		}
	}
	return columns.T(), upper, nil
}
