package trainer_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/profile"
)

// kinds are the runs that differ in which plans and variables a step has.
func kinds(t *testing.T) map[string]config.Config {
	t.Helper()
	dir := model(t, small)
	lora := adapt(t, dir)
	lora.Quantize.Scheme, lora.Quantize.Blocksize = "nf4", 64
	full := pretrain(t)
	full.Train.Checkpointing = "on"
	paged := adapt(t, dir)
	paged.Train.Optimizer = "pagedadamw8bit"
	averaged := pretrain(t)
	averaged.Train.EMA, averaged.Train.MicroBatch = 0.9, 1
	half := adapt(t, dir)
	half.Train.DType = "f16"
	packed := pretrain(t)
	packed.Data.Pack, packed.Data.Val = true, 0.2
	return map[string]config.Config{"lora nf4": lora, "full": full, "paged": paged, "averaged": averaged, "f16": half, "packed": packed}
}

// unmeasured is a device that does not measure what it reaches, which takes a second.
type unmeasured struct{ device.Device }

// TestProfile: every kind of run can be profiled; what is reported adds up, and its memory is what Plan tells.
func TestProfile(t *testing.T) {
	for name, c := range kinds(t) {
		planned, err := trainer.Plan(context.Background(), c, trainer.Hooks{Device: threads(t, 2)}) // scratch memory depends on their number
		require.NoError(t, err, name)
		for _, dry := range []bool{true, false} {
			r, err := trainer.Profile(context.Background(), c, trainer.ProfileOptions{Steps: 2, Warmup: 1, Dry: dry}, trainer.Hooks{Device: unmeasured{threads(t, 2)}})
			require.NoError(t, err, name)
			m := r.Memory
			require.Equal(t, planned.ArenaBytes, m.Arena, name)
			require.Equal(t, planned.WeightBytes+planned.TrainBytes+planned.ArenaBytes, m.Bytes, name)
			held := map[profile.Category]int64{}
			for _, a := range m.Fixed {
				held[a.Category] += a.Bytes
			}
			require.Positive(t, held[profile.Parameters], name)
			require.Equal(t, held[profile.Parameters], held[profile.Gradients], name)
			require.GreaterOrEqual(t, held[profile.States], planned.StateBytes, "%s: the average is state too", name)
			require.Zero(t, held[profile.OtherVars], "%s: %v", name, m.Vars)
			if c.Adapter.Type == "lora" {
				require.Positive(t, held[profile.Weights], name)
			}
			require.Positive(t, m.Peak.Live, name)
			if dry {
				require.Zero(t, r.Steps.Count, name)
				continue
			}
			require.Equal(t, 2, r.Steps.Count, name)
			x := r.Time
			require.InDelta(t, x.Step, x.Kernels+x.Gaps+x.Feed+x.Fetch+x.Outside, 1e-9, name)
			require.InDelta(t, x.Kernels, r.Scopes.Total.Seconds, 1e-9, name)
			require.GreaterOrEqual(t, x.Outside, 0.0, name)
			require.Positive(t, x.Busy, name)
			require.LessOrEqual(t, x.Busy, 1.001, name)
			require.Nil(t, r.Limits)
			require.Positive(t, r.Scopes.Phases["backward"], name)
			require.Positive(t, r.Scopes.Phases["update"], name)
			require.Equal(t, name == "full", r.Scopes.Phases["recompute"] > 0, name)
			require.NoError(t, r.Write(nil, filepath.Join(t.TempDir(), "profile")), name)
		}
		require.NoDirExists(t, c.Out, "a profile writes no run")
	}
}

// TestProfileScopes: the tree has the projections of every layer.
func TestProfileScopes(t *testing.T) {
	r, err := trainer.Profile(context.Background(), adapt(t, model(t, small)), trainer.ProfileOptions{Steps: 1, Warmup: -1}, trainer.Hooks{})
	require.NoError(t, err)
	paths := map[string]bool{}
	var walk func(s *profile.Scope)
	walk = func(s *profile.Scope) {
		paths[s.Path] = true
		for _, p := range s.Parts {
			walk(p)
		}
	}
	walk(r.Scopes)
	require.Positive(t, r.Limits.Flops["f32"])
	require.Positive(t, r.Scopes.Total.Least)
	for _, want := range []string{"model.embed_tokens", "model.layers.0.self_attn.q_proj.lora", "model.layers.1.mlp.gate_proj.lora", "model.layers.1.mlp.down_proj",
		"model.layers.0.input_layernorm", "model.norm", "lm_head", "gradients", "optimizer"} {
		require.True(t, paths[want], "%s is not in %v", want, paths)
	}
}

// TestProfileRefuses: a bad configuration, a cancelled context, and what makes no sense.
func TestProfileRefuses(t *testing.T) {
	c := pretrain(t)
	c.Resume = true
	_, err := trainer.Profile(context.Background(), c, trainer.ProfileOptions{}, trainer.Hooks{})
	require.ErrorContains(t, err, "resume")
	require.Equal(t, config.ExitConfig, config.ExitCode(err))
	c = pretrain(t)
	require.NoError(t, os.Remove(c.Model))
	_, err = trainer.Profile(context.Background(), c, trainer.ProfileOptions{}, trainer.Hooks{})
	require.Equal(t, config.ExitInput, config.ExitCode(err))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = trainer.Profile(ctx, pretrain(t), trainer.ProfileOptions{}, trainer.Hooks{})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, config.ExitStopped, config.ExitCode(err))
}
