package calib

import "math"

// cholesky overwrites the lower triangle of the symmetric n x n matrix a with L, a = L·Lᵀ. It reports false, leaving a half done, when a
// is not positive definite in float64. The work is cut into tiles: the rows below the diagonal tile are independent of each other.
func cholesky(a []float64, n int, par Parallel) bool {
	for k := 0; k < n; k += tile {
		end := min(k+tile, n)
		if !choleskyTile(a, n, k, end) {
			return false
		}
		par.run(n-end, func(lo, hi int) {
			for i := end + lo; i < end+hi; i++ {
				row := a[i*n:]
				for j := k; j < end; j++ {
					row[j] = (row[j] - dot(row[k:j], a[j*n+k:])) / a[j*n+j]
				}
			}
		})
		par.run(n-end, func(lo, hi int) {
			for i := end + lo; i < end+hi; i++ {
				subtractDots(a[i*n+end:i*n+i+1], a[i*n+k:i*n+end], a[end*n+k:], n)
			}
		})
	}
	return true
}

const tile = 64

func choleskyTile(a []float64, n, k, end int) bool {
	for i := k; i < end; i++ {
		row := a[i*n:]
		for j := k; j < i; j++ {
			row[j] = (row[j] - dot(row[k:j], a[j*n+k:])) / a[j*n+j]
		}
		d := row[i] - dot(row[k:i], row[k:])
		if !(d > 0) || d-d != 0 {
			return false
		}
		row[i] = math.Sqrt(d)
	}
	return true
}

// subtractDots subtracts from out[j] the product of x with row j of b, whose rows are n apart.
func subtractDots(out, x, b []float64, n int) {
	j := 0
	for ; j+4 <= len(out); j += 4 {
		b0, b1 := b[j*n:][:len(x)], b[(j+1)*n:][:len(x)]
		b2, b3 := b[(j+2)*n:][:len(x)], b[(j+3)*n:][:len(x)]
		var s0, s1, s2, s3 float64
		for k, v := range x {
			s0 += float64(v * b0[k])
			s1 += float64(v * b1[k])
			s2 += float64(v * b2[k])
			s3 += float64(v * b3[k])
		}
		out[j] -= s0
		out[j+1] -= s1
		out[j+2] -= s2
		out[j+3] -= s3
	}
	for ; j < len(out); j++ {
		out[j] -= dot(x, b[j*n:])
	}
}

// dot is the product of x with as many values of y.
func dot(x, y []float64) float64 {
	y = y[:len(x)]
	s := 0.0
	for i, v := range x {
		s += float64(v * y[i])
	}
	return s
}

// invertUpper returns the inverse of the upper triangular n x n matrix r, whose diagonal is positive and whose other triangle is not
// read. The columns of the inverse do not depend on each other: tiles of them run in parallel, each from the last row up.
func invertUpper(r []float64, n int, par Parallel) []float64 {
	inv := make([]float64, n*n)
	par.run((n+tile-1)/tile, func(lo, hi int) {
		for t := lo; t < hi; t++ {
			invertColumns(inv, r, n, t*tile, min((t+1)*tile, n))
		}
	})
	return inv
}

// invertColumns solves r·x = e for columns lo to hi-1 of the identity.
func invertColumns(inv, r []float64, n, lo, hi int) {
	for i := hi - 1; i >= 0; i-- {
		out := inv[i*n+lo : i*n+hi]
		if i >= lo {
			out[i-lo] = 1
		}
		k := i + 1
		for ; k+4 <= hi; k += 4 {
			f0, f1, f2, f3 := r[i*n+k], r[i*n+k+1], r[i*n+k+2], r[i*n+k+3]
			x0, x1 := inv[k*n+lo:][:len(out)], inv[(k+1)*n+lo:][:len(out)]
			x2, x3 := inv[(k+2)*n+lo:][:len(out)], inv[(k+3)*n+lo:][:len(out)]
			for j := range out {
				out[j] -= float64(f0*x0[j]) + float64(f1*x1[j]) + float64(f2*x2[j]) + float64(f3*x3[j])
			}
		}
		for ; k < hi; k++ {
			f, x := r[i*n+k], inv[k*n+lo:][:len(out)]
			for j := range out {
				out[j] -= float64(f * x[j])
			}
		}
		d := 1 / r[i*n+i]
		for j := range out {
			out[j] *= d
		}
	}
}
