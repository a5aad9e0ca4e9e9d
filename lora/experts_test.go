package lora_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// sparse is a tiny mixture of experts with random weights; layer 1 of three has a plain MLP.
func sparse(t *testing.T, quantize func(string) (quant.Config, bool)) (*models.Model, *plan.Store) {
	t.Helper()
	c := models.Config{Type: "qwen3_moe", Vocab: 13, Hidden: 16, Intermediate: 20, Layers: 3, Heads: 2, KVHeads: 1, HeadDim: 8, MaxPositions: 16, Eps: 1e-6,
		Rope: models.Rope{Theta: 10000}, InitStd: 0.3, Pad: -1, Mixture: models.Mixture{Experts: 3, PerToken: 2, Hidden: 8, Normalize: true, Dense: []int{1}}}
	src := layers.NewSource(layers.Options{Seed: 5, Quantize: quantize})
	m, err := models.New(c, src)
	require.NoError(t, err)
	store := plan.NewStore(cpu.New(cpu.Options{Threads: 1}))
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	require.NoError(t, src.Load(store))
	return m, store
}

func paths(a *lora.Adapter) []string {
	var out []string
	for _, m := range a.Modules {
		out = append(out, m.Path)
	}
	slices.Sort(out)
	return out
}

func TestExpertTargets(t *testing.T) {
	sparsePaths := func(names ...string) []string {
		var out []string
		for _, n := range names {
			out = append(out, "model.layers.0."+n, "model.layers.2."+n)
		}
		slices.Sort(out)
		return out
	}
	attention := []string{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"}
	every := sparsePaths(append([]string{"mlp.gate", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"}, attention...)...)
	for _, n := range attention {
		every = append(every, "model.layers.1."+n)
	}
	slices.Sort(every)
	for _, c := range []struct {
		name string
		cfg  lora.Config
		want []string
		rank int // of gate_up_proj
	}{
		{"all-linear", lora.Config{Rank: 3}, every, 6}, // as in PEFT, whose lists cannot mean the MLP of layer 1
		{"parts", lora.Config{Rank: 3, Targets: lora.Targets{Names: []string{"gate_proj", "up_proj"}}}, sparsePaths("mlp.experts.gate_up_proj"), 6},
		{"fused", lora.Config{Rank: 3, Targets: lora.Targets{Names: []string{"experts.gate_up_proj"}}}, sparsePaths("mlp.experts.gate_up_proj"), 3},
		{"parameters", lora.Config{Rank: 3, Targets: lora.Targets{Names: []string{"gate"}}, Parameters: []string{"down_proj"}}, sparsePaths("mlp.experts.down_proj", "mlp.gate"), 0},
		{"pattern of parts", lora.Config{Rank: 3, Targets: lora.Targets{Pattern: `.*\.2\..*(gate|up)_proj`}}, []string{"model.layers.2.mlp.experts.gate_up_proj"}, 6},
		{"layers", lora.Config{Rank: 3, Layers: []int{2}, Targets: lora.Targets{Names: []string{"down_proj", "gate"}}}, []string{"model.layers.2.mlp.experts.down_proj", "model.layers.2.mlp.gate"}, 0},
		{"own rank", lora.Config{Rank: 3, RankPattern: map[string]int{"gate_up_proj": 5}, Exclude: []string{"down_proj", "gate"}, Targets: lora.Targets{Pattern: ".*experts.*"}},
			sparsePaths("mlp.experts.gate_up_proj"), 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, store := sparse(t, nil)
			a, err := lora.Attach(m, c.cfg)
			require.NoError(t, err)
			require.Equal(t, c.want, paths(a))
			for _, x := range a.Modules {
				if strings.HasSuffix(x.Path, "gate_up_proj") {
					require.Equal(t, c.rank, x.Rank())
					require.Equal(t, []int{3 * c.rank, 16}, x.A.Type.Shape.Dims())
					require.Equal(t, []int{16, 3 * c.rank}, x.B.Type.Shape.Dims())
				}
			}
			require.NoError(t, a.Init(store))
			dir := save(t, a, store)
			saved, err := lora.Load(vfs.OS{}, dir)
			require.NoError(t, err)
			require.Equal(t, c.want, saved.Modules())
			other, otherStore := sparse(t, nil)
			b, err := lora.AttachSaved(other, saved, otherStore)
			require.NoError(t, err)
			require.Equal(t, c.want, paths(b))
			again := save(t, b, otherStore)
			sameFile(t, dir, again, "adapter_model.safetensors")
			sameFile(t, dir, again, "adapter_config.json")
		})
	}
}

func TestExpertRefusals(t *testing.T) {
	for _, c := range []struct {
		cfg  lora.Config
		want string
	}{
		{lora.Config{Dropout: 0.1}, "no dropout"}, {lora.Config{DoRA: true}, "no DoRA"}, {lora.Config{BBias: true}, "no a bias on B"}, {lora.Config{Init: lora.InitPiSSA}, `"pissa"`},
		{lora.Config{Targets: lora.Targets{Names: []string{"gate_proj"}}}, "leave out up_proj"},
		{lora.Config{Targets: lora.Targets{Names: []string{"w1", "w3"}}}, "match none"},
	} {
		m, _ := sparse(t, nil)
		before := layers.Params(m)
		_, err := lora.Attach(m, c.cfg)
		require.ErrorContains(t, err, c.want)
		require.Equal(t, before, layers.Params(m), "the model is as it was")
	}
	m, store := sparse(t, nil)
	a, err := lora.Attach(m, lora.Config{Rank: 2})
	require.NoError(t, err)
	require.NoError(t, a.Init(store))
	dir := save(t, a, store)
	for _, c := range []struct{ old, new, want string }{
		{`"down_proj"`, `"router"`, "no weight of experts"},
		{`"target_parameters": [`, `"target_parameters": "gate_up_proj", "x": [`, "list of names"},
		{`gate_up_proj": 4`, `gate_up_proj": 5`, "rank"},
	} {
		raw, err := os.ReadFile(filepath.Join(dir, "adapter_config.json"))
		require.NoError(t, err)
		require.Contains(t, string(raw), c.old)
		bad := t.TempDir()
		weights, err := os.ReadFile(filepath.Join(dir, "adapter_model.safetensors"))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(bad, "adapter_model.safetensors"), weights, 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(bad, "adapter_config.json"), []byte(strings.ReplaceAll(string(raw), c.old, c.new)), 0o600))
		_, err = lora.Load(vfs.OS{}, bad)
		require.ErrorIs(t, err, checkpoint.ErrFormat)
		require.ErrorContains(t, err, c.want)
	}
	saved, err := lora.Load(vfs.OS{}, dir)
	require.NoError(t, err)
	_, err = saved.Pairs()
	require.ErrorContains(t, err, "merge it into the model")
	dense, _ := newNet(t)
	_, err = lora.AttachSaved(dense, saved, nil)
	require.ErrorContains(t, err, "the model has no")
}

// TestAdapterOnQuantizedExperts trains beside experts in 4 bits and int8; a merge gives what quantizing the sum of both gives.
func TestAdapterOnQuantizedExperts(t *testing.T) {
	for _, cfg := range []quant.Config{{Scheme: quant.NF4, Double: true}, {Scheme: quant.Int8}} {
		t.Run(cfg.Name(), func(t *testing.T) {
			m, store := sparse(t, func(name string) (quant.Config, bool) { return cfg, strings.Contains(name, "experts") })
			a, err := lora.Attach(m, lora.Config{Rank: 2, Alpha: 6, Targets: lora.Targets{Names: []string{"experts.gate_up_proj", "experts.down_proj"}}})
			require.NoError(t, err)
			require.NoError(t, a.Init(store))
			for _, x := range a.Modules {
				require.NoError(t, store.Set(x.B, layers.Normal(0.1).Value(5, x.B)))
			}
			ids := []int32{1, 5, 9, 12, 3, 3, 7}
			apart := logits(t, m, store, ids)
			checkAdapterGradients(t, m, store, a, ids)
			var q *layers.Quantized
			for _, p := range layers.Params(m) {
				if p.Name == a.Modules[0].Path {
					q = p.Quantized
				}
			}
			mergesQuantized(t, a, store, q, cfg)
			require.NotEqual(t, apart, logits(t, m, store, ids))
		})
	}
}

// checkAdapterGradients compares gradients of A and B with central differences, in float32 and so coarsely.
func checkAdapterGradients(t *testing.T, m *models.Model, store *plan.Store, a *lora.Adapter, ids []int32) {
	t.Helper()
	g := graph.New("loss")
	row := func(v []int32) graph.Value {
		x, err := tensor.Of(v, 1, len(v))
		require.NoError(t, err)
		return g.Const(x)
	}
	pos := make([]int32, len(ids))
	for i := range pos {
		pos[i] = int32(i)
	}
	targets := append(slices.Clone(ids[1:]), 2)
	loss := ops.Sum(m.TokenLoss(m.Hidden(models.Inputs{Tokens: row(ids), Pos: row(pos)}), row(targets)))
	grads, err := autograd.Grad(loss, a.Vars()...)
	require.NoError(t, err)
	p, err := plan.Compile(append([]graph.Value{loss}, grads...), plan.Options{Device: store.Device(), Session: plan.NewSession(store)})
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	res, err := p.Run(t.Context(), nil)
	require.NoError(t, err)
	for i, v := range a.Vars() {
		grad := res.Tensor(grads[i]).Clone()
		at := 0
		for j := range grad.Type().Size() {
			if x, y := grad.At(j), grad.At(at); x*x > y*y {
				at = j
			}
		}
		require.NotZero(t, grad.At(at), v.Name)
		x, err := store.Get(v)
		require.NoError(t, err)
		const step = 2e-3
		value := func(by float64) float64 {
			y := x.Clone()
			y.Set(at, x.At(at)+by)
			require.NoError(t, store.Set(v, y))
			r, err := p.Run(t.Context(), nil)
			require.NoError(t, err)
			return r.Float(loss)
		}
		slope := (value(step) - value(-step)) / (2 * step)
		require.NoError(t, store.Set(v, x))
		require.InEpsilon(t, grad.At(at), slope, 0.1, "%s[%d]", v.Name, at)
	}
}

// TestGoldenHFAllLinearExperts attaches what PEFT's all-linear means on the families that have an adapter of it: the same configuration.
func TestGoldenHFAllLinearExperts(t *testing.T) {
	dirs, err := filepath.Glob(filepath.Join(golden.Dir(t), "hf", "*", "adapter_lora_experts_init"))
	require.NoError(t, err)
	for _, dir := range dirs {
		model, store := openBase(t, filepath.Dir(dir))
		a, err := lora.Attach(model, lora.Config{Rank: 4, Alpha: 8})
		require.NoError(t, err)
		require.NoError(t, a.Init(store))
		want, got := readConfig(t, filepath.Join(dir, "adapter_config.json")), readConfig(t, filepath.Join(save(t, a, store), "adapter_config.json"))
		for _, key := range []string{"target_modules", "target_parameters"} {
			require.ElementsMatch(t, want[key], got[key])
		}
		for _, key := range []string{"rank_pattern", "alpha_pattern", "r", "lora_alpha"} {
			require.Equal(t, want[key], got[key], key)
		}
		saved, err := lora.Load(vfs.OS{}, dir)
		require.NoError(t, err)
		modules := paths(a)
		require.Equal(t, saved.Modules(), modules)
	}
	t.Logf("%d adapters ran", len(dirs))
}
