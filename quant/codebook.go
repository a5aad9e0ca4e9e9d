package quant

import (
	"fmt"
	"math"
	"slices"
	"sync"
)

// Codebook is an 8-bit code book: 256 ascending values, and a table that finds the code of a value in constant time with the results of
// the CUDA kernels' binary search. It is immutable and may be shared between goroutines.
type Codebook struct {
	decodeTable
	// above[c] is the largest value whose code is at most c, +Inf for the last.
	above [256]float32
	// cells is nil for books that do not fit one.
	cells   *Cells
	moments func() *Cells
	// flat: no code ends within 2^-26 of zero, so that denormal elements have the code of zero without being flushed.
	flat bool
}

// decodeTable holds the values of 8-bit codes, and their bytes as Planes has them.
type decodeTable struct {
	values [256]float32
	planes [1024]byte
}

func newDecodeTable(values [256]float32) decodeTable {
	t := decodeTable{values: values}
	for i, v := range values {
		b := math.Float32bits(v)
		t.planes[i], t.planes[256+i], t.planes[512+i], t.planes[768+i] = byte(b), byte(b>>8), byte(b>>16), byte(b>>24)
	}
	return t
}

// Cells is a table of codes. The upper 16 bits of a float32 select a cell. Its lower 16 bits, if greater than the cell's upper 16 bits,
// select the cell's second byte as code, otherwise its lowest byte. Of 256 KB a tensor uses as many lines as its values have binades,
// 10 KB for normally distributed ones.
type Cells [1 << 16]uint32

func (t *Cells) find(x float32) uint8 {
	b := math.Float32bits(x)
	cell := t[b>>16]
	// The sign of the difference is the comparison, free of a branch.
	beyond := uint32(int32(cell>>16-b&0xffff) >> 31)
	return uint8(cell ^ (cell^cell>>8)&beyond)
}

var (
	dynamicSigned   = sync.OnceValue(func() *Codebook { return newCodebook(dynamicValues(true, 7, 8)) })
	dynamicUnsigned = sync.OnceValue(func() *Codebook { return newCodebook(dynamicValues(false, 7, 8)) })
)

// DynamicSigned is the code book of signed dynamic quantization: second-level scales and first moments. It is built once.
func DynamicSigned() *Codebook { return dynamicSigned() }

// DynamicUnsigned is the code book of unsigned dynamic quantization: second moments. It is built once.
func DynamicUnsigned() *Codebook { return dynamicUnsigned() }

// NewCodebook builds a code book of finite values in ascending order; equal neighbours are allowed.
func NewCodebook(values [256]float32) (*Codebook, error) {
	for i, v := range values {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return nil, fmt.Errorf("quant: code book value %d is %v: all must be finite", i, v)
		}
	}
	if !slices.IsSorted(values[:]) {
		return nil, fmt.Errorf("quant: code book values do not ascend: sort them first")
	}
	return newCodebook(values), nil
}

// Values returns the value of each code.
func (c *Codebook) Values() [256]float32 { return c.values }

// Value returns the value of one code.
func (c *Codebook) Value(code uint8) float32 { return c.values[code] }

// Cells returns the table that encodes with this book, for kernels that look codes up themselves. It is nil for books that such a table
// cannot hold (DynamicSigned and DynamicUnsigned are none of them), and must not be written to.
func (c *Codebook) Cells() *Cells {
	if !c.flat {
		return nil
	}
	return c.cells
}

// MomentCells is Cells with the correction of QuantizeBlockSigned in it.
func (c *Codebook) MomentCells() *Cells { return c.moments() }

// Table returns the value of each code for kernels that decode. It must not be written to.
func (c *Codebook) Table() *[256]float32 { return &c.values }

// Planes returns Table cut into its bytes: the lowest byte of all values, then the second of all, and so on. It must not be written to.
func (c *Codebook) Planes() *[1024]byte { return &c.planes }

// Nearest returns the code of a scaled value: the nearest in the book, exact ties to the even code, NaN to 0. Denormal numbers count
// as zero. The midpoints are rounded to float32 as in the CUDA kernels.
func (c *Codebook) Nearest(x float32) uint8 {
	switch {
	case c.cells != nil:
		return c.cells.find(x)
	case x != x:
		return 0
	}
	return c.search(flush(min(max(x, -math.MaxFloat32), math.MaxFloat32)))
}

