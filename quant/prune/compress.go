package prune

import (
	"fmt"
	"math/bits"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Compressed is an N:M sparse matrix without its zeros: N values of every M neighbours in a row and the place of each among the M. Of 2:4
// in 16 bits that is 9 bits a weight: 8 for the values and 1 for the places.
type Compressed struct {
	N, M       int
	Rows, Cols int
	Values     *tensor.Tensor // (Rows, groups·N) in the element type of the matrix; unused places hold 0
	// Places holds, for each value, its place in the group: bits.Len(M-1) bits each, row-major, the first in the lowest bits.
	Places []byte
}

// Compress stores a (rows, cols) matrix of f32, f16 or bf16 that is N:M sparse. Other matrices are refused: nothing is dropped here.
func Compress(w *tensor.Tensor, n, m int) (*Compressed, error) {
	if w == nil || w.Shape().Rank() != 2 || !compressible(w.DType()) {
		return nil, fmt.Errorf("prune: only a matrix of f32, f16 or bf16 can be compressed")
	}
	rows, cols := w.Shape().Dim(0), w.Shape().Dim(1)
	if cols == 0 {
		return nil, fmt.Errorf("prune: the matrix %v is empty", w.Type())
	}
	if err := CheckNM(w.Float32s(), cols, n, m); err != nil {
		return nil, err
	}
	c := &Compressed{N: n, M: m, Rows: rows, Cols: cols}
	c.Values = tensor.New(tensor.T(w.DType(), rows, c.perRow()))
	c.Places = make([]byte, c.placeBytes())
	size := w.DType().Size()
	at := 0
	eachGroup(rows*cols, cols, m, func(lo, hi int) {
		kept := 0
		for i := lo; i < hi; i++ {
			if w.At(i) != 0 {
				copy(c.Values.Bytes()[(at+kept)*size:], w.Bytes()[i*size:(i+1)*size])
				c.setPlace(at+kept, i-lo)
				kept++
			}
		}
		at += n
	})
	return c, nil
}

// compressible leaves out f64, which no weight here is stored in: patterns are judged in float32, where its smallest values are 0.
func compressible(d tensor.DType) bool {
	return d == tensor.F32 || d == tensor.F16 || d == tensor.BF16
}

// perRow is the number of values of a row.
func (c *Compressed) perRow() int { return (c.Cols + c.M - 1) / c.M * c.N }

func (c *Compressed) width() int { return bits.Len(uint(c.M - 1)) }

func (c *Compressed) placeBytes() int { return (c.Rows*c.perRow()*c.width() + 7) / 8 }

func (c *Compressed) setPlace(i, place int) {
	for b := range c.width() {
		at := i*c.width() + b
		c.Places[at/8] |= byte(place>>b&1) << (at % 8)
	}
}

func (c *Compressed) place(i int) (place int) {
	for b := range c.width() {
		at := i*c.width() + b
		place |= int(c.Places[at/8]>>(at%8)&1) << b
	}
	return place
}

// Validate reports the first disagreement between the parts.
func (c *Compressed) Validate() error {
	if c.Rows < 0 || c.Cols < 1 || !tensor.S(c.Rows, c.Cols).Valid() {
		return fmt.Errorf("prune: a compressed matrix of %d x %d", c.Rows, c.Cols)
	}
	if err := checkNM(c.Rows*c.Cols, c.Cols, c.N, c.M); err != nil {
		return err
	}
	if c.Values == nil || c.Values.Shape() != tensor.S(c.Rows, c.perRow()) || !compressible(c.Values.DType()) || len(c.Places) != c.placeBytes() {
		return fmt.Errorf("prune: %d of %d in %d x %d needs %d floats a row and %d bytes of places", c.N, c.M, c.Rows, c.Cols, c.perRow(), c.placeBytes())
	}
	return nil
}

// Dense returns the matrix with its zeros. Places outside their group, and two values for one place, which no matrix gives, are refused.
func (c *Compressed) Dense() (*tensor.Tensor, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	out := tensor.New(tensor.T(c.Values.DType(), c.Rows, c.Cols))
	size := c.Values.DType().Size()
	at := 0
	var err error
	eachGroup(c.Rows*c.Cols, c.Cols, c.M, func(lo, hi int) {
		for i := at; i < at+c.N; i++ {
			p := c.place(i)
			if c.Values.At(i) == 0 {
				continue
			}
			switch {
			case err != nil:
				return
			case lo+p >= hi:
				err = fmt.Errorf("prune: value %d has place %d in a group of %d: the places are damaged", i, p, hi-lo)
				return
			case out.At(lo+p) != 0:
				err = fmt.Errorf("prune: value %d has place %d, which another has: the places are damaged", i, p)
				return
			}
			copy(out.Bytes()[(lo+p)*size:(lo+p+1)*size], c.Values.Bytes()[i*size:(i+1)*size])
		}
		at += c.N
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Bytes is the storage of values and places.
func (c *Compressed) Bytes() int64 { return int64(len(c.Values.Bytes())) + int64(len(c.Places)) }

// BitsPerWeight is the storage divided by the elements of the matrix.
func (c *Compressed) BitsPerWeight() float64 {
	return 8 * float64(c.Bytes()) / float64(max(c.Rows*c.Cols, 1))
}
