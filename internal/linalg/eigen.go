package linalg

import (
	"errors"
	"math"
	"slices"
)

// topEigenvectors returns the eigenvectors of the r largest eigenvalues of a symmetric matrix as orthonormal rows (r, n), in descending
// order. a is overwritten. The matrix is reduced to tridiagonal form by reflections; its eigenvalues come from QL steps without
// vectors, the vectors asked for from inverse iteration.
func topEigenvectors(a Matrix, r int) (Matrix, error) {
	t := tridiagonalize(a)
	values, err := t.eigenvalues()
	if err != nil {
		return Matrix{}, err
	}
	slices.Sort(values)
	slices.Reverse(values)
	out := New(r, a.Rows)
	for i := range r {
		t.vector(values[i], out, i)
	}
	for i := range r {
		t.back(out.Row(i))
	}
	return out, nil
}

// tridiagonal is a symmetric matrix Q·T·Qᵀ with T tridiagonal.
type tridiagonal struct {
	d, e    []float64 // the diagonal, and e[i] beside it between i and i+1
	reflect [][]float64
}

// tridiagonalize reduces a symmetric matrix, which it overwrites.
func tridiagonalize(a Matrix) *tridiagonal {
	n := a.Rows
	t := &tridiagonal{d: make([]float64, n), e: make([]float64, max(n-1, 0)), reflect: make([][]float64, max(n-2, 0))}
	p := make([]float64, n)
	for k := range n - 1 {
		x := a.Row(k)[k+1:]
		if k == n-2 {
			t.e[k] = x[0]
			break
		}
		length := norm(x)
		if length == 0 {
			continue
		}
		v := slices.Clone(x)
		sign := math.Copysign(length, x[0])
		v[0] += sign
		scale(v, math.Sqrt2/norm(v)) // H = I - v·vᵀ maps x to -sign·e1
		t.e[k], t.reflect[k] = -sign, v
		// A ← H·A·H = A - v·wᵀ - w·vᵀ with p = A·v, w = p - (vᵀp/2)·v, on the rows and columns after k.
		w := p[:len(v)]
		for i := range w {
			w[i] = dot(a.Row(k + 1 + i)[k+1:], v)
		}
		axpy(-dot(v, w)/2, v, w)
		for i := range w {
			row := a.Row(k + 1 + i)[k+1:]
			vi, wi := v[i], w[i]
			for j, wj := range w {
				row[j] -= float64(vi*wj) + float64(wi*v[j])
			}
		}
	}
	for i := range n {
		t.d[i] = a.Data[i*n+i]
	}
	return t
}

// back applies the reflections to a vector of T, which makes it one of the matrix.
func (t *tridiagonal) back(x []float64) {
	for k := len(t.reflect) - 1; k >= 0; k-- {
		if v := t.reflect[k]; v != nil {
			axpy(-dot(v, x[k+1:]), v, x[k+1:])
		}
	}
}

// maxSweeps bounds the QL steps for one eigenvalue; more than a few are not seen.
const maxSweeps = 100

var errNoConvergence = errors.New("linalg: eigenvalues did not converge; the matrix holds values that are not finite or too far apart")

// eigenvalues of T by implicit QL steps (Bowdler et al. 1968, tql1).
func (t *tridiagonal) eigenvalues() ([]float64, error) {
	n := len(t.d)
	d, e := slices.Clone(t.d), append(slices.Clone(t.e), 0)
	for l := range n {
		for sweep := 0; ; sweep++ {
			m := l
			for m < n-1 && math.Abs(e[m]) > epsilon*(math.Abs(d[m])+math.Abs(d[m+1])) {
				m++
			}
			if m == l {
				break
			}
			if sweep == maxSweeps {
				return nil, errNoConvergence
			}
			qlStep(d, e, l, m)
		}
	}
	for _, v := range d {
		if v-v != 0 {
			return nil, errNoConvergence
		}
	}
	return d, nil
}

// epsilon is the distance from 1 to the next float64.
const epsilon = 0x1p-52

