package trainer_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/device/devicetest/queued"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// TestLostDevice: a device that is lost in the middle of a step ends the run with its error and leaves the last checkpoint as it was; the
// run that goes on from it on another device ends with the bits of one that was never disturbed.
func TestLostDevice(t *testing.T) {
	c := pretrain(t)
	c.Save.Every = 2
	want := run(t, c, trainer.Hooks{})
	lost := c
	lost.Out = filepath.Join(t.TempDir(), "lost")
	dev := queued.New(cpu.New(cpu.Options{Threads: 1}), queued.Options{Total: 1 << 30})
	_, err := trainer.Run(t.Context(), lost, trainer.Hooks{Device: dev, OnStep: func(r report.Row) error {
		if r.Step == 3 {
			dev.LoseAfter(40) // within the fourth step
		}
		return nil
	}})
	require.ErrorIs(t, err, queued.ErrLost)
	require.ErrorContains(t, err, "train.launch: synced", "how the op is found")
	files, err := os.ReadDir(filepath.Join(lost.Out, "checkpoints"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	lost.Resume = true
	from := int64(0)
	got := run(t, lost, trainer.Hooks{OnStep: func(r report.Row) error {
		if from == 0 {
			from = r.Step
		}
		return nil
	}})
	require.Equal(t, int64(3), from, "the step after the checkpoint")
	require.Equal(t, want.WeightsDigest, got.WeightsDigest)
}

// TestQueuedRun: a run on a device with a queue has the bits of one on the processor.
func TestQueuedRun(t *testing.T) {
	c := pretrain(t)
	want := run(t, c, trainer.Hooks{})
	c.Out = filepath.Join(t.TempDir(), "queued")
	dev := queued.New(cpu.New(cpu.Options{Threads: 1}), queued.Options{Total: 1 << 30})
	got := run(t, c, trainer.Hooks{Device: dev})
	require.Equal(t, want.WeightsDigest, got.WeightsDigest)
	require.Positive(t, dev.Replays)
	require.Zero(t, dev.Allocated(), "everything was freed")
}
