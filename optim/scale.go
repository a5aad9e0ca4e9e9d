package optim

import (
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// ScalerOptions of a LossScaler; zero values take the defaults of torch.amp.GradScaler.
type ScalerOptions struct {
	Name     string  // begins the variables' names; "" is "loss_scale"
	Init     float64 // first scale; 0: 65536
	Growth   float64 // factor after Interval finite steps in a row; 0: 2
	Backoff  float64 // factor after a step that was not finite; 0: 0.5
	Interval int     // 0: 2000
}

// The limits of the scale, both powers of two: beyond them no halving or doubling would help.
const (
	MinLossScale = 1.0 / (1 << 14)
	MaxLossScale = 1 << 24
)

// LossScaler multiplies a float16 loss so that small gradients do not vanish (Micikevicius et al. 2018, arXiv 1710.03740), and finds
// the factor: a step whose gradients overflow is left out and the factor halved. It lives in variables of the graph; their
// initial zeros stand for Init.
type LossScaler struct {
	o           ScalerOptions
	scale, good *graph.Var // the scale, and the finite steps since it last changed
}

// NewLossScaler makes a scaler.
func NewLossScaler(o ScalerOptions) *LossScaler {
	set := func(v *float64, d float64) {
		if !(*v > 0) {
			*v = d
		}
	}
	set(&o.Init, 65536)
	set(&o.Growth, 2)
	set(&o.Backoff, 0.5)
	if o.Interval <= 0 {
		o.Interval = 2000
	}
	if o.Name == "" {
		o.Name = "loss_scale"
	}
	scalar := tensor.T(tensor.F32)
	return &LossScaler{o: o, scale: graph.NewVar(o.Name+".scale", scalar), good: graph.NewVar(o.Name+".good", scalar)}
}

// Vars returns the variables to save.
func (s *LossScaler) Vars() []*graph.Var { return []*graph.Var{s.scale, s.good} }

// Scale is the present factor: multiply the loss by it and put its inverse into the gradient scale of the update.
func (s *LossScaler) Scale(g *graph.Graph) graph.Value {
	v := g.Read(s.scale)
	return ops.Where(ops.Greater(v, ops.Scalar(v, 0)), v, ops.Scalar(v, s.o.Init))
}

// Update writes the factor of the next step, given whether this one was finite (1 or 0).
func (s *LossScaler) Update(g *graph.Graph, ok graph.Value) {
	scale, one, zero := s.Scale(g), ops.Fill(g, tensor.F32, 1), ops.Fill(g, tensor.F32, 0)
	finite := ops.Greater(ok, zero)
	good := ops.Add(g.Read(s.good), one)
	grow := ops.GreaterEqual(good, ops.Fill(g, tensor.F32, float64(s.o.Interval)))
	up := ops.Where(grow, ops.Scale(scale, s.o.Growth), scale)
	next := ops.Where(finite, up, ops.Scale(scale, s.o.Backoff))
	g.Write(s.scale, ops.Clip(next, MinLossScale, MaxLossScale))
	g.Write(s.good, ops.Where(ops.And(finite, ops.Not(grow)), good, zero))
}
