package emulator_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cuda/emulator"
	"github.com/bitsandbyes/bitsandbyes/internal/ffi"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// orders are settings in which a missing wait shows, the last ones by chance only.
var orders = []string{"late", "1", "2", "3", "4", "5", "6", "7", "8"}

// streams are two streams of an open device, and what the tests do on them.
type streams struct {
	*library
	one, two uintptr
	a, b     uint64 // memory of n floats
	host     uintptr
	pinned   []float32
}

const floats = 256

func openStreams(t *testing.T, order string) *streams {
	l := open(t)
	l.set("streams=" + order)
	t.Cleanup(func() { require.NoError(t, emulator.Reset()) })
	s := &streams{library: l}
	for _, to := range []*uintptr{&s.one, &s.two} {
		p := new(uintptr)
		l.call("cuStreamCreateWithPriority", out(p), 1, 0)
		*to = *p
	}
	s.a, _ = l.alloc(floats)
	s.b, _ = l.alloc(floats)
	p := new(uintptr)
	l.call("cuMemHostAlloc", out(p), 4*floats, 3)
	s.host, s.pinned = *p, tensor.View[float32](ffi.Memory(*p, 4*floats))
	t.Cleanup(func() {
		l.call("cuStreamDestroy_v2", s.one)
		l.call("cuStreamDestroy_v2", s.two)
		l.call("cuMemFreeHost", s.host)
	})
	s.zero(s.a, 0)
	s.zero(s.b, 0)
	l.call("cuCtxSynchronize")
	return s
}

func (s *streams) zero(at uint64, on uintptr) {
	s.call("cuMemsetD8Async", uintptr(at), 0, 4*floats, on)
}
func (s *streams) upload(at uint64, on uintptr) {
	s.call("cuMemcpyHtoDAsync_v2", uintptr(at), s.host, 4*floats, on)
}
func (s *streams) download(at uint64, on uintptr) {
	s.call("cuMemcpyDtoHAsync_v2", s.host, uintptr(at), 4*floats, on)
}
func (s *streams) copy(dst, src uint64, on uintptr) {
	s.call("cuMemcpyAsync", uintptr(dst), uintptr(src), 4*floats, on)
}

func (s *streams) event() uintptr {
	e := new(uintptr)
	s.call("cuEventCreate", out(e), 0)
	return *e
}

// follow makes later work of a stream wait for what another has now.
func (s *streams) follow(later, earlier uintptr) {
	e := s.event()
	s.call("cuEventRecord", e, earlier)
	s.call("cuStreamWaitEvent", later, e, 0)
}

// fill sets all of pinned memory.
func (s *streams) fill(x float32) {
	for i := range s.pinned {
		s.pinned[i] = x
	}
}

// races says in how many orders a program that ends with a result in pinned memory gives something else than want.
func races(t *testing.T, want float32, program func(s *streams)) int {
	t.Helper()
	wrong := 0
	for _, order := range orders {
		t.Run(order, func(t *testing.T) {
			s := openStreams(t, order)
			program(s)
			s.call("cuCtxSynchronize")
			if s.pinned[0] != want || s.pinned[floats-1] != want {
				wrong++
			}
		})
	}
	return wrong
}

// TestEmulatorStreams: each program is right in all orders, and wrong in some once one of its waits is left out.
func TestEmulatorStreams(t *testing.T) {
	for name, program := range map[string]func(s *streams, wait bool){
		"a copy on another stream":                        copyElsewhere,
		"memory used again while another stream reads it": useAgain,
		"the host writes before its copy is done":         writeEarly,
		"the host reads before its copy is done":          readEarly,
		"the branch of a graph":                           branch,
		"a graph beside another stream":                   besideGraph,
	} {
		t.Run(name, func(t *testing.T) {
			require.Zero(t, races(t, 7, func(s *streams) { program(s, true) }), "with all waits")
			require.NotZero(t, races(t, 7, func(s *streams) { program(s, false) }), "without one")
		})
	}
}

func copyElsewhere(s *streams, wait bool) {
	s.fill(7)
	s.upload(s.a, s.one)
	if wait {
		s.follow(s.two, s.one)
	}
	s.copy(s.b, s.a, s.two)
	s.call("cuStreamSynchronize", s.two)
	s.call("cuStreamSynchronize", s.one)
	s.fill(0)
	s.download(s.b, s.one)
}

