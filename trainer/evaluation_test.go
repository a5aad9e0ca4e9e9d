package trainer_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// TestTokenAccuracy trains on one row until the model knows it: accuracy goes from chance to 1 with the loss.
func TestTokenAccuracy(t *testing.T) {
	c := pretrain(t)
	path := filepath.Join(t.TempDir(), "rows.jsonl")
	require.NoError(t, os.WriteFile(path, []byte(strings.Repeat(`{"input_ids": [1, 9, 4, 17, 23, 8, 0]}`+"\n", 8)), 0o600))
	c.Data.Path[0].Path, c.Data.Val, c.Eval.Every, c.Train.Steps, c.Train.LR = path, 0.25, 1, 40, 3e-2
	run(t, c, trainer.Hooks{})
	rows := metrics(t, c)
	require.Less(t, rows[0].More["eval_accuracy"], 0.7)
	require.InDelta(t, 1, rows[39].More["eval_accuracy"], 0)
	require.Less(t, *rows[39].EvalLoss, 0.1)
	for _, r := range rows { // six targets a row, all rows alike
		hits := r.More["eval_accuracy"] * 6
		require.InDelta(t, float64(int(hits+0.5)), hits, 1e-9)
	}
}

// worsening is a run whose held-out loss falls and then rises: the rate is far too large.
func worsening(t testing.TB) config.Config {
	c := pretrain(t)
	c.Data.Val, c.Eval.Every, c.Train.Steps, c.Train.LR, c.Train.Schedule, c.Train.Warmup = 0.25, 1, 30, 0.3, "constant", 0
	return c
}

// TestPatience ends a run whose held-out loss does not fall any more.
func TestPatience(t *testing.T) {
	c := worsening(t)
	c.Eval.Patience, c.Eval.MinDelta = 2, 0.01
	s := run(t, c, trainer.Hooks{})
	rows := metrics(t, c)
	require.Less(t, s.Steps, 30)
	require.Len(t, rows, s.Steps)
	mark, worse := *rows[0].EvalLoss, 0
	for i, r := range rows[1:] { // the rule, written out
		if worse++; *r.EvalLoss < mark-0.01 {
			mark, worse = *r.EvalLoss, 0
		}
		require.Equal(t, i+2 == s.Steps, worse == 2, "step %d", i+2)
	}
	c.Resume = true
	again := run(t, c, trainer.Hooks{OnStep: func(report.Row) error { t.Fatal("no step is left"); return nil }})
	require.True(t, again.Finished)
	require.Equal(t, s.WeightsDigest, again.WeightsDigest)
	require.NoError(t, os.Remove(filepath.Join(c.Out, "manifest.json"))) // as if killed before the end was written
	again = run(t, c, trainer.Hooks{OnStep: func(report.Row) error { t.Fatal("no step is left"); return nil }})
	require.False(t, again.Finished)
	require.Equal(t, s.WeightsDigest, again.WeightsDigest)
}

// TestBest keeps the checkpoint of the lowest held-out loss beyond save.keep and makes it the result.
func TestBest(t *testing.T) {
	c := worsening(t)
	c.Save.Best, c.Save.Every, c.Save.Keep, c.Train.Steps = true, 1, 1, 12
	done := run(t, c, trainer.Hooks{})
	best, low := int64(0), 0.0
	for _, r := range metrics(t, c) {
		if best == 0 || *r.EvalLoss < low {
			best, low = r.Step, *r.EvalLoss
		}
	}
	require.Less(t, best, int64(12), "the test wants a run that gets worse")
	m, err := report.ReadManifest(filepath.Join(c.Out, "manifest.json"))
	require.NoError(t, err)
	require.Equal(t, best, m.BestStep)
	require.InDelta(t, low, *m.BestEvalLoss, 0)
	require.InDelta(t, low, done.EvalLoss, 0)
	again := c
	again.Resume = true
	require.InDelta(t, low, run(t, again, trainer.Hooks{}).EvalLoss, 0, "a finished run says the same of itself")
	runs := checkpoint.NewRun(vfs.OS{}, c.Out)
	steps, err := runs.Steps()
	require.NoError(t, err)
	require.Equal(t, []int{12, int(best)}, steps)
	s, err := runs.At(int(best))
	require.NoError(t, err)
	f, err := s.Tensors()
	require.NoError(t, err)
	for name, got := range weights(t, c.Out) {
		x, err := f.Read(name)
		require.NoError(t, err)
		for i, v := range got {
			require.InDelta(t, x.At(i), v, 0, name)
		}
	}
	require.NoError(t, f.Close())
}

// modes are runs of every kind that a resumption has to hold for.
func modes(t *testing.T) map[string]config.Config {
	dir := model(t, small)
	out := map[string]config.Config{"full": pretrain(t), "lora": adapt(t, dir), "qlora": adapt(t, dir), "dpo": prefer(t, "dpo")}
	c := out["lora"]
	c.Quantize.Scheme, c.Adapter.Dropout = "none", 0.2
	out["lora"] = c
	c = pretrain(t)
	c.Data.Pack, c.Train.NEFTune = false, 5
	out["padded, with noise"] = c
	c = adapt(t, dir)
	c.Data.Path = []config.Source{{Path: rows(t, 10), Weight: 1.5}, {Path: rows(t, 17), Weight: 0.4}}
	out["mixture"] = c
	return out
}

// TestResumeEverything stops runs of every mode in every step, inside epochs and between them, and after each stop goes on. Weights, numbers
// and samples are bit for bit those of a run that was never stopped.
func TestResumeEverything(t *testing.T) {
	for name, c := range modes(t) {
		t.Run(name, func(t *testing.T) {
			c.Data.Val, c.Eval.Every, c.Eval.Samples, c.Eval.Tokens, c.Save.Every = 0.25, 2, 2, 3, 0
			c.Train.Steps, c.Save.Best, c.Eval.Patience, c.Eval.AtStart = 6, true, 5, true
			whole := c
			whole.Out = filepath.Join(t.TempDir(), "whole")
			first := run(t, whole, trainer.Hooks{})
			want := first.WeightsDigest
			require.NotNil(t, first.EvalBefore)
			for stop := int64(1); stop < 6; stop++ {
				ctx, cancel := context.WithCancel(context.Background())
				fails(t, ctx, c, trainer.Hooks{OnStep: func(r report.Row) error {
					if r.Step == stop {
						cancel()
					}
					return nil
				}}, config.ExitStopped)
				c.Resume = true
			}
			require.Equal(t, want, run(t, c, trainer.Hooks{}).WeightsDigest)
			a, b := metrics(t, whole), metrics(t, c)
			require.Len(t, b, len(a))
			for i := range a {
				require.Equal(t, a[i].Loss, b[i].Loss)
				require.Equal(t, a[i].GradNorm, b[i].GradNorm)
				require.Equal(t, a[i].EvalLoss, b[i].EvalLoss)
				require.Equal(t, a[i].More, b[i].More)
			}
			require.Equal(t, read(t, whole.Out, "samples.jsonl"), read(t, c.Out, "samples.jsonl"))
		})
	}
}

func read(t *testing.T, parts ...string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(parts...))
	require.NoError(t, err)
	require.NotEmpty(t, raw)
	return string(raw)
}