// codes writes the codes of x/absmax as the kernels compute them, for any absmax.
func (c *Codebook) codes(codes []uint8, x []float32, absmax float32) {
	r := Rcp(absmax)
	if !PlainScale(absmax) || c.Cells() == nil {
		for i, v := range x {
			codes[i] = c.Nearest(scaled(v, r))
		}
		return
	}
	c.cells.encode(codes, x, r)
}

func newCodebook(values [256]float32) *Codebook {
	c := &Codebook{decodeTable: newDecodeTable(values)}
	// For ascending values the search is monotone in x, so each border between codes is found by bisection over the ordered floats.
	for k := range 255 {
		if searchNaive(&values, math.Float32frombits(infBits)) <= uint8(k) {
			c.above[k] = float32(math.Inf(1))
			continue
		}
		lo, hi := int32(math.MinInt32+0x7fffff), int32(infBits) // -Inf, +Inf
		for hi-1 > lo {
			mid := int32((int64(lo) + int64(hi)) >> 1)
			if searchNaive(&values, flush(orderedFloat(mid))) <= uint8(k) {
				lo = mid
			} else {
				hi = mid
			}
		}
		c.above[k] = orderedFloat(lo)
	}
	c.above[255] = float32(math.Inf(1))
	tiny := math.Float32frombits(101 << 23)
	c.flat = c.search(-tiny) == c.search(tiny)
	c.cells = c.newCells()
	c.moments = sync.OnceValue(c.newMomentCells)
	return c
}

// newCells returns nil if two borders lie in one cell.
func (c *Codebook) newCells() *Cells {
	cells := new(Cells)
	code := func(bits uint32) uint32 {
		switch a := bits &^ signBit; {
		case a > infBits:
			return 0
		case a == infBits:
			bits--
		}
		return uint32(c.search(flush(math.Float32frombits(bits))))
	}
	for i := range cells {
		first := uint32(i) << 16
		near, far, last := code(first), code(first|0xffff), uint32(0)
		switch {
		case first&infBits == infBits: // only an infinity has lower bits of zero: last is 0
		case near < far:
			last = math.Float32bits(c.above[near]) & 0xffff
		case near > far: // negative values
			last = (math.Float32bits(c.above[far]) - 1) & 0xffff
		}
		if near != far && code(first|last+1) != far {
			return nil
		}
		cells[i] = last<<16 | far<<8 | near
	}
	return cells
}

// newMomentCells returns nil also where SignAdjust treats zero and other numbers of its cell differently.
func (c *Codebook) newMomentCells() *Cells {
	if c.Cells() == nil || math.Signbit(float64(c.values[c.Nearest(0)])) {
		return nil
	}
	moments := new(Cells)
	for i, cell := range c.cells {
		x := math.Float32frombits(uint32(i)<<16 | 1)
		moments[i] = cell&^0xffff | uint32(c.SignAdjust(uint8(cell>>8), x))<<8 | uint32(c.SignAdjust(uint8(cell), x))
	}
	return moments
}

// search finds the code among the borders.
func (c *Codebook) search(x float32) uint8 {
	k, _ := slices.BinarySearch(c.above[:], x)
	return uint8(min(k, 255))
}

// orderedFloat is the float32 at place i in ascending order, 0 being +0 and -1 being -0.
func orderedFloat(i int32) float32 {
	if i < 0 {
		return math.Float32frombits(uint32(i) ^ 0x7fffffff)
	}
	return math.Float32frombits(uint32(i))
}

// searchNaive is the kernels' search, the definition: seven steps from code 127 end on an even code, then the midpoint to the odd
// neighbour on x's side decides. NaN ends at 0.
func searchNaive(values *[256]float32, x float32) uint8 {
	pivot, lower, upper := 127, 0, 255
	for step := 64; step > 0; step >>= 1 {
		if x > values[pivot] {
			lower = pivot
			pivot += step
		} else {
			upper = pivot
			pivot -= step
		}
	}
	val := values[pivot]
	if x > val {
		if x > float32(values[upper]+val)*0.5 {
			return uint8(upper)
		}
		return uint8(pivot)
	}
	if x < float32(values[lower]+val)*0.5 {
		return uint8(lower)
	}
	return uint8(pivot)
}
