package lora_test

import (
	"math"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// attachNamed puts an adapter with values on the small model.
func attachNamed(t *testing.T, m *net, store *plan.Store, name string, cfg lora.Config) *lora.Adapter {
	t.Helper()
	a, err := lora.AttachNamed(m, name, cfg)
	require.NoError(t, err)
	require.NoError(t, a.Init(store))
	disturb(t, a, store)
	return a
}

func plus(x, y []float32, f float32) []float32 {
	out := make([]float32, len(x))
	for i := range x {
		out[i] = x[i] + f*y[i]
	}
	return out
}

// Two adapters on the head, whose outputs add up: each alone, both, neither, one of them merged, one removed.
func TestSeveralAdapters(t *testing.T) {
	m, store := newNet(t)
	plain := forward(t, m, store)
	head := lora.Targets{Names: []string{"lm_head"}}
	a := attachNamed(t, m, store, "a", lora.Config{Rank: 2, Targets: head})
	onlyA := forward(t, m, store)
	b := attachNamed(t, m, store, "b", lora.Config{Rank: 3, Targets: lora.Targets{Names: []string{"lm_head"}}, DoRA: true})
	both := forward(t, m, store)
	require.Equal(t, b.Vars(), layers.Trainable(m), "the last one is trained")
	require.Contains(t, paramNames(m), "lm_head.lora_A.weight.a")
	require.Contains(t, paramNames(m), "lm_head.lora_magnitude_vector.b")
	_, err := lora.AttachNamed(m, "b", lora.Config{Targets: head})
	require.ErrorContains(t, err, `already has an adapter of the name "b"`)

	a.SetActive(false)
	onlyB := forward(t, m, store)
	require.InDeltaSlice(t, plus(plus(onlyA, onlyB, 1), plain, -1), both, 1e-5)
	b.SetActive(false)
	require.Equal(t, plain, forward(t, m, store))
	a.Use(a, b)
	require.Equal(t, onlyA, forward(t, m, store))
	require.Equal(t, a.Vars(), layers.Trainable(m))

	b.SetActive(true)
	require.ErrorContains(t, a.Merge(store), `DoRA adapter "b"`)
	require.NoError(t, b.Merge(store))
	require.InDeltaSlice(t, both, forward(t, m, store), 1e-5, "one lies in the weights, the other beside them")
	require.NoError(t, a.Merge(store))
	require.InDeltaSlice(t, both, forward(t, m, store), 1e-5)
	require.ErrorContains(t, b.Unmerge(store), `the adapter "a" was merged into the same weight later`)
	require.InDeltaSlice(t, both, forward(t, m, store), 1e-5)
	require.NoError(t, a.Unmerge(store))
	require.NoError(t, b.Unmerge(store))
	require.InDeltaSlice(t, both, forward(t, m, store), 1e-5)

	require.NoError(t, b.Remove(store))
	require.InDeltaSlice(t, onlyA, forward(t, m, store), 1e-5)
	require.NoError(t, a.Merge(store))
	require.NoError(t, a.Remove(store))
	require.InDeltaSlice(t, onlyA, forward(t, m, store), 1e-5, "a merged adapter stays in the weights")
	require.IsType(t, &layers.Linear{}, m.Head)
}

func TestCombine(t *testing.T) {
	m, store := newNet(t)
	plain := forward(t, m, store)
	head, other := lora.Targets{Names: []string{"lm_head"}}, lora.Targets{Names: []string{"lm_head", "down_proj"}}
	a := attachNamed(t, m, store, "a", lora.Config{Rank: 2, Alpha: 6, Targets: head})
	onlyA := forward(t, m, store)
	a.SetActive(false)
	b := attachNamed(t, m, store, "b", lora.Config{Rank: 2, Alpha: 2, Targets: head})
	onlyB := forward(t, m, store)
	want := plus(plus(plus(plain, onlyA, 0.7), onlyB, -0.4), plain, -0.3)
	alone := func(c lora.Combination) []float32 {
		t.Helper()
		out, err := lora.Combine(m, "sum", c, store)
		require.NoError(t, err)
		out.Use(a, b, out)
		y := forward(t, m, store)
		dir := t.TempDir()
		require.NoError(t, out.Save(vfs.OS{}, dir, store, lora.SaveInfo{}))
		require.NoError(t, out.Remove(store))
		saved, err := lora.Load(vfs.OS{}, dir)
		require.NoError(t, err)
		again, err := lora.AttachSavedNamed(m, "again", saved, store)
		require.NoError(t, err)
		require.Equal(t, y, forward(t, m, store), "it is saved like any other")
		require.NoError(t, again.Remove(store))
		return y
	}
	c := lora.Combination{Adapters: []*lora.Adapter{a, b}, Weights: []float64{0.7, -0.4}}
	require.InDeltaSlice(t, want, alone(c), 1e-5)
	c.Kind, c.Rank = lora.SVD, 4
	require.InDeltaSlice(t, want, alone(c), 1e-5, "a rank that holds the sum")
	c.Kind, c.Rank = lora.LinearSum, 0
	c.Adapters, c.Weights = []*lora.Adapter{a}, []float64{-0.5}
	require.InDeltaSlice(t, plus(plus(plain, onlyA, -0.5), plain, 0.5), alone(c), 1e-5, "one adapter: its output")

	three := attachNamed(t, m, store, "three", lora.Config{Rank: 3, Targets: other})
	dora := attachNamed(t, m, store, "dora", lora.Config{Rank: 3, Targets: other, DoRA: true})
	for says, c := range map[string]lora.Combination{
		"give each a weight": {Adapters: []*lora.Adapter{a}},
		"use cat or svd":     {Adapters: []*lora.Adapter{a, three}, Weights: []float64{1, 1}, Kind: lora.LinearSum},
		"cannot be added up": {Adapters: []*lora.Adapter{a, dora}, Weights: []float64{1, 1}},
		"is not known":       {Adapters: []*lora.Adapter{a}, Weights: []float64{1}, Kind: "ties"},
		"with svd only":      {Adapters: []*lora.Adapter{a}, Weights: []float64{1}, Rank: 3},
	} {
		_, err := lora.Combine(m, "x", c, store)
		require.ErrorContains(t, err, says)
	}
	c = lora.Combination{Adapters: []*lora.Adapter{a, three}, Weights: []float64{1, 1}}
	out, err := lora.Combine(m, "x", c, store)
	require.NoError(t, err)
	require.Len(t, out.Modules, 3, "modules that only one of them has are there")

	require.NoError(t, three.Remove(store))
	_, err = lora.Combine(m, "y", lora.Combination{Adapters: []*lora.Adapter{three, a}, Weights: []float64{1, 1}, Kind: lora.LinearSum}, store)
	require.ErrorContains(t, err, "has no modules")
}

// A combination of adapters of routers is written down as one, so that PEFT finds them.
func TestCombineRouters(t *testing.T) {
	m, store := sparse(t, nil)
	var list []*lora.Adapter
	for _, name := range []string{"a", "b"} {
		a, err := lora.AttachNamed(m, name, lora.Config{Rank: 2, Targets: lora.Targets{Names: []string{"gate", "q_proj"}}})
		require.NoError(t, err)
		require.NoError(t, a.Init(store))
		disturb(t, a, store)
		list = append(list, a)
	}
	dirs := make([]string, 2)
	sum, err := lora.Combine(m, "sum", lora.Combination{Adapters: list, Weights: []float64{1, -2}}, store)
	require.NoError(t, err)
	for i, a := range []*lora.Adapter{list[0], sum} {
		dirs[i] = save(t, a, store)
	}
	alone, both := readConfig(t, filepath.Join(dirs[0], "adapter_config.json")), readConfig(t, filepath.Join(dirs[1], "adapter_config.json"))
	require.Equal(t, []any{"gate.weight"}, both["target_parameters"])
	require.Equal(t, alone["target_parameters"], both["target_parameters"])
	require.Equal(t, alone["target_modules"], both["target_modules"])
	saved, err := lora.Load(vfs.OS{}, dirs[1])
	require.NoError(t, err)
	require.Equal(t, paths(sum), saved.Modules())
}

// A merge that is refused leaves what was trained whole, and the weights, as they were.
func TestMergeRefusedWhole(t *testing.T) {
	m, store := newNet(t)
	a := attachNamed(t, m, store, "", lora.Config{Rank: 2, Bias: lora.BiasAll, Targets: lora.Targets{Names: []string{"down_proj"}}})
	want := forward(t, m, store)
	vars := a.Vars()
	last := vars[len(vars)-1]
	kept, err := store.Get(last)
	require.NoError(t, err)
	broken := tensor.New(last.Type)
	broken.Set(0, math.NaN())
	require.NoError(t, store.Set(last, broken))
	require.ErrorContains(t, a.Merge(store), "layers.1.down_proj")
	require.NoError(t, store.Set(last, kept))
	require.Equal(t, want, forward(t, m, store))
	require.False(t, a.Merged())
	require.NoError(t, a.Merge(store))
	require.InDeltaSlice(t, want, forward(t, m, store), 1e-5)
}

// A head and an embedding that are one table part where one of them is trained; merging, unmerging and removing keep what the model computes.
func TestTiedModels(t *testing.T) {
	base := filepath.Join(golden.Dir(t), "hf", "qwen2")
	ids := []int32{1, 25, 50, 8, 11}
	for name, cfg := range map[string]lora.Config{
		"head":      {ModulesToSave: []string{"lm_head"}},
		"embedding": {ModulesToSave: []string{"embed_tokens"}},
		"tokens":    {Tokens: map[string][]int{"": {25, 50, 3}}},
		"both":      {ModulesToSave: []string{"embed_tokens", "lm_head"}},

		"adapted":        {Embeddings: true},
		"adapted tokens": {Embeddings: true, Tokens: map[string][]int{"": {25, 50, 3}}},
	} {
		t.Run(name, func(t *testing.T) {
			model, store := openBase(t, base)
			loadBase(t, base, model, store)
			plain := logits(t, model, store, ids)
			cfg.Rank = 2
			a, err := lora.Attach(model, cfg)
			require.NoError(t, err)
			require.NoError(t, a.Init(store))
			require.InDeltaSlice(t, plain, logits(t, model, store, ids), 1e-5)
			disturb(t, a, store)
			want := logits(t, model, store, ids)
			a.SetActive(false)
			require.Equal(t, plain, logits(t, model, store, ids))
			require.True(t, model.Config().Tied)
			a.SetActive(true)
			require.NoError(t, a.Merge(store))
			require.InDeltaSlice(t, want, logits(t, model, store, ids), 1e-4)
			a.SetActive(false)
			require.InDeltaSlice(t, want, logits(t, model, store, ids), 1e-4, "it stays in the weights")
			a.SetActive(true)
			require.InDeltaSlice(t, want, logits(t, model, store, ids), 1e-4)
			require.NoError(t, a.Unmerge(store))
			require.InDeltaSlice(t, want, logits(t, model, store, ids), 1e-4)
			a.SetActive(false)
			require.InDeltaSlice(t, plain, logits(t, model, store, ids), 1e-4)
			require.True(t, model.Config().Tied)
			require.NoError(t, a.Merge(store))
			require.InDeltaSlice(t, want, logits(t, model, store, ids), 1e-4, "merged from beside the model")
			require.NoError(t, a.Remove(store))
			require.InDeltaSlice(t, want, logits(t, model, store, ids), 1e-4)
			checkHead(t, model, name == "tokens")
			_, err = lora.Attach(model, lora.Config{Rank: 2, ModulesToSave: []string{"lm_head"}})
			require.NoError(t, err, "the head is the model's")
		})
	}
}

// checkHead compares what a file of the model would hold with what its configuration says.
func checkHead(t *testing.T, model *models.Model, tied bool) {
	t.Helper()
	require.Equal(t, tied, model.Config().Tied)
	own := false
	for _, p := range layers.Params(model) {
		own = own || p.Name == "lm_head.weight"
	}
	require.Equal(t, !tied, own)
}

// What one adapter trains whole stands in the model while it is active; another one that trains the same is put on while it is not.
func TestWholeOfTwoAdapters(t *testing.T) {
	base := filepath.Join(golden.Dir(t), "hf", "qwen2")
	ids := []int32{1, 25, 50, 8, 11}
	for _, cfg := range []lora.Config{{ModulesToSave: []string{"lm_head"}}, {ModulesToSave: []string{"embed_tokens", "norm"}}, {Bias: lora.BiasAll},
		{Tokens: map[string][]int{"": {25, 50}}}} {
		model, store := openBase(t, base)
		loadBase(t, base, model, store)
		plain := logits(t, model, store, ids)
		cfg.Rank = 2
		var list []*lora.Adapter
		var alone [][]float32
		for _, name := range []string{"a", "b"} {
			c := cfg
			if cfg.Tokens != nil && name == "b" {
				c.Tokens = map[string][]int{"": {8}}
			}
			if len(list) > 0 {
				_, err := lora.AttachNamed(model, name, c)
				require.ErrorContains(t, err, "SetActive(false)")
				require.Equal(t, alone[0], logits(t, model, store, ids), "what was refused left nothing")
				require.ElementsMatch(t, list[0].Vars(), layers.Trainable(model))
				list[0].SetActive(false)
			}
			a, err := lora.AttachNamed(model, name, c)
			require.NoError(t, err)
			require.NoError(t, a.Init(store))
			disturb(t, a, store)
			list, alone = append(list, a), append(alone, logits(t, model, store, ids))
		}
		list[0].Use(list...)
		require.Equal(t, alone[0], logits(t, model, store, ids))
		list[1].Use(list...)
		require.Equal(t, alone[1], logits(t, model, store, ids))
		list[1].SetActive(false)
		require.Equal(t, plain, logits(t, model, store, ids))
		require.NoError(t, list[0].Remove(store))
		require.NoError(t, list[1].Remove(store))
		require.Equal(t, plain, logits(t, model, store, ids))
	}
}
