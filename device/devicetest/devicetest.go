// Package devicetest is the conformance suite of devices: a backend that passes Run can run plans. It is an importable package,
// so that one test binary of a backend runs it on a machine with the hardware and nothing else.
package devicetest

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/internal/optest"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Options of the suite.
type Options struct {
	// Skip says why an op case is left out on this device in a dtype, "" to run it. Skips are printed.
	Skip func(c *optest.Case, d tensor.DType) string
}

// Run runs the whole suite against a device. The device is not closed.
func Run(t *testing.T, dev device.Device) { RunWith(t, dev, Options{}) }

// RunWith is Run with options.
func RunWith(t *testing.T, dev device.Device, o Options) {
	t.Run("Info", func(t *testing.T) { testInfo(t, dev) })
	t.Run("Alloc", func(t *testing.T) { testAlloc(t, dev) })
	t.Run("Copies", func(t *testing.T) { testCopies(t, dev) })
	RunQueues(t, dev)
	t.Run("Timer", func(t *testing.T) { testTimer(t, dev) })
	t.Run("Errors", func(t *testing.T) { testErrors(t, dev) })
	t.Run("Kernels", func(t *testing.T) { testKernels(t, dev) })
	t.Run("Ops", func(t *testing.T) { testOps(t, dev, o) })
}

func testInfo(t *testing.T, dev device.Device) {
	i := dev.Info()
	require.NotEmpty(t, i.Name)
	require.NotEmpty(t, i.Kind)
	require.GreaterOrEqual(t, i.Threads, 1)
	require.GreaterOrEqual(t, i.MemoryTotal, int64(0))
}

func testAlloc(t *testing.T, dev device.Device) {
	s := dev.Stream(0)
	for _, n := range []int64{0, 1, 63, 64, 65, 4096, 1<<20 + 3} {
		b, err := dev.Alloc(n)
		require.NoError(t, err, "%d bytes", n)
		require.Equal(t, n, b.Size())
		got := bytes.Repeat([]byte{1}, int(n))
		if n > 0 {
			require.NoError(t, s.Download(got, device.Ptr{Buf: b}))
		}
		require.Equal(t, make([]byte, n), got, "fresh memory is zero")
		require.NoError(t, b.Free())
	}
	for _, n := range []int64{-1, 1 << 62} {
		_, err := dev.Alloc(n)
		require.Error(t, err, "%d bytes", n)
	}
}

// pattern is n bytes in which every position differs from its neighbours.
func pattern(n, seed int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte((i*131 + seed) ^ i>>8)
	}
	return b
}

func testCopies(t *testing.T, dev device.Device) {
	s := dev.Stream(0)
	a := alloc(t, dev, 4096)
	b := alloc(t, dev, 4096)
	want := pattern(4096, 7)
	require.NoError(t, s.Upload(a, want))
	want2 := bytes.Clone(want)
	clear(want) // the source may be reused once Upload returns
	require.Equal(t, want2, download(t, s, a, 4096))
	for _, r := range []struct{ dst, src, n int64 }{{0, 0, 4096}, {1, 2, 3}, {100, 5, 1000}, {4095, 0, 1}, {8, 8, 0}} {
		require.NoError(t, s.Upload(b, make([]byte, 4096)))
		require.NoError(t, s.Copy(b.Add(r.dst), a.Add(r.src), r.n))
		exp := make([]byte, 4096)
		copy(exp[r.dst:], want2[r.src:r.src+r.n])
		require.Equal(t, exp, download(t, s, b, 4096))
	}
	require.NoError(t, s.Copy(a, a, 4096), "equal ranges are allowed")
	require.Equal(t, want2, download(t, s, a, 4096))
	require.NoError(t, s.Upload(a.Add(10), []byte{1, 2, 3}))
	require.Equal(t, append(append(bytes.Clone(want2[:10]), 1, 2, 3), want2[13:]...), download(t, s, a, 4096))
}

func testStreams(t *testing.T, dev device.Device) {
	require.Equal(t, dev.Stream(0), dev.Stream(0), "equal numbers give the same stream")
	one, two := dev.Stream(0), dev.Stream(1)
	a, b := alloc(t, dev, 1<<16), alloc(t, dev, 1<<16)
	for i := range 20 {
		want := pattern(1<<16, i)
		require.NoError(t, one.Upload(a, want))
		require.NoError(t, two.Wait(one.Record()))
		require.NoError(t, two.Copy(b, a, 1<<16))
		require.NoError(t, one.Wait(two.Record()))
		require.Equal(t, want, download(t, one, b, 1<<16))
	}
	require.NoError(t, one.Sync())
	require.NoError(t, two.Sync())
}

// testTimer: a stream that tells the time tells it in order, anew after each Reserve.
func testTimer(t *testing.T, dev device.Device) {
	s := dev.Stream(0)
	timer, ok := s.(device.Timer)
	if !ok {
		t.Skip("the streams of this device have no timer: profiles wait for each launch")
	}
	a := alloc(t, dev, 1<<20)
	for _, n := range []int{1, 5, 2} {
		require.NoError(t, timer.Reserve(n))
		for range n {
			require.NoError(t, s.Upload(a, make([]byte, 1<<20)))
			require.NoError(t, timer.Mark())
		}
		marks, err := timer.Marks()
		require.NoError(t, err)
		require.Len(t, marks, n)
		for i := range marks[1:] {
			require.Greater(t, marks[i+1].At, marks[i].At)
			require.GreaterOrEqual(t, marks[i+1].Busy, marks[i].Busy)
		}
	}
}

