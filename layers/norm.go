package layers

import (
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
)

// RMSNorm is root mean square normalisation (Zhang & Sennrich 2019) with a learned scale.
type RMSNorm struct {
	Weight *graph.Var `name:"weight"`
	Eps    float32
}

// NewRMSNorm takes the scale named "weight" from src.
func NewRMSNorm(src Source, dim int, eps float32) *RMSNorm {
	return &RMSNorm{src.Var("weight", Ones(), dim), eps}
}

// Forward normalises the last axis: x (..., dim) -> (..., dim) in x's dtype, with statistics in float32.
func (n *RMSNorm) Forward(x graph.Value) graph.Value {
	if !x.Valid() {
		return x
	}
	return ops.RMSNorm(x, x.Graph().Read(n.Weight), float64(n.Eps))
}

// Random is what dropout draws from: counters that make a mask a pure function of the seed, the step, the layer, the data row
// and the token, so that nothing has to be saved and no batch layout matters. The zero value means no dropout (inference).
type Random struct {
	Key    graph.Value // u32 [2]: seed, step
	Sample graph.Value // i32 (B,T): id of the data row
	Pos    graph.Value // i32 (B,T): token index in its document
}

// Dropout zeroes elements with probability Rate and scales the others by 1/(1-Rate).
type Dropout struct {
	Rate float32
	Site uint32 // tells the dropouts of a model apart
}

// Forward drops elements of x (B, T, ...); without a Random it passes x on.
func (d Dropout) Forward(x graph.Value, r Random) graph.Value {
	if d.Rate == 0 || r.Key.Absent() {
		return x
	}
	return ops.Dropout(x, r.Key, r.Sample, r.Pos, d.Rate, d.Site)
}

// GatedMLP is down(silu(gate(x)) · up(x)) (Shazeer 2020).
type GatedMLP struct {
	Gate Projection `name:"gate_proj"`
	Up   Projection `name:"up_proj"`
	Down Projection `name:"down_proj"`
}

// NewGatedMLP takes the three projections from src.
func NewGatedMLP(src Source, dim, hidden int, bias bool) *GatedMLP {
	return &GatedMLP{
		Gate: src.Linear("gate_proj", dim, hidden, bias),
		Up:   src.Linear("up_proj", dim, hidden, bias),
		Down: src.Linear("down_proj", hidden, dim, bias),
	}
}

// Forward maps (B, T, dim) to (B, T, dim).
func (m *GatedMLP) Forward(x graph.Value) graph.Value {
	return named("down_proj", m.Down, ops.Mul(ops.SiLU(named("gate_proj", m.Gate, x)), named("up_proj", m.Up, x)))
}
