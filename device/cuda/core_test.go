package cuda

import (
	"bytes"
	"errors"
	"math"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
)

// echoText is a kernel that writes each of its parameters to memory, and one that counts.
const echoText = `
struct Pair { int a; float b; };
KERNEL echo(u64 *out, i32 a, u32 b, i64 c, u64 d, float e, double f, Pair p) {
  out[0] = (u64)(i64)a; out[1] = b; out[2] = (u64)c; out[3] = d;
  out[4] = __float_as_uint(e); out[5] = (u64)__double_as_longlong(f); out[6] = (u64)p.a; out[7] = __float_as_uint(p.b);
}
KERNEL increment(i32 *x, i64 n, i32 by) {
  for (i64 i = global_thread(); i < n; i += global_threads()) x[i] += by;
}
KERNEL pour(i32 *x, i32 n) {
  SHARED_DYNAMIC(i32, s);
  for (int i = threadIdx.x; i < n; i += blockDim.x) s[i] = i;
  __syncthreads();
  i32 sum = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) sum += s[n - 1 - i];
  x[threadIdx.x] = sum;
}`

// own returns a call on a stream, as kernels get it.
func own(d *Device, s device.Stream) *Call { return &Call{Dev: d, Stream: s.(*Stream)} }

func function(t *testing.T, d *Device, name string) *Function {
	f, err := d.Function(Program{Text: echoText}, name)
	require.NoError(t, err)
	return f
}

func allocate(t *testing.T, d *Device, n int64) (device.Ptr, Addr) {
	b, err := d.Alloc(n)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Free()) })
	p := device.Ptr{Buf: b}
	at, err := d.address(p, n)
	require.NoError(t, err)
	return p, at
}

func words(t *testing.T, s device.Stream, p device.Ptr, n int) []int32 {
	raw := make([]byte, 4*n)
	require.NoError(t, s.Download(raw, p))
	out := make([]int32, n)
	for i := range out {
		out[i] = int32(uint32(raw[4*i]) | uint32(raw[4*i+1])<<8 | uint32(raw[4*i+2])<<16 | uint32(raw[4*i+3])<<24)
	}
	return out
}

func TestLaunchPassesArguments(t *testing.T) {
	d := testDevice(t)
	s := d.Stream(0)
	f := function(t, d, "echo")
	out, at := allocate(t, d, 64)
	pair := struct {
		A int32
		B float32
	}{-7, 2.5}
	require.NoError(t, d.enter(func() error {
		return own(d, s).Launch(f, Rows(1, 1), at, int32(-3), uint32(1<<31), int64(-1<<40), uint64(1<<63), float32(1.5), math.Pi, &pair)
	}))
	w := words(t, s, out, 16)
	got := make([]uint64, 8)
	for i := range got {
		got[i] = uint64(uint32(w[2*i])) | uint64(uint32(w[2*i+1]))<<32
	}
	minus := func(x int64) uint64 { return uint64(x) }
	require.Equal(t, []uint64{minus(-3), 1 << 31, minus(-1 << 40), 1 << 63, uint64(math.Float32bits(1.5)), math.Float64bits(math.Pi), minus(-7),
		uint64(math.Float32bits(2.5))}, got)
}

func TestLaunchRefuses(t *testing.T) {
	d := testDevice(t)
	f := function(t, d, "increment")
	_, at := allocate(t, d, 64)
	c := own(d, d.Stream(0))
	for _, r := range []struct {
		want string
		g    Geometry
		args []any
	}{
		{"argument 1 is a int", Rows(1, 1), []any{at, 16, int32(1)}},
		{"argument 0 is a []int", Rows(1, 1), []any{[]int{1}, int64(16), int32(1)}},
		{"beyond CUDA's limits", Geometry{Grid: [3]int{1, 65536}}, []any{at, int64(16), int32(1)}},
		{"beyond CUDA's limits", Rows(1, 1025), []any{at, int64(16), int32(1)}},
		{"beyond CUDA's limits", Geometry{Block: [3]int{1, 1, 65}}, []any{at, int64(16), int32(1)}},
		{"beyond CUDA's limits", Rows(-1, 1), []any{at, int64(16), int32(1)}},
		{"dynamic shared memory", Geometry{Shared: 1 << 24}, []any{at, int64(16), int32(1)}},
	} {
		err := d.enter(func() error { return c.Launch(f, r.g, r.args...) })
		require.ErrorContains(t, err, r.want)
		require.ErrorContains(t, err, "increment")
	}
	if f.params != nil {
		require.ErrorContains(t, d.enter(func() error { return c.Launch(f, Rows(1, 1), at, int64(16)) }), "2 arguments for 3 parameters")
		require.ErrorContains(t, d.enter(func() error { return c.Launch(f, Rows(1, 1), at, int32(16), int32(1)) }), "has 4 bytes, the kernel's parameter has 8")
	}
	_, err := d.Function(Program{Text: echoText}, "missing")
	require.ErrorContains(t, err, "missing")
	_, err = d.Function(Program{Files: []string{"nothing.cu"}}, "x")
	require.ErrorContains(t, err, "no kernel file nothing.cu")
	_, err = d.Function(Program{Text: "KERNEL x() { undeclared; }"}, "x")
	require.ErrorContains(t, err, "undeclared")
}

