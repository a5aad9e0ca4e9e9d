package trainer

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/optim"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// updateParts are what happens to gradients and weights beside the optimizer's rule. Parts that are off are zero.
type updateParts struct {
	clip       float64 // largest norm
	clipValue  float64
	adaptive   float64
	percentile *optim.PercentileClip
	scaler     *optim.LossScaler // of float16
	average    *optim.EMA
	every      int // steps between updates of the average
}

// newUpdateParts makes what the configuration asks for. rowTokens are the tokens of a micro-batch, whose losses are summed.
func newUpdateParts(t config.Train, compute tensor.DType, rowTokens int, group *optim.Group) (updateParts, error) {
	u := updateParts{clip: t.Clip, clipValue: t.ClipValue, adaptive: t.AdaptiveClip, every: max(t.EMAEvery, 1)}
	var err error
	if t.Percentile > 0 {
		if u.percentile, err = optim.NewPercentileClip("", t.Percentile); err != nil {
			return u, badConfig("train.percentile_clipping", "%v", err)
		}
	}
	if compute == tensor.F16 {
		u.scaler = optim.NewLossScaler(optim.ScalerOptions{Init: cmp.Or(t.LossScale, firstScale(rowTokens)), Interval: t.ScaleInterval})
	}
	if t.EMA > 0 {
		if u.average, err = optim.NewEMA(group, optim.EMAOptions{Decay: t.EMA, Warmup: t.EMAWarmup}); err != nil {
			return u, badConfig("train.ema", "%v", err)
		}
	}
	return u, nil
}

// firstScale is the loss scale that a run begins with: torch's 65536 is for the mean of the token losses, and here they are summed.
func firstScale(tokens int) float64 {
	scale := 65536.0
	for tokens > 1 && scale > 1 {
		scale, tokens = scale/2, (tokens+1)/2
	}
	return scale
}

// vars are what a checkpoint keeps of the parts.
func (u updateParts) vars() (out []*graph.Var) {
	if u.percentile != nil {
		out = append(out, u.percentile.Vars()...)
	}
	if u.scaler != nil {
		out = append(out, u.scaler.Vars()...)
	}
	if u.average != nil {
		out = append(out, u.average.Vars()...)
	}
	return out
}

// clipped limits gradient slabs, which times scale are the gradients, whose norm before any clipping is given: elements first, then
// parameters, then the whole by its history and by its limit. It returns slabs and the scale of them to update with.
func (u updateParts) clipped(g *graph.Graph, group *optim.Group, slabs []graph.Value, scale, norm, ok graph.Value) ([]graph.Value, graph.Value) {
	one := ops.Scalar(scale, 1)
	whole := u.percentile != nil || u.clip > 0
	if u.clipValue > 0 {
		slabs, scale = optim.ClipValues(slabs, scale, u.clipValue), one
	}
	if u.adaptive > 0 {
		slabs, scale = group.AdaptiveClip(g, slabs, scale, u.adaptive), one
	}
	if whole && (u.clipValue > 0 || u.adaptive > 0) {
		norm = ops.Sqrt(optim.NormSquared(slabs))
	}
	if u.percentile != nil {
		f := u.percentile.Factor(g, norm, ok)
		scale, norm = ops.Mul(scale, f), ops.Mul(norm, f)
	}
	if u.clip > 0 {
		scale = ops.Mul(scale, optim.ClipFactor(norm, u.clip))
	}
	return slabs, scale
}

// compileApply builds the second half of a step: norm, clipping, update, zero.
func (s *stepPlans) compileApply(group *optim.Group, o stepOptions) error {
	g := graph.New("apply")
	s.lr, s.step = g.Input("lr", tensor.T(tensor.F32)), g.Input("step", tensor.T(tensor.F32))
	s.tokens = g.Input("tokens", tensor.T(tensor.F32))
	perToken := ops.Div(ops.Scalar(s.tokens, 1), s.tokens)
	sc := optim.Scalars{LR: s.lr, Step: s.step}
	if s.parts.scaler != nil {
		s.scale = s.parts.scaler.Scale(g)
		perToken = ops.Div(perToken, s.scale)
		sc.Step = graph.Value{} // the group counts, so that a step left out is not one for the bias corrections
	}
	var slabs []graph.Value
	for _, v := range group.GradSlabs() {
		slabs = append(slabs, g.Read(v))
	}
	s.norm = ops.Mul(ops.Sqrt(group.GradNormSquared(g)), perToken)
	sc.OK = ops.Mul(optim.Finite(s.norm), optim.Finite(g.Read(s.lossSum)))
	slabs, sc.GScale = s.parts.clipped(g, group, slabs, perToken, s.norm, sc.OK)
	group.ApplyGrads(g, slabs, sc)
	group.Zero(g)
	g.Write(s.lossSum, ops.Fill(g, tensor.F32, 0))
	outs := []graph.Value{s.norm}
	if s.parts.scaler != nil {
		s.parts.scaler.Update(g, sc.OK)
		outs = append(outs, s.scale)
	}
	var err error
	s.apply, err = plan.Compile(outs, o.plan())
	return err
}

// averagePlans keep the average of the weights and put it in their place.
type averagePlans struct{ update, enter, leave *plan.Plan }

func (s *stepPlans) compileAverage(o stepOptions) error {
	if s.parts.average == nil {
		return nil
	}
	s.average = &averagePlans{}
	for _, p := range []struct {
		name string
		emit func(*graph.Graph) graph.Value
		to   **plan.Plan
	}{
		{"average", s.parts.average.Update, &s.average.update}, {"average_enter", s.parts.average.Enter, &s.average.enter},
		{"average_leave", s.parts.average.Leave, &s.average.leave},
	} {
		g := graph.New(p.name)
		c, err := plan.Compile([]graph.Value{p.emit(g)}, o.plan())
		if err != nil {
			return fmt.Errorf("average of the weights: %w", err)
		}
		*p.to = c
	}
	return nil
}

func (a *averagePlans) close() error {
	var errs []error
	for _, p := range []*plan.Plan{a.update, a.enter, a.leave} {
		if p != nil {
			errs = append(errs, p.Close())
		}
	}
	return errors.Join(errs...)
}

// withAverage runs f with the averaged weights in the place of the trained ones, if the run keeps an average. The trained ones are
// back when it returns, however it returns.
func (s *stepPlans) withAverage(ctx context.Context, f func() error) error {
	if s.average == nil {
		return f()
	}
	ctx = context.WithoutCancel(ctx) // half an exchange would leave neither
	if _, err := s.average.enter.Run(ctx, nil); err != nil {
		return err
	}
	err := f()
	_, back := s.average.leave.Run(ctx, nil)
	return errors.Join(err, back)
}
