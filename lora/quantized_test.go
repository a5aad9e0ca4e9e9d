package lora_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// quantizedNet is a layer of any kind.
type quantizedNet struct {
	Up layers.Projection `name:"up_proj"`
}

// On a quantized layer an adapter gets gradients, and a merge gives what quantizing the sum of both gives.
func TestAdapterOnQuantizedLayers(t *testing.T) {
	for _, cfg := range []quant.Config{{Scheme: quant.NF4, Blocksize: 64, Double: true}, {Scheme: quant.FP4, Blocksize: 64}, {Scheme: quant.Int8, Threshold: 6}} {
		t.Run(cfg.Name(), func(t *testing.T) {
			src := layers.NewSource(layers.Options{Seed: 3, Quantize: func(string) (quant.Config, bool) { return cfg, true }})
			m := &quantizedNet{src.Linear("up_proj", 48, 20, true)}
			q := layers.Params(m)[0].Quantized
			store := plan.NewStore(cpu.New(cpu.Options{Threads: 1}))
			defer func() { require.NoError(t, store.Close()) }()
			require.NoError(t, src.Load(store))
			a, err := lora.Attach(m, lora.Config{Rank: 2, Alpha: 6})
			require.NoError(t, err)
			require.NoError(t, a.Init(store))
			require.Equal(t, []string{"up_proj.weight", "up_proj.bias", "up_proj.lora_A.weight", "up_proj.lora_B.weight"}, paramNames(m))
			require.NotZero(t, gradientNorm(t, store, m, a.Modules[0].B))

			l := a.Modules[0]
			require.NoError(t, store.Set(l.B, layers.Normal(0.1).Value(5, l.B)))
			mergesQuantized(t, a, store, q, cfg)
		})
	}
}

// mergesQuantized merges an adapter whose first module lies on q, and requires what quantizing the sum of weight and change gives.
func mergesQuantized(t *testing.T, a *lora.Adapter, store *plan.Store, q *layers.Quantized, cfg quant.Config) {
	t.Helper()
	before, err := q.State(store)
	require.NoError(t, err)
	sum, err := before.Dequantize(tensor.F32)
	require.NoError(t, err)
	delta, err := a.Modules[0].Delta(store)
	require.NoError(t, err)
	for i, d := range delta {
		sum.Set(i, sum.At(i)+float64(d))
	}
	require.NoError(t, a.Merge(store))
	got, err := q.State(store)
	require.NoError(t, err)
	if cfg.Scheme == quant.Int8 {
		sum, err = sum.Convert(tensor.F16)
		require.NoError(t, err)
	}
	want, err := quant.Quantize(sum, cfg)
	require.NoError(t, err)
	require.Equal(t, want.Codes, got.Codes)
	require.Equal(t, want.Absmax, got.Absmax)
	require.Equal(t, want.AbsmaxU8, got.AbsmaxU8)
}

func paramNames(m any) []string {
	var out []string
	layers.Walk(m, func(p layers.Param) { out = append(out, p.Name) })
	return out
}

// gradientNorm is the sum of squares of the gradient of the sum of squared outputs.
func gradientNorm(t *testing.T, store *plan.Store, m *quantizedNet, v *graph.Var) float64 {
	t.Helper()
	g := graph.New("gradient")
	x := layers.Normal(1).Value(1, graph.NewVar("x", tensor.T(tensor.F32, 6, 48)))
	grads, err := autograd.Grad(ops.Sum(ops.Square(m.Up.Forward(g.Const(x)))), v)
	require.NoError(t, err)
	norm := ops.Sum(ops.Square(grads[0]))
	p, err := plan.Compile([]graph.Value{norm}, plan.Options{Device: store.Device(), Session: plan.NewSession(store)})
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	res, err := p.Run(t.Context(), nil)
	require.NoError(t, err)
	return res.Tensor(norm).At(0)
}
