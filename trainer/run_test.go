package trainer_test

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// TestSameBits repeats a run, and repeats it with another number of threads.
func TestSameBits(t *testing.T) {
	dir := model(t, small)
	for name, c := range map[string]config.Config{"full": pretrain(t), "qlora": adapt(t, dir)} {
		t.Run(name, func(t *testing.T) {
			c.Adapter.Dropout = 0.1
			var digests []string
			for _, n := range []int{1, 1, 2} {
				c.Out = filepath.Join(t.TempDir(), "run")
				digests = append(digests, run(t, c, trainer.Hooks{Device: threads(t, n)}).WeightsDigest)
			}
			require.NotEmpty(t, digests[0])
			require.Equal(t, digests[0], digests[1], "repeated")
			require.Equal(t, digests[0], digests[2], "two threads")
		})
	}
}

// TestMicroBatch cuts the same steps in several ways: only the order of additions may differ.
func TestMicroBatch(t *testing.T) {
	c := pretrain(t)
	c.Train.Optimizer, c.Train.Clip = "sgd", 0.5
	var loss []float64
	var want map[string][]float32
	for _, micro := range []int{4, 2, 1, 3} {
		c.Out, c.Train.MicroBatch = filepath.Join(t.TempDir(), "run"), micro
		var got []float64
		run(t, c, trainer.Hooks{OnStep: func(r report.Row) error { got = append(got, r.Loss); return nil }})
		w := weights(t, c.Out)
		if want == nil {
			loss, want = got, w
			continue
		}
		require.InDeltaSlice(t, loss, got, 1e-6, "micro_batch %d", micro)
		for name := range want {
			for i := range want[name] {
				require.InDelta(t, want[name][i], w[name][i], 1e-5, "micro_batch %d: %s[%d]", micro, name, i)
			}
		}
	}
}

// TestPackedLoss compares the first step over all rows, packed and padded.
func TestPackedLoss(t *testing.T) {
	t.Run("plain", func(t *testing.T) { packedLoss(t, func(*config.Config) {}) })
	t.Run("noise", func(t *testing.T) { packedLoss(t, func(c *config.Config) { c.Train.NEFTune = 5 }) })
	t.Run("smoothing", func(t *testing.T) { packedLoss(t, func(c *config.Config) { c.Train.Smoothing = 0.2 }) })
}

func packedLoss(t *testing.T, change func(c *config.Config)) {
	c := pretrain(t)
	c.Train.Steps, c.Train.Batch = 1, 32
	plain := c
	plain.Out = filepath.Join(t.TempDir(), "plain")
	change(&c)
	var first []report.Row
	for _, pack := range []bool{true, false} {
		c.Out, c.Data.Pack = filepath.Join(t.TempDir(), "run"), pack
		run(t, c, trainer.Hooks{OnStep: func(r report.Row) error { first = append(first, r); return nil }})
	}
	require.Equal(t, first[0].Tokens, first[1].Tokens)
	require.InDelta(t, first[0].Loss, first[1].Loss, 1e-6)
	require.InDelta(t, first[0].GradNorm, first[1].GradNorm, 1e-5)
	if c.Train.NEFTune > 0 || c.Train.Smoothing > 0 {
		run(t, plain, trainer.Hooks{OnStep: func(r report.Row) error { first = append(first, r); return nil }})
		require.Greater(t, math.Abs(first[2].Loss-first[0].Loss), 1e-4, "the setting has an effect")
	}
}

// TestNonFinite stops before the first update that is not finite; what was learned until then is kept.
func TestNonFinite(t *testing.T) {
	c := pretrain(t)
	c.Train.Optimizer, c.Train.Clip, c.Train.LR, c.Train.Schedule, c.Train.Warmup, c.Train.Steps = "sgd", 0, 1e30, "constant", 0, 50
	c.Save.Every = 0
	var last report.Row
	err := fails(t, context.Background(), c, trainer.Hooks{OnStep: func(r report.Row) error { last = r; return nil }}, config.ExitNonFinite, "rows.jsonl:", "train.lr")
	var bad *trainer.NonFiniteError
	require.ErrorAs(t, err, &bad)
	require.Equal(t, int(last.Step)+1, bad.Step)
	require.NotEmpty(t, bad.Rows)

	saved, err := checkpoint.NewRun(vfs.OS{}, c.Out).Latest()
	require.NoError(t, err)
	require.Equal(t, bad.Step-1, saved.Step)
	f, err := saved.Tensors()
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	// A run of one step fewer ends with the same weights.
	c.Out, c.Train.Steps = filepath.Join(t.TempDir(), "run"), bad.Step-1
	require.Positive(t, c.Train.Steps)
	run(t, c, trainer.Hooks{})
	for name, want := range weights(t, c.Out) {
		got, err := f.Read(name)
		require.NoError(t, err)
		require.Equal(t, want, tensor.Data[float32](got), name)
		for _, x := range want {
			require.False(t, math.IsNaN(float64(x)), name)
		}
	}
}