func TestLaunchWithMuchSharedMemory(t *testing.T) {
	d := testDevice(t)
	if d.SharedMax() < 64<<10 {
		t.Skip("a block of this device has less")
	}
	f := function(t, d, "pour")
	out, at := allocate(t, d, 4*32)
	n, err := d.Resident(f, 32, 60<<10)
	require.NoError(t, err)
	require.GreaterOrEqual(t, n, 1)
	require.NoError(t, d.enter(func() error {
		return own(d, d.Stream(0)).Launch(f, Geometry{Block: [3]int{32}, Shared: 60 << 10}, at, int32(15<<10))
	}))
	total := int64(0)
	for _, x := range words(t, d.Stream(0), out, 32) {
		total += int64(x)
	}
	require.Equal(t, int64(15<<10)*(15<<10-1)/2, total)
}

func TestProgramsAreCompiledOnce(t *testing.T) {
	d := testDevice(t)
	a := function(t, d, "increment")
	n := len(d.Programs())
	b := function(t, d, "increment")
	require.Same(t, a, b)
	require.Len(t, d.Programs(), n)
	uses, err := a.Resources()
	require.NoError(t, err)
	require.Positive(t, uses.Threads)
}

// Pieces larger than the ring, and many small ones behind each other, arrive whole.
func TestStagingRing(t *testing.T) {
	d := testDevice(t)
	s := d.Stream(3)
	const n = ringBytes*2 + 12345
	p, _ := allocate(t, d, n)
	want := make([]byte, n)
	for i := range want {
		want[i] = byte(i*7 ^ i>>11)
	}
	require.NoError(t, s.Upload(p, want))
	got := make([]byte, n)
	require.NoError(t, s.Download(got, p))
	require.True(t, bytes.Equal(want, got))
	for i := 0; i < 3000; i++ {
		at := i * 7919 % (n - 9000)
		size := 1 + i*31%8999
		for k := range size {
			want[at+k] ^= byte(i)
		}
		require.NoError(t, s.Upload(p.Add(int64(at)), want[at:at+size]))
	}
	require.NoError(t, s.Download(got, p))
	require.True(t, bytes.Equal(want, got))
}

func TestHostBuffer(t *testing.T) {
	d := testDevice(t)
	s := d.Stream(0)
	h, err := d.AllocHost(4096)
	require.NoError(t, err)
	host := h.(device.HostBuffer)
	for i, b := range host.Bytes() {
		require.Zero(t, b)
		host.Bytes()[i] = byte(i)
	}
	p, _ := allocate(t, d, 4096)
	require.NoError(t, s.Copy(p, device.Ptr{Buf: h}, 4096))
	at, err := d.address(device.Ptr{Buf: h}, 4096)
	require.NoError(t, err)
	require.NoError(t, s.Sync())
	require.NoError(t, d.enter(func() error {
		return own(d, s).Launch(function(t, d, "increment"), Rows(2, 64), at, int64(1024), int32(1))
	}))
	require.NoError(t, s.(device.Awaiter).Await(s.Record()))
	require.Equal(t, []byte{1, 1, 2, 3, 5, 5, 6, 7}, host.Bytes()[:8], "a kernel wrote host memory")
	got := make([]byte, 4)
	require.NoError(t, s.Download(got, p.Add(4)))
	require.Equal(t, []byte{4, 5, 6, 7}, got)
	require.NoError(t, h.Free())
	require.Error(t, s.Copy(p, device.Ptr{Buf: h}, 4096))
	require.Error(t, h.Free(), "twice")
}

