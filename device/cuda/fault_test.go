package cuda

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
)

const faultVariable = "BYES_TEST_FAULT"

// A kernel that writes where nothing is takes the device with it, so that happens in a process of its own.
func TestFault(t *testing.T) {
	testDevice(t)
	for _, mode := range []string{"plain", "sync", "graph"} {
		t.Run(mode, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestFaultChild$", "-test.v")
			cmd.Env = append(os.Environ(), faultVariable+"="+mode, "BYES_EMULATE=sticky=1")
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, string(out))
			require.Contains(t, string(out), "PASS: TestFaultChild")
		})
	}
}

// TestFaultChild is the process of TestFault.
func TestFaultChild(t *testing.T) {
	mode := os.Getenv(faultVariable)
	if mode == "" {
		t.Skip("started by TestFault")
	}
	testDevice(t) // finds the driver
	d, err := New(Options{Sync: mode == "sync"})
	require.NoError(t, err)
	s := d.Stream(0)
	f := function(t, d, "increment")
	p, _ := allocate2(t, d, 64)
	wild := func() error {
		return d.enter(func() error { return own(d, s).Launch(f, Rows(1, 32), Addr(0x10), int64(32), int32(1)) })
	}
	switch mode {
	case "sync":
		err = wild()
		require.ErrorContains(t, err, "increment, grid [1 1 1], block [32 1 1]")
		require.ErrorContains(t, err, "the launch named here is the cause")
	case "plain":
		if err = wild(); err == nil {
			err = s.Sync()
		}
		require.ErrorContains(t, err, "cuda:sync=on")
	case "graph":
		g, err2 := d.Capture(s, wild)
		require.NoError(t, err2)
		if err = g.Launch(s); err == nil {
			err = s.Sync()
		}
	}
	require.ErrorIs(t, err, device.ErrLost)
	require.ErrorIs(t, s.Upload(p, []byte{1}), device.ErrLost, "every later call says so")
	_, err = d.Alloc(1)
	require.ErrorIs(t, err, device.ErrLost)
	require.ErrorIs(t, s.Sync(), device.ErrLost)
	require.NoError(t, p.Buf.Free(), "what is gone can be given back")
	_ = d.Close() // the driver may refuse; it must not hang or panic
}

// allocate2 is allocate without the check at the end, for a device that is lost by then.
func allocate2(t *testing.T, d *Device, n int64) (device.Ptr, Addr) {
	b, err := d.Alloc(n)
	require.NoError(t, err)
	at, err := d.address(device.Ptr{Buf: b}, n)
	require.NoError(t, err)
	return device.Ptr{Buf: b}, at
}
