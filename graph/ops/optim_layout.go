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
	Offsets []int     // first element of each tensor, a multiple of SlabAlign, ascending
	Sizes   []int     // elements of each tensor
	LRScale []float64 // factor of the learning rate for each tensor; nil: 1
	Decay   []float64 // weight decay of each tensor; nil: the op's
	Total   int       // elements of the slab, a multiple of SlabAlign
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

// Type is the type of the slab.
func (l *Layout) Type() tensor.Type { return tensor.T(tensor.F32, l.Total) }

// Check returns what is wrong with the layout.
func (l *Layout) Check() error {
	switch {
	case l == nil:
		return fmt.Errorf("the slab has no layout; make one with NewLayout")
	case len(l.Offsets) != len(l.Sizes) || (l.LRScale != nil && len(l.LRScale) != len(l.Sizes)) || (l.Decay != nil && len(l.Decay) != len(l.Sizes)):
		return fmt.Errorf("the layout's lists differ in length")
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
		end = at + n
	}
	return nil
}

// lrScale is LRScale[i] or its default.
func (l *Layout) lrScale(i int) float64 {
	if l.LRScale == nil {
		return 1
	}
	return l.LRScale[i]
}

// decay is Decay[i] or its default.
func (l *Layout) decay(i int, group float64) float64 {
	if l.Decay == nil {
		return group
	}
	return l.Decay[i]
}

// Tensor returns what an update needs to know of tensor i: its place, the factor of its learning rate and its weight decay, given
// the group's.
func (l *Layout) Tensor(i int, decay float64) (offset, size int, lrScale, wd float64) {
	return l.Offsets[i], l.Sizes[i], l.lrScale(i), l.decay(i, decay)
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

// join concatenates flat tensors at their offsets, with zeros between.
func (l *Layout) join(g *graph.Graph, part func(i int) Value) Value {
	var parts []Value
	at := 0
	gap := func(to int) {
		if to > at {
			parts = append(parts, BroadcastTo(Fill(g, tensor.F32, 0), to-at))
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
		return BroadcastTo(Fill(g, tensor.F32, 0), 0)
	}
	return Concat(0, parts...)
}
