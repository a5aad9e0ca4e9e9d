package docs_test

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/optim"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

type network struct {
	Conv *layers.Conv      `name:"conv"`
	Norm *layers.BatchNorm `name:"bn"`
	Head layers.Projection `name:"head"`
}

func newNetwork(src layers.Source) *network {
	same := layers.ConvOptions{WindowOptions: ops.WindowOptions{Pad: []int{1}}} // one entry stands for all axes
	return &network{layers.NewConv(src.Sub("conv"), 1, 8, []int{3, 3}, same), layers.NewBatchNorm(src.Sub("bn"), 8), src.Linear("head", 8, 2, true)}
}

// forward maps images (N, 1, H, W) to logits (N, 2).
func (m *network) forward(x graph.Value, training bool) graph.Value {
	y := ops.ReLU(m.Norm.Forward(m.Conv.Forward(x), training))
	y = layers.MaxPool{Kernel: []int{2, 2}}.Forward(y)
	return m.Head.Forward(ops.Reshape(ops.GlobalAvgPool(y), -1, 8))
}

// classify trains on images with labels and returns the share of them that the trained network gets right.
func classify(ctx context.Context, images, labels *tensor.Tensor, steps int) (share float64, err error) {
	dev := cpu.New(cpu.Options{})
	store := plan.NewStore(dev)
	src := layers.NewSource(layers.Options{Seed: 1})
	model := newNetwork(src)
	if err := src.Load(store); err != nil {
		return 0, err
	}
	layers.SetTrainable(model, true) // running statistics stay out
	params := layers.Trainable(model)
	session := plan.NewSession(store) // both plans see the same weights and statistics

	g := graph.New("train")
	x, y := g.Input("images", images.Type()), g.Input("labels", labels.Type())
	loss := ops.ClassLoss(model.forward(x, true), y, ops.ClassLossOptions{Smoothing: 0.05})
	grads, err := autograd.Grad(loss, params...)
	if err != nil {
		return 0, err
	}
	opt, err := optim.New("adamw", optim.Config{})
	if err != nil {
		return 0, err
	}
	opt.Update(g, params, grads, ops.Fill(g, tensor.F32, 0.02))
	step, err := plan.Compile([]graph.Value{loss}, plan.Options{Device: dev, Session: session})
	if err != nil {
		return 0, err
	}
	defer step.Close()
	for range steps {
		if _, err := step.Run(ctx, plan.Feed{x: images, y: labels}); err != nil {
			return 0, err
		}
	}

	g = graph.New("evaluate")
	x, y = g.Input("images", images.Type()), g.Input("labels", labels.Type())
	right := ops.Mean(ops.Cast(ops.Equal(ops.ArgMax(model.forward(x, false), -1), y), tensor.F32))
	eval, err := plan.Compile([]graph.Value{right}, plan.Options{Device: dev, Session: session})
	if err != nil {
		return 0, err
	}
	defer eval.Close()
	out, err := eval.Run(ctx, plan.Feed{x: images, y: labels})
	if err != nil {
		return 0, err
	}
	return out.Float(right), nil
}

// TestLibraryNetwork: the guide shows the network and its training of this file, and it tells lines from columns.
func TestLibraryNetwork(t *testing.T) {
	src := read(t, "docs/library_test.go")
	from, to := strings.Index(src, "type network struct"), strings.Index(src, "\n// TestLibraryNetwork")
	require.Contains(t, read(t, "docs/guides/library.md"), "```go\n"+src[from:to]+"```\n", "docs/guides/library.md and docs/library_test.go differ")

	const n, size = 32, 8
	r := rand.New(rand.NewPCG(1, 2))
	images, labels := tensor.New(tensor.T(tensor.F32, n, 1, size, size)), tensor.New(tensor.T(tensor.I32, n))
	for i := range n {
		labels.Set(i, float64(i%2))
		line := r.IntN(size)
		for j := range size {
			at := [2]int{line*size + j, j*size + line}[i%2]
			images.Set(i*size*size+at, 1)
		}
		for j := range size * size {
			images.Set(i*size*size+j, images.At(i*size*size+j)+0.3*r.NormFloat64())
		}
	}
	share, err := classify(context.Background(), images, labels, 60)
	require.NoError(t, err)
	require.Greater(t, share, 0.9, "a guess gets half of them")
}
