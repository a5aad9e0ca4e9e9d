package quant

import (
	"fmt"
	"math"
	"slices"
	"sync"
)

// Codebook is an 8-bit code book: 256 ascending values, and tables that find the code of a value in constant time with the results of
// the CUDA kernels' binary search. It is immutable and may be shared between goroutines.
type Codebook struct {
	values [256]float32
	// above[c] is the largest value whose code is at most c, +Inf for the last.
	above [256]float32
	// start[k] is the smallest code of any value whose upper 16 bits are k; at most `steps` codes follow within those bits.
	start [1 << 16]uint8
	steps int
	// flat: no code ends within 2^-26 of zero, so that denormal numbers have the code of zero without being flushed.
	flat bool
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

// Nearest returns the code of a scaled value: the nearest in the book, exact ties to the even code, NaN to 0. Denormal numbers count
// as zero. The midpoints are rounded to float32 as in the CUDA kernels.
func (c *Codebook) Nearest(x float32) uint8 {
	if x != x {
		return 0
	}
	return c.find(flush(min(max(x, -math.MaxFloat32), math.MaxFloat32)))
}

// find is Nearest without its care for NaN, infinities and denormal numbers.
func (c *Codebook) find(x float32) uint8 {
	k := c.start[math.Float32bits(x)>>16]
	if c.steps == 1 {
		return k + uint8(math.Float32bits(c.above[k]-x)>>31)
	}
	for x > c.above[k] {
		k++
	}
	return k
}

// codes writes the codes of x/absmax as the kernels compute them, for any absmax.
func (c *Codebook) codes(codes []uint8, x []float32, absmax float32) {
	r := Rcp(absmax)
	if !normalScale(absmax) || !c.flat {
		for i, v := range x {
			codes[i] = c.Nearest(scaled(v, r))
		}
		return
	}
	for i, v := range x {
		// A calibrated scale may be so far below the element that the quotient overflows.
		codes[i] = c.find(min(max(float32(v*r), -math.MaxFloat32), math.MaxFloat32))
	}
}

func newCodebook(values [256]float32) *Codebook {
	c := &Codebook{values: values}
	// For ascending values the search is monotone in x, so each border between codes is found by bisection over the ordered floats.
	for k := range 255 {
		lo, hi := int32(math.MinInt32+0x7fffff), int32(0x7f800000) // -Inf, +Inf
		if searchNaive(&values, math.Float32frombits(infBits)) <= uint8(k) {
			c.above[k] = float32(math.Inf(1))
			continue
		}
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
	c.fillStart()
	tiny := math.Float32frombits(101 << 23)
	c.flat = c.search(-tiny) == c.search(tiny)
	return c
}

func (c *Codebook) fillStart() {
	for k := range c.start {
		first, last := uint32(k)<<16, uint32(k)<<16|0xffff
		if k>>15 == 1 {
			first, last = last, first
		}
		if first&^(1<<31) > infBits {
			first = first&(1<<31) | infBits
		}
		if last&^(1<<31) > infBits {
			last = last&(1<<31) | infBits
		}
		c.start[k] = c.search(math.Float32frombits(first))
		c.steps = max(c.steps, int(c.search(math.Float32frombits(last))-c.start[k]))
	}
	c.steps = max(c.steps, 1)
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
