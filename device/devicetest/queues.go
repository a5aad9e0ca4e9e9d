package devicetest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// RunQueues is the part of the suite for copies between streams, recorded launches, memory that grows, and host memory. A device that lacks
// one of them skips it.
func RunQueues(t *testing.T, dev device.Device) {
	t.Run("Streams", func(t *testing.T) { testStreams(t, dev) })
	t.Run("Capture", func(t *testing.T) { testCapture(t, dev) })
	t.Run("CaptureStreams", func(t *testing.T) { testCaptureStreams(t, dev) })
	t.Run("Reserve", func(t *testing.T) { testReserve(t, dev) })
	t.Run("HostMemory", func(t *testing.T) { testHost(t, dev) })
}

// doubler is x + x at two addresses.
func doubler(t *testing.T, dev device.Device, n int) (launch func(dst, src device.Ptr) error) {
	t.Helper()
	typ := tensor.T(tensor.F32, n)
	k, err := dev.Kernel(device.Spec{Op: ops.Pointwise{F: ops.FnAdd}, In: []tensor.Type{typ, typ}, Out: []tensor.Type{typ}})
	require.NoError(t, err)
	scratch := alloc(t, dev, max(k.Scratch(), 1))
	return func(dst, src device.Ptr) error {
		return k.Launch(dev.Stream(0), []device.Ptr{src, src}, []device.Ptr{dst}, scratch)
	}
}

func ones(n int, x float32) []byte {
	out := make([]float32, n)
	for i := range out {
		out[i] = x
	}
	return tensor.AsBytes(out)
}

// testCapture: recording runs nothing, a replay sees the bytes of its moment, and a freed graph leaves the stream usable.
func testCapture(t *testing.T, dev device.Device) {
	c, ok := dev.(device.Capturer)
	if !ok {
		t.Skip("the device does not record launches")
	}
	const n = 3000
	s, size := dev.Stream(0), int64(4*n)
	a, b, d := alloc(t, dev, size), alloc(t, dev, size), alloc(t, dev, size)
	double := doubler(t, dev, n)
	require.NoError(t, s.Upload(a, ones(n, 1)))
	require.NoError(t, double(b, a))
	g, err := c.Capture(s, func() error {
		if err := double(b, a); err != nil {
			return err
		}
		if err := s.Copy(d, b, size); err != nil {
			return err
		}
		return double(a, d)
	})
	require.NoError(t, err)
	require.Equal(t, ones(n, 1), download(t, s, a, int(size)), "nothing ran")
	for i := range 3 {
		require.NoError(t, g.Launch(s))
		require.Equal(t, ones(n, float32(int(1)<<(2*i+2))), download(t, s, a, int(size)))
	}
	require.NoError(t, s.Upload(a, ones(n, 5)))
	require.NoError(t, g.Launch(s))
	require.Equal(t, ones(n, 20), download(t, s, a, int(size)))
	require.NoError(t, g.Free())
	_, err = c.Capture(s, func() error { return s.Upload(a, ones(n, 7)) })
	require.Error(t, err, "an upload cannot be recorded: its source is free when it returns")
	require.NoError(t, s.Upload(a, ones(n, 3)), "a failed recording leaves the stream usable")
	require.NoError(t, double(b, a))
	require.Equal(t, ones(n, 6), download(t, s, b, int(size)))
}

// testCaptureStreams records work of a second stream between two of the first.
func testCaptureStreams(t *testing.T, dev device.Device) {
	c, ok := dev.(device.Capturer)
	if !ok {
		t.Skip("the device does not record launches")
	}
	const n = 3000
	s, two, size := dev.Stream(0), dev.Stream(1), int64(4*n)
	a, b, d := alloc(t, dev, size), alloc(t, dev, size), alloc(t, dev, size)
	double := doubler(t, dev, n)
	require.NoError(t, double(b, a))
	g, err := c.Capture(s, func() error {
		if err := double(b, a); err != nil {
			return err
		}
		if err := two.Wait(s.Record()); err != nil {
			return err
		}
		if err := two.Copy(d, b, size); err != nil {
			return err
		}
		if err := s.Wait(two.Record()); err != nil {
			return err
		}
		return double(a, d)
	})
	require.NoError(t, err)
	require.NoError(t, s.Upload(a, ones(n, 1)))
	for _, want := range []float32{4, 16} {
		require.NoError(t, g.Launch(s))
		require.Equal(t, ones(n, want), download(t, s, a, int(size)))
	}
	require.NoError(t, g.Free())
}

