package tensor

import "fmt"

// Transpose returns a copy of a matrix (rows, cols) as (cols, rows).
func (t *Tensor) Transpose() (*Tensor, error) {
	if t.typ.Rank() != 2 {
		return nil, fmt.Errorf("transpose: %v is no matrix", t.typ)
	}
	rows, cols := t.typ.Dim(0), t.typ.Dim(1)
	out := New(T(t.typ.DType, cols, rows))
	switch t.typ.DType.Size() {
	case 1:
		transpose(View[uint8](out.data), View[uint8](t.data), rows, cols)
	case 2:
		transpose(View[BFloat16](out.data), View[BFloat16](t.data), rows, cols)
	case 4:
		transpose(View[int32](out.data), View[int32](t.data), rows, cols)
	default:
		transpose(View[int64](out.data), View[int64](t.data), rows, cols)
	}
	return out, nil
}

// transposeTile is the side of the squares that are copied at a time, so that both matrices stay in the cache.
const transposeTile = 32

func transpose[E any](dst, src []E, rows, cols int) {
	for r0 := 0; r0 < rows; r0 += transposeTile {
		for c0 := 0; c0 < cols; c0 += transposeTile {
			for r := r0; r < min(r0+transposeTile, rows); r++ {
				for c := c0; c < min(c0+transposeTile, cols); c++ {
					dst[c*rows+r] = src[r*cols+c]
				}
			}
		}
	}
}
