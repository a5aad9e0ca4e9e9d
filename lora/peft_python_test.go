package lora_test

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// peftScript loads a base model with each of several adapters with PEFT, checks that every tensor of the file was used, and
// prints the logits before and after merging, and where PEFT saved the adapter again.
const peftScript = `
import sys
try:
    import json, tempfile, torch
    from transformers import AutoModelForCausalLM
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import load_file
except ImportError as e:
    print(e)
    sys.exit(42)
bases, adapters, ids = (json.loads(a) for a in sys.argv[1:4])
results = []
for base, adapter in zip(bases, adapters):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    model = PeftModel.from_pretrained(model, adapter)
    file = load_file(adapter + "/adapter_model.safetensors")
    own = get_peft_model_state_dict(model)
    assert sorted(own) == sorted(file), (sorted(own), sorted(file))
    assert all(torch.equal(own[k], file[k]) for k in file)
    out = tempfile.mkdtemp()
    model.save_pretrained(out)
    with torch.no_grad():
        x = torch.tensor([ids])
        apart = model(x).logits.flatten().tolist()
        biased = model.peft_config["default"].lora_bias
        merged = [] if biased else model.merge_and_unload()(x).logits.flatten().tolist()
    results.append({"apart": apart, "merged": merged, "dir": out})
print(json.dumps(results))
`

type peftResult struct {
	Apart, Merged []float64
	Dir           string
}

// TestPEFTLoads lets PEFT itself load adapters that this package saved and compares logits. It needs a python3 with peft,
// transformers and torch, and takes some seconds then.
func TestPEFTLoads(t *testing.T) {
	loadInPEFT(t, "llama",
		lora.Config{Rank: 4, Alpha: 8},
		lora.Config{Rank: 3, Alpha: 5, RSLoRA: true, Targets: lora.Targets{Names: []string{"q_proj", "down_proj"}}, Exclude: []string{"layers.0.mlp.down_proj"}},
		lora.Config{Rank: 2, Dropout: 0.1, Targets: lora.Targets{Pattern: `.*\.layers\.1\.(self_attn\.v|mlp\.up)_proj`}},
	)
}

// TestPEFTLoadsExperts is TestPEFTLoads for adapters on experts and routers.
func TestPEFTLoadsExperts(t *testing.T) {
	loadInPEFT(t, "mixtral",
		lora.Config{Rank: 4, Alpha: 8},
		lora.Config{Rank: 2, Targets: lora.Targets{Names: []string{"q_proj"}}, Parameters: []string{"experts.down_proj"}},
		lora.Config{Rank: 2, RSLoRA: true, Targets: lora.Targets{Names: []string{"q_proj", "w1", "w3"}}},
		lora.Config{Rank: 3, Targets: lora.Targets{Names: []string{"layers.1.mlp.experts.gate_up_proj", "gate"}}},
	)
}