func testErrors(t *testing.T, dev device.Device) {
	s := dev.Stream(0)
	a := alloc(t, dev, 64)
	buf := make([]byte, 65)
	require.Error(t, s.Upload(a, buf), "beyond the end")
	require.Error(t, s.Upload(a.Add(60), buf[:8]), "beyond the end")
	require.Error(t, s.Upload(a.Add(-1), buf[:8]), "before the start")
	require.Error(t, s.Download(buf, a), "beyond the end")
	require.Error(t, s.Copy(a, a.Add(1), 64), "beyond the end")
	require.Error(t, s.Upload(device.Ptr{}, buf), "no buffer")
	require.Error(t, s.Upload(device.Ptr{Buf: foreign{}}, buf), "another device's buffer")
	freed, err := dev.Alloc(64)
	require.NoError(t, err)
	require.NoError(t, freed.Free())
	require.Error(t, s.Upload(device.Ptr{Buf: freed}, buf[:8]), "after Free")
	_, err = dev.Kernel(device.Spec{Op: unknown{}})
	require.ErrorIs(t, err, device.ErrNoKernel)
}

type foreign struct{}

func (foreign) Size() int64 { return 1 << 20 }
func (foreign) Free() error { return nil }

type unknown struct{}

func (unknown) Name() string { return "unknown" }

// testKernels: one kernel serves several launches at different addresses, in place where the op allows it, and refuses
// addresses outside a buffer.
func testKernels(t *testing.T, dev device.Device) {
	s := dev.Stream(0)
	typ := tensor.T(tensor.F32, 1000)
	k, err := dev.Kernel(device.Spec{Op: ops.Pointwise{F: ops.FnAdd}, In: []tensor.Type{typ, typ}, Out: []tensor.Type{typ}})
	require.NoError(t, err)
	scratch := alloc(t, dev, max(k.Scratch(), 1))
	a, b := alloc(t, dev, typ.Bytes()), alloc(t, dev, typ.Bytes())
	ones := make([]float32, 1000)
	for i := range ones {
		ones[i] = 1
	}
	require.NoError(t, s.Upload(a, tensor.AsBytes(ones)))
	require.NoError(t, k.Launch(s, []device.Ptr{a, a}, []device.Ptr{b}, scratch))
	require.NoError(t, k.Launch(s, []device.Ptr{a, b}, []device.Ptr{b}, scratch), "in place")
	got := tensor.View[float32](download(t, s, b, int(typ.Bytes())))
	require.Equal(t, float32(3), got[0])
	require.Equal(t, float32(3), got[999])
	require.Error(t, k.Launch(s, []device.Ptr{a, b}, []device.Ptr{b.Add(64)}, scratch), "the output ends outside its buffer")
}

func testOps(t *testing.T, dev device.Device, o Options) {
	ref := cpu.New(cpu.Options{Threads: 1})
	defer func() { _ = ref.Close() }() // holds no memory
	ran := 0
	all, until := samples(t)
	ahead := newAhead(dev, o, all)
	for i, c := range all {
		t.Run(fmt.Sprintf("%s/%v", c.Name, c.dtype), func(t *testing.T) {
			if o.Skip != nil {
				if why := o.Skip(&c.Case, c.dtype); why != "" {
					t.Skip(why)
				}
			}
			if !until.IsZero() && time.Now().After(until) {
				t.Skipf("the time that %s gives is over", SecondsEnv)
			}
			ran++
			ahead.reach(i)
			require.NoError(t, c.OnDevice(dev, ref, c.dtype))
		})
	}
	t.Logf("%d op cases ran", ran)
}

// ahead prepares the kernels of cases that come soon: together, on all processors, where one case after the other would compile one by one.
type ahead struct {
	dev   device.Device
	prep  device.Preparer // nil: nothing is prepared
	skip  func(c *optest.Case, d tensor.DType) string
	cases []sample
	next  int
}

// newAhead looks ahead only where all cases run.
func newAhead(dev device.Device, o Options, cases []sample) *ahead {
	a := &ahead{dev: dev, skip: o.Skip, cases: cases}
	if f := flag.Lookup("test.run"); f == nil || strings.Count(f.Value.String(), "/") < 2 {
		a.prep, _ = dev.(device.Preparer)
	}
	return a
}

// reach is called before case i.
func (a *ahead) reach(i int) {
	const cases = 96
	if a.prep == nil || i < a.next {
		return
	}
	a.next = min(i+cases, len(a.cases))
	var kernels []device.Kernel
	for _, c := range a.cases[i:a.next] {
		if a.skip != nil && a.skip(&c.Case, c.dtype) != "" {
			continue
		}
		for _, n := range c.New(c.dtype).Graph.Nodes() {
			if k, err := a.dev.Kernel(device.Spec{Op: n.Op, In: n.InTypes(), Out: n.Out}); err == nil { // what fails fails in its case
				kernels = append(kernels, k)
			}
		}
	}
	_ = a.prep.Prepare(context.Background(), kernels) // likewise
}

func alloc(t *testing.T, dev device.Device, n int64) device.Ptr {
	t.Helper()
	b, err := dev.Alloc(n)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Free()) })
	return device.Ptr{Buf: b}
}

func download(t *testing.T, s device.Stream, p device.Ptr, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	require.NoError(t, s.Download(b, p))
	return b
}
