package cuda

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/emulator"
)

// lanes is a step on two queues: the second takes away what the first has made, the first goes on, and what was taken comes back.
type lanes struct {
	compute, copies device.Stream
	work, kept      device.Ptr // memory of the device, and of the host
	add             func(by int32) error
}

// step adds 1 to zeros, keeps that, adds 100, brings back what was kept, and adds 10. leaveOut is the wait that is missing, if not 0.
func (l *lanes) step(leaveOut int) error {
	n := 0
	follow := func(later, earlier device.Stream) error {
		if n++; n == leaveOut {
			return nil
		}
		return later.Wait(earlier.Record())
	}
	return errors.Join(
		l.compute.Copy(l.work, l.work.Add(4096), 4096), l.add(1),
		follow(l.copies, l.compute), // before what is kept is made
		l.copies.Copy(l.kept, l.work, 4096),
		follow(l.compute, l.copies), // it is changed only then
		l.add(100),
		follow(l.copies, l.compute), // its place is in use until here
		l.copies.Copy(l.work, l.kept, 4096),
		follow(l.compute, l.copies), // it has come back
		l.add(10),
		follow(l.copies, l.compute), l.copies.Copy(l.kept, l.work, 4096), l.compute.Wait(l.copies.Record()),
	)
}

// TestStreamsNeedTheirWaits: in an order of the emulator that is meant to find it, each wait that is left out gives a wrong result, plain and
// recorded; with all of them every order gives the right one.
func TestStreamsNeedTheirWaits(t *testing.T) {
	d := testDevice(t)
	if !onEmulator() {
		t.Skip("a GPU's order cannot be chosen")
	}
	t.Cleanup(func() { require.NoError(t, emulator.Reset()) })
	memory, at := allocate(t, d, 8192)
	host, err := d.AllocHost(4096)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, host.Free()) })
	f := function(t, d, "increment")
	l := &lanes{compute: d.Stream(0), copies: d.Stream(1), work: memory, kept: device.Ptr{Buf: host}}
	l.add = func(by int32) error {
		return d.enter(func() error { return own(d, l.compute).Launch(f, Rows(2, 128), at, int64(1024), by) })
	}
	result := func() byte {
		require.NoError(t, l.compute.Sync())
		require.NoError(t, l.copies.Sync())
		return host.(device.HostBuffer).Bytes()[4092]
	}
	for _, recorded := range []bool{false, true} {
		for leaveOut := range 6 {
			t.Run(fmt.Sprintf("recorded %v without %d", recorded, leaveOut), func(t *testing.T) {
				wrong := 0
				for _, order := range []string{"now", "late", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10"} {
					require.NoError(t, emulator.Set("streams="+order))
					if !recorded {
						require.NoError(t, l.step(leaveOut))
					} else if g, err := d.Capture(l.compute, func() error { return l.step(leaveOut) }); err != nil {
						require.NotZero(t, leaveOut, order)
						wrong++
						continue
					} else {
						require.NoError(t, g.Launch(l.compute))
						require.NoError(t, g.Free())
					}
					if result() != 11 {
						require.NotZero(t, leaveOut, order)
						wrong++
					}
				}
				require.Equal(t, leaveOut != 0, wrong > 0)
			})
		}
	}
}

// TestFailedEventsAreKept: an event that could not be recorded goes back to those that are free.
func TestFailedEventsAreKept(t *testing.T) {
	d := testDevice(t)
	s := d.Stream(0).(*Stream)
	free := func() int {
		d.mu.Lock()
		defer d.mu.Unlock()
		return len(d.events)
	}
	spare, err := d.takeEvent()
	require.NoError(t, err)
	d.giveEvent(spare)
	_, err = d.Capture(s, func() error {
		require.Error(t, d.enter(func() error { return d.api.Sync(s.handle) }), "the recording is spoilt")
		before := free()
		require.Error(t, s.Wait(s.Record()))
		require.GreaterOrEqual(t, free(), before)
		return nil
	})
	require.Error(t, err)
	require.NoError(t, s.Sync())
}
