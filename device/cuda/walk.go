package cuda

import (
	"math"
	"math/bits"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// axes are kernels/walk.cuh's Axes.
type axes struct {
	n           [tensor.MaxRank]int64
	mul, shift  [tensor.MaxRank]uint32
	small, rank int32
}

// steps are kernels/walk.cuh's Steps.
type steps struct{ at [tensor.MaxRank]int64 }

// newAxes prepares positions over extents, of which there must be at least one.
func newAxes(dims []int) axes {
	a := axes{rank: int32(len(dims)), small: 1}
	total := int64(1)
	for i, n := range dims {
		a.n[i] = int64(n)
		if total *= int64(n); total > math.MaxInt32 || n > math.MaxInt32 {
			a.small, total = 0, math.MaxInt32 // enough to know
		}
	}
	if a.small == 0 {
		return a
	}
	for i, n := range dims {
		a.mul[i], a.shift[i] = divisor(uint32(max(n, 1)))
	}
	return a
}

// divisor gives mul and shift such that x/d = (high(x·mul) + x) >> shift for all x and d below 2^31.
func divisor(d uint32) (mul, shift uint32) {
	shift = uint32(bits.Len32(d - 1))
	return uint32(((uint64(1)<<shift-uint64(d))<<32)/uint64(d) + 1), shift
}

func newSteps(st []int) (s steps) {
	for i, v := range st {
		s.at[i] = int64(v)
	}
	return s
}

// broadcastSteps are the distances of an operand's neighbours along each axis of a shape it broadcasts to.
func broadcastSteps(t, out tensor.Type) []int {
	st := make([]int, out.Rank())
	own := t.Shape.Strides()
	lead := out.Rank() - t.Rank()
	for i := range t.Rank() {
		if t.Dim(i) != 1 {
			st[lead+i] = own[i]
		}
	}
	return st
}

// mergeAxes drops axes of one element and joins neighbours that every operand walks as one. There is at least one axis left.
func mergeAxes(dims []int, operands [][]int) (merged []int, strides [][]int) {
	strides = make([][]int, len(operands))
	for i, n := range dims {
		if n == 1 {
			continue
		}
		k := len(merged) - 1
		joint := k >= 0
		for v, st := range operands {
			joint = joint && strides[v][k] == st[i]*n
		}
		if joint {
			merged[k] *= n
		} else {
			merged = append(merged, n)
			k++
			for v := range operands {
				strides[v] = append(strides[v], 0)
			}
		}
		for v, st := range operands {
			strides[v][k] = st[i]
		}
	}
	if len(merged) == 0 {
		merged = []int{1}
		for v := range strides {
			strides[v] = []int{0}
		}
	}
	return merged, strides
}
