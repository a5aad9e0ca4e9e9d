package calib

// gptqRows is how many rows are worked on together, so that a row of u is read once for all of them. Rows do not depend on each other.
const gptqRows = 16

func (s *gptq) run() {
	chunks := (s.w.Rows + gptqRows - 1) / gptqRows
	errs := make([]float64, chunks)
	s.Parallel.run(chunks, func(lo, hi int) {
		work := make([]float64, gptqRows*s.w.Cols)
		carry := make([]float64, gptqRows*s.BlockCols)
		for c := lo; c < hi; c++ {
			first := c * gptqRows
			errs[c] = s.rows(work, carry, first, min(gptqRows, s.w.Rows-first))
		}
	})
	for _, e := range errs {
		s.res.Error += e / 2
	}
}

// rows quantizes rows first to first+n-1.
func (s *gptq) rows(work, carry []float64, first, n int) (sum float64) {
	cols := s.w.Cols
	for r := range n {
		row := s.w.Row(first + r)
		for j, p := range s.perm {
			work[r*cols+j] = float64(row[p])
		}
	}
	for at := 0; at < cols; at += s.BlockCols {
		end := min(at+s.BlockCols, cols)
		for r := range n {
			sum += s.block(work[r*cols:(r+1)*cols], carry[r*s.BlockCols:], first+r, at, end)
		}
		s.update(work, carry, n, at, end)
	}
	return sum
}

// block quantizes columns from to end-1 of a row, updates the rest of these columns at once and keeps the errors in carry.
func (s *gptq) block(w, carry []float64, r, from, end int) (sum float64) {
	cols := s.w.Cols
	for j := from; j < end; j++ {
		c := s.perm[j]
		at := r*cols + c
		b := s.plain.Block(at)
		if !s.Static && (j == 0 || b != s.plain.Block(at-1)) {
			s.fit(w, carry, b, r, from, j)
		}
		u := s.u[j*cols:]
		x := float32(w[j])
		if s.KeepZeros && s.w.Data[at] == 0 {
			x = 0
		}
		code := s.zero
		if s.below == nil || !s.below[b] {
			code = s.enc.Code(b, x)
		}
		value := s.enc.Value(b, code)
		s.codes[at], s.res.Values.Data[at] = code, value
		e := (w[j] - float64(value)) / u[j]
		if s.dead[c] {
			e = 0 // its row of u is diagonal: no other column can make up for it and none needs to
		}
		sum += e * e
		carry[j-from] = e
		for k := j + 1; k < end; k++ {
			w[k] -= float64(e * u[k])
		}
	}
	return sum
}

// fit sets the scale of the block that starts at column j. Where it reaches beyond the columns that are up to date, the updates that the
// rest is still owed are added to a copy first.
func (s *gptq) fit(w, carry []float64, b, r, from, j int) {
	cols := s.w.Cols
	_, end := s.plain.Span(b)
	x := make([]float32, min(end-r*cols, cols)-j)
	for i := range x {
		k := j + i
		v := w[k]
		if k >= from+s.BlockCols {
			for p := from; p < j; p++ {
				v -= float64(carry[p-from] * s.u[p*cols+k])
			}
		}
		x[i] = float32(v)
	}
	s.enc.Fit(b, x)
}

// update subtracts from the columns after end what the errors of columns at to end-1 owe them, four columns at a time.
func (s *gptq) update(work, carry []float64, n, at, end int) {
	cols := s.w.Cols
	j := at
	for ; j+4 <= end; j += 4 {
		u0, u1 := s.u[j*cols+end:(j+1)*cols], s.u[(j+1)*cols+end:(j+2)*cols]
		u2, u3 := s.u[(j+2)*cols+end:(j+3)*cols], s.u[(j+3)*cols+end:(j+4)*cols]
		for r := range n {
			e := carry[r*s.BlockCols+j-at:]
			e0, e1, e2, e3 := e[0], e[1], e[2], e[3]
			w := work[r*cols+end : (r+1)*cols]
			u0, u1, u2, u3 := u0[:len(w)], u1[:len(w)], u2[:len(w)], u3[:len(w)]
			for k := range w {
				w[k] -= float64(e0*u0[k]) + float64(e1*u1[k]) + float64(e2*u2[k]) + float64(e3*u3[k])
			}
		}
	}
	for ; j < end; j++ {
		u := s.u[j*cols+end : (j+1)*cols]
		for r := range n {
			e := carry[r*s.BlockCols+j-at]
			w := work[r*cols+end : (r+1)*cols]
			for k := range w {
				w[k] -= float64(e * u[k])
			}
		}
	}
}
