package trainer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/device/devicetest/queued"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// TestPlacedInHost: a run that does not fit by less than its table of tokens has that in host memory, computes the same numbers, and
// allocates no more than it may; on the processor, whose memory is one, nothing is moved.
func TestPlacedInHost(t *testing.T) {
	o := BenchOptions{Shape: "tiny", Seq: 64, Batch: 1, Steps: 2, Warmup: 1, Profile: -1, Device: "cpu", DType: "f32"}
	whole, err := Bench(context.Background(), o, Hooks{})
	require.NoError(t, err)
	const table = 512 * 64 * 2 // bf16
	o.Memory = fmt.Sprintf("%dB", whole.PlannedBytes-table/2)
	dev := queued.New(cpu.New(cpu.Options{}), queued.Options{Total: 1 << 30})
	placed, err := Bench(context.Background(), o, Hooks{Device: dev})
	require.NoError(t, err)
	require.Equal(t, int64(table), placed.PlannedHost)
	require.Equal(t, whole.PlannedBytes-table, placed.PlannedBytes)
	require.Zero(t, placed.Recompute)
	require.LessOrEqual(t, placed.PeakBytes, placed.PlannedBytes)
	require.InDelta(t, whole.LastLoss, placed.LastLoss, 0)

	o.Checkpointing = "off"
	var short *plan.BudgetError
	_, err = Bench(context.Background(), o, Hooks{})
	require.True(t, errors.As(err, &short), "%v", err)
}

// TestStatesStay: with train.fit a smaller micro-batch is taken before the states of the optimizer go to host memory, where every step would wait
// for them. They do where no setting is enough.
func TestStatesStay(t *testing.T) {
	dir := t.TempDir()
	place := func(memory int64, fit bool, micro int) *Planned {
		o := BenchOptions{Shape: "tiny", Mode: ModeFull, Docs: DocsSingle, Seq: 64, Batch: 8, Optimizer: "adamw", DType: "f32", Checkpointing: "off"}
		shape, err := shapeConfig(o.Shape)
		require.NoError(t, err)
		o.defaults(shape)
		c, err := o.config(dir)
		require.NoError(t, err)
		require.NoError(t, writeBenchRows(c.Data.Path[0].Path, o.Docs, shape.Vocab, 8, o.Seq, 1))
		c.Train.Fit, c.Train.MicroBatch, c.Train.Memory = fit, micro, fmt.Sprint(memory)
		dev := queued.New(cpu.New(cpu.Options{}), queued.Options{Total: 1 << 30})
		j := &job{cfg: c, fs: vfs.OS{}, log: slog.New(slog.DiscardHandler), shape: &shape, hooks: Hooks{Device: dev}}
		defer func() { require.NoError(t, j.close()) }()
		p, err := j.plan(context.Background())
		require.NoError(t, err)
		return p
	}
	small := place(1<<30, false, 2)
	require.Zero(t, small.HostBytes)
	fitted := place(small.TotalBytes, true, 8)
	require.Equal(t, 2, fitted.MicroBatch)
	require.Zero(t, fitted.HostBytes)
	least := place(1<<30, false, 1)
	tight := place(least.TotalBytes-1, true, 8)
	require.Equal(t, least.StateBytes, tight.HostBytes)
}

// TestRefusedBeforeTheFirstStep: what the device has no room for is refused with the table, and nothing was launched.
func TestRefusedBeforeTheFirstStep(t *testing.T) {
	dev := queued.New(cpu.New(cpu.Options{}), queued.Options{Total: 1 << 20})
	_, err := Bench(context.Background(), BenchOptions{Shape: "tiny", Seq: 64, Batch: 8}, Hooks{Device: dev})
	require.Equal(t, config.ExitMemory, config.ExitCode(err))
	require.ErrorContains(t, err, "train.micro_batch", "settings and what they need")
	require.Zero(t, dev.Launches)
	require.Zero(t, dev.Allocated())
}
