package trainer_test

import (
	"context"
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// TestOneWriter: a run directory that another process writes to is left alone, resumed or not, and is free after a run, also one that failed.
func TestOneWriter(t *testing.T) {
	if runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		t.Skip("folders are not locked here")
	}
	c := adapt(t, model(t, small))
	require.NoError(t, os.MkdirAll(c.Out, 0o777))
	for _, resume := range []bool{false, true} {
		unlock, err := vfs.Lock(c.Out)
		require.NoError(t, err)
		c.Resume = resume
		fails(t, context.Background(), c, trainer.Hooks{}, config.ExitConfig, "another process is writing to "+c.Out)
		require.Empty(t, names(t, c.Out))
		require.NoError(t, unlock())
	}
	refused := c
	refused.Train.Memory = "10KiB"
	fails(t, context.Background(), refused, trainer.Hooks{}, config.ExitMemory)
	run(t, c, trainer.Hooks{})
	unlock, err := vfs.Lock(c.Out)
	require.NoError(t, err)
	require.NoError(t, unlock())
}
