package trainer_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/device/devicetest/queued"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// beside is a device with memory of its own, whose streams work in an order of their own.
func beside(order uint64) *queued.Device {
	return queued.New(cpu.New(cpu.Options{Threads: 1}), queued.Options{Total: 1 << 30, Order: order})
}

// TestOffload: runs whose activations wait in host memory have the bits of those whose do not, and hold what was planned: with packed rows and padded
// ones, micro-batches, dropout, evaluations, pairs, and when they are resumed.
func TestOffload(t *testing.T) {
	packed := adapt(t, model(t, shape{32, 32, 96, 5, 64}))
	packed.Train.Checkpointing, packed.Adapter.Dropout = "on", 0.1
	packed.Data.Val, packed.Eval.Every = 0.2, 2
	padded := deep(t)
	padded.Data.Pack, padded.Train.Checkpointing, padded.Train.MicroBatch = false, "on", 4
	pairs := prefer(t, "dpo")
	pairs.Train.Checkpointing = "on"
	kept := deep(t)
	kept.Train.Checkpointing = "off"
	for i, tc := range []struct {
		name, offload string
		c             config.Config
	}{{"packed", "inputs", packed}, {"padded", "inputs", padded}, {"pairs", "inputs", pairs}, {"all of recomputed", "all", packed}, {"all", "all", kept}} {
		t.Run(tc.name, func(t *testing.T) {
			c := tc.c
			c.Train.Offload = "off"
			c.Out = filepath.Join(t.TempDir(), "whole")
			whole, err := trainer.Plan(context.Background(), c, trainer.Hooks{Device: beside(0)})
			require.NoError(t, err)
			require.Zero(t, whole.AwayBytes)
			want := run(t, c, trainer.Hooks{Device: beside(0)})
			c.Train.Offload = tc.offload
			p, err := trainer.Plan(context.Background(), c, trainer.Hooks{Device: beside(0)})
			require.NoError(t, err)
			require.Positive(t, p.AwayBytes)
			require.Equal(t, 2*p.AwayBytes, p.MovedBytes)
			require.Equal(t, whole.HostBytes+p.AwayBytes, p.HostBytes)
			require.Less(t, p.TotalBytes, whole.TotalBytes)
			require.Contains(t, p.Text(), "activations that wait")
			c.Out = filepath.Join(t.TempDir(), "moved")
			dev, most := beside(uint64(i)), int64(0)
			got := run(t, c, trainer.Hooks{Device: dev, OnStep: func(r report.Row) error { most = r.MemoryBytes; return nil }})
			require.Equal(t, want.WeightsDigest, got.WeightsDigest)
			require.InEpsilon(t, p.TotalBytes, most, 0.02)
			require.Positive(t, dev.Beside)
			require.Zero(t, dev.Allocated())
		})
	}
}

// TestOffloadResumed: where activations wait is no part of what a run is: one that began without goes on with it.
func TestOffloadResumed(t *testing.T) {
	c := deep(t)
	c.Train.Checkpointing, c.Train.Offload, c.Save.Every = "on", "off", 2
	want := run(t, c, trainer.Hooks{Device: beside(1)})
	c.Out = filepath.Join(t.TempDir(), "run")
	ctx, stop := context.WithCancel(context.Background())
	_, err := trainer.Run(ctx, c, trainer.Hooks{Device: beside(2), OnStep: func(r report.Row) error {
		if r.Step == 2 {
			stop()
		}
		return nil
	}})
	require.Equal(t, config.ExitStopped, config.ExitCode(err), "%v", err)
	c.Train.Offload, c.Resume = "inputs", true
	require.Equal(t, want.WeightsDigest, run(t, c, trainer.Hooks{Device: beside(3)}).WeightsDigest)
}

// TestOffloadLadder: a run that does not fit with all blocks recomputed has what they begin from in host memory, and fewer blocks are recomputed for the
// same memory; off and the processor have neither.
func TestOffloadLadder(t *testing.T) {
	c := deep(t)
	c.Train.Checkpointing = "on"
	plan := func() *trainer.Planned {
		p, err := trainer.Plan(context.Background(), c, trainer.Hooks{Device: beside(0)})
		require.NoError(t, err)
		return p
	}
	on := plan()
	require.Zero(t, on.AwayBytes, "it fits without")
	c.Train.Offload = "inputs"
	least := plan()
	require.Less(t, least.TotalBytes, on.TotalBytes)
	c.Train.Offload, c.Train.Memory = "auto", bytesText(least.TotalBytes)
	first := plan()
	require.Equal(t, []int64{least.AwayBytes, least.AwayBytes}, []int64{first.AwayBytes, first.HostBytes})
	c.Train.Offload = "off"
	other := plan()
	require.Equal(t, []int64{0, other.StateBytes}, []int64{other.AwayBytes, other.HostBytes}, "the optimizer's states are the last resort")

	c.Train.Checkpointing, c.Train.Memory = "auto", bytesText(on.TotalBytes)
	without := plan()
	c.Train.Offload = "auto"
	with := plan()
	require.Less(t, with.Recompute, without.Recompute)
	require.LessOrEqual(t, with.TotalBytes, on.TotalBytes)
	require.Positive(t, with.AwayBytes)

	c.Train.Memory, c.Train.Offload = "", "inputs"
	fails(t, context.Background(), c, trainer.Hooks{Device: threads(t, 1)}, config.ExitConfig, "train.offload", "computes in host memory")
}

// TestOffloadBench: a benchmark tells what waits, and its profile, for which launches follow each other, has the copies.
func TestOffloadBench(t *testing.T) {
	o := trainer.BenchOptions{Shape: "tiny", Seq: 64, Batch: 2, Steps: 2, Warmup: 1, Profile: 1, Checkpointing: "on", Offload: "off"}
	whole, err := trainer.Bench(context.Background(), o, trainer.Hooks{Device: beside(0)})
	require.NoError(t, err)
	o.Offload = "inputs"
	moved, err := trainer.Bench(context.Background(), o, trainer.Hooks{Device: beside(1)})
	require.NoError(t, err)
	require.Equal(t, []float64{whole.FirstLoss, whole.LastLoss}, []float64{moved.FirstLoss, moved.LastLoss})
	require.Positive(t, moved.PlannedAway)
	require.Equal(t, moved.PlannedAway, moved.PlannedHost-whole.PlannedHost)
	require.Equal(t, 2*moved.PlannedAway, moved.MovedBytes)
	require.Contains(t, moved.Text(), "activations that wait in host memory")
	names := func(list []trainer.BenchClass) (out []string) {
		for _, c := range list {
			out = append(out, c.Name)
		}
		return out
	}
	require.Contains(t, names(moved.Classes), "copies over the bus")
	require.NotContains(t, names(whole.Classes), "copies over the bus")
}