// qlStep does one implicit QL step on rows l to m.
func qlStep(d, e []float64, l, m int) {
	g := (d[l+1] - d[l]) / (2 * e[l])
	r := math.Hypot(g, 1)
	g = d[m] - d[l] + e[l]/(g+math.Copysign(r, g))
	s, c, p := 1.0, 1.0, 0.0
	for i := m - 1; i >= l; i-- {
		f, b := s*e[i], c*e[i]
		r = math.Hypot(f, g)
		e[i+1] = r
		if r == 0 {
			d[i+1] -= p
			e[m] = 0
			return
		}
		s, c = f/r, g/r
		g = d[i+1] - p
		r = (d[i]-g)*s + 2*c*b
		p = s * r
		d[i+1] = g + p
		g = c*r - b
	}
	d[l] -= p
	e[l], e[m] = g, 0
}

// inverseSteps are enough for a vector to converge: each step gains many digits unless eigenvalues coincide, and then any vector of their
// space serves.
const inverseSteps = 4

// vector finds the eigenvector of T for an eigenvalue by inverse iteration, orthogonal to the rows of out before i, and stores it there.
func (t *tridiagonal) vector(value float64, out Matrix, i int) {
	x := out.Row(i)
	state := uint64(i)*0x9e3779b97f4a7c15 + 1
	for k := range x { // any start that is not orthogonal to the vector; a fixed one, for the same result each time
		state ^= state << 13
		state ^= state >> 7
		state ^= state << 17
		x[k] = float64(state>>11)*0x1p-53 + 0.5
	}
	solve := t.shifted(value)
	for range inverseSteps {
		for range 2 {
			for j := range i {
				axpy(-dot(x, out.Row(j)), out.Row(j), x)
			}
		}
		scale(x, 1/norm(x))
		solve(x)
		largest := 0.0
		for _, v := range x {
			largest = max(largest, math.Abs(v))
		}
		scale(x, 1/largest) // before squares are taken
	}
	for range 2 {
		for j := range i {
			axpy(-dot(x, out.Row(j)), out.Row(j), x)
		}
	}
	scale(x, 1/norm(x))
}

// shifted factors T - value·I with row exchanges and returns what solves with it. Pivots that vanish are set to the rounding of T.
func (t *tridiagonal) shifted(value float64) func(x []float64) {
	n := len(t.d)
	a, b, c := make([]float64, n), make([]float64, n), make([]float64, n) // the diagonal and the two above it
	l, swap := make([]float64, n), make([]bool, n)
	tiny := math.SmallestNonzeroFloat64 * 0x1p200
	for i, v := range t.d {
		a[i] = v - value
		tiny = max(tiny, epsilon*math.Abs(v))
		if i < n-1 {
			b[i] = t.e[i]
			tiny = max(tiny, epsilon*math.Abs(t.e[i]))
		}
	}
	for i := range n - 1 {
		below := t.e[i]
		if math.Abs(below) > math.Abs(a[i]) {
			swap[i] = true
			a[i], below = below, a[i]
			b[i], a[i+1] = a[i+1], b[i]
			c[i], b[i+1] = b[i+1], 0
		}
		if a[i] == 0 {
			a[i] = tiny
		}
		l[i] = below / a[i]
		a[i+1] -= l[i] * b[i]
		b[i+1] -= l[i] * c[i]
	}
	if math.Abs(a[n-1]) < tiny {
		a[n-1] = math.Copysign(tiny, a[n-1])
	}
	return func(x []float64) {
		for i := range n - 1 {
			if swap[i] {
				x[i], x[i+1] = x[i+1], x[i]
			}
			x[i+1] -= l[i] * x[i]
		}
		for i := n - 1; i >= 0; i-- {
			if i+1 < n {
				x[i] -= b[i] * x[i+1]
			}
			if i+2 < n {
				x[i] -= c[i] * x[i+2]
			}
			x[i] /= a[i]
		}
	}
}