// testReserve: memory grows in place, keeps its bytes, is zeroed, and a recording over it stays valid.
func testReserve(t *testing.T, dev device.Device) {
	r, ok := dev.(device.Reserver)
	if !ok {
		t.Skip("the device has no memory that grows")
	}
	s := dev.Stream(0)
	b, err := r.Reserve(64 << 20)
	require.NoError(t, err)
	require.Zero(t, b.Size())
	require.NoError(t, b.Grow(5000))
	require.GreaterOrEqual(t, b.Size(), int64(5000))
	at := device.Ptr{Buf: b}
	require.Equal(t, make([]byte, 5000), download(t, s, at, 5000))
	want := pattern(5000, 3)
	require.NoError(t, s.Upload(at, want))
	double := doubler(t, dev, 256)
	require.NoError(t, s.Upload(at.Add(1024), ones(256, 1)))
	var g device.Graph
	if c, ok := dev.(device.Capturer); ok {
		require.NoError(t, double(at.Add(2048), at.Add(1024)))
		g, err = c.Capture(s, func() error { return double(at.Add(2048), at.Add(1024)) })
		require.NoError(t, err)
	}
	had := b.Size()
	require.NoError(t, b.Grow(20<<20))
	require.GreaterOrEqual(t, b.Size(), int64(20<<20))
	require.Equal(t, want[:1024], download(t, s, at, 1024))
	require.Equal(t, make([]byte, 4096), download(t, s, at.Add(max(had, 10<<20)), 4096))
	require.NoError(t, b.Grow(1), "it never shrinks")
	require.GreaterOrEqual(t, b.Size(), int64(20<<20))
	if g != nil {
		require.NoError(t, s.Upload(at.Add(1024), ones(256, 4)))
		require.NoError(t, g.Launch(s))
		require.Equal(t, ones(256, 8), download(t, s, at.Add(2048), 1024))
		require.NoError(t, g.Free())
	}
	require.Error(t, b.Grow(65<<20), "more than was reserved")
	require.NoError(t, b.Free())
}

// testHost: host memory takes part in copies, which an event tells the end of, and is an operand of kernels.
func testHost(t *testing.T, dev device.Device) {
	h, ok := dev.(device.HostAllocator)
	if !ok {
		t.Skip("the device has no host memory of its own")
	}
	const n = 3000
	s, size := dev.Stream(0), int64(4*n)
	buf, err := h.AllocHost(size)
	require.NoError(t, err)
	host, ok := buf.(device.HostBuffer)
	require.True(t, ok, "AllocHost gives a device.HostBuffer")
	require.Equal(t, make([]byte, size), host.Bytes())
	a, b, at := alloc(t, dev, size), alloc(t, dev, size), device.Ptr{Buf: buf}
	double := doubler(t, dev, n)
	require.NoError(t, s.Upload(a, ones(n, 2)))
	require.NoError(t, double(b, a))
	require.NoError(t, s.Copy(at, b, size))
	if w, ok := s.(device.Awaiter); ok {
		require.NoError(t, w.Await(s.Record()))
	} else {
		require.NoError(t, s.Sync())
	}
	require.Equal(t, ones(n, 4), host.Bytes())
	require.NoError(t, double(at, a), "a kernel writes it")
	require.NoError(t, double(b, at), "and reads it")
	require.Equal(t, ones(n, 8), download(t, s, b, int(size)))
	require.NoError(t, s.Copy(a, at, size))
	require.Equal(t, ones(n, 4), download(t, s, a, int(size)))
	require.NoError(t, buf.Free())
}
