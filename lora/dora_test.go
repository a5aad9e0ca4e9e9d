package lora_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// denseDoRA is DoRA as its paper writes it, with the whole weight: m/‖W+sBA‖ of each row times (W+sBA)·x, the norm a constant.
func denseDoRA(x, w, a, b, mag, bias graph.Value, scale float64) graph.Value {
	sum := ops.Add(w, ops.Scale(ops.Dot(b, a), scale))
	norm := autograd.StopGrad(ops.Sqrt(ops.Sum(ops.Square(sum), 1)))
	rows := ops.Mul(sum, ops.Reshape(ops.Div(mag, norm), mag.Dim(0), 1))
	return ops.Add(ops.Linear(x, rows), bias)
}

// On every kind of base, DoRA and its gradients are those of the formula on the weight that the base stands for.
func TestDoRAOnAnyBase(t *testing.T) {
	const in, out = 64, 24
	bases := map[string]*quant.Config{"dense": nil, "nf4": {Scheme: quant.NF4, Blocksize: 64, Double: true}, "fp4": {Scheme: quant.FP4, Blocksize: 64},
		"int8": {Scheme: quant.Int8}}
	for name, cfg := range bases {
		t.Run(name, func(t *testing.T) {
			o := layers.Options{Seed: 3}
			if cfg != nil {
				o.Quantize = func(string) (quant.Config, bool) { return *cfg, true }
			}
			src := layers.NewSource(o)
			m := &quantizedNet{src.Linear("up_proj", in, out, true)}
			store := plan.NewStore(cpu.New(cpu.Options{Threads: 1}))
			defer func() { require.NoError(t, store.Close()) }()
			require.NoError(t, src.Load(store))
			a, err := lora.Attach(m, lora.Config{Rank: 3, Alpha: 6, DoRA: true})
			require.NoError(t, err)
			require.NoError(t, a.Init(store))
			disturb(t, a, store)
			mod := a.Modules[0]
			w, ok := mod.Base().(layers.Weighted)
			require.True(t, ok)
			weight, err := w.ReadWeight(store)
			require.NoError(t, err)

			g := graph.New("dora")
			x := g.Const(layers.Normal(1).Value(1, graph.NewVar("x", tensor.T(tensor.F32, 6, in))))
			want := denseDoRA(x, g.Const(weight), g.Read(mod.A), g.Read(mod.B), g.Read(mod.Magnitude), g.Read(w.BiasVar()), mod.Scale)
			got := m.Up.Forward(x)
			if name == "int8" { // whose own product rounds x: that part is not DoRA's
				got = ops.Sub(got, ops.Sub(mod.Base().Forward(x), ops.Add(w.MatMul(x), g.Read(w.BiasVar()))))
			}
			outs := []graph.Value{got, want}
			for _, y := range []graph.Value{got, want} {
				grads, err := autograd.Grad(ops.Sum(ops.Square(y)), a.Vars()...)
				require.NoError(t, err)
				outs = append(outs, grads...)
			}
			p, err := plan.Compile(outs, plan.Options{Device: store.Device(), Session: plan.NewSession(store)})
			require.NoError(t, err)
			res, err := p.Run(t.Context(), nil)
			require.NoError(t, err)
			limit := 2e-4
			if name == "int8" {
				limit = 2e-2 // the factors multiply the rounded product
			}
			n := len(a.Vars())
			require.InDeltaSlice(t, res.Tensor(want).Float32s(), res.Tensor(got).Float32s(), limit)
			for i, v := range a.Vars() {
				g, d := res.Tensor(outs[2+i]).Float32s(), res.Tensor(outs[2+n+i]).Float32s()
				if name == "int8" {
					continue
				}
				require.InDeltaSlice(t, d, g, limit, v.Name)
			}
			require.NoError(t, p.Close())
		})
	}
}

// Rows of one batch that have another adapter each, both or none give what each row gives alone.
func TestAdaptersByRow(t *testing.T) {
	base := filepath.Join(golden.Dir(t), "hf", "llama")
	model, store := openBase(t, base)
	loadBase(t, base, model, store)
	a, err := lora.AttachNamed(model, "a", lora.Config{Rank: 2, Embeddings: true})
	require.NoError(t, err)
	b, err := lora.AttachNamed(model, "b", lora.Config{Rank: 3, DoRA: true, Targets: lora.Targets{Names: []string{"q_proj", "down_proj"}}})
	require.NoError(t, err)
	for _, x := range []*lora.Adapter{a, b} {
		require.NoError(t, x.Init(store))
		disturb(t, x, store)
	}
	ids := []int32{1, 25, 50, 8, 11}
	var want []float32
	has := [][2]bool{{true, false}, {false, true}, {true, true}, {false, false}}
	for _, h := range has {
		a.SetActive(h[0])
		b.SetActive(h[1])
		want = append(want, logits(t, model, store, ids)...)
	}
	a.SetActive(true)
	b.SetActive(true)

	g := graph.New("rows")
	var tokens, pos []int32
	for range has {
		tokens, pos = append(tokens, ids...), append(pos, 0, 1, 2, 3, 4)
	}
	constant := func(x any) graph.Value {
		var y *tensor.Tensor
		var err error
		switch x := x.(type) {
		case []int32:
			y, err = tensor.Of(x, len(has), len(ids))
		case []float32:
			y, err = tensor.Of(x, len(has))
		}
		require.NoError(t, err)
		return g.Const(y)
	}
	a.Rows, b.Rows = constant([]float32{1, 0, 1, 0}), constant([]float32{0, 1, 1, 0})
	y := model.Logits(model.Hidden(models.Inputs{Tokens: constant(tokens), Pos: constant(pos)}))
	p, err := plan.Compile([]graph.Value{y}, plan.Options{Device: store.Device(), Session: plan.NewSession(store)})
	require.NoError(t, err)
	res, err := p.Run(t.Context(), nil)
	require.NoError(t, err)
	require.InDeltaSlice(t, want, res.Tensor(y).Float32s(), 1e-5)
	require.NoError(t, p.Close())

	a.Rows = constant([]float32{1, 0, 1, 0, 1}[:4])
	c, err := lora.AttachNamed(model, "c", lora.Config{Rank: 2, ModulesToSave: []string{"lm_head"}})
	require.NoError(t, err)
	c.Rows = a.Rows
	model.Hidden(models.Inputs{Tokens: constant(tokens), Pos: constant(pos)})
	require.ErrorContains(t, g.Err(), "the same for all rows of a batch")
}
