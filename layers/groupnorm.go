package layers

import (
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
)

// GroupNorm normalises groups of channels of (N, C, S...) (Wu & He 2018). With as many groups as channels it is instance
// normalisation, with one group layer normalisation over channels and space.
type GroupNorm struct {
	Weight *graph.Var `name:"weight"` // nil: no scale
	Bias   *graph.Var `name:"bias"`   // nil: no shift

	Groups int
	Eps    float64
}

// NewGroupNorm takes weight and bias from src, with PyTorch's eps of 1e-5.
func NewGroupNorm(src Source, groups, channels int) *GroupNorm {
	return &GroupNorm{src.Var("weight", Ones(), channels), src.Var("bias", Zeros(), channels), groups, 1e-5}
}

// NewInstanceNorm normalises every channel of every row by itself (Ulyanov et al. 2016), without parameters as PyTorch's
// InstanceNorm layers by default.
func NewInstanceNorm(channels int) *GroupNorm { return &GroupNorm{Groups: channels, Eps: 1e-5} }

// Forward normalises x (N, C, S...).
func (n *GroupNorm) Forward(x graph.Value) graph.Value {
	if !x.Valid() {
		return x
	}
	return ops.GroupNorm(x, n.Groups, readOptional(x, n.Weight), readOptional(x, n.Bias), n.Eps)
}

// LayerNorm normalises the last axis (Ba et al. 2016).
type LayerNorm struct {
	Weight *graph.Var `name:"weight"` // nil: no scale
	Bias   *graph.Var `name:"bias"`   // nil: no shift

	Eps float64
}

// NewLayerNorm takes weight and bias from src, with PyTorch's eps of 1e-5.
func NewLayerNorm(src Source, dim int) *LayerNorm {
	return &LayerNorm{src.Var("weight", Ones(), dim), src.Var("bias", Zeros(), dim), 1e-5}
}

// Forward normalises x (..., dim) in x's dtype, with statistics at least in float32.
func (n *LayerNorm) Forward(x graph.Value) graph.Value {
	if !x.Valid() {
		return x
	}
	return ops.LayerNorm(x, readOptional(x, n.Weight), readOptional(x, n.Bias), n.Eps)
}