func TestArenaGrowsInPlace(t *testing.T) {
	d := testDevice(t)
	s := d.Stream(0)
	before := d.Allocated()
	g, err := d.Reserve(64 << 20)
	require.NoError(t, err)
	require.Zero(t, g.Size())
	require.NoError(t, g.Grow(5))
	first := g.Size()
	require.Positive(t, first)
	require.Equal(t, before+first, d.Allocated())
	p := device.Ptr{Buf: g}
	at, err := d.address(p, first)
	require.NoError(t, err)
	require.NoError(t, s.Upload(p, []byte{1, 2, 3, 4}))
	graph, err := d.Capture(s, func() error {
		return d.enter(func() error {
			return own(d, s).Launch(function(t, d, "increment"), Rows(1, 32), at, int64(2), int32(1))
		})
	})
	require.NoError(t, err)
	require.NoError(t, g.Grow(first))
	require.Equal(t, first, g.Size())
	require.NoError(t, g.Grow(first+1))
	require.Greater(t, g.Size(), first)
	again, err := d.address(p, g.Size())
	require.NoError(t, err)
	require.Equal(t, at, again)
	require.NoError(t, graph.Launch(s))
	require.Equal(t, []int32{1 + 2<<8 + 3<<16 + 4<<24 + 1, 1}, words(t, s, p, 2), "what was recorded before stays valid")
	require.Equal(t, []int32{0, 0}, words(t, s, p.Add(first), 2))
	require.ErrorContains(t, g.Grow(65<<20), "reserved for")
	require.NoError(t, graph.Free())
	require.NoError(t, g.Free())
	require.Equal(t, before, d.Allocated())
	require.Error(t, g.Grow(1))
	_, err = d.Reserve(-1)
	require.Error(t, err)
}

func TestCaptureReplays(t *testing.T) {
	d := testDevice(t)
	one, two := d.Stream(0), d.Stream(1)
	p, at := allocate(t, d, 4*100)
	q, _ := allocate(t, d, 4*100)
	f := function(t, d, "increment")
	add := func(s device.Stream, by int32) error {
		return d.enter(func() error { return own(d, s).Launch(f, Rows(1, 128), at, int64(100), by) })
	}
	g, err := d.Capture(one, func() error {
		if err := errors.Join(add(one, 1), two.Wait(one.Record()), add(two, 10), two.Copy(q, p, 400), one.Wait(two.Record()), add(one, 100)); err != nil {
			return err
		}
		require.ErrorContains(t, one.Sync(), "recorded")
		require.ErrorContains(t, two.Upload(q, make([]byte, 4)), "recorded")
		require.ErrorContains(t, two.Download(make([]byte, 4), q), "recorded")
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, 4, g.(*Graph).Nodes())
	require.Equal(t, int32(0), words(t, one, p, 1)[0], "recording runs nothing")
	for i := range int32(3) {
		require.NoError(t, g.Launch(one))
		require.Equal(t, 111*(i+1), words(t, one, p, 100)[99])
		require.Equal(t, 111*i+11, words(t, two, q, 100)[99])
	}
	require.NoError(t, g.Free())
	require.Error(t, g.Launch(one))
	require.NoError(t, g.Free())
}

func TestCaptureErrors(t *testing.T) {
	d := testDevice(t)
	s := d.Stream(0)
	wanted := errors.New("the launch list ends early")
	_, err := d.Capture(s, func() error { return wanted })
	require.ErrorIs(t, err, wanted)
	require.Panics(t, func() {
		_, _ = d.Capture(s, func() error { panic("in the middle") })
	})
	_, err = d.Capture(s, func() error {
		_, err := d.Capture(s, func() error { return nil })
		return err
	})
	require.ErrorContains(t, err, "being recorded already")
	require.NoError(t, s.Sync(), "the stream is as before")
	_, err = d.Capture(&Stream{}, nil)
	require.ErrorContains(t, err, "another device")
}

func TestEventsAreUsedAgain(t *testing.T) {
	d := testDevice(t)
	s := d.Stream(0)
	for range 2000 {
		s.Record()
	}
	runtime.GC()
	runtime.GC()
	require.NoError(t, s.Wait(s.Record()))
	require.Error(t, s.Wait(nil))
	require.Error(t, s.Wait("event"))
}

func TestAllocTellsWhatIsFree(t *testing.T) {
	d := testDevice(t)
	_, err := d.Alloc(1 << 48)
	require.ErrorContains(t, err, "262144.00 GiB of device memory do not fit")
	require.ErrorContains(t, err, "are free of")
	info := d.Info()
	require.Positive(t, info.MemoryFree)
	p, err := d.Alloc(64 << 20)
	require.NoError(t, err)
	require.LessOrEqual(t, d.Info().MemoryFree, info.MemoryFree-48<<20, "all but what others gave back meanwhile")
	require.NoError(t, p.Free())
}

func TestDescribe(t *testing.T) {
	d := testDevice(t)
	topics := map[string]string{}
	for _, f := range d.Describe() {
		topics[f.Topic] = f.Text
	}
	require.Contains(t, topics["device"], "compute capability")
	require.Contains(t, topics["driver"], "CUDA 1")
	require.Contains(t, topics["compiler"], "NVRTC")
	require.NotEmpty(t, topics["compiled kernels"])
}