// TestPEFTLoadsVariants is TestPEFTLoads for the variants, where they differ: an own head and a tied one, weights stored (in, out), fused weights,
// scaled embeddings.
func TestPEFTLoadsVariants(t *testing.T) {
	attention := lora.Targets{Names: []string{"q_proj", "v_proj"}}
	tokens := map[string][]int{"": {25, 8, 112}}
	families := map[string][]lora.Config{
		"llama": {
			{Rank: 4, DoRA: true}, {Rank: 4, DoRA: true, RSLoRA: true, Embeddings: true, Targets: attention}, {Rank: 4, BBias: true}, {Rank: 4, Embeddings: true},
			{Rank: 4, Tokens: tokens}, {Rank: 4, ModulesToSave: []string{"lm_head", "norm"}, Targets: attention},
			{Rank: 4, ModulesToSave: []string{"embed_tokens"}}, {Rank: 4, Targets: lora.Targets{Names: []string{"q_proj", "embed_tokens", "lm_head"}}},
			{Rank: 4, RankPattern: map[string]int{"q_proj": 2}, AlphaPattern: map[string]float64{`layers\.1\..*v_proj`: 3.5}},
			{Rank: 4, Layers: []int{1}, LayersPattern: []string{"layers"}, ExcludePattern: ".*k_proj"},
			{Rank: 4, Alpha: 6, Init: lora.InitPiSSA}, {Rank: 4, Alpha: 6, Init: "pissa_niter_2", RSLoRA: true},
			{Rank: 4, Init: lora.InitOLoRA, RankPattern: map[string]int{"q_proj": 2}, Embeddings: true},
			{Rank: 4, Init: lora.InitOrthogonal}, {Rank: 4, Init: lora.InitGaussian, DoRA: true},
		},
		"qwen2": {
			{Rank: 4, ModulesToSave: []string{"lm_head"}}, {Rank: 4, ModulesToSave: []string{"embed_tokens"}}, {Rank: 4, Tokens: tokens},
			{Rank: 4, Bias: lora.BiasAll, Targets: attention}, {Rank: 4, Bias: lora.BiasLoRA, Targets: lora.Targets{Names: []string{"q_proj", "o_proj"}}},
			{Rank: 4, Embeddings: true},
		},
		"gpt2": {{Rank: 4, DoRA: true}, {Rank: 4, Bias: lora.BiasAll}, {Rank: 4, Init: lora.InitPiSSA}, {Rank: 4, Tokens: tokens},
			{Rank: 4, ModulesToSave: []string{"lm_head", "ln_f"}}},
		"phi3":   {{Rank: 4, DoRA: true}, {Rank: 4, Init: lora.InitOLoRA}},
		"gemma3": {{Rank: 4, Embeddings: true}, {Rank: 4, Tokens: tokens}, {Rank: 4, DoRA: true, ModulesToSave: []string{"lm_head"}}},
	}
	for family, configs := range families {
		t.Run(family, func(t *testing.T) { loadInPEFT(t, family, configs...) })
	}
}

// disturb changes everything that an adapter trains.
func disturb(t *testing.T, a *lora.Adapter, store *plan.Store) {
	t.Helper()
	for _, v := range a.Vars() {
		x, err := store.Get(v)
		require.NoError(t, err)
		noise := layers.Normal(0.05).Value(9, v)
		for i := range v.Type.Size() {
			x.Set(i, x.At(i)+noise.At(i))
		}
		require.NoError(t, store.Set(v, x))
	}
}

// TestPEFTLoadsFamilies is TestPEFTLoads for a plain adapter and a DoRA on every family.
func TestPEFTLoadsFamilies(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(golden.Dir(t), "hf", "*", "model.safetensors"))
	require.NoError(t, err)
	var cases []peftCase
	for _, path := range paths {
		raw, err := os.ReadFile(filepath.Join(filepath.Dir(path), "config.json"))
		require.NoError(t, err)
		if c, err := models.ParseConfig(raw); err == nil {
			cases = append(cases, peftCase{filepath.Dir(path), lora.Config{Rank: 4, Alpha: 8}})
			if c.Mixture.Experts == 0 { // PEFT has no DoRA of experts
				cases = append(cases, peftCase{filepath.Dir(path), lora.Config{Rank: 3, DoRA: true}})
			}
		}
	}
	casesInPEFT(t, cases)
}

// loadInPEFT saves adapters of some configurations on a family and compares what PEFT makes of them.
func loadInPEFT(t *testing.T, family string, configs ...lora.Config) {
	t.Helper()
	var cases []peftCase
	for _, c := range configs {
		cases = append(cases, peftCase{filepath.Join(golden.Dir(t), "hf", family), c})
	}
	casesInPEFT(t, cases)
}

// peftCase is an adapter on the model of a folder.
type peftCase struct {
	base string
	cfg  lora.Config
}

func casesInPEFT(t *testing.T, cases []peftCase) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts Python; left out of short runs")
	}
	var bases, dirs []string
	var check []func(r peftResult)
	ids := []int32{1, 25, 50, 8, 11, 34, 72, 99, 112}
	for _, c := range cases {
		base, cfg := c.base, c.cfg
		bases = append(bases, base)
		model, store := openBase(t, base)
		loadBase(t, base, model, store)
		a, err := lora.Attach(model, cfg)
		require.NoError(t, err)
		require.NoError(t, a.Init(store))
		disturb(t, a, store)
		dir := t.TempDir()
		require.NoError(t, a.Save(vfs.OS{}, dir, store, lora.SaveInfo{BaseModel: base}))
		dirs = append(dirs, dir)
		check = append(check, func(r peftResult) {
			t.Logf("%s, %d modules: logits differ from PEFT's by %.1e", filepath.Base(base), len(a.Modules), farthest(t, r.Apart, logits(t, model, store, ids)))
			sameFile(t, dir, r.Dir, "adapter_model.safetensors")
			sameButTargets(t, dir, r.Dir)
			if cfg.BBias {
				return
			}
			require.NoError(t, a.Merge(store))
			t.Logf("merged ones by %.1e", farthest(t, r.Merged, logits(t, model, store, ids)))
		})
	}
	for i, r := range runPEFT(t, bases, dirs, ids) {
		check[i](r)
	}
}

