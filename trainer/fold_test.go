package trainer_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/trainer"
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
