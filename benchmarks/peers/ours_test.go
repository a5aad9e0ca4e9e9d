package peers

import (
	"context"
	"errors"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// oursMLP is this framework on a Problem: one plan for loss and gradients, one for a whole step.
type oursMLP struct {
	dev         device.Device
	session     *plan.Session
	grads, step *mlpPlan
}

// mlpPlan is a compiled graph with the values that are fed and read.
type mlpPlan struct {
	plan  *plan.Plan
	feed  plan.Feed
	loss  graph.Value
	grads []graph.Value
}

// newOurs builds the problem with this framework, on as many threads as the peers may take (GOMAXPROCS).
func newOurs(p *Problem) (Trainer, error) {
	dev := cpu.New(cpu.Options{})
	t := &oursMLP{dev: dev, session: plan.NewSession(plan.NewStore(dev))}
	vars := []*graph.Var{
		graph.NewVar("w1", tensor.T(tensor.F32, p.In, p.Hidden)), graph.NewVar("b1", tensor.T(tensor.F32, p.Hidden)),
		graph.NewVar("w2", tensor.T(tensor.F32, p.Hidden, p.Out)), graph.NewVar("b2", tensor.T(tensor.F32, p.Out)),
	}
	for i, data := range [][]float32{p.W1, p.B1, p.W2, p.B2} {
		if err := t.set(vars[i], data); err != nil {
			return nil, errors.Join(err, t.Close())
		}
	}
	var err error
	if t.grads, err = t.compile(p, vars, false); err == nil {
		t.step, err = t.compile(p, vars, true)
	}
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

func (t *oursMLP) set(v *graph.Var, data []float32) error {
	value, err := tensor.FromBytes(v.Type, tensor.AsBytes(data))
	if err != nil {
		return err
	}
	return t.session.Store().Set(v, value)
}

// compile builds the perceptron; with update the step moves the weights, else the gradients are outputs.
func (t *oursMLP) compile(p *Problem, vars []*graph.Var, update bool) (*mlpPlan, error) {
	g := graph.New("mlp")
	x, y := g.Input("x", tensor.T(tensor.F32, p.Batch, p.In)), g.Input("labels", tensor.T(tensor.I32, p.Batch))
	h := ops.ReLU(ops.Add(ops.Dot(x, g.Read(vars[0])), g.Read(vars[1])))
	logits := ops.Add(ops.Dot(h, g.Read(vars[2])), g.Read(vars[3]))
	m := &mlpPlan{loss: ops.CrossEntropy(logits, y)}
	grads, err := autograd.Grad(m.loss, vars...)
	if err != nil {
		return nil, err
	}
	outs := []graph.Value{m.loss}
	if update {
		for i, v := range vars {
			g.Write(v, ops.Sub(g.Read(v), ops.Scale(grads[i], float64(p.LR))))
		}
	} else {
		m.grads = grads
		outs = append(outs, grads...)
	}
	if m.plan, err = plan.Compile(outs, plan.Options{Device: t.dev, Session: t.session}); err != nil {
		return nil, err
	}
	xs, err := tensor.Of(p.X, p.Batch, p.In)
	if err != nil {
		return nil, err
	}
	ys, err := tensor.Of(p.Labels)
	m.feed = plan.Feed{x: xs, y: ys}
	return m, err
}

func (t *oursMLP) LossGrad() (Result, error) {
	out, err := t.grads.plan.Run(context.Background(), t.grads.feed)
	if err != nil {
		return Result{}, err
	}
	var flat [4][]float64
	for i, v := range t.grads.grads {
		flat[i] = widen(out.Tensor(v).Float32s())
	}
	return Result{Loss: out.Float(t.grads.loss), W1: flat[0], B1: flat[1], W2: flat[2], B2: flat[3]}, nil
}

func (t *oursMLP) Step() (float64, error) {
	out, err := t.step.plan.Run(context.Background(), t.step.feed)
	if err != nil {
		return 0, err
	}
	return out.Float(t.step.loss), nil
}

func (t *oursMLP) Close() error {
	var errs []error
	for _, p := range []*mlpPlan{t.grads, t.step} {
		if p != nil {
			errs = append(errs, p.plan.Close())
		}
	}
	return errors.Join(append(errs, t.session.Close(), t.dev.Close())...)
}
