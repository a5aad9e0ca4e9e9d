package cuda

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// gated is a block in 4 bits: a projection, and a gated layer of its result beside a residual.
type gated struct {
	In   layers.Projection `name:"in_proj"`
	Gate layers.Projection `name:"gate_proj"`
	Up   layers.Projection `name:"up_proj"`
	Down layers.Projection `name:"down_proj"`
}

func (m *gated) forward(x graph.Value) graph.Value {
	h := ops.Tanh(m.In.Forward(x))
	return ops.Add(h, m.Down.Forward(ops.Mul(ops.Sigmoid(m.Gate.Forward(h)), m.Up.Forward(h))))
}

// trainGated fits a block with adapters to targets by gradient descent, from an adapter that changes nothing, and returns the losses, what A and B became, and
// how many products they were folded into.
func trainGated(t *testing.T, d *Device, fold bool) (losses []float64, params []*tensor.Tensor, folded int) {
	t.Helper()
	const steps, width, inner, tokens, dtype = 6, 64, 128, 512, tensor.BF16
	src := layers.NewSource(layers.Options{Seed: 3, Quantize: func(string) (quant.Config, bool) {
		return quant.Config{Scheme: quant.NF4, Blocksize: 64, Double: true}, true
	}})
	m := &gated{src.Linear("in_proj", width, width, false), src.Linear("gate_proj", width, inner, true), src.Linear("up_proj", width, inner, false), src.Linear("down_proj", inner, width, false)}
	store := plan.NewStore(d)
	defer func() { require.NoError(t, store.Close()) }()
	require.NoError(t, src.Load(store))
	a, err := lora.Attach(m, lora.Config{Rank: 4, Alpha: 8, Seed: 7})
	require.NoError(t, err)
	require.NoError(t, a.Init(store))

	g := graph.New("gated")
	x, to := g.Input("x", tensor.T(dtype, 2, tokens/2, width)), g.Input("to", tensor.T(tensor.F32, 2, tokens/2, width))
	loss := ops.Mean(ops.Square(ops.Sub(ops.Cast(m.forward(x), tensor.F32), to)))
	vars := a.Vars()
	grads, err := autograd.Grad(loss, vars...)
	require.NoError(t, err)
	for i, v := range vars {
		g.Write(v, ops.Sub(g.Read(v), ops.Scale(grads[i], 12)))
	}
	p, err := plan.Compile([]graph.Value{loss}, plan.Options{Device: d, Store: store, Fold: fold})
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	rng := rand.New(rand.NewPCG(6, 2))
	feed := plan.Feed{x: normal(dtype, rng, 2, tokens/2, width), to: normal(tensor.F32, rng, 2, tokens/2, width)}
	for i := range tokens * width {
		feed[to].(*tensor.Tensor).Set(i, 0.5*feed[x].(*tensor.Tensor).At(i))
	}
	for range steps {
		res, err := p.Run(t.Context(), feed)
		require.NoError(t, err)
		losses = append(losses, res.Tensor(loss).At(0))
	}
	for _, v := range vars {
		x, err := store.Get(v)
		require.NoError(t, err)
		params = append(params, x)
	}
	return losses, params, p.Report().Folded
}

// TestFoldedTraining: a block learns as well with adapters in its weights as with adapters beside them, to the noise of 16 bits.
func TestFoldedTraining(t *testing.T) {
	d := testDevice(t)
	want, apart, none := trainGated(t, d, false)
	got, within, some := trainGated(t, d, true)
	require.Zero(t, none)
	require.Equal(t, 7, some, "four products, and the gradients of what three of them read")
	require.InEpsilon(t, want[0], got[0], 1e-5, "an adapter that adds nothing changes the order of sums at most")
	require.Less(t, got[len(got)-1], 0.9*got[0], "it learns")
	for i := range want {
		require.InEpsilon(t, want[i], got[i], 5e-4, "step %d of %v and %v", i, want, got)
	}
	for i := range apart {
		var diff, norm float64
		for k := range apart[i].Type().Size() {
			e := apart[i].At(k) - within[i].At(k)
			diff, norm = diff+e*e, norm+apart[i].At(k)*apart[i].At(k)
		}
		require.Less(t, diff, 1e-3*norm, "variable %d", i)
	}
}
