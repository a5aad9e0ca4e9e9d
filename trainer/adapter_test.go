package trainer_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// variants are the kinds of adapters that the configuration can ask for.
var variants = map[string]func(c *config.Config){
	"dora":       func(c *config.Config) { c.Adapter.Type, c.Adapter.Dropout, c.Train.Checkpointing = "dora", 0.1, "on" },
	"dora dense": func(c *config.Config) { c.Adapter.Type, c.Quantize.Scheme = "dora", "none" },
	"dora int8":  func(c *config.Config) { c.Adapter.Type, c.Quantize.Scheme = "dora", "int8" },
	"dora bf16":  func(c *config.Config) { c.Adapter.Type, c.Train.DType, c.Train.Param = "dora", "bf16", "bf16" },
	"plus":       func(c *config.Config) { c.Adapter.PlusRatio, c.Adapter.RSLoRA = 4, true },
	"head": func(c *config.Config) {
		c.Adapter.ModulesToSave, c.Adapter.Targets = []string{"lm_head", "norm"}, config.Targets{Names: []string{"q_proj"}}
	},
	"embed whole": func(c *config.Config) { c.Adapter.ModulesToSave = []string{"embed_tokens"} },
	"embeddings":  func(c *config.Config) { c.Adapter.Embeddings = true },
	"tokens":      func(c *config.Config) { c.Adapter.Tokens = []int{4, 9} },
	"patterns": func(c *config.Config) {
		c.Adapter.RankPattern, c.Adapter.AlphaPattern = map[string]float64{"q_proj": 2}, map[string]float64{"layers.1.mlp.*": 3.5}
		c.Adapter.Layers, c.Adapter.LayersPattern, c.Adapter.Exclude = []int{1}, []string{"layers"}, config.Targets{Pattern: ".*k_proj"}
	},
	"bias":       func(c *config.Config) { c.Adapter.LoRABias, c.Adapter.Bias = true, "lora_only" },
	"gaussian":   func(c *config.Config) { c.Adapter.Init = "gaussian" },
	"orthogonal": func(c *config.Config) { c.Adapter.Init = "orthogonal" },
	"pissa":      func(c *config.Config) { c.Adapter.Init, c.Quantize.Scheme = "pissa", "none" },
	"pissa steps": func(c *config.Config) {
		c.Adapter.Init, c.Quantize.Scheme, c.Adapter.Embeddings = "pissa_niter_3", "none", true
	},
	"pissa nf4": func(c *config.Config) { c.Adapter.Init = "pissa" },
	"olora": func(c *config.Config) {
		c.Adapter.Init, c.Quantize.Scheme, c.Adapter.RSLoRA = "olora", "none", true
		c.Adapter.RankPattern = map[string]float64{"q_proj": 2}
	},
	"loftq":       func(c *config.Config) { c.Adapter.Init = "loftq" },
	"loftq steps": func(c *config.Config) { c.Adapter.Init, c.Adapter.LoftQSteps, c.Quantize.Scheme = "loftq", 3, "fp4" },
}

// TestAdapterVariants trains each variant, once at a stretch and once with a stop, to the same bits; and what the run wrote gives, on the base
// model, the loss that the run ended with where the base is not quantized anew.
func TestAdapterVariants(t *testing.T) {
	dir := model(t, small)
	for name, change := range variants {
		t.Run(name, func(t *testing.T) {
			c := adapt(t, dir)
			c.Adapter.R, c.Adapter.Alpha, c.Data.Val = 4, 8, 0.25
			change(&c)
			whole := c
			whole.Out = filepath.Join(t.TempDir(), "whole")
			want := run(t, whole, trainer.Hooks{})
			ctx, cancel := context.WithCancel(context.Background())
			fails(t, ctx, c, trainer.Hooks{OnStep: func(r report.Row) error {
				if r.Step == 2 {
					cancel()
				}
				return nil
			}}, config.ExitStopped)
			c.Resume = true
			require.Equal(t, want.WeightsDigest, run(t, c, trainer.Hooks{}).WeightsDigest)
			for _, file := range []string{"adapter_config.json", "adapter_model.safetensors", "README.md"} {
				require.Equal(t, read(t, whole.Out, "adapter", file), read(t, c.Out, "adapter", file))
			}
			if c.Quantize.Scheme == "none" {
				c.Adapter = config.Adapter{Type: "lora", R: 1, Alpha: 1, Targets: c.Adapter.Targets, Init: filepath.Join(c.Out, "adapter"), Bias: "none"}
				c.Out, c.Resume, c.Train.LR = filepath.Join(t.TempDir(), "again"), false, 0
				require.InDelta(t, want.EvalLoss, run(t, c, trainer.Hooks{}).EvalLoss, 1e-4)
			}
		})
	}
}

// TestDoRACheckpointing: activations that are computed again give the gradients of kept ones.
func TestDoRACheckpointing(t *testing.T) {
	c := adapt(t, model(t, small))
	variants["dora"](&c)
	again := run(t, c, trainer.Hooks{})
	c.Out, c.Train.Checkpointing = filepath.Join(t.TempDir(), "run"), "off"
	require.Equal(t, again.WeightsDigest, run(t, c, trainer.Hooks{}).WeightsDigest)
}

