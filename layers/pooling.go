package layers

import (
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
)

// MaxPool takes the largest element of each window of (N, C, S...): PyTorch's MaxPool1d, 2d and 3d. The stride's default is the
// kernel.
type MaxPool struct {
	Kernel  []int
	Options ops.PoolOptions
}

// Forward pools x.
func (p MaxPool) Forward(x graph.Value) graph.Value { return ops.MaxPool(x, p.Kernel, p.Options) }

// AvgPool averages each window of (N, C, S...): PyTorch's AvgPool1d, 2d and 3d, which count padding unless told otherwise. The
// stride's default is the kernel.
type AvgPool struct {
	Kernel      []int
	SkipPadding bool // divide by the elements that a window sees: count_include_pad=False
	Options     ops.PoolOptions
}

// Forward pools x.
func (p AvgPool) Forward(x graph.Value) graph.Value {
	o := p.Options
	o.CountPad = !p.SkipPadding
	return ops.AvgPool(x, p.Kernel, o)
}

// AdaptivePool pools (N, C, S...) to given spatial extents: PyTorch's AdaptiveAvgPool1d to 3d, or with Max AdaptiveMaxPool.
type AdaptivePool struct {
	Out []int
	Max bool
}

// Forward pools x.
func (p AdaptivePool) Forward(x graph.Value) graph.Value {
	if p.Max {
		return ops.AdaptiveMaxPool(x, p.Out...)
	}
	return ops.AdaptiveAvgPool(x, p.Out...)
}
