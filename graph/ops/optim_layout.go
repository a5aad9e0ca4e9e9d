package ops

import (
	"fmt"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// SlabAlign is the boundary, in elements, on which each tensor of a slab starts: the block size of 8-bit optimizer states, so that
// blocks stay within one tensor.
const SlabAlign = 256

// Layout places tensors in a slab, one flat array that holds all of a group. It must not change once it is part of an op: ops are
// compared by the layout's address. Elements between tensors are padding; they are zero and no update touches them.
type Layout struct {
	DType   tensor.DType // of parameters: f32, bf16 or f16; the zero value is f32
	Offsets []int        // first element of each tensor, a multiple of SlabAlign, ascending
	Sizes   []int        // elements of each tensor
	Rows    []int        // first dimension of each tensor that is a matrix, 0 of others; nil: none is
	LRScale []float64    // factor of the learning rate for each tensor; nil: 1
	LR      []float64    // learning rate of each tensor instead of the update's, 0: the update's; nil: all the update's
	Decay   []float64    // weight decay of each tensor; nil: the op's
	Sites   []uint32     // what names each tensor to stochastic rounding; nil: its index
	Total   int          // elements of the slab, a multiple of SlabAlign
}

// NewLayout places tensors of the given sizes one after another.
func NewLayout(sizes ...int) *Layout {
	l := &Layout{Sizes: slices.Clone(sizes)}
	for _, n := range sizes {
		l.Offsets = append(l.Offsets, l.Total)
		l.Total += (max(n, 0) + SlabAlign - 1) / SlabAlign * SlabAlign
	}
	return l
}

// String prints the number of tensors and of elements, without an address, so that printed graphs are stable.
func (l *Layout) String() string {
	if l == nil {
		return "layout[]"
	}
	return fmt.Sprintf("layout[%d,%d]", len(l.Sizes), l.Total)
}

// Type is the type of the slab of parameters.
func (l *Layout) Type() tensor.Type { return tensor.T(l.dtype(), l.Total) }

// TypeOf is the type of a slab of other elements in this layout.
func (l *Layout) TypeOf(d tensor.DType) tensor.Type { return tensor.T(d, l.Total) }

func (l *Layout) dtype() tensor.DType {
	if l.DType == tensor.Invalid {
		return tensor.F32
	}
	return l.DType
}

// Check returns what is wrong with the layout.
func (l *Layout) Check() error {
	switch {
	case l == nil:
		return fmt.Errorf("the slab has no layout; make one with NewLayout")
	case len(l.Offsets) != len(l.Sizes) || l.short(len(l.Rows)) || l.short(len(l.LRScale)) || l.short(len(l.LR)) || l.short(len(l.Decay)) || l.short(len(l.Sites)):
		return fmt.Errorf("the layout's lists differ in length")
	case l.dtype() != tensor.F32 && l.dtype() != tensor.BF16 && l.dtype() != tensor.F16:
		return fmt.Errorf("parameters of %v cannot be updated; use f32, bf16 or f16", l.DType)
	case l.Total < 0 || l.Total%SlabAlign != 0:
		return fmt.Errorf("the slab's %d elements are not a multiple of %d", l.Total, SlabAlign)
	}
	end := 0
	for i, at := range l.Offsets {
		n := l.Sizes[i]
		if at < end || at%SlabAlign != 0 || n < 0 || at > l.Total || n > l.Total-at {
			return fmt.Errorf("tensor %d of %d elements at %d overlaps another, is not on a multiple of %d or leaves the slab of %d", i, n,
				at, SlabAlign, l.Total)
		}
		if r := l.rows(i); r < 0 || (r > 0 && n%r != 0) {
			return fmt.Errorf("tensor %d of %d elements cannot have %d rows", i, n, r)
		}
		end = at + n
	}
	return nil
}

// short reports whether a list that is there has not one entry a tensor.
func (l *Layout) short(n int) bool { return n != 0 && n != len(l.Sizes) }

// rows is Rows[i] or its default.
func (l *Layout) rows(i int) int {
	if len(l.Rows) == 0 {
		return 0
	}
	return l.Rows[i]
}

// lrScale is LRScale[i] or its default.
func (l *Layout) lrScale(i int) float64 {
	if len(l.LRScale) == 0 {
		return 1
	}
	return l.LRScale[i]
}

// decay is Decay[i] or its default.
func (l *Layout) decay(i int, group float64) float64 {
	if len(l.Decay) == 0 {
		return group
	}
	return l.Decay[i]
}

// Tensor returns what an update needs to know of tensor i: its place, and its weight decay, given the group's.
func (l *Layout) Tensor(i int, decay float64) (offset, size int, wd float64) {
	return l.Offsets[i], l.Sizes[i], l.decay(i, decay)
}

// Span returns where a state that is divided in this way holds the values of tensor i, and how many.
func (l *Layout) Span(e Each, i int) (lo, n int) {
	switch e {
	case EachBlock:
		return l.Offsets[i] / SlabAlign, (l.Sizes[i] + SlabAlign - 1) / SlabAlign
	case EachTensor:
		return i, 1
	case EachElement:
		return l.Offsets[i], l.Sizes[i]
	}
	for j := range i {
		lo += l.count(e, j)
	}
	return lo, l.count(e, i)
}

// count is the number of rows, columns or loose elements of tensor i.
func (l *Layout) count(e Each, i int) int {
	switch rows := l.rows(i); {
	case (rows == 0) != (e == EachLoose) || l.Sizes[i] == 0:
		return 0
	case rows == 0:
		return l.Sizes[i]
	case e == EachRow:
		return rows
	default:
		return l.Sizes[i] / rows
	}
}

// counts is the type of a float32 state with one value for each row, column or loose element of all tensors.
func (l *Layout) counts(e Each) tensor.Type {
	n := 0
	for i := range l.Sizes {
		n += l.count(e, i)
	}
	return tensor.T(tensor.F32, n)
}

// Matrix returns the shape of tensor i as a matrix of its first dimension and the rest; it is (0, 0) for what has less than two.
func (l *Layout) Matrix(i int) (rows, cols int) {
	return l.count(EachRow, i), l.count(EachColumn, i)
}

// Rate returns the learning rate of tensor i, given the update's.
func (l *Layout) Rate(i int, lr float64) float64 {
	if len(l.LR) != 0 && l.LR[i] != 0 {
		return l.LR[i]
	}
	return lr * l.lrScale(i)
}

// rates is the learning rate of each element, or one scalar where it serves all. Padding has the rate 0.
func (l *Layout) rates(lr Value) Value {
	g := lr.Graph()
	for _, v := range l.LR {
		if v != 0 {
			return l.join(g, func(i int) Value {
				if rate := l.LR[i]; rate != 0 {
					return BroadcastTo(Fill(g, tensor.F32, rate), l.Sizes[i])
				}
				return BroadcastTo(Scale(lr, l.lrScale(i)), l.Sizes[i])
			})
		}
	}
	return Mul(lr, l.perElement(g, l.lrScale))
}

// perTensor spreads one scalar a tensor over its elements; padding gets 0.
func (l *Layout) perTensor(g *graph.Graph, of []Value) Value {
	return l.join(g, func(i int) Value { return BroadcastTo(of[i], l.Sizes[i]) })
}

// perElement returns value(i) for the elements of tensor i and 0 for padding: a scalar where one value serves all.
func (l *Layout) perElement(g *graph.Graph, value func(i int) float64) Value {
	same := true
	for i := range l.Sizes {
		same = same && value(i) == value(0)
	}
	if same && len(l.Sizes) > 0 {
		return Fill(g, tensor.F32, value(0))
	}
	return l.join(g, func(i int) Value { return BroadcastTo(Fill(g, tensor.F32, value(i)), l.Sizes[i]) })
}

// mask is true for elements of tensors and false for padding.
func (l *Layout) mask(g *graph.Graph) Value {
	ones := l.join(g, func(i int) Value { return BroadcastTo(Fill(g, tensor.F32, 1), l.Sizes[i]) })
	return NotEqual(ones, Scalar(ones, 0))
}

// join concatenates flat float32 tensors at their offsets, with zeros between.
func (l *Layout) join(g *graph.Graph, part func(i int) Value) Value {
	return l.joinOf(g, tensor.F32, part)
}

// joinParts is join for one part each tensor that is not empty.
func (l *Layout) joinParts(g *graph.Graph, parts []Value) Value {
	at := -1
	return l.join(g, func(int) Value {
		at++
		return parts[at]
	})
}

func (l *Layout) joinOf(g *graph.Graph, d tensor.DType, part func(i int) Value) Value {
	var parts []Value
	at := 0
	gap := func(to int) {
		if to > at {
			parts = append(parts, BroadcastTo(Fill(g, d, 0), to-at))
		}
		at = to
	}
	for i, n := range l.Sizes {
		gap(l.Offsets[i])
		if n > 0 {
			parts = append(parts, part(i))
			at += n
		}
	}
	gap(l.Total)
	if len(parts) == 0 {
		return BroadcastTo(Fill(g, d, 0), 0)
	}
	return Concat(0, parts...)
}
