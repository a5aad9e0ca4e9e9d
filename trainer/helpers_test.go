package trainer_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// shape is the architecture of a test model.
type shape struct{ vocab, hidden, inter, layers, context int }

var small = shape{32, 16, 32, 2, 64}

// architecture writes a config.json.
func architecture(t testing.TB, s shape) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.json")
	raw, err := json.Marshal(map[string]any{"model_type": "llama", "vocab_size": s.vocab, "hidden_size": s.hidden, "intermediate_size": s.inter,
		"num_hidden_layers": s.layers, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": s.context,
		"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 0, "tie_word_embeddings": true})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, raw, 0o600))
	return path
}

// rows writes token rows of two to seven ids that count up, whose second half alone is trained in every other row.
func rows(t testing.TB, n int) string {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	var b strings.Builder
	for i := range n {
		ids := []string{}
		labels := []string{}
		first := 2 + rng.IntN(20)
		for k := range 4 + rng.IntN(6) {
			ids = append(ids, fmt.Sprint(first+k))
			if i%2 == 0 && k < 2 {
				labels = append(labels, "-100")
			} else {
				labels = append(labels, fmt.Sprint(first+k))
			}
		}
		fmt.Fprintf(&b, `{"input_ids": [%s], "labels": [%s]}`+"\n", strings.Join(ids, ","), strings.Join(labels, ","))
	}
	path := filepath.Join(t.TempDir(), "rows.jsonl")
	require.NoError(t, os.WriteFile(path, []byte(b.String()), 0o600))
	return path
}

// pretrain is a configuration that trains every weight of a small model for a few steps.
func pretrain(t testing.TB) config.Config {
	t.Helper()
	c := config.Default(config.Pretrain)
	c.Model, c.Out, c.Device = architecture(t, small), filepath.Join(t.TempDir(), "run"), "cpu"
	c.Data.Path, c.Data.SeqLen, c.Data.Val = []config.Source{{Path: rows(t, 24), Weight: 1}}, 16, 0
	c.Train.Batch, c.Train.MicroBatch, c.Train.Steps, c.Train.LR = 4, 2, 4, 1e-2
	return c
}

// model makes a Hugging Face directory by training a step.
func model(t testing.TB, s shape) string {
	t.Helper()
	c := pretrain(t)
	c.Model, c.Train.Steps = architecture(t, s), 1
	run(t, c, trainer.Hooks{})
	return filepath.Join(c.Out, "model")
}

// adapt is a configuration that trains an adapter on a 4-bit model.
func adapt(t testing.TB, dir string) config.Config {
	t.Helper()
	p := pretrain(t)
	c := config.Default(config.Finetune)
	c.Model, c.Out, c.Device, c.Data, c.Train = dir, p.Out, p.Device, p.Data, p.Train
	c.Adapter.R = 4
	c.Train.Optimizer, c.Train.Min8bitSize = "adamw8bit", 0
	return c
}

func run(t testing.TB, c config.Config, h trainer.Hooks) *trainer.Summary {
	t.Helper()
	s, err := trainer.Run(context.Background(), c, h)
	require.NoError(t, err)
	return s
}

// fails runs a configuration that must end with an exit code and a message that holds every one of the given texts.
func fails(t testing.TB, ctx context.Context, c config.Config, h trainer.Hooks, code int, says ...string) error {
	t.Helper()
	_, err := trainer.Run(ctx, c, h)
	require.Error(t, err)
	require.Equal(t, code, config.ExitCode(err), "%v", err)
	for _, s := range says {
		require.ErrorContains(t, err, s)
	}
	return err
}

// weights reads a model.safetensors.
func weights(t testing.TB, out string) map[string][]float32 {
	t.Helper()
	f, err := checkpoint.OpenSafetensors(vfs.OS{}, filepath.Join(out, "model", "model.safetensors"))
	require.NoError(t, err)
	m := map[string][]float32{}
	for _, name := range f.Names() {
		x, err := f.Read(name)
		require.NoError(t, err)
		m[name] = tensor.Data[float32](x)
	}
	require.NoError(t, f.Close())
	return m
}

func threads(t testing.TB, n int) *cpu.Device {
	t.Helper()
	d := cpu.New(cpu.Options{Threads: n})
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}