// TestStop cancels a run before its first step, between steps and from the very beginning, and resumes it.
func TestStop(t *testing.T) {
	c := pretrain(t)
	c.Data.Val, c.Eval.Every = 0.2, 2
	want := run(t, c, trainer.Hooks{}).WeightsDigest
	c.Out, c.Resume = filepath.Join(t.TempDir(), "run"), true

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err := fails(t, ctx, c, trainer.Hooks{}, config.ExitStopped)
	require.False(t, errors.Is(err, trainer.ErrStopped), "nothing was saved")

	for range 2 {
		ctx, cancel = context.WithCancel(context.Background())
		err = fails(t, ctx, c, trainer.Hooks{OnStep: func(report.Row) error { cancel(); return nil }}, config.ExitStopped)
		require.ErrorIs(t, err, trainer.ErrStopped)
	}
	ctx, cancel = context.WithCancel(context.Background())
	err = fails(t, ctx, c, trainer.Hooks{OnStep: func(report.Row) error { cancel(); return ctx.Err() }}, config.ExitStopped)
	require.ErrorIs(t, err, trainer.ErrStopped, "a hook that passes the cancellation on")
	s := run(t, c, trainer.Hooks{})
	require.Equal(t, want, s.WeightsDigest)
	got, err := report.ReadMetricsFile(filepath.Join(c.Out, "metrics.jsonl"))
	require.NoError(t, err)
	require.Len(t, got, 4)
	require.NotNil(t, got[1].EvalLoss)
	require.NotNil(t, got[3].EvalLoss)

	again := run(t, c, trainer.Hooks{OnStep: func(report.Row) error { return errors.New("no step is left") }})
	require.True(t, again.Finished)
	require.Equal(t, want, again.WeightsDigest)
}

// TestHookErrors ends runs from their hooks.
func TestHookErrors(t *testing.T) {
	mine := errors.New("enough")
	for name, h := range map[string]trainer.Hooks{
		"step": {OnStep: func(report.Row) error { return mine }},
		"eval": {OnEval: func(int, float64) error { return mine }},
		"save": {OnSave: func(int, string) error { return mine }},
	} {
		t.Run(name, func(t *testing.T) {
			c := pretrain(t)
			c.Data.Val, c.Eval.Every, c.Save.Every = 0.1, 1, 1
			require.ErrorIs(t, fails(t, context.Background(), c, h, config.ExitFailure), mine)
			c.Resume = true
			run(t, c, trainer.Hooks{})
		})
	}
}

// TestRefused tries settings and directories that cannot work.
func TestRefused(t *testing.T) {
	dir := model(t, small)
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	other := adapt(t, model(t, shape{32, 32, 32, 1, 64}))
	run(t, other, trainer.Hooks{})
	used := adapt(t, dir)
	run(t, used, trainer.Hooks{})
	cases := []struct {
		name   string
		change func(c *config.Config)
		code   int
		says   []string
	}{
		{"out is a file", func(c *config.Config) { c.Out = file }, config.ExitDisk, []string{file, "--out"}},
		{"out below a file", func(c *config.Config) { c.Out = filepath.Join(file, "run") }, config.ExitDisk, []string{file}},
		{"out holds a run", func(c *config.Config) { c.Out = used.Out }, config.ExitConfig, []string{"holds a run", "--resume"}},
		{"other settings", func(c *config.Config) { c.Out, c.Resume, c.Train.LR = used.Out, true, 1 }, config.ExitConfig, []string{"other settings", "config.yaml"}},
		{"other data", func(c *config.Config) {
			c.Out, c.Resume = used.Out, true
			c.Data.Path = []config.Source{{Path: rows(t, 25), Weight: 1}}
		}, config.ExitConfig, nil},
		{"adapter of another model", func(c *config.Config) { c.Adapter.Init = filepath.Join(other.Out, "adapter") }, config.ExitInput, []string{"another model"}},
		{"no adapter there", func(c *config.Config) { c.Adapter.Init = file + "x" }, config.ExitInput, []string{file + "x"}},
		{"text without tokenizer", func(c *config.Config) {
			c.Data.Format, c.Data.Path[0].Path = "text", filepath.Join(t.TempDir(), "text.txt")
			require.NoError(t, os.WriteFile(c.Data.Path[0].Path, []byte("Some text.\n"), 0o600))
		}, config.ExitInput, []string{"tokenizer", "data.format tokens"}},
		{"no data", func(c *config.Config) { c.Data.Path[0].Path = filepath.Join(t.TempDir(), "none.jsonl") }, config.ExitInput, []string{"none.jsonl"}},
		{"empty data", func(c *config.Config) { c.Data.Path[0].Path = file }, config.ExitInput, []string{file}},
		{"too many epochs", func(c *config.Config) { c.Train.Steps, c.Train.Epochs = 0, 1e19 }, config.ExitConfig, []string{"epochs"}},
		{"loss scale without f16", func(c *config.Config) { c.Train.LossScale = 1024 }, config.ExitConfig, []string{"train.loss_scale", "only runs in f16"}},
		{"too little memory", func(c *config.Config) { c.Train.Memory = "10KiB" }, config.ExitMemory, []string{"budget", "train.fit"}},
	}
	for _, k := range cases {
		t.Run(k.name, func(t *testing.T) {
			c := adapt(t, dir)
			k.change(&c)
			fails(t, context.Background(), c, trainer.Hooks{}, k.code, k.says...)
		})
	}
}

