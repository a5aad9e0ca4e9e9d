package ops

import (
	"fmt"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// PadMode is where PadBy takes the elements around x from.
type PadMode uint8

// The modes of padding [1 2 3] by two on each side: 0 0 1 2 3 0 0, 3 2 1 2 3 2 1, 1 1 1 2 3 3 3, and 2 3 1 2 3 1 2.
const (
	PadConstant PadMode = iota
	PadReflect
	PadEdge
	PadWrap
)

// PadBy adds lo[i] elements before and hi[i] after axis i; negative counts cut elements off. val is the value of PadConstant.
// In the other modes an element of x that is repeated gets the sum of the gradients.
func PadBy(x Value, lo, hi []int, mode PadMode, val float64) Value {
	if !x.Valid() {
		return x
	}
	if len(lo) != x.Rank() || len(hi) != x.Rank() {
		return fail("pad", x, "%d and %d counts are given for %d axes", len(lo), len(hi), x.Rank())
	}
	for axis := range lo {
		if x.Dim(axis)+min(lo[axis], 0)+min(hi[axis], 0) < 0 {
			return fail("pad", x, "axis %d has %d elements, %d and %d are cut off", axis, x.Dim(axis), -lo[axis], -hi[axis])
		}
		if mode == PadConstant {
			x = Slice(x, axis, max(-lo[axis], 0), x.Dim(axis)-max(-hi[axis], 0))
			x = PadAxis(x, axis, max(lo[axis], 0), max(hi[axis], 0), val)
			continue
		}
		if mode <= PadWrap && lo[axis] == 0 && hi[axis] == 0 {
			continue
		}
		from, err := padSource(x.Dim(axis), lo[axis], hi[axis], mode)
		if err != nil {
			return fail("pad", x, "axis %d: %w", axis, err)
		}
		x = Gather(x, axis, x.Graph().Const(from))
	}
	return x
}

// AddPadded returns x + y. Where both are padded with zeros along one axis, and one ends where the other begins, they are put side by side
// instead: the gradients of slices that share a tensor become its gradient without adding zeros.
func AddPadded(x, y Value) Value {
	px, ok := zeroPadded(x)
	py, also := zeroPadded(y)
	if !ok || !also || px.Axis != py.Axis || x.Type() != y.Type() {
		return Add(x, y)
	}
	end := func(o Pad) int64 { return int64(x.Dim(int(o.Axis))) - o.Hi }
	switch {
	case end(px) == py.Lo:
	case end(py) == px.Lo:
		x, y, px, py = y, x, py, px
	default:
		return Add(x, y)
	}
	axis := int(px.Axis)
	parts := append(joined(x.Node().In[0], axis), joined(y.Node().In[0], axis)...)
	return PadAxis(Concat(axis, parts...), axis, int(px.Lo), int(py.Hi), 0)
}

// zeroPadded is the op that made v, if it padded with zeros.
func zeroPadded(v Value) (Pad, bool) {
	if !v.Valid() {
		return Pad{}, false
	}
	o, ok := v.Node().Op.(Pad)
	return o, ok && o.Val == 0
}

// joined lists what v was put together from along an axis, or v.
func joined(v Value, axis int) []Value {
	if o, ok := v.Node().Op.(Join); ok && int(o.Axis) == axis {
		return slices.Clone(v.Node().In)
	}
	return []Value{v}
}

// maxPadded bounds the list of positions that repeating takes.
const maxPadded = 1 << 28

// padSource lists, for each element of a padded axis, which of n it copies.
func padSource(n, lo, hi int, mode PadMode) (*tensor.Tensor, error) {
	if n == 0 {
		return nil, fmt.Errorf("there is nothing to repeat")
	}
	for _, v := range []int{n, lo, hi} {
		if v > maxPadded || v < -maxPadded {
			return nil, fmt.Errorf("%d elements padded by %d and %d are too many, at most %d are repeated", n, lo, hi, maxPadded)
		}
	}
	idx := make([]int32, max(n+lo+hi, 0))
	for i := range idx {
		at := i - lo
		switch mode {
		case PadEdge:
			at = min(max(at, 0), n-1)
		case PadWrap:
			at = ((at % n) + n) % n
		case PadReflect:
			period := max(2*(n-1), 1)
			at = ((at % period) + period) % period
			at = min(at, period-at)
			if n == 1 {
				at = 0
			}
		default:
			return nil, fmt.Errorf("mode %d is unknown", mode)
		}
		idx[i] = int32(at)
	}
	return tensor.Of(idx)
}
