package calib

import "fmt"

// product returns x·wᵀ for samples x (tokens, in) and a weight w (out, in): (tokens, out), summed in float32 in the order of the columns.
func product(x, w Matrix, par Parallel) Matrix {
	y := NewMatrix(x.Rows, w.Rows)
	par.run((w.Rows+3)/4, func(lo, hi int) {
		for t := 0; t < x.Rows; t += 2 {
			for i := 4 * lo; i < min(4*hi, w.Rows); i += 4 {
				tileProduct(y, x, w, t, i)
			}
		}
	})
	return y
}

// tileProduct computes two rows of x by four rows of w. At the edges the last rows are computed again instead of rows that do not exist.
func tileProduct(y, x, w Matrix, t, i int) {
	t1 := min(t+1, x.Rows-1)
	i1, i2, i3 := min(i+1, w.Rows-1), min(i+2, w.Rows-1), min(i+3, w.Rows-1)
	x0 := x.Row(t)
	n := len(x0)
	x1 := x.Row(t1)[:n]
	w0, w1, w2, w3 := w.Row(i)[:n], w.Row(i1)[:n], w.Row(i2)[:n], w.Row(i3)[:n]
	var a0, a1, a2, a3, b0, b1, b2, b3 float32
	for k, a := range x0 {
		b := x1[k]
		v0, v1, v2, v3 := w0[k], w1[k], w2[k], w3[k]
		a0 += float32(a * v0)
		b0 += float32(b * v0)
		a1 += float32(a * v1)
		b1 += float32(b * v1)
		a2 += float32(a * v2)
		b2 += float32(b * v2)
		a3 += float32(a * v3)
		b3 += float32(b * v3)
	}
	ya, yb := y.Row(t), y.Row(t1)
	yb[i], yb[i1], yb[i2], yb[i3] = b0, b1, b2, b3
	ya[i], ya[i1], ya[i2], ya[i3] = a0, a1, a2, a3
}

// OutputError is ‖X·(Q-W)ᵀ‖² / ‖X·Wᵀ‖²: how much of the layer's output on the samples x an approximation q of its weight w gets wrong,
// as a share of its energy. It is 0 where the output is 0 for both.
func OutputError(x, w, q Matrix, par Parallel) (float64, error) {
	if err := checkSamples(x, []Matrix{w}); err != nil {
		return 0, err
	}
	if q.Rows != w.Rows || q.Cols != w.Cols || len(q.Data) != len(w.Data) {
		return 0, fmt.Errorf("calib: an approximation of %d x %d for a weight of %d x %d", q.Rows, q.Cols, w.Rows, w.Cols)
	}
	d := NewMatrix(w.Rows, w.Cols)
	for i, v := range q.Data {
		d.Data[i] = v - w.Data[i]
	}
	e := share(energy(product(x, d, par).Data), energy(product(x, w, par).Data))
	if e-e != 0 {
		return 0, errOverflow
	}
	return e, nil
}

func share(err, whole float64) float64 {
	if err == 0 {
		return 0
	}
	return err / max(whole, 1e-300)
}

// energy is the sum of squares.
func energy(x []float32) float64 {
	s := 0.0
	for _, v := range x {
		s += float64(v) * float64(v)
	}
	return s
}

// distance is the sum of squared differences.
func distance(x, y []float32) float64 {
	s := 0.0
	for i, v := range x {
		d := float64(v) - float64(y[i])
		s += d * d
	}
	return s
}
