package trainer

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/device/devicetest/queued"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// TestPlacedInHost: a run that does not fit by less than its table of tokens has that in host memory, computes the same numbers, and
// allocates no more than it may; on the processor, whose memory is one, nothing is moved.
func TestPlacedInHost(t *testing.T) {
	o := BenchOptions{Shape: "tiny", Seq: 64, Batch: 1, Steps: 2, Warmup: 1, Profile: -1, Device: "cpu", DType: "f32"}
	whole, err := Bench(context.Background(), o, Hooks{})
	require.NoError(t, err)
	const table = 512 * 64 * 2 // bf16
	o.Memory = fmt.Sprintf("%d", whole.PlannedBytes-table/2)
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

// TestRefusedBeforeTheFirstStep: what the device has no room for is refused with the table, and nothing was launched.
func TestRefusedBeforeTheFirstStep(t *testing.T) {
	dev := queued.New(cpu.New(cpu.Options{}), queued.Options{Total: 1 << 20})
	_, err := Bench(context.Background(), BenchOptions{Shape: "tiny", Seq: 64, Batch: 8}, Hooks{Device: dev})
	require.Equal(t, config.ExitMemory, config.ExitCode(err))
	require.ErrorContains(t, err, "train.micro_batch", "settings and what they need")
	require.Zero(t, dev.Launches)
	require.Zero(t, dev.Allocated())
}