// TestInitKeepsModel: an initialisation that takes the base apart leaves what the model computes as it is.
func TestInitKeepsModel(t *testing.T) {
	dir := model(t, small)
	logits := func(cfg *lora.Config) []float32 {
		m, err := trainer.OpenModel(dir, trainer.ModelOptions{})
		require.NoError(t, err)
		s := plan.NewSession(plan.NewStore(cpu.New(cpu.Options{Threads: 1})))
		var a *lora.Adapter
		if cfg != nil {
			a, err = lora.Attach(m.Model, *cfg)
			require.NoError(t, err)
		}
		require.NoError(t, m.Source.Load(s.Store()))
		if a != nil {
			require.NoError(t, a.Init(s.Store()))
		}
		g := graph.New("row")
		ids, err := tensor.Of([]int32{1, 5, 9, 30, 2}, 1, 5)
		require.NoError(t, err)
		pos, err := tensor.Of([]int32{0, 1, 2, 3, 4}, 1, 5)
		require.NoError(t, err)
		y := m.Logits(m.Hidden(models.Inputs{Tokens: g.Const(ids), Pos: g.Const(pos)}))
		p, err := plan.Compile([]graph.Value{y}, plan.Options{Device: s.Store().Device(), Session: s})
		require.NoError(t, err)
		res, err := p.Run(t.Context(), nil)
		require.NoError(t, err)
		out := res.Tensor(y).Float32s()
		require.NoError(t, p.Close())
		require.NoError(t, s.Close())
		require.NoError(t, m.Close())
		return out
	}
	want := logits(nil)
	for _, cfg := range []lora.Config{{DoRA: true}, {Init: lora.InitGaussian}, {Init: lora.InitOrthogonal}, {Init: lora.InitPiSSA}, {Init: "pissa_niter_4"},
		{Init: lora.InitOLoRA}, {Init: lora.InitPiSSA, RSLoRA: true}, {Tokens: map[string][]int{"": {5, 9}}}, {ModulesToSave: []string{"lm_head"}}, {Embeddings: true}} {
		cfg.Rank, cfg.Alpha = 4, 6
		require.InDeltaSlice(t, want, logits(&cfg), 2e-5, "%+v", cfg)
	}
	// None of these changes the folder.
	_, err := lora.Load(vfs.OS{}, dir)
	require.ErrorContains(t, err, "holds a model")
}

func TestAdapterConfigRefuses(t *testing.T) {
	for _, x := range []struct{ key, value, says string }{
		{"adapter.init", "pisa", "did you mean pissa"}, {"adapter.init", "pissa_niter_x", "did you mean"},
		{"adapter.type", "lroa", "did you mean lora"}, {"adapter.bias", "some", "not a known value"},
		{"adapter.loftq_steps", "3", "adapter.init loftq"}, {"adapter.layers_pattern", "[layers]", "numbers of layers"},
		{"adapter.rank_pattern", "{q_proj: 2.5}", "whole number"}, {"adapter.rank_pattern", "{(: 2}", "pattern"},
		{"adapter.rank_patern", "{q_proj: 2}", "did you mean --adapter.rank_pattern"}, {"adapter.plus_ratio", "-1", "plus_ratio"},
		{"adapter.exclude", "all-linear", "name the modules"},
	} {
		_, err := config.Load("", []string{"--model", "./m", "--" + x.key, x.value})
		require.ErrorContains(t, err, x.says, x.key)
	}
	for _, args := range [][]string{
		{"--adapter.type", "none", "--adapter.rslora"}, {"--adapter.type", "dora", "--adapter.lora_bias"}, {"--adapter.type", "dora", "--adapter.init", "pissa"},
		{"--adapter.init", "./dir", "--adapter.rslora"}, {"--adapter.targets", ".*q", "--adapter.layers", "[1]"},
		{"--train.objective", "kto", "--adapter.init", "pissa"}, {"--train.objective", "dpo", "--adapter.init", "olora", "--train.preference_args.reference", "live"},
	} {
		_, err := config.Load("", append([]string{"--model", "./m"}, args...))
		require.Error(t, err, args)
	}
}

func TestAdapterRunRefuses(t *testing.T) {
	dir := model(t, small)
	for _, x := range []struct {
		change func(c *config.Config)
		code   int
		says   string
	}{
		{func(c *config.Config) { c.Adapter.ModulesToSave = []string{"lm_had"} }, config.ExitConfig, "no module's path ends in"},
		{func(c *config.Config) { c.Adapter.ModulesToSave = []string{"o_proj"} }, config.ExitConfig, "is quantized and cannot be trained whole"},
		{func(c *config.Config) { c.Adapter.Tokens = []int{32} }, config.ExitConfig, "rows 0 to 31, not 32"},
		{func(c *config.Config) { c.Adapter.Init, c.Quantize.Scheme = "loftq", "none" }, config.ExitInput, "no error of quantization"},
		{func(c *config.Config) { c.Adapter.Init, c.Adapter.R = "pissa", 17 }, config.ExitInput, "larger than the smaller side"},
		{func(c *config.Config) { c.Adapter.Init, c.Adapter.R = "orthogonal", 3 }, config.ExitInput, "even rank"},
	} {
		c := adapt(t, dir)
		x.change(&c)
		fails(t, context.Background(), c, trainer.Hooks{}, x.code, x.says)
	}
}
