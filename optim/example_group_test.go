package optim_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/optim"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Gradients of several micro-batches in float16, a loss scale, clipping, a schedule, and a run that goes on from a checkpoint with the bits of one
// that was never interrupted. What a checkpoint holds is three lists: slabs of parameters, states of the optimizer, variables of the loss scale.
func ExampleGroup() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir) //nolint:errcheck // temporary
	saved := checkpoint.NewRun(nil, dir)
	whole, err := fit(saved, 12, 6) // saves after step 6
	if err != nil {
		fmt.Println(err)
		return
	}
	rest, err := fit(saved, 12, 0) // begins there
	fmt.Println(len(whole), len(rest), slices.Equal(whole[6:], rest), err)
	fmt.Println("learned:", whole[11] < whole[0]/2)
	// Output:
	// 12 6 true <nil>
	// learned: true
}

const micros, rows, features, classes = 4, 8, 16, 3

// training is the two plans of a step, what they are fed, and what a checkpoint holds.
type training struct {
	session      *plan.Session
	micro, apply *plan.Plan
	x, y, lr     graph.Value
	loss         graph.Value
	vars         []*graph.Var
}

func build(session *plan.Session) (t *training, err error) {
	// Parameters are float32, activations float16. The group comes before the values: it decides where they lie.
	src := layers.NewSource(layers.Options{Seed: 1, Policy: layers.Policy{Compute: tensor.F16}})
	layer := src.Linear("head", features, classes, true)
	layers.SetTrainable(layer, true)
	params := layers.Trainable(layer)
	opt, err := optim.New("adamw", optim.Config{WeightDecay: 0.01})
	if err != nil {
		return nil, err
	}
	group, err := optim.NewGroup(params, optim.Options{Optimizer: opt})
	if err != nil {
		return nil, err
	}
	scaler := optim.NewLossScaler(optim.ScalerOptions{})
	t = &training{session: session, vars: slices.Concat(group.ParamSlabs(), group.StateVars(), scaler.Vars())}

	// For each micro-batch: gradients of the sum of losses, times the scale, are added up.
	g := graph.New("micro")
	t.x, t.y = g.Input("x", tensor.T(tensor.F32, rows, features)), g.Input("y", tensor.T(tensor.I32, rows))
	logits := layer.Forward(ops.Cast(t.x, src.Policy().ComputeType()))
	t.loss = ops.Sum(ops.TokenLoss(logits, t.y))
	grads, err := autograd.Grad(ops.Mul(t.loss, scaler.Scale(g)), params...)
	if err != nil {
		return nil, err
	}
	group.Accumulate(g, grads)
	if t.micro, err = plan.Compile([]graph.Value{t.loss}, plan.Options{Session: session}); err != nil {
		return nil, err
	}

	// Once a step: take scale and number of rows out, clip, update, clear. A step that is not finite changes the scale only.
	g = graph.New("apply")
	t.lr = g.Input("lr", tensor.T(tensor.F32))
	perRow := ops.Div(ops.Fill(g, tensor.F32, 1.0/(micros*rows)), scaler.Scale(g))
	norm := ops.Mul(ops.Sqrt(group.GradNormSquared(g)), perRow)
	ok := optim.Finite(norm)
	group.Apply(g, optim.Scalars{LR: t.lr, GScale: ops.Mul(perRow, optim.ClipFactor(norm, 1)), OK: ok})
	scaler.Update(g, ok)
	group.Zero(g)
	if t.apply, err = plan.Compile([]graph.Value{norm}, plan.Options{Session: session}); err != nil {
		return nil, err
	}
	return t, src.Load(session.Store())
}

// fit trains up to a step, from the newest checkpoint if there is one, and saves one after step saveAt.
func fit(saved *checkpoint.Run, steps, saveAt int) (losses []float64, err error) {
	dev := cpu.New(cpu.Options{Threads: 1})
	session := plan.NewSession(plan.NewStore(dev))
	defer func() { err = errors.Join(err, session.Close(), dev.Close()) }()
	t, err := build(session)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.micro.Close(), t.apply.Close()) }()
	from, err := restore(saved, session.Store(), t.vars)
	if err != nil {
		return nil, err
	}
	schedule := optim.Schedule{Kind: "cosine", LR: 0.3, Warmup: 2, Total: steps}
	ctx := context.Background()
	for step := from; step < steps; step++ {
		sum := 0.0
		for m := range micros {
			x, y := batch(step*micros + m)
			res, err := t.micro.Run(ctx, plan.Feed{t.x: x, t.y: y})
			if err != nil {
				return nil, err
			}
			sum += res.Float(t.loss)
		}
		if _, err := t.apply.Run(ctx, plan.Feed{t.lr: schedule.At(step)}); err != nil {
			return nil, err
		}
		losses = append(losses, sum/(micros*rows))
		if step+1 == saveAt {
			if err := save(saved, session.Store(), t.vars, step+1); err != nil {
				return nil, err
			}
		}
	}
	return losses, nil
}

func save(to *checkpoint.Run, store *plan.Store, vars []*graph.Var, step int) error {
	var tensors []checkpoint.Named
	for _, v := range vars {
		t, err := store.Get(v)
		if err != nil {
			return err
		}
		tensors = append(tensors, checkpoint.Named{Name: v.Name, Tensor: t})
	}
	return to.Save(step, tensors, struct{}{}, 3) // anything that JSON can hold may be kept beside them
}

// restore returns the step to go on from: 0 without a checkpoint.
func restore(from *checkpoint.Run, store *plan.Store, vars []*graph.Var) (step int, err error) {
	at, err := from.Latest()
	if errors.Is(err, checkpoint.ErrNone) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	f, err := at.Tensors()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for _, v := range vars {
		t, err := f.Read(v.Name)
		if err != nil {
			return 0, err
		}
		if err := store.Set(v, t); err != nil {
			return 0, err
		}
	}
	return at.Step, nil
}

// batch i of a task: which of the first features is set.
func batch(i int) (x, y *tensor.Tensor) {
	x, y = tensor.New(tensor.T(tensor.F32, rows, features)), tensor.New(tensor.T(tensor.I32, rows))
	for r := range rows {
		class := (i + r) % classes
		y.Set(r, float64(class))
		x.Set(r*features+class, 1)
		x.Set(r*features+classes+(i*rows+r)%(features-classes), 1)
	}
	return x, y
}
