package emulator_test

import (
	"runtime"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cuda/emulator"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/kernels"
	"github.com/bitsandbyes/bitsandbyes/internal/ffi"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// library is what the tests call, by name.
type library struct {
	t     *testing.T
	procs map[string]ffi.Proc
}

func open(t *testing.T) *library {
	t.Helper()
	emulator.Use(t)
	l := &library{t: t, procs: map[string]ffi.Proc{}}
	for file, names := range map[string][]string{
		"libcuda.so.1": {"emulateSet", "cuInit", "cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRelease_v2", "cuCtxSetCurrent", "cuCtxSynchronize",
			"cuGetErrorString", "cuMemAlloc_v2", "cuMemFree_v2", "cuMemcpyAsync", "cuModuleLoadData", "cuModuleGetFunction", "cuLaunchKernel",
			"cuStreamCreateWithPriority", "cuStreamDestroy_v2", "cuStreamSynchronize", "cuStreamWaitEvent", "cuStreamBeginCapture_v2", "cuStreamEndCapture",
			"cuEventCreate", "cuEventRecord", "cuEventSynchronize", "cuEventElapsedTime", "cuMemHostAlloc", "cuMemFreeHost", "cuMemcpyHtoDAsync_v2",
			"cuMemcpyDtoHAsync_v2", "cuMemsetD8Async", "cuGraphInstantiateWithFlags", "cuGraphLaunch", "cuGraphDestroy", "cuGraphExecDestroy"},
		"libnvrtc.so.13": {"nvrtcCreateProgram", "nvrtcCompileProgram", "nvrtcGetProgramLog", "nvrtcGetProgramLogSize", "nvrtcGetCUBINSize",
			"nvrtcGetCUBIN"},
	} {
		lib, err := ffi.Open(ffi.Search{What: file, Unix: []string{file}})
		require.NoError(t, err)
		for _, name := range names {
			l.procs[name], err = lib.Proc(name)
			require.NoError(t, err)
		}
	}
	runtime.LockOSThread() // the current context belongs to a thread
	t.Cleanup(runtime.UnlockOSThread)
	ctx := new(uintptr)
	l.call("cuInit", 0)
	l.call("cuDevicePrimaryCtxRetain", out(ctx), 0)
	l.call("cuCtxSetCurrent", *ctx)
	t.Cleanup(func() { l.call("cuDevicePrimaryCtxRelease_v2", 0) })
	return l
}

// kept holds what C is given until the test process ends: there is little of it.
var kept []any

func out[T any](p *T) uintptr {
	kept = append(kept, p)
	return uintptr(unsafe.Pointer(p))
}

func text(s string) uintptr {
	b := ffi.CString(s)
	kept = append(kept, b)
	return uintptr(unsafe.Pointer(&b[0]))
}

func (l *library) try(name string, args ...uintptr) int {
	return int(int32(l.procs[name].Call(args...)))
}

func (l *library) call(name string, args ...uintptr) {
	l.t.Helper()
	require.Zero(l.t, l.try(name, args...), name)
}

func (l *library) set(settings string) { l.call("emulateSet", text(settings)) }

// compile returns the image, or the log of what is wrong.
func (l *library) compile(source string) (image []byte, log string) {
	prelude, err := kernels.Files.ReadFile("prelude.cuh")
	require.NoError(l.t, err)
	p, n, options := new(uintptr), new(int64), [2]uintptr{text("--gpu-architecture=sm_90a"), text("-default-device")}
	l.call("nvrtcCreateProgram", out(p), text(string(prelude)+source), 0, 0, 0, 0)
	rc := l.try("nvrtcCompileProgram", *p, 2, out(&options))
	if rc != 0 {
		l.call("nvrtcGetProgramLogSize", *p, out(n))
		b := make([]byte, *n)
		l.call("nvrtcGetProgramLog", *p, out(&b[0]))
		return nil, string(b)
	}
	l.call("nvrtcGetCUBINSize", *p, out(n))
	image = make([]byte, *n)
	l.call("nvrtcGetCUBIN", *p, out(&image[0]))
	return image, ""
}

func (l *library) function(source, name string) uintptr {
	l.t.Helper()
	image, log := l.compile(source)
	require.Empty(l.t, log)
	m, f := new(uintptr), new(uintptr)
	l.call("cuModuleLoadData", out(m), out(&image[0]))
	l.call("cuModuleGetFunction", out(f), *m, text(name))
	return *f
}

// launch starts a kernel of one block whose arguments are words of 64 bits.
func (l *library) launch(f uintptr, threads, stream uintptr, args ...uint64) {
	l.t.Helper()
	at := make([]uintptr, len(args)+1)
	for i := range args {
		at[i] = out(&args[i])
	}
	l.call("cuLaunchKernel", f, 2, 1, 1, threads, 1, 1, 0, stream, out(&at[0]), 0)
}

// fault is the text of the error that the device reports.
func (l *library) fault() string {
	rc := l.try("cuCtxSynchronize")
	if rc == 0 {
		return ""
	}
	s := new(uintptr)
	l.call("cuGetErrorString", uintptr(rc), out(s))
	return ffi.Text(*s, 1000)
}

func (l *library) alloc(n int) (uint64, []float32) {
	p := new(uint64)
	l.call("cuMemAlloc_v2", out(p), uintptr(4*n))
	l.t.Cleanup(func() { l.call("cuMemFree_v2", uintptr(*p)) })
	return *p, tensor.View[float32](ffi.Memory(uintptr(*p), int64(4*n)))
}

const scan = `
KERNEL turn(float *y, i64 n) {
  __shared__ float part[64];
  float s = threadIdx.x + 1;
  for (int d = 1; d < 32; d *= 2) {
    float o = __shfl_up_sync(FULL, s, d);
    if (lane() >= d) s += o;
  }
  part[threadIdx.x] = s;
  __syncthreads();
  unsigned odd = __ballot_sync(FULL, threadIdx.x & 1);
  y[blockIdx.x * 64 + threadIdx.x] = part[63 - threadIdx.x] + block_reduce<Max>(s, -1.0f) + (odd == 0xaaaaaaaau ? 0.5f : 0) + (float)n;
}`

// TestEmulatorRuns: shuffles, votes, barriers and shared memory, in any order of the threads, at once and replayed from a graph.
func TestEmulatorRuns(t *testing.T) {
	l := open(t)
	f := l.function(scan, "turn")
	y, host := l.alloc(128)
	var want []float32
	prefix := func(i int) float32 { // of the thread's own warp
		var s float32
		for j := i / 32 * 32; j <= i; j++ {
			s += float32(j + 1)
		}
		return s
	}
	for i := range 128 {
		want = append(want, prefix(63-i%64)+prefix(63)+0.5+7)
	}
	t.Cleanup(func() { require.NoError(t, emulator.Reset()) })
	for _, order := range []string{"forward", "reverse", "5", "6"} {
		l.set("order=" + order)
		clear(host)
		l.launch(f, 64, 0, y, 7)
		require.Empty(t, l.fault())
		require.Equal(t, want, host, order)
	}
	stream, graph, exec := new(uintptr), new(uintptr), new(uintptr)
	l.call("cuStreamCreateWithPriority", out(stream), 1, 0)
	l.call("cuStreamBeginCapture_v2", *stream, 1)
	clear(host)
	l.launch(f, 64, *stream, y, 7)
	l.call("cuStreamEndCapture", *stream, out(graph))
	l.call("cuCtxSynchronize")
	require.Zero(t, host[0], "captured work waits for the graph")
	l.call("cuGraphInstantiateWithFlags", out(exec), *graph, 0)
	l.call("cuGraphLaunch", *exec, *stream)
	l.call("cuCtxSynchronize")
	require.Equal(t, want, host)
}

// TestEmulatorChecksCopies: both ranges must lie in memory of the device, and apart.
func TestEmulatorChecksCopies(t *testing.T) {
	l := open(t)
	a, host := l.alloc(64)
	b, _ := l.alloc(64)
	for _, c := range []struct {
		dst, src uint64
		bytes    uintptr
		good     bool
	}{
		{b, a, 256, true}, {a + 128, a, 128, true}, {b, a, 257, false}, {b + 4, a, 256, false}, {b, a + 4, 256, false}, {a + 64, a, 128, false},
		{a, a + 127, 128, false}, {a, 64, 4, false},
	} {
		host[0] = 3
		require.Equal(t, c.good, l.try("cuMemcpyAsync", uintptr(c.dst), uintptr(c.src), c.bytes, 0) == 0, c)
		l.call("cuCtxSynchronize")
	}
	require.InDelta(t, 3, host[32], 0)
}

// TestEmulatorFinds: what goes wrong in a kernel is told with the kernel, the block and the thread.
func TestEmulatorFinds(t *testing.T) {
	for name, c := range map[string]struct{ body, want string }{
		"past the end":   {"y[n] = 1;", "kernel k: illegal address"},
		"misaligned":     {"*(float4 *)(y + 1) = make_float4(1, 1, 1, 1);", "misaligned"},
		"shared index":   {"__shared__ float s[8]; s[n] = 1; y[0] = s[0];", "index outside its array"},
		"barrier":        {"if (threadIdx.x < 40) __syncthreads(); else if (threadIdx.x < 64) __syncwarp();", "deadlock"},
		"lane left out":  {"__shfl_sync(1u, 1, 0);", "a lane that its mask leaves out in block (0, 0, 0), thread (1, 0, 0)"},
		"trap":           {"if (threadIdx.x == 5) __trap();", "thread (5, 0, 0)"},
		"shared unread":  {"__shared__ float s[64]; if (n == 0) s[0] = 1; y[threadIdx.x] = s[threadIdx.x];", ""},
		"stack overflow": {"volatile char big[1 << 20]; for (i64 i = n; i >= 0; i -= 64) big[i & 0xfffff] = 1; y[0] = big[0];", "illegal address"},
	} {
		t.Run(name, func(t *testing.T) {
			l := open(t)
			l.set("order=forward") // the first block and thread that goes wrong is told
			t.Cleanup(func() { require.NoError(t, emulator.Reset()) })
			y, host := l.alloc(64)
			f := l.function("KERNEL k(float *y, i64 n) { "+c.body+" }", "k")
			l.launch(f, 64, 0, y, 1<<16)
			got := l.fault()
			if c.want == "" {
				require.Empty(t, got)
				require.True(t, host[3] != host[3], "shared memory that was never written reads as NaN")
				return
			}
			require.Contains(t, got, c.want)
			require.Empty(t, l.fault(), "told once")
		})
	}
	_, log := open(t).compile("KERNEL k(float *y) { y[0] = nothing; }")
	require.Contains(t, log, "nothing")
}