func useAgain(s *streams, wait bool) {
	s.fill(7)
	s.upload(s.a, s.one)
	s.follow(s.two, s.one)
	s.copy(s.b, s.a, s.two)
	if wait {
		s.follow(s.one, s.two)
	}
	s.zero(s.a, s.one)
	s.call("cuCtxSynchronize")
	s.fill(0)
	s.download(s.b, s.one)
}

func writeEarly(s *streams, wait bool) {
	s.fill(7)
	s.upload(s.a, s.one)
	if wait {
		s.call("cuStreamSynchronize", s.one)
	}
	s.fill(3)
	s.download(s.a, s.one)
}

func readEarly(s *streams, wait bool) {
	s.fill(7)
	s.upload(s.a, s.one)
	s.call("cuStreamSynchronize", s.one)
	s.fill(0)
	e := s.event()
	s.download(s.a, s.one)
	s.call("cuEventRecord", e, s.one)
	if wait {
		s.call("cuEventSynchronize", e)
	}
	seen := s.pinned[floats-1]
	s.call("cuCtxSynchronize")
	s.fill(seen)
}

func branch(s *streams, wait bool) {
	s.fill(7)
	exec := s.record(func() int {
		s.upload(s.a, s.one)
		s.follow(s.two, s.one)
		s.copy(s.b, s.a, s.two)
		if wait {
			s.follow(s.one, s.two)
		}
		s.zero(s.a, s.one)
		if !wait {
			s.follow(s.one, s.two)
		}
		s.download(s.b, s.one)
		return 0
	})
	for range 3 {
		s.fill(7)
		s.zero(s.b, s.one)
		s.call("cuGraphLaunch", exec, s.one)
		s.call("cuStreamSynchronize", s.one)
		if s.pinned[0] != 7 {
			return
		}
	}
}

func besideGraph(s *streams, wait bool) {
	exec := s.record(func() int {
		s.copy(s.b, s.a, s.one)
		return 0
	})
	s.fill(7)
	s.upload(s.a, s.two)
	if wait {
		s.follow(s.one, s.two)
	}
	s.call("cuGraphLaunch", exec, s.one)
	s.call("cuCtxSynchronize")
	s.fill(0)
	s.download(s.b, s.one)
}

// record captures on the first stream and returns the graph, ready to be launched; 0 where capturing fails with the code that do returns.
func (s *streams) record(do func() (want int)) uintptr {
	graph, exec := new(uintptr), new(uintptr)
	s.call("cuStreamBeginCapture_v2", s.one, 1)
	want := do()
	require.Equal(s.t, want, s.try("cuStreamEndCapture", s.one, out(graph)))
	if want != 0 {
		require.Zero(s.t, *graph)
		return 0
	}
	s.call("cuGraphInstantiateWithFlags", out(exec), *graph, 0)
	s.call("cuGraphDestroy", *graph)
	s.t.Cleanup(func() { s.call("cuGraphExecDestroy", *exec) })
	return *exec
}

