package layers

import (
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// RMSNorm is root mean square normalisation (Zhang & Sennrich 2019) with a learned scale.
type RMSNorm struct {
	Weight *graph.Var `name:"weight"`
	Eps    float32
	// AroundOne takes 1 + weight for the scale, in float32 whatever the dtype of the input, as Gemma does.
	AroundOne bool
}

// NewRMSNorm takes the scale named "weight" from src.
func NewRMSNorm(src Source, dim int, eps float32) *RMSNorm {
	return &RMSNorm{Weight: src.Var("weight", Ones(), dim), Eps: eps}
}

// NewRMSNormAroundOne takes what is added to a scale of 1, named "weight", from src.
func NewRMSNormAroundOne(src Source, dim int, eps float32) *RMSNorm {
	return &RMSNorm{Weight: src.Var("weight", Zeros(), dim), Eps: eps, AroundOne: true}
}

// Forward normalises the last axis: x (..., dim) -> (..., dim) in x's dtype, with statistics in float32.
func (n *RMSNorm) Forward(x graph.Value) graph.Value {
	if !x.Valid() {
		return x
	}
	w := x.Graph().Read(n.Weight)
	if !n.AroundOne {
		return ops.RMSNorm(x, w, float64(n.Eps))
	}
	w = ops.AddScalar(ops.Cast(w, tensor.F32), 1)
	return ops.Cast(ops.RMSNorm(ops.Cast(x, tensor.F32), w, float64(n.Eps)), x.DType())
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

// GatedMLP is down(act(gate(x)) · up(x)) (Shazeer 2020).
type GatedMLP struct {
	Gate Projection `name:"gate_proj"`
	Up   Projection `name:"up_proj"`
	Down Projection `name:"down_proj"`

	Act Activation // nil: SiLU
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
	return named("down_proj", m.Down, ops.Mul(m.Act.or(ops.SiLU)(named("gate_proj", m.Gate, x)), named("up_proj", m.Up, x)))
}

// FusedMLP is a GatedMLP with one projection for gate and up, whose rows lie in this order (Phi-3).
type FusedMLP struct {
	GateUp Projection `name:"gate_up_proj"`
	Down   Projection `name:"down_proj"`

	Act Activation // nil: SiLU
}

// NewFusedMLP takes gate_up_proj and down_proj from src.
func NewFusedMLP(src Source, dim, hidden int) *FusedMLP {
	return &FusedMLP{GateUp: src.Linear("gate_up_proj", dim, 2*hidden, false), Down: src.Linear("down_proj", hidden, dim, false)}
}

// Forward maps (B, T, dim) to (B, T, dim).
func (m *FusedMLP) Forward(x graph.Value) graph.Value {
	y := named("gate_up_proj", m.GateUp, x)
	if !y.Valid() {
		return y
	}
	half := y.Dim(-1) / 2
	parts := ops.Split(y, -1, half, half)
	return named("down_proj", m.Down, ops.Mul(m.Act.or(ops.SiLU)(parts[0]), parts[1]))
}
