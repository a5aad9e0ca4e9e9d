package trainer_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// pairs writes preferences: of two answers to a sum the right one is chosen, with answers of several lengths.
func pairs(t testing.TB, n int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pairs.jsonl")
	f, err := os.Create(path)
	require.NoError(t, err)
	enc := json.NewEncoder(f)
	for i := range n {
		good, bad := fmt.Sprintf("the answer is %d", i+1), fmt.Sprintf("no %d", i)
		if i%3 == 0 {
			good = fmt.Sprint(i + 1)
		}
		require.NoError(t, enc.Encode(map[string]string{"prompt": fmt.Sprintf("What is %d and one?\n", i), "chosen": good, "rejected": bad}))
	}
	require.NoError(t, f.Close())
	return path
}

// prefer is a configuration that learns preferences with an adapter on the built-in model.
func prefer(t testing.TB, objective string) config.Config {
	t.Helper()
	c := config.Default(config.Finetune)
	c.Model, c.Out, c.Device = "builtin:tiny", filepath.Join(t.TempDir(), "run"), "cpu"
	c.Quantize.Scheme = "none"
	c.Adapter.R = 4
	c.Data.Path, c.Data.SeqLen, c.Data.Val = []config.Source{{Path: pairs(t, 16), Weight: 1}}, 64, 0.25
	c.Train.Objective, c.Train.Batch, c.Train.MicroBatch, c.Train.Steps, c.Train.LR = objective, 4, 2, 4, 3e-3
	c.Train.Warmup, c.Train.Schedule = 0, "constant"
	return c
}

// full trains every weight, with a reference that was asked before.
func full(c config.Config) config.Config {
	c.Adapter.Type, c.Train.LR = "none", 1e-4
	return c
}

func metrics(t testing.TB, c config.Config) []report.Row {
	t.Helper()
	rows, err := report.ReadMetricsFile(filepath.Join(c.Out, "metrics.jsonl"))
	require.NoError(t, err)
	return rows
}

// TestPreferences trains each objective: the loss begins where the formula says and the margin of held-out pairs grows.
func TestPreferences(t *testing.T) {
	for name, c := range map[string]config.Config{"dpo": prefer(t, "dpo"), "dpo of every weight": full(prefer(t, "dpo")), "orpo": prefer(t, "orpo"),
		"simpo": prefer(t, "simpo"), "kto": prefer(t, "kto")} {
		t.Run(name, func(t *testing.T) {
			c.Eval.Every, c.Train.Steps = 1, 6
			s := run(t, c, trainer.Hooks{})
			rows := metrics(t, c)
			first, last := rows[0], rows[len(rows)-1]
			switch c.Train.Objective {
			case "dpo":
				require.InDelta(t, math.Ln2, first.Loss, 1e-6, "policy and reference are the same")
				require.InDelta(t, 0, first.More["reward_margin"], 1e-6)
			case "kto":
				require.InDelta(t, 0.5, first.Loss, 1e-6)
			}
			require.Greater(t, last.More["eval_reward_margin"], first.More["eval_reward_margin"])
			if c.Train.Objective != "kto" { // its z moves too
				require.Less(t, *last.EvalLoss, *first.EvalLoss)
			}
			for _, key := range []string{"rewards_chosen", "rewards_rejected", "reward_margin", "reward_accuracy"} {
				require.Contains(t, last.More, key)
				require.Contains(t, last.More, "eval_"+key)
			}
			require.InDelta(t, last.More["rewards_chosen"]-last.More["rewards_rejected"], last.More["reward_margin"], 1e-9)
			require.NotNil(t, s.Preference)
			t.Logf("held-out margin %.4f before, %.4f after", s.Preference.MarginBefore, s.Preference.MarginAfter)
			require.Greater(t, s.Preference.MarginAfter, s.Preference.MarginBefore)
		})
	}
}

// TestPreferencesMicroBatch cuts the same steps into micro-batches in several ways.
func TestPreferencesMicroBatch(t *testing.T) {
	for _, objective := range []string{"dpo", "orpo", "simpo", "kto"} {
		t.Run(objective, func(t *testing.T) {
			var want []report.Row
			for _, micro := range []int{1, 3, 4} {
				c := prefer(t, objective)
				c.Train.MicroBatch, c.Eval.Every = micro, 2
				run(t, c, trainer.Hooks{})
				got := metrics(t, c)
				if want == nil {
					want = got
				}
				for i := range want {
					require.InEpsilon(t, want[i].Loss, got[i].Loss, 2e-5, "step %d with %d pairs at once", i+1, micro)
					require.InEpsilon(t, want[i].GradNorm, got[i].GradNorm, 2e-3)
					require.InDelta(t, want[i].More["reward_margin"], got[i].More["reward_margin"], 1e-4)
					if want[i].EvalLoss != nil {
						require.InEpsilon(t, *want[i].EvalLoss, *got[i].EvalLoss, 2e-5)
					}
				}
			}
		})
	}
}

// TestPreferencesReference compares the two ways to ask the reference.
func TestPreferencesReference(t *testing.T) {
	live, before := prefer(t, "dpo"), prefer(t, "dpo")
	live.Train.Preference.Reference, before.Train.Preference.Reference = "live", "precompute"
	before.Data.Path = live.Data.Path
	run(t, live, trainer.Hooks{})
	run(t, before, trainer.Hooks{})
	want, got := metrics(t, live), metrics(t, before)
	for i := range want {
		require.InEpsilon(t, want[i].Loss, got[i].Loss, 1e-5)
		require.InDelta(t, want[i].More["reward_margin"], got[i].More["reward_margin"], 1e-5)
	}
	_, err := os.Stat(filepath.Join(live.Out, "reference.safetensors"))
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = os.Stat(filepath.Join(before.Out, "reference.safetensors"))
	require.NoError(t, err)
}

// TestPreferencesResume stops runs in several places; what goes on is bit for bit what was never stopped.
func TestPreferencesResume(t *testing.T) {
	for name, c := range map[string]config.Config{"dpo": prefer(t, "dpo"), "every weight": full(prefer(t, "dpo")), "kto": prefer(t, "kto"),
		"orpo": prefer(t, "orpo")} {
		t.Run(name, func(t *testing.T) {
			c.Adapter.Dropout = 0.1
			if c.Adapter.Type == "none" {
				c.Adapter.Dropout = 0
			}
			c.Eval.Every, c.Save.Every = 2, 0
			whole := c
			whole.Out = filepath.Join(t.TempDir(), "whole")
			want := run(t, whole, trainer.Hooks{}).WeightsDigest
			for stop := int64(1); stop <= 3; stop++ {
				ctx, cancel := context.WithCancel(context.Background())
				fails(t, ctx, c, trainer.Hooks{OnStep: func(r report.Row) error {
					if r.Step == stop {
						cancel()
					}
					return nil
				}}, config.ExitStopped)
				c.Resume = true
				if stop == 2 { // a reference that was lost is that of the base weights again, not of the checkpoint
					_ = os.Remove(filepath.Join(c.Out, "reference.safetensors"))
				}
			}
			require.Equal(t, want, run(t, c, trainer.Hooks{}).WeightsDigest)
			a, b := metrics(t, whole), metrics(t, c)
			for i := range a {
				require.Equal(t, a[i].Loss, b[i].Loss)
				require.Equal(t, a[i].EvalLoss, b[i].EvalLoss)
				require.Equal(t, a[i].More, b[i].More)
			}
		})
	}
}