// TestRefusedLeavesNothing: a run that is refused after its built-in rows were written leaves no directory of its own, and what others wrote into one.
func TestRefusedLeavesNothing(t *testing.T) {
	c := config.Default(config.Finetune)
	c.Model, c.Data.Path = "builtin:tiny", []config.Source{{Path: config.BuiltinData, Weight: 1}}
	c.Device, c.Train.Memory, c.Out = "cpu", "10KiB", filepath.Join(t.TempDir(), "refused")
	fails(t, context.Background(), c, trainer.Hooks{}, config.ExitMemory)
	require.NoDirExists(t, c.Out)
	require.NoError(t, os.Mkdir(c.Out, 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(c.Out, "mine"), nil, 0o666))
	fails(t, context.Background(), c, trainer.Hooks{}, config.ExitMemory)
	require.Equal(t, []string{"mine"}, names(t, c.Out))
	held := filepath.Join(c.Out, "builtin_heldout.jsonl")
	require.NoError(t, os.WriteFile(held, []byte("other rows\n"), 0o666))
	fails(t, context.Background(), c, trainer.Hooks{}, config.ExitConfig, held, "other rows", "move it away")
	require.Equal(t, []string{"builtin_heldout.jsonl", "mine"}, names(t, c.Out), "the rows to train on were written first")
	text, err := os.ReadFile(held)
	require.NoError(t, err)
	require.Equal(t, "other rows\n", string(text))
	require.NoError(t, os.Remove(held))
	_, _, err = trainer.DataFiles(nil, c, c.Out) // as a run that was killed leaves them
	require.NoError(t, err)
	fails(t, context.Background(), c, trainer.Hooks{}, config.ExitMemory)
	require.Equal(t, []string{"builtin_heldout.jsonl", "builtin_train.jsonl", "mine"}, names(t, c.Out), "they were there before")
	c.Out = filepath.Join(t.TempDir(), "empty")
	require.NoError(t, os.Mkdir(c.Out, 0o777))
	fails(t, context.Background(), c, trainer.Hooks{}, config.ExitMemory)
	require.DirExists(t, c.Out, "it was there before")
	c.Out = filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink("nowhere", c.Out))
	fails(t, context.Background(), c, trainer.Hooks{}, config.ExitDisk)
	_, err = os.Lstat(c.Out)
	require.NoError(t, err, "a link that leads nowhere was there too")
}

// names are the files of a folder.
func names(t *testing.T, dir string) (out []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range list {
		out = append(out, e.Name())
	}
	return out
}

// TestEdges runs what is unusual but right.
func TestEdges(t *testing.T) {
	for name, change := range map[string]func(c *config.Config){
		"no checkpoints on the way": func(c *config.Config) { c.Save.Every = 0 },
		"every checkpoint kept":     func(c *config.Config) { c.Save.Every, c.Save.Keep = 1, 0 },
		"nearly all held out":       func(c *config.Config) { c.Data.Val = 0.999 },
		"one row":                   func(c *config.Config) { c.Data.Val, c.Data.Path[0].Path = 0.5, rows(t, 1) },
		"evaluation without rows":   func(c *config.Config) { c.Eval.Every = 1 },
		"rows beyond the context":   func(c *config.Config) { c.Data.SeqLen = 4096 },
		"part of an epoch":          func(c *config.Config) { c.Train.Steps, c.Train.Epochs = 0, 0.3 },
		"an epoch and a half":       func(c *config.Config) { c.Train.Steps, c.Train.Epochs = 0, 1.5 },
	} {
		t.Run(name, func(t *testing.T) {
			c := pretrain(t)
			change(&c)
			s := run(t, c, trainer.Hooks{})
			require.Positive(t, s.Steps)
			require.NotEmpty(t, s.WeightsDigest)
			require.Equal(t, c.Data.Val == 0 || name == "one row", math.IsNaN(s.EvalLoss))
		})
	}
}

// TestNewDirectory starts two runs in one second without naming a directory.
func TestNewDirectory(t *testing.T) {
	t.Chdir(t.TempDir())
	c := pretrain(t)
	c.Out = ""
	a, b := run(t, c, trainer.Hooks{}), run(t, c, trainer.Hooks{})
	require.NotEqual(t, a.Out, b.Out)
	require.Equal(t, a.WeightsDigest, b.WeightsDigest)
}
