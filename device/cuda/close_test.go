package cuda

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/driver"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// After Close nothing reaches the driver: buffers and graphs may be freed in any order, everything else is refused.
func TestCloseIsFinal(t *testing.T) {
	testDevice(t) // finds the driver
	d, err := New(Options{})
	require.NoError(t, err)
	s := d.Stream(0)
	b, err := d.Alloc(64)
	require.NoError(t, err)
	p := device.Ptr{Buf: b}
	at, err := d.address(p, 64)
	require.NoError(t, err)
	f := function(t, d, "increment")
	launch := func() error {
		return d.enter(func() error { return own(d, s).Launch(f, Rows(1, 32), at, int64(16), int32(1)) })
	}
	g, err := d.Capture(s, launch)
	require.NoError(t, err)
	require.NoError(t, g.Launch(s))
	f32 := tensor.T(tensor.F32, 16)
	copied := device.Spec{Op: ops.AllReduce{}, In: []tensor.Type{f32}, Out: []tensor.Type{f32}}
	_, err = d.Kernel(copied)
	require.NoError(t, err)
	require.NoError(t, d.Close())
	require.NoError(t, d.Close(), "twice")
	require.NoError(t, g.Free())
	require.NoError(t, b.Free())
	for what, call := range map[string]func() error{
		"launch":   launch,
		"graph":    func() error { return g.Launch(s) },
		"sync":     s.Sync,
		"upload":   func() error { return s.Upload(p, make([]byte, 4)) },
		"alloc":    func() error { _, err := d.Alloc(1); return err },
		"host":     func() error { _, err := d.AllocHost(1); return err },
		"reserve":  func() error { _, err := d.Reserve(1); return err },
		"function": func() error { _, err := d.Function(Program{Text: echoText}, "increment"); return err },
		"kernel":   func() error { _, err := d.Kernel(copied); return err },
		"stream":   func() error { return d.Stream(7).Sync() },
	} {
		require.Error(t, call(), what)
	}
	_, err = d.Alloc(1)
	require.ErrorIs(t, err, errClosed)
	require.Zero(t, d.Info().MemoryFree)
}

// TestClosedProgramsStayClosed: what is compiled in the background while a device closes reaches the driver before its modules are unloaded, or never.
func TestClosedProgramsStayClosed(t *testing.T) {
	d := fresh(t)
	_, err := d.Function(Program{Text: echoText}, "increment")
	require.NoError(t, err)
	late, err := seldom(d, func() (*Function, error) {
		return d.Function(Program{Text: echoText, Define: []string{"LATE 1"}}, "increment")
	})
	require.NoError(t, err)
	loaded := d.compile.order[0]
	require.NoError(t, d.enter(func() error { return d.compile.unload(d.api) }))
	require.ErrorIs(t, d.load(late.module), errClosed)
	require.ErrorIs(t, d.load(loaded), errClosed)
}

func TestKernelRefusesOtherOperands(t *testing.T) {
	d := testDevice(t)
	f32 := tensor.T(tensor.F32, 16)
	k, err := d.Kernel(device.Spec{Op: ops.AllReduce{}, In: []tensor.Type{f32}, Out: []tensor.Type{f32}})
	require.NoError(t, err)
	p, _ := allocate(t, d, 64)
	short, _ := allocate(t, d, 60)
	s, none := d.Stream(0), device.Ptr{}
	require.NoError(t, k.Launch(s, []device.Ptr{p}, []device.Ptr{p}, none))
	require.ErrorContains(t, k.Launch(s, []device.Ptr{p, p}, []device.Ptr{p}, none), "2 operands for 1")
	require.ErrorContains(t, k.Launch(s, []device.Ptr{p}, nil, none), "single rank, results: 0 operands for 1")
	require.ErrorContains(t, k.Launch(s, []device.Ptr{short}, []device.Ptr{p}, none), "inputs: ")
}

// What ends a context, and what a program can go on after.
func TestLostCodes(t *testing.T) {
	for _, c := range []driver.Code{driver.IllegalAddress, driver.LaunchFailed, driver.Assert, driver.ContextDestroyed, 716, driver.ECCUncorrectable} {
		require.True(t, (&driver.Error{Code: c}).Lost(), c)
	}
	for _, c := range []driver.Code{driver.OutOfMemory, 600, driver.NoPTXCompiler, driver.UnsupportedPTX, driver.NoBinaryForGPU, 1, 720, 900} {
		require.False(t, (&driver.Error{Code: c}).Lost(), c)
	}
	require.ErrorContains(t, &driver.Error{Code: driver.NoPTXCompiler}, "libnvidia-ptxjitcompiler")
}
