package trainer_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/optim"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// TestOptimizers trains, stops and resumes with every optimizer. A paged one computes what the other does.
func TestOptimizers(t *testing.T) {
	digest := map[string]string{}
	for _, name := range optim.Names() {
		c := pretrain(t)
		c.Train.Optimizer, c.Train.LR, c.Train.Min8bitSize, c.Train.Steps = name, 1e-3, 300, 3
		if strings.HasPrefix(name, "sgd") || strings.HasPrefix(name, "lars") {
			c.Train.OptimizerArgs.Momentum = 0.9
		}
		require.NoError(t, c.Validate(), name)
		s := resumes(t, c)
		digest[name] = s.WeightsDigest
		require.Equal(t, strings.HasSuffix(name, "8bit"), s.EightBit > 0, name)
	}
	for name, d := range digest {
		if plain, paged := strings.CutPrefix(name, "paged"); paged {
			require.Equal(t, digest[plain], d, name)
		}
	}
	require.NotEqual(t, digest["adamw8bit"], digest["adamw32bit"])
}

// TestStateBytes counts the bytes of states by hand: 8 bits and a scale a block, 32 bits, none on the device that are paged.
func TestStateBytes(t *testing.T) {
	slab := func(c config.Config) (elements int64) { // every tensor on a multiple of 256
		p, err := trainer.Plan(context.Background(), c, trainer.Hooks{})
		require.NoError(t, err)
		return (p.StateBytes - 4) / 4 // sgd with momentum: one state and the count
	}
	c := pretrain(t)
	c.Train.Optimizer, c.Train.OptimizerArgs.Momentum, c.Train.Min8bitSize = "sgd", 0.9, 0
	n := slab(c)
	require.Zero(t, n%256)
	require.Greater(t, n, int64(5000))
	c.Train.OptimizerArgs = config.OptimizerArgs{}
	for name, want := range map[string]int64{
		"adamw": 8 * n, "pagedadamw": 8 * n, "adamw8bit": 2*n + 2*4*n/256, "pagedadamw8bit": 2*n + 2*4*n/256, "lion8bit": n + 4*n/256, "sgd": 0,
		"ademamix": 12 * n,
	} {
		c.Train.Optimizer = name
		p, err := trainer.Plan(context.Background(), c, trainer.Hooks{})
		require.NoError(t, err, name)
		require.Equal(t, want+4, p.StateBytes, name)
		if strings.HasPrefix(name, "paged") {
			require.Equal(t, want, p.HostBytes, name)
			require.Contains(t, p.Text(), "in host memory")
		} else {
			require.Zero(t, p.HostBytes)
		}
		require.GreaterOrEqual(t, p.TrainBytes, p.StateBytes+8*n, "with weights and gradients")
		require.Contains(t, p.Text(), "optimizer states")
	}
}

// TestGroups freezes parameters, frees vectors from the decay and mixes bits, all by name.
func TestGroups(t *testing.T) {
	value := func(v float64) *float64 { return &v }
	c := pretrain(t)
	c.Train.Optimizer, c.Train.Min8bitSize, c.Train.Steps, c.Save.Every = "adamw8bit", 0, 1, 0
	all := run(t, c, trainer.Hooks{})
	first := weights(t, c.Out)

	c = again(t, c)
	c.Train.Groups = []config.ParamGroup{{Match: "mlp", Bits: 32}, {Match: `\.0\.mlp\.up_proj`, Bits: 8}, {Match: "embed_tokens", LRScale: value(0)}}
	s := run(t, c, trainer.Hooks{})
	require.Equal(t, all.EightBit-6+1, s.EightBit)
	frozen := weights(t, c.Out)
	c = again(t, c)
	c.Train.LR = 0
	run(t, c, trainer.Hooks{})
	initial := weights(t, c.Out)
	require.Equal(t, initial["model.embed_tokens.weight"], frozen["model.embed_tokens.weight"])
	require.NotEqual(t, initial["model.norm.weight"], frozen["model.norm.weight"])

	// Decay alone moves a weight that gets no gradient by Adam's step; compare two runs that differ in it.
	c = again(t, c)
	c.Train.LR, c.Train.Groups, c.Train.WeightDecay, c.Train.NoDecay = 1e-2, nil, 0.5, "vectors"
	run(t, c, trainer.Hooks{})
	vectors := weights(t, c.Out)
	c = again(t, c)
	c.Train.NoDecay, c.Train.Groups = "none", []config.ParamGroup{{Match: "norm", WeightDecay: value(0)}, {Match: "proj|embed", WeightDecay: value(0.5)}}
	run(t, c, trainer.Hooks{})
	require.Equal(t, vectors, weights(t, c.Out))
	require.NotEqual(t, first["model.layers.0.mlp.up_proj.weight"], vectors["model.layers.0.mlp.up_proj.weight"])

	c = again(t, c)
	c.Train.Groups = []config.ParamGroup{{Match: "mpl", Bits: 32}}
	fails(t, context.Background(), c, trainer.Hooks{}, config.ExitConfig, `"mpl" is found in none`, "model.")
	c.Train.Groups, c.Train.Optimizer = []config.ParamGroup{{Match: "mlp", Bits: 8}}, "adamw"
	fails(t, context.Background(), c, trainer.Hooks{}, config.ExitConfig, "8bit optimizer")
}

// again is the same configuration for another run.
func again(t *testing.T, c config.Config) config.Config {
	t.Helper()
	c.Out = t.TempDir() + "/run"
	return c
}

// TestOptimizerArgs refuses what does not belong together, naming the setting.
func TestOptimizerArgs(t *testing.T) {
	for _, k := range []struct {
		change func(c *config.Train)
		says   string
	}{
		{func(c *config.Train) { c.Optimizer, c.OptimizerArgs.Nesterov = "sgd", true }, "nesterov"},
		{func(c *config.Train) { c.Optimizer = "sgd8bit" }, "momentum"},
		{func(c *config.Train) {
			c.Optimizer, c.OptimizerArgs.TBeta3, c.Betas = "ademamix", 10, []float64{0, 0.9}
		}, "t_beta3"},
	} {
		c := pretrain(t)
		k.change(&c.Train)
		c.Train.Min8bitSize = 0
		fails(t, context.Background(), c, trainer.Hooks{}, config.ExitConfig, "train.optimizer", k.says)
	}
}
