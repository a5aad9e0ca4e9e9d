package trainer_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// TestMemory compares what is planned with what the device has handed out.
func TestMemory(t *testing.T) {
	dir := model(t, small)
	for name, c := range map[string]config.Config{"full": pretrain(t), "qlora": adapt(t, dir)} {
		t.Run(name, func(t *testing.T) {
			dev := threads(t, 1) // scratch depends on the number of threads
			p, err := trainer.Plan(context.Background(), c, trainer.Hooks{Device: dev})
			require.NoError(t, err)
			run(t, c, trainer.Hooks{Device: dev, OnStep: func(r report.Row) error {
				require.Equal(t, dev.Allocated(), r.MemoryBytes)
				require.Equal(t, p.TotalBytes, r.MemoryBytes)
				return nil
			}})
			require.Zero(t, dev.Allocated(), "everything is given back")
			require.Equal(t, p.TotalBytes, p.WeightBytes+p.TrainBytes+p.ArenaBytes)
			for _, says := range []string{c.Model, "parameters", "total on the device", report.Bytes(p.TotalBytes), "rows of 16 tokens", "optimizer steps"} {
				require.Contains(t, p.Text(), says)
			}
			_, err = os.Stat(filepath.Join(c.Out, "manifest.json"))
			require.NoError(t, err)
		})
	}
}

// TestMemoryOfExactMatch plans for the caches of held-out questions too.
func TestMemoryOfExactMatch(t *testing.T) {
	c := pretrain(t)
	path := filepath.Join(t.TempDir(), "questions.jsonl")
	text := ""
	for range 8 {
		text += `{"input_ids": [1, 5, 6, 7, 0], "labels": [-100, -100, -100, 7, 0]}` + "\n"
	}
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	c.Data.Path[0].Path, c.Data.Val, c.Train.Steps, c.Train.LR = path, 0.25, 30, 3e-2
	p, err := trainer.Plan(context.Background(), c, trainer.Hooks{})
	require.NoError(t, err)
	c.Train.Memory = strconv.FormatInt(p.TotalBytes, 10) + "B"
	var most int64
	s := run(t, c, trainer.Hooks{OnStep: func(r report.Row) error { most = r.MemoryBytes; return nil }})
	require.LessOrEqual(t, most, p.TotalBytes)
	require.Greater(t, p.TotalBytes, p.WeightBytes+p.TrainBytes+p.ArenaBytes)
	require.Zero(t, *s.ExactBefore)
	require.InDelta(t, 1, *s.ExactAfter, 0)
}

// TestFit halves the micro-batch until the step fits, and keeps to it when resumed.
func TestFit(t *testing.T) {
	c := pretrain(t)
	c.Train.Batch, c.Train.MicroBatch, c.Train.Checkpointing = 8, 8, "off"
	c.Train.Memory = ""
	whole, err := trainer.Plan(context.Background(), c, trainer.Hooks{})
	require.NoError(t, err)
	tight := c
	tight.Train.MicroBatch = 2
	two, err := trainer.Plan(context.Background(), tight, trainer.Hooks{})
	require.NoError(t, err)
	require.Less(t, two.TotalBytes, whole.TotalBytes)

	c.Train.Memory = strconv.FormatInt(two.TotalBytes, 10) + "B"
	fails(t, context.Background(), c, trainer.Hooks{}, config.ExitMemory, "train.fit")
	c.Out, c.Train.Fit = filepath.Join(t.TempDir(), "run"), true
	fitted, err := trainer.Plan(context.Background(), c, trainer.Hooks{})
	require.NoError(t, err)
	require.Equal(t, 2, fitted.MicroBatch)
	require.Equal(t, two.TotalBytes, fitted.TotalBytes)

	ctx, cancel := context.WithCancel(context.Background())
	fails(t, ctx, c, trainer.Hooks{OnStep: func(report.Row) error { cancel(); return nil }}, config.ExitStopped)
	c.Resume, c.Train.Memory = true, ""
	ctx, cancel = context.WithCancel(context.Background())
	fails(t, ctx, c, trainer.Hooks{OnStep: func(report.Row) error { cancel(); return nil }}, config.ExitStopped)
	c.Train.Fit = false // the micro-batch stays that of the beginning
	digest := run(t, c, trainer.Hooks{}).WeightsDigest
	tight.Out = filepath.Join(t.TempDir(), "run")
	require.Equal(t, run(t, tight, trainer.Hooks{}).WeightsDigest, digest)

	c.Out, c.Resume, c.Train.Memory, c.Train.Fit = filepath.Join(t.TempDir(), "run"), false, "1KiB", true
	fails(t, context.Background(), c, trainer.Hooks{}, config.ExitMemory, "train.fit cannot go lower")
}

// TestFrozenWeights measures 4-bit weights with double quantization at rest.
func TestFrozenWeights(t *testing.T) {
	c := adapt(t, model(t, shape{32, 192, 768, 2, 64}))
	p, err := trainer.Plan(context.Background(), c, trainer.Hooks{})
	require.NoError(t, err)
	share := float64(p.WeightBytes) / float64(p.Parameters-p.Trained)
	t.Logf("%.4f bytes a parameter", share)
	require.LessOrEqual(t, share, 0.6)
}

// TestSteadySteps watches the Go heap over fifty steps.
func TestSteadySteps(t *testing.T) {
	c := adapt(t, model(t, small))
	c.Train.Steps, c.Save.Every = 70, 0
	heap := map[int64]uint64{}
	run(t, c, trainer.Hooks{OnStep: func(r report.Row) error {
		if r.Step == 10 || r.Step == 60 {
			var m runtime.MemStats
			runtime.GC()
			runtime.GC()
			runtime.ReadMemStats(&m)
			heap[r.Step] = m.HeapAlloc
		}
		return nil
	}})
	t.Logf("heap %d -> %d bytes", heap[10], heap[60])
	require.LessOrEqual(t, heap[60], heap[10]+32<<10)
}
