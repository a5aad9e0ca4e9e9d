package cpu

import (
	"bytes"
	"os"
	"runtime"
	"testing"
	"time"
	"unsafe"
	"weak"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/gemm"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func TestLargeBuffers(t *testing.T) {
	d := New(Options{Threads: 1})
	defer d.Close() //nolint:errcheck // ends workers
	for _, n := range []int64{hugePage - 1, hugePage, hugePage + 1, 3*hugePage + 4097} {
		b, err := d.Alloc(n)
		require.NoError(t, err)
		require.Equal(t, n, b.Size())
		require.Equal(t, n, d.Allocated())
		data := b.(*buffer).data
		require.Zero(t, uintptr(unsafe.Pointer(&data[0]))%64)
		if runtime.GOOS == "linux" && n >= hugePage {
			require.Zero(t, uintptr(unsafe.Pointer(&data[0]))%hugePage)
		}
		require.Equal(t, -1, bytes.IndexFunc(data, func(r rune) bool { return r != 0 }), "fresh memory is zero")
		for i := range data {
			data[i] = byte(i)
		}
		require.NoError(t, b.Free())
		require.NoError(t, b.Free(), "freeing again does nothing")
		require.Zero(t, d.Allocated())
		_, err = bytesAt(device.Ptr{Buf: b}, 1)
		require.ErrorIs(t, err, errForeign)
	}
	_, err := d.Alloc(maxAlloc)
	require.ErrorContains(t, err, "cannot allocate")
}

// TestPooledBuffers: buffers that share a chunk do not overlap, begin at cache lines, are zero, and stay whole while others of the chunk go.
func TestPooledBuffers(t *testing.T) {
	d := New(Options{Threads: 1})
	defer d.Close() //nolint:errcheck // ends workers
	var held []device.Buffer
	var total int64
	for i := range 200 {
		n := int64(poolLeast - 1 + i*977)
		b, err := d.Alloc(n)
		require.NoError(t, err)
		data := b.(*buffer).data
		require.Len(t, data, int(n))
		require.Equal(t, len(data), cap(data), "a kernel cannot grow into the next buffer")
		require.Zero(t, uintptr(unsafe.Pointer(&data[0]))%64)
		require.Equal(t, -1, bytes.IndexFunc(data, func(r rune) bool { return r != 0 }), "fresh memory is zero")
		for j := range data {
			data[j] = byte(i + 1)
		}
		if i%3 == 0 {
			require.NoError(t, b.Free())
			continue
		}
		held, total = append(held, b), total+n
	}
	require.Equal(t, total, d.Allocated())
	runtime.GC()
	i := 0
	for _, b := range held {
		for i%3 == 0 {
			i++
		}
		data := b.(*buffer).data
		require.Equal(t, len(data), bytes.Count(data, []byte{byte(i + 1)}), "buffer %d", i)
		require.NoError(t, b.Free())
		i++
	}
	require.Zero(t, d.Allocated())
}

// TestChunkGoesWithItsLastBuffer: a chunk stays as long as one of its buffers, of which alone Allocated tells, and no longer.
func TestChunkGoesWithItsLastBuffer(t *testing.T) {
	d := New(Options{Threads: 1})
	defer d.Close() //nolint:errcheck // ends workers
	small, err := d.Alloc(poolLeast)
	require.NoError(t, err)
	chunk := weak.Make(&small.(*buffer).data[0])
	var rest []device.Buffer
	for range 2 * poolChunk / (hugePage / 2) { // into further chunks
		b, err := d.Alloc(hugePage / 2)
		require.NoError(t, err)
		rest = append(rest, b)
	}
	for _, b := range rest {
		require.NoError(t, b.Free())
	}
	runtime.GC()
	require.NotNil(t, chunk.Value(), "the small buffer is in it")
	require.EqualValues(t, poolLeast, d.Allocated())
	require.NoError(t, small.Free())
	require.Zero(t, d.Allocated())
	require.Eventually(t, func() bool {
		runtime.GC()
		return chunk.Value() == nil
	}, time.Minute, time.Millisecond)
}

// TestMemoryIsGivenBack: freed and dropped buffers leave nothing behind.
func TestMemoryIsGivenBack(t *testing.T) {
	if _, err := os.Stat("/proc/self/statm"); err != nil {
		t.Skip("the system does not tell how much memory is mapped")
	}
	d := New(Options{Threads: 1})
	defer d.Close() //nolint:errcheck // ends workers
	before := mappedBytes(t)
	for i := range 200 {
		b, err := d.Alloc(1 << 30)
		require.NoError(t, err)
		b.(*buffer).data[5] = 1
		if i%2 == 0 {
			require.NoError(t, b.Free())
		} else if i%10 == 9 {
			runtime.GC()
		}
	}
	require.Eventually(t, func() bool {
		runtime.GC()
		return mappedBytes(t)-before < 2<<30
	}, time.Minute, 10*time.Millisecond)
}

func mappedBytes(t *testing.T) int64 {
	b, err := os.ReadFile("/proc/self/statm")
	require.NoError(t, err)
	var pages int64
	for _, c := range b {
		if c < '0' || c > '9' {
			break
		}
		pages = pages*10 + int64(c-'0')
	}
	return pages * int64(os.Getpagesize())
}

// BenchmarkPages compares memory of Go's heap with a device's: a search through 512 MiB, and a product whose operands have long rows.
func BenchmarkPages(b *testing.B) {
	d := New(Options{Threads: 1})
	defer d.Close() //nolint:errcheck // ends workers
	for _, c := range []struct {
		name string
		get  func(n int64) []byte
	}{
		{"heap", func(n int64) []byte { return tensor.AlignedBytes(int(n)) }},
		{"device", func(n int64) []byte {
			buf, err := d.Alloc(n)
			require.NoError(b, err)
			b.Cleanup(func() { require.NoError(b, buf.Free()) })
			return buf.(*buffer).data
		}},
	} {
		b.Run("read/"+c.name, func(b *testing.B) {
			x := c.get(512 << 20)
			fill(x)
			b.SetBytes(int64(len(x)))
			for b.Loop() {
				require.Negative(b, bytes.IndexByte(x, 255))
			}
		})
		b.Run("gemm/"+c.name, func(b *testing.B) {
			const m, n = 512, 4096
			x, w, y := c.get(m*n*4), c.get(n*n*4), c.get(m*n*4)
			scratch := c.get(gemm.ScratchBytes(m, n, n, 1))
			fill(x)
			fill(w)
			args := gemm.Args{M: m, N: n, K: n, A: gemm.Mat{Data: x, DType: tensor.F32}, B: gemm.Mat{Data: w, DType: tensor.F32, Trans: true},
				C: gemm.Out{Data: y, DType: tensor.F32}}
			for b.Loop() {
				require.NoError(b, gemm.Gemm(nil, scratch, 1, args))
			}
			b.ReportMetric(2*m*n*n*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
		})
	}
}

func fill(b []byte) {
	x := tensor.View[float32](b)
	for i := range x {
		x[i] = float32(i%17) - 8
	}
}
