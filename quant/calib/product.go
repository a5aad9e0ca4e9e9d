package calib

// Product returns x·wᵀ for samples x (tokens, in) and a weight w (out, in): (tokens, out), summed in float32.
func Product(x, w Matrix, par Parallel) Matrix {
	y := NewMatrix(x.Rows, w.Rows)
	par.run(w.Rows, func(lo, hi int) {
		for t := range x.Rows {
			products(y.Row(t)[lo:hi], x.Row(t), w, lo)
		}
	})
	return y
}

// products writes x·w[first+i] to out[i], two rows at a time. Even and odd elements have sums of their own, so that the result is the same
// wherever the rows were cut.
func products(out, x []float32, w Matrix, first int) {
	for i := 0; i < len(out); i += 2 {
		a := w.Row(first + i)[:len(x)]
		b := a
		if i+1 < len(out) {
			b = w.Row(first + i + 1)[:len(x)]
		}
		var a0, a1, b0, b1 float32
		k := 0
		for ; k+2 <= len(x); k += 2 {
			a0 += float32(x[k] * a[k])
			b0 += float32(x[k] * b[k])
			a1 += float32(x[k+1] * a[k+1])
			b1 += float32(x[k+1] * b[k+1])
		}
		if k < len(x) {
			a0 += float32(x[k] * a[k])
			b0 += float32(x[k] * b[k])
		}
		out[i] = a0 + a1
		if i+1 < len(out) {
			out[i+1] = b0 + b1
		}
	}
}

// OutputError is ‖X·(Q-W)ᵀ‖² / ‖X·Wᵀ‖²: how much of the layer's output on the samples x an approximation q of its weight w gets wrong,
// as a share of its energy. It is 0 where the output is 0 for both.
func OutputError(x, w, q Matrix, par Parallel) float64 {
	d := NewMatrix(w.Rows, w.Cols)
	for i, v := range q.Data {
		d.Data[i] = v - w.Data[i]
	}
	return share(energy(Product(x, d, par).Data), energy(Product(x, w, par).Data))
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
