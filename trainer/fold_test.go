package trainer_test

import (
	"context"
	"errors"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// folding is a device that would fold adapters into weights; it is planned for only.
type folding struct{ device.Device }

func (d folding) Kernel(s device.Spec) (device.Kernel, error) {
	switch s.Op.(type) {
	case ops.FoldedQuantMatMul, ops.AddFoldedQuantMatMul:
		return planned4{}, nil
	}
	return d.Device.Kernel(s)
}

// planned4 is a kernel that is never launched.
type planned4 struct{}

func (planned4) Scratch() int64 { return 0 }

func (planned4) Launch(device.Stream, []device.Ptr, []device.Ptr, device.Ptr) error {
	return errors.New("it is planned for only")
}

// TestFoldSetting: adapter.fold reaches the plans of a run, and what is planned says what came of it.
func TestFoldSetting(t *testing.T) {
	dir := model(t, small)
	for fold, some := range map[string]bool{"auto": true, "": true, "off": false} {
		c := adapt(t, dir)
		c.Adapter.Fold = fold
		p, err := trainer.Plan(context.Background(), c, trainer.Hooks{Device: folding{threads(t, 1)}})
		require.NoError(t, err)
		require.Equal(t, some, p.Folded > 0, "%q: %d", fold, p.Folded)
		if some {
			require.Contains(t, p.Text(), "folded into 4-bit weights")
		} else {
			require.NotContains(t, p.Text(), "folded into")
		}
	}
}

// asking is a device that cannot fold, and counts how often it is asked to.
type asking struct {
	device.Device
	times *int
}

func (d asking) Kernel(s device.Spec) (device.Kernel, error) {
	switch s.Op.(type) {
	case ops.FoldedQuantMatMul, ops.AddFoldedQuantMatMul:
		*d.times++
		return nil, device.ErrNoKernel
	}
	return d.Device.Kernel(s)
}

// TestLocateFolds: what looks for the place where a step's numbers went wrong computes as the step does, adapters folded where those of the step are.
func TestLocateFolds(t *testing.T) {
	for fold, some := range map[string]bool{"auto": true, "off": false} {
		var times [2]int
		for i := range times {
			dir := model(t, small)
			c := adapt(t, dir)
			c.Adapter.Fold, c.Train.Steps = fold, 1
			hooks := trainer.Hooks{Device: asking{threads(t, 1), &times[i]}}
			if i == 0 {
				run(t, c, hooks)
				continue
			}
			spoil(t, dir, "model.embed_tokens.weight", func(x []float32) { x[5*16] = float32(math.Inf(1)) })
			fails(t, context.Background(), c, hooks, config.ExitNonFinite, "the embeddings are not finite")
		}
		require.Equal(t, some, times[1] > times[0], "%q: asked %d times in a run, %d times in one that is looked at", fold, times[0], times[1])
	}
}