// TestEmulatorCaptureRules: what CUDA refuses to record is refused with CUDA's codes, and the streams are usable afterwards.
func TestEmulatorCaptureRules(t *testing.T) {
	const unsupported, invalidated, merge, unmatched, unjoined, isolation, captured = 900, 901, 902, 903, 904, 905, 907
	for name, do := range map[string]func(s *streams) int{
		"a fork that does not join": func(s *streams) int {
			s.follow(s.two, s.one)
			s.zero(s.a, s.two)
			return unjoined
		},
		"work after the join": func(s *streams) int {
			s.zero(s.b, s.one)
			s.follow(s.two, s.one)
			s.zero(s.a, s.two)
			s.follow(s.one, s.two)
			s.zero(s.a, s.two)
			return unjoined
		},
		"a fork without work": func(s *streams) int {
			s.zero(s.b, s.one)
			s.follow(s.two, s.one)
			return 0
		},
		"a wait for what is not recorded": func(s *streams) int {
			e := s.event()
			s.call("cuEventRecord", e, s.two)
			require.Equal(s.t, isolation, s.try("cuStreamWaitEvent", s.one, e, 0))
			require.Equal(s.t, invalidated, s.try("cuMemsetD8Async", uintptr(s.a), 0, 4, s.one))
			return invalidated
		},
		"two captures": func(s *streams) int {
			s.call("cuStreamBeginCapture_v2", s.two, 1)
			e := s.event()
			s.call("cuEventRecord", e, s.two)
			require.Equal(s.t, merge, s.try("cuStreamWaitEvent", s.one, e, 0))
			require.Equal(s.t, invalidated, s.try("cuStreamEndCapture", s.two, out(new(uintptr))))
			return invalidated
		},
		"a wait of the host": func(s *streams) int {
			require.Equal(s.t, unsupported, s.try("cuStreamSynchronize", s.one))
			return invalidated
		},
		"a wait of the host for a recorded event": func(s *streams) int {
			e := s.event()
			s.call("cuEventRecord", e, s.one)
			require.Equal(s.t, captured, s.try("cuEventSynchronize", e))
			return invalidated
		},
		"an allocation": func(s *streams) int {
			require.Equal(s.t, unsupported, s.try("cuMemAlloc_v2", out(new(uint64)), 16))
			return invalidated
		},
		"an allocation of host memory": func(s *streams) int {
			require.Equal(s.t, unsupported, s.try("cuMemHostAlloc", out(new(uintptr)), 16, 3))
			return invalidated
		},
		"host memory given back": func(s *streams) int {
			require.Equal(s.t, unsupported, s.try("cuMemFreeHost", s.host))
			return invalidated
		},
		"the end on another stream": func(s *streams) int {
			s.follow(s.two, s.one)
			require.Equal(s.t, unmatched, s.try("cuStreamEndCapture", s.two, out(new(uintptr))))
			return 0
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStreams(t, "1")
			s.record(func() int { return do(s) })
			s.fill(5)
			s.upload(s.a, s.two)
			s.follow(s.one, s.two)
			s.fill(5)
			s.download(s.a, s.one)
			s.call("cuCtxSynchronize")
			require.Equal(t, float32(5), s.pinned[0], "the streams work as before")
		})
	}
}

// TestEmulatorLate: nothing is done before somebody waits, then what that needs and no more, and frees wait for all.
func TestEmulatorLate(t *testing.T) {
	s := openStreams(t, "late")
	s.fill(7)
	s.upload(s.a, s.one)
	first := s.event()
	s.call("cuEventRecord", first, s.one)
	s.fill(9)
	s.upload(s.b, s.one)
	require.Equal(t, 600, s.try("cuEventElapsedTime", out(new(float32)), first, first), "nothing has happened")
	s.fill(7)
	s.call("cuStreamWaitEvent", s.two, first, 0)
	s.copy(s.b, s.a, s.two)
	s.call("cuStreamSynchronize", s.two)
	s.call("cuEventElapsedTime", out(new(float32)), first, first)
	s.fill(1) // the second upload was not needed and reads this
	s.call("cuStreamSynchronize", s.one)
	s.download(s.b, s.two)
	s.call("cuStreamSynchronize", s.two)
	require.Equal(t, float32(1), s.pinned[3])

	raw := []float32{1, 2, 3, 4}
	at := out(&raw[0])
	s.call("cuMemcpyHtoDAsync_v2", uintptr(s.a), at, 16, s.one)
	clear(raw) // memory that is not pinned is read at the call
	s.call("cuMemcpyDtoHAsync_v2", at, uintptr(s.a), 16, s.one)
	require.Equal(t, []float32{1, 2, 3, 4}, raw, "and written before its end")

	for i := range 5000 {
		s.call("cuMemsetD8Async", uintptr(s.a), uintptr(i&255), 4*floats, s.one)
	}
	s.download(s.a, s.one)
	p := new(uint64)
	s.call("cuMemAlloc_v2", out(p), 4)
	s.call("cuMemFree_v2", uintptr(*p))
	require.Equal(t, fmt.Sprintf("%x", 4999&255), fmt.Sprintf("%x", tensor.AsBytes(s.pinned)[0]), "giving memory back waits for all work")
}
