package layers_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestActivationNamed: values at one point, by the definitions.
func TestActivationNamed(t *testing.T) {
	const x = -0.7
	sigmoid := func(z float64) float64 { return 1 / (1 + math.Exp(-z)) }
	for name, want := range map[string]float64{
		"gelu": 0.5 * x * (1 + math.Erf(x/math.Sqrt2)), "quick_gelu": x * sigmoid(1.702*x), "silu": x * sigmoid(x), "relu2": 0, "leaky_relu": 0.01 * x,
		"mish": x * math.Tanh(math.Log1p(math.Exp(x))), "linear": x, "gelu_new": 0.5 * x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x))),
	} {
		f, err := layers.ActivationNamed(name)
		require.NoError(t, err)
		g := graph.New(name)
		in := g.Input("x", tensor.T(tensor.F64))
		out, err := plan.Eval(cpu.New(cpu.Options{Threads: 1}), plan.Feed{in: tensor.Scalar(x)}, f.Forward(in))
		require.NoError(t, err)
		require.InDelta(t, want, out[0].At(0), 1e-12, name)
	}
	_, err := layers.ActivationNamed("gelux")
	require.ErrorContains(t, err, `"gelux" is unknown; known are gelu`)
}

// TestPReLU: slopes of channels on axis 1, a single slope, and the gradient of the slopes.
func TestPReLU(t *testing.T) {
	x, err := tensor.Of([]float32{1, -2, 3, -4, -5, 6, -7, -8}, 2, 2, 2) // (N, C, L)
	require.NoError(t, err)
	for channels, want := range map[int]struct{ y, slope []float64 }{
		1: {[]float64{1, -0.5, 3, -1, -1.25, 6, -1.75, -2}, []float64{-2 - 4 - 5 - 7 - 8}},
		2: {[]float64{1, -0.5, 3, -1, -1.25, 6, -1.75, -2}, []float64{-2 - 5, -4 - 7 - 8}},
	} {
		src := layers.NewSource(layers.Options{})
		p := layers.NewPReLU(src, channels)
		store := newStore(t)
		require.NoError(t, src.Load(store))
		g := graph.New("g")
		in := g.Input("x", x.Type())
		y := p.Forward(in)
		grads, err := autograd.Grad(ops.Sum(y), p.Weight)
		require.NoError(t, err)
		plan, err := plan.Compile([]graph.Value{y, grads[0]}, plan.Options{Device: store.Device(), Store: store})
		require.NoError(t, err)
		res, err := plan.Run(t.Context(), map[graph.Value]any{in: x})
		require.NoError(t, err)
		for i, w := range want.y {
			require.InDelta(t, w, res.Tensor(y).At(i), 1e-6)
		}
		for i, w := range want.slope {
			require.InDelta(t, w, res.Tensor(grads[0]).At(i), 1e-5)
		}
		require.NoError(t, plan.Close())
	}
	require.Equal(t, []string{"weight"}, names(layers.NewPReLU(layers.NewSource(layers.Options{}), 3)))
}
