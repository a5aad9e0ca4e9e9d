package peers

import (
	"fmt"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/gobackend"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
)

// NewGoMLX builds the problem with GoMLX on its pure Go backend, in float32: one compiled function for loss and gradients, one for
// a whole step that returns the loss and the new weights.
func NewGoMLX(p *Problem) (Trainer, error) {
	backend, err := gobackend.New("")
	if err != nil {
		return nil, fmt.Errorf("gomlx: opening the Go backend: %w", err)
	}
	t := &gomlxMLP{p: p, backend: backend}
	if t.grads, err = graph.NewExec(backend, gomlxLossGrad); err != nil {
		return nil, fmt.Errorf("gomlx: %w", err)
	}
	if t.step, err = graph.NewExec(backend, gomlxStep(p.LR)); err != nil {
		return nil, fmt.Errorf("gomlx: %w", err)
	}
	t.x = tensors.FromFlatDataAndDimensions(p.X, p.Batch, p.In)
	t.y = tensors.FromFlatDataAndDimensions(p.OneHot(), p.Batch, p.Out)
	t.w = []*tensors.Tensor{
		tensors.FromFlatDataAndDimensions(p.W1, p.In, p.Hidden), tensors.FromFlatDataAndDimensions(p.B1, p.Hidden),
		tensors.FromFlatDataAndDimensions(p.W2, p.Hidden, p.Out), tensors.FromFlatDataAndDimensions(p.B2, p.Out),
	}
	return t, nil
}

type gomlxMLP struct {
	p           *Problem
	backend     compute.Backend
	grads, step *graph.Exec
	x, y        *tensors.Tensor
	w           []*tensors.Tensor // W1, B1, W2, B2
}

func (t *gomlxMLP) LossGrad() (Result, error) {
	out, err := t.grads.Call(t.args()...)
	if err != nil {
		return Result{}, fmt.Errorf("gomlx: loss and gradients of %v: %w", t.p, err)
	}
	var flat [5][]float64
	for i, o := range out {
		data, err := tensors.CopyFlatData[float32](o)
		if err != nil {
			return Result{}, fmt.Errorf("gomlx: reading output %d: %w", i, err)
		}
		flat[i] = widen(data)
	}
	return Result{Loss: flat[0][0], W1: flat[1], B1: flat[2], W2: flat[3], B2: flat[4]}, freeAll(out)
}

func (t *gomlxMLP) Step() (float64, error) {
	args := t.args()
	for i, w := range t.w {
		// A donated buffer may be reused for the new weights.
		donated, err := graph.DonateTensorBuffer(w, t.backend, 0)
		if err != nil {
			return 0, fmt.Errorf("gomlx: giving weight %d to the step: %w", i, err)
		}
		args[2+i] = donated
	}
	out, err := t.step.Call(args...)
	if err != nil {
		return 0, fmt.Errorf("gomlx: step of %v: %w", t.p, err)
	}
	t.w = out[1:]
	loss, err := tensors.CopyFlatData[float32](out[0])
	if err != nil {
		return 0, fmt.Errorf("gomlx: reading the loss: %w", err)
	}
	return float64(loss[0]), out[0].FinalizeAll()
}

func (t *gomlxMLP) Close() error {
	err := freeAll(append(t.w, t.x, t.y))
	t.grads.Finalize()
	t.step.Finalize()
	t.backend.Finalize()
	return err
}

func (t *gomlxMLP) args() []any {
	return []any{t.x, t.y, t.w[0], t.w[1], t.w[2], t.w[3]}
}

// gomlxLossGrad takes x, one-hot y, W1, B1, W2, B2 and returns the loss and the four gradients.
func gomlxLossGrad(in []*graph.Node) []*graph.Node {
	x, y, w := in[0], in[1], in[2:]
	h := graph.MaxScalar(graph.Add(graph.MatMul(x, w[0]), graph.InsertAxes(w[1], 0)), 0)
	logits := graph.Add(graph.MatMul(h, w[2]), graph.InsertAxes(w[3], 0))
	rows := float64(x.Shape().Dimensions[0])
	loss := graph.MulScalar(graph.ReduceAllSum(graph.Mul(graph.LogSoftmax(logits), y)), -1/rows)
	return append([]*graph.Node{loss}, graph.Gradient(loss, w...)...)
}

// gomlxStep takes the same inputs and returns the loss and the four new weights.
func gomlxStep(lr float32) func([]*graph.Node) []*graph.Node {
	return func(in []*graph.Node) []*graph.Node {
		out := gomlxLossGrad(in)
		for i, w := range in[2:] {
			out[1+i] = graph.Sub(w, graph.MulScalar(out[1+i], lr))
		}
		return out
	}
}

func freeAll(ts []*tensors.Tensor) error {
	for _, t := range ts {
		if err := t.FinalizeAll(); err != nil {
			return fmt.Errorf("gomlx: freeing a tensor: %w", err)
		}
	}
	return nil
}
