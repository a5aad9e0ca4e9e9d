package lora_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestWithoutInit: what an adapter trains begins at values that Init gives it. A step before that is refused: zeros in the place of a head, a
// token or a magnitude would be trained without a word.
func TestWithoutInit(t *testing.T) {
	type model struct {
		Embed *layers.Embedding `name:"embed_tokens"`
		Up    layers.Projection `name:"up_proj"`
		Head  layers.Projection `name:"lm_head"`
	}
	for name, c := range map[string]struct {
		cfg  lora.Config
		lack string
		by   func(m *model, g *graph.Graph) graph.Value
	}{
		"head": {lora.Config{ModulesToSave: []string{"lm_head"}}, "lm_head.modules_to_save.weight f32[5,4]", func(m *model, g *graph.Graph) graph.Value {
			return m.Head.Forward(g.Const(tensor.New(tensor.T(tensor.F32, 2, 4))))
		}},
		"token": {lora.Config{Tokens: map[string][]int{"": {1}}}, "trainable_tokens_delta f32[1,4]", func(m *model, g *graph.Graph) graph.Value {
			return m.Embed.Forward(g.Const(tensor.New(tensor.T(tensor.I32, 2))))
		}},
		"factors": {lora.Config{DoRA: true}, "(and 2 more like it)", func(m *model, g *graph.Graph) graph.Value {
			return m.Up.Forward(g.Const(tensor.New(tensor.T(tensor.F32, 2, 4))))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			src := layers.NewSource(layers.Options{})
			m := &model{layers.NewEmbedding(src.Sub("embed_tokens"), 7, 4, layers.Normal(1)), src.Linear("up_proj", 4, 4, false), src.Linear("lm_head", 4, 5, false)}
			store := plan.NewStore(cpu.New(cpu.Options{Threads: 1}))
			require.NoError(t, src.Load(store))
			a, err := lora.Attach(m, c.cfg)
			require.NoError(t, err)
			g := graph.New("step")
			p, err := plan.Compile([]graph.Value{c.by(m, g)}, plan.Options{Store: store})
			require.NoError(t, err)
			_, err = p.Run(t.Context(), nil)
			require.ErrorContains(t, err, c.lack)
			require.ErrorContains(t, err, "has no value in the plan's store")
			for what, err := range map[string]error{"save": a.Save(nil, t.TempDir(), store, lora.SaveInfo{}), "merge": a.Merge(store)} {
				require.ErrorContains(t, err, "has no value", what)
			}
			require.ErrorContains(t, a.Init(nil), "give the plan.Store")
			require.ErrorContains(t, a.Save(nil, t.TempDir(), nil, lora.SaveInfo{}), "give the plan.Store")
			require.ErrorContains(t, a.Merge(nil), "give the plan.Store")
			var none *plan.Store
			for what, err := range map[string]error{"init": a.Init(none), "save": a.Save(nil, t.TempDir(), none, lora.SaveInfo{}), "merge": a.Merge(none)} {
				require.ErrorContains(t, err, "make it with NewStore(device)", what)
			}
			require.NoError(t, a.Init(store))
			_, err = p.Run(t.Context(), nil)
			require.NoError(t, err)
			require.NoError(t, p.Close())
			require.NoError(t, store.Close())
		})
	}
}