// runPEFT gives the adapters to PEFT; without PEFT the test is skipped.
func runPEFT(t *testing.T, bases, dirs []string, ids []int32) []peftResult {
	t.Helper()
	models, err := json.Marshal(bases)
	require.NoError(t, err)
	list, err := json.Marshal(dirs)
	require.NoError(t, err)
	row, err := json.Marshal(ids)
	require.NoError(t, err)
	out, err := exec.Command("python3", "-c", peftScript, string(models), string(list), string(row)).Output()
	var bad *exec.ExitError
	switch {
	case errors.As(err, &bad) && bad.ExitCode() != 42:
		t.Fatalf("python3: %v\n%s", err, bad.Stderr)
	case err != nil:
		t.Skipf("no python3 with peft, torch and transformers: %v %s", err, out)
	}
	var results []peftResult
	require.NoError(t, json.Unmarshal(out, &results))
	require.Len(t, results, len(dirs))
	for _, r := range results {
		t.Cleanup(func() { require.NoError(t, os.RemoveAll(r.Dir)) })
	}
	return results
}

// sameButTargets compares configurations but for target_modules, a set that PEFT writes in any order and in other words, and
// the version.
func sameButTargets(t *testing.T, a, b string) {
	t.Helper()
	x, y := readConfig(t, filepath.Join(a, "adapter_config.json")), readConfig(t, filepath.Join(b, "adapter_config.json"))
	for _, c := range []map[string]any{x, y} {
		parameters, _ := c["target_parameters"].([]any)
		require.NotEmpty(t, append(parameters, c["target_modules"]))
		slices.SortFunc(parameters, func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
		delete(c, "target_modules")
		delete(c, "peft_version")
	}
	require.Equal(t, y, x)
}

// loadBase gives a model its values.
func loadBase(t *testing.T, dir string, model *models.Model, store *plan.Store) {
	t.Helper()
	weights, _, err := models.OpenWeights(vfs.OS{}, dir)
	require.NoError(t, err)
	for _, p := range layers.Params(model) {
		whole := tensor.New(p.Type)
		for _, piece := range model.Pieces(p) {
			x, err := weights.Read(piece.Name)
			require.NoError(t, err)
			copy(whole.Bytes()[piece.First*p.Type.DType.Size():], x.Bytes())
		}
		require.NoError(t, store.Set(p.Var, whole))
	}
	require.NoError(t, weights.Close())
}

// logits runs the model over one row.
func logits(t *testing.T, model *models.Model, store *plan.Store, ids []int32) []float32 {
	t.Helper()
	g := graph.New("row")
	pos := make([]int32, len(ids))
	for i := range pos {
		pos[i] = int32(i)
	}
	constant := func(v []int32) graph.Value {
		x, err := tensor.Of(v, 1, len(v))
		require.NoError(t, err)
		return g.Const(x)
	}
	y := model.Logits(model.Hidden(models.Inputs{Tokens: constant(ids), Pos: constant(pos)}))
	p, err := plan.Compile([]graph.Value{y}, plan.Options{Device: store.Device(), Session: plan.NewSession(store)})
	require.NoError(t, err)
	res, err := p.Run(t.Context(), nil)
	require.NoError(t, err)
	require.NoError(t, p.Close())
	return res.Tensor(y).Float32s()
}

func farthest(t *testing.T, want []float64, got []float32) float64 {
	t.Helper()
	require.Len(t, got, len(want))
	worst := 0.0
	for i, x := range want {
		worst = max(worst, math.Abs(x-float64(got[i])))
	}
	require.LessOrEqual(t, worst, 1e-4)
	return worst
}
