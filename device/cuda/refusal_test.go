package cuda

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/cublaslt"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/cudnn"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/driver"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/emulator"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/nvrtc"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// raceOf times a contender that does nothing beside one that answers with an error.
func raceOf(d *Device, f func(r *trial) error) (times []time.Duration, err error) {
	err = d.enter(func() error {
		r, err := d.newTrial()
		if err != nil {
			return err
		}
		defer r.close()
		times, err = r.rounds([]contender{func() error { return f(r) }, func() error { return nil }})
		return err
	})
	return times, err
}

// TestRefusals: a trial passes over what a library refuses, and ends where that says nothing about it: the device has no memory, or is lost.
func TestRefusals(t *testing.T) {
	d := testDevice(t)
	for _, status := range []int32{7, 13, 14, 15} {
		times, err := raceOf(d, func(*trial) error { return &cublaslt.Error{Function: "cublasLtMatmul", Status: status} })
		require.NoError(t, err)
		require.Equal(t, refused, times[0])
		require.Less(t, times[1], refused)
	}
	for _, e := range []error{&cublaslt.Error{Status: 3}, &driver.Error{Code: driver.OutOfMemory}} {
		_, err := raceOf(d, func(*trial) error { return e })
		require.ErrorIs(t, err, e)
		require.True(t, outOfMemory(err))
	}
}

// TestLostInTrial: a fault that a library answers with a status of its own is told as what it is, and so is one of the driver.
func TestLostInTrial(t *testing.T) {
	testDevice(t)
	if !onEmulator() {
		t.Skip("a fault takes the process's device with it; the emulator tells it once")
	}
	d, err := New(Options{})
	require.NoError(t, err)
	f := function(t, d, "increment")
	_, err = raceOf(d, func(r *trial) error {
		c := &Call{Dev: d, Stream: r.stream}
		return errors.Join(c.Launch(f, Rows(1, 32), Addr(0x10), int64(32), int32(1)), &cublaslt.Error{Function: "cublasLtMatmul", Status: 13})
	})
	require.ErrorIs(t, err, device.ErrLost)
	require.ErrorContains(t, err, "EXECUTION_FAILED")
	_ = d.Close() // it is lost

	d, err = New(Options{})
	require.NoError(t, err)
	_, err = raceOf(d, func(*trial) error { return &driver.Error{Call: "cuLaunchKernel", Code: driver.LaunchFailed} })
	require.ErrorIs(t, err, device.ErrLost)
	_ = d.Close()
}

// TestProductsWithoutMemory: where there is no memory to time a product in, the library's first suggestion is taken, and not kept.
func TestProductsWithoutMemory(t *testing.T) {
	d := strict(t)
	product := func() (*Kernel, error) {
		x := tensor.T(tensor.BF16, 1024, 1024)
		k, err := d.Kernel(device.Spec{Op: ops.MatMul{}, In: []tensor.Type{x, x}, Out: []tensor.Type{x}})
		if err != nil {
			return nil, err
		}
		return k.(*Kernel), nil
	}
	kept := func(n int) {
		t.Helper()
		k, err := product()
		require.NoError(t, err)
		require.Equal(t, "cublaslt", k.KernelName())
		require.Len(t, d.blas.chosen, n)
	}
	_, err := d.library() // opens it
	require.NoError(t, err)
	emulator.SetProducts(t, 3)
	kept(0)
	emulator.SetProducts(t, 0)
	require.NoError(t, emulator.Set("memory=2000000"))
	kept(0)
	require.NoError(t, emulator.Reset())
	emulator.SetProducts(t, 13)
	k, err := product()
	require.NoError(t, err)
	require.NotEqual(t, "cublaslt", k.KernelName(), "the library refuses all that it suggests")
	require.Empty(t, d.blas.chosen)
	emulator.SetProducts(t, 0)
	kept(1)
}

// TestPassingPlanErrors: an error of the library that may pass is not remembered, its answer that it has no engine is.
func TestPassingPlanErrors(t *testing.T) {
	d := strict(t)
	_, err := d.cudnnVersion() // opens it
	require.NoError(t, err)
	asked := 0
	d.cudnn.make = func(g cudnn.Attention) (*cudnn.Plan, error) {
		asked++
		return d.makePlan(g)
	}
	for i, c := range []struct {
		status, times int
		passes        bool
	}{{4003, 4, true}, {4004, 4, true}, {5001, 4, true}, {4000, 4, false}, {3000, 4, false}} {
		tokens := int64(128 * (i + 1))
		emulator.SetPlans(t, c.status, c.times)
		asked = 0
		err := planOf(d, tokens)
		require.ErrorContains(t, err, "cuDNN 9.19.1")
		require.Equal(t, !c.passes, errors.Is(err, cudnn.ErrNoEngine))
		require.Equal(t, c.passes, passing(err))
		emulator.SetPlans(t, 0, 0)
		err = planOf(d, tokens)
		require.Equal(t, c.passes, err == nil)
		require.Equal(t, 1+b2i(c.passes), asked)
	}
}

// TestOpensLater: a library that lacked memory for its handle is opened by whoever asks next.
func TestOpensLater(t *testing.T) {
	d := strict(t)
	emulator.SetHandles(t, 0)
	defer emulator.SetHandles(t, 1000)
	require.ErrorContains(t, planOf(d, 128), "making a handle")
	emulator.SetHandles(t, 1000)
	require.NoError(t, planOf(d, 128))
}

// TestUnkept: a device says why the next start will find nothing of what this one has found.
func TestUnkept(t *testing.T) {
	d := fresh(t)
	require.NoError(t, d.Unkept())
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	t.Setenv(nvrtc.CacheVariable, file)
	d.ways.keep("key", "name")
	require.ErrorContains(t, d.Unkept(), file)
	require.ErrorContains(t, d.Unkept(), "set "+nvrtc.CacheVariable)
}

// TestUnsurePlans: a plan that was made because a better engine failed for a passing reason serves the process, and the next one asks again.
func TestUnsurePlans(t *testing.T) {
	d := strict(t)
	kept := func(tokens int64) (ok bool) {
		require.NoError(t, planOf(d, tokens))
		require.NoError(t, d.enter(func() error {
			p, found := d.cudnn.handle.Kept(oneHead(tokens), d.planner(), planCache{d.cudnn.cache})
			if ok = found; found {
				p.Close()
			}
			return nil
		}))
		return ok
	}
	emulator.SetPlans(t, 5001, 1)
	require.False(t, kept(128))
	require.True(t, kept(256))
}
