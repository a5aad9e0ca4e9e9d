package cuda

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/trainer"
)

// TestRecomputedBlocksKeepLittle plans a step of the 8B shape, all of whose blocks are recomputed: beside the weights it takes the blocks' inputs and one block, with adapters in
// the weights as with adapters beside them. What is joined for gradients of adapters must be read where it is computed, not when they are added up at the end of the step.
func TestRecomputedBlocksKeepLittle(t *testing.T) {
	testDevice(t)
	for _, fold := range []string{"off", "auto"} {
		r, err := trainer.Bench(t.Context(), trainer.BenchOptions{Shape: "llama-3.1-8b", Seq: 2048, Checkpointing: "on", Fold: fold, PlanOnly: true, Device: "cuda"}, trainer.Hooks{})
		require.NoError(t, err)
		require.Less(t, r.PlannedBytes, int64(8e9), "adapter.fold %s\n%s", fold, r.Text())
	}
}
