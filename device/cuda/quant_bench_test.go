package cuda

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// BenchmarkQuantVariants times the kernels of 4-bit weights with other constants than those chosen: what the choice rests on. It needs a
// GPU; one round tells all:
//
//	cuda.test -test.run NONE -test.bench QuantVariants -test.benchtime 1x
func BenchmarkQuantVariants(b *testing.B) {
	if onEmulator() {
		b.Skip("times of the emulator say nothing")
	}
	for _, nested := range []bool{false, true} {
		for _, threads := range []int{128, 256} {
			for _, packs := range []int{2, 4, 8, 16} {
				benchDequantize(b, nested, threads, packs)
			}
		}
	}
	for _, shape := range [][2]int{{4096, 14336}, {14336, 4096}, {4096, 4096}} {
		for _, warps := range []int{8, 16, 32} {
			for i := range 4 {
				for _, m := range []int{1, 4, 16} {
					if m <= 4-2*(i/2) || warps == 8 && i < 2 {
						benchThin(b, shape[0], shape[1], m, warps, i%2, i/2)
					}
				}
			}
		}
	}
	for _, shape := range [][2]int{{4096, 14336}, {14336, 4096}, {4096, 4096}} {
		for _, m := range []int{16, 32, 64} {
			for _, trans := range []bool{false, true} {
				benchProduct(b, shape[0], shape[1], m, trans)
			}
		}
	}
	for _, dt := range []string{"bf16", "f32"} {
		for _, threads := range []int{256, 512} {
			for _, resident := range []int{2, 3, 4, 6} {
				benchQuantize(b, 8, dt, threads, resident)
				benchQuantize(b, 4, dt, threads, resident)
			}
		}
	}
}

// graphTime reports the median time of launches that rotate over buffers, as one recorded graph.
func graphTime(b *testing.B, d *Device, bytes float64, turns int, launch func(c *Call, turn int) error) {
	s := d.Stream(0).(*Stream)
	c := &Call{Dev: d, Stream: s}
	g, err := d.Capture(s, func() error {
		for range 4 {
			for i := range turns {
				if err := d.enter(func() error { return launch(c, i) }); err != nil {
					return err
				}
			}
		}
		return nil
	})
	require.NoError(b, err)
	defer g.Free()
	const batches = 9
	for range 2 {
		require.NoError(b, g.Launch(s))
	}
	require.NoError(b, s.Reserve(batches+1))
	require.NoError(b, s.Mark())
	for range batches {
		require.NoError(b, g.Launch(s))
		require.NoError(b, s.Mark())
	}
	marks, err := s.Marks()
	require.NoError(b, err)
	took := make([]time.Duration, batches)
	for i := range took {
		took[i] = marks[i+1].At - marks[i].At
	}
	slices.Sort(took)
	us := took[batches/2].Seconds() * 1e6 / float64(4*turns)
	b.ReportMetric(us, "µs")
	b.ReportMetric(bytes/us/1e3, "GB/s")
	b.ReportMetric(0, "ns/op")
}

// space allocates memory for turns of operands and returns where each begins.
func space(b *testing.B, d *Device, turns int, bytes int64) []Addr {
	buffer, err := d.Alloc(int64(turns) * aligned(bytes))
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, buffer.Free()) })
	at, err := d.address(device.Ptr{Buf: buffer}, 1)
	require.NoError(b, err)
	out := make([]Addr, turns)
	for i := range out {
		out[i] = at + Addr(int64(i)*aligned(bytes))
	}
	return out
}

func benchDequantize(b *testing.B, nested bool, threads, packs int) {
	b.Run(fmt.Sprintf("dequantize/nested=%v/threads=%d/packs=%d", nested, threads, packs), func(b *testing.B) {
		d := testDevice(b)
		const rows, cols, turns = 4096, 14336, 4
		w := weight4{quant.NF4, 64, rows, cols, nested}
		f, err := d.Function(w.program(tensor.BF16, "dequantize.cu", fmt.Sprintf("PACKS %d", packs)), "dequantize_packs")
		require.NoError(b, err)
		n := w.size()
		scale := int64(4)
		if nested {
			scale = 1
		}
		codes, absmax, y := space(b, d, turns, n/2), space(b, d, turns, n/64*scale+n/64/64+1024), space(b, d, turns, 2*n)
		args := make([]scaleArgs, turns)
		for i := range args {
			outer := absmax[i] + Addr(aligned(n/64))
			args[i] = scaleArgs{absmax[i], outer, outer}
		}
		graphTime(b, d, 2.5*float64(n)+float64(n/64*scale), turns, func(c *Call, i int) error {
			return c.Launch(f, Over(n/8, threads, packs), codes[i], &args[i], y[i], n/8)
		})
	})
}

func benchThin(b *testing.B, rows, cols, m, warps, permuted, lean int) {
	b.Run(fmt.Sprintf("thin/%dx%d/m=%d/warps=%d/permuted=%d/lean=%d", rows, cols, m, warps, permuted, lean), func(b *testing.B) {
		d := testDevice(b)
		w := weight4{quant.NF4, 64, rows, cols, true}
		p := w.program(tensor.BF16, "quant_thin.cu", append(thinDefines(cols, m, warps), fmt.Sprintf("PERMUTED %d", permuted), fmt.Sprintf("LEAN %d", lean))...)
		p.Files, p.Exact = thinFiles, false
		f, err := d.Function(p, "quant_thin")
		require.NoError(b, err)
		n := w.size()
		turns := int(min(160<<20/(n/2)+1, 16))
		codes, absmax, x, y := space(b, d, turns, n/2), space(b, d, turns, n/64+n/64/64+4096), space(b, d, turns, int64(2*m*cols)), space(b, d, turns, int64(2*m*rows))
		args := make([]thinArgs, turns)
		for i := range args {
			outer := absmax[i] + Addr(aligned(n/64))
			args[i].of[0] = thinPart{codes: codes[i], scales: scaleArgs{absmax[i], outer, outer}, y: y[i], n: int32(rows), blocksize: 64, shift: 6}
		}
		graphTime(b, d, float64(n)/2+float64(n)/64, turns, func(c *Call, i int) error {
			return c.Launch(f, Rows((rows+15)/16, warps*WarpSize), x[i], &args[i], int32(m), int32(cols))
		})
	})
}

// benchProduct times the ways to multiply between few and many rows.
func benchProduct(b *testing.B, rows, cols, m int, trans bool) {
	w := weight4{quant.NF4, 64, rows, cols, true}
	x, y := tensor.T(tensor.BF16, m, cols), int64(2*m*rows)
	if trans {
		x, y = tensor.T(tensor.BF16, m, rows), int64(2*m*cols)
	}
	for _, way := range []struct {
		name  string
		build func(d *Device) (*Kernel, error)
	}{{"tiles", func(d *Device) (*Kernel, error) {
		c, err := d.codedProduct(w, tensor.BF16, m, trans, false)
		return c.kernel(), err
	}}, {"decoded", func(d *Device) (*Kernel, error) { return d.wholeProduct(w, x, trans, false) }}} {
		b.Run(fmt.Sprintf("product/%dx%d/m=%d/trans=%v/%s", rows, cols, m, trans, way.name), func(b *testing.B) {
			d := testDevice(b)
			k, err := way.build(d)
			require.NoError(b, err)
			n := w.size()
			turns := int(min(160<<20/(n/2)+1, 16))
			codes, absmax, xs, ys := space(b, d, turns, n/2), space(b, d, turns, n/64+n/64/64+4096), space(b, d, turns, x.Bytes()), space(b, d, turns, y)
			scratch := space(b, d, 1, max(k.ScratchBytes, 1))[0]
			calls := make([]Call, turns)
			for i := range calls {
				outer := absmax[i] + Addr(aligned(n/64))
				calls[i] = Call{In: []Addr{xs[i], codes[i], absmax[i], outer, outer}, Out: []Addr{ys[i]}, Scratch: scratch, Dev: d}
			}
			graphTime(b, d, float64(n)/2+float64(n)/64, turns, func(c *Call, i int) error {
				calls[i].Stream = c.Stream
				return k.Enqueue(&calls[i])
			})
		})
	}
}

// benchQuantize quantizes noise by blocks of 256 and 8 bits, or of 64 and 4.
func benchQuantize(b *testing.B, bits int, dt string, threads, resident int) {
	if threads*resident > 2048 || bits == 8 && resident*25 > 220 {
		return
	}
	b.Run(fmt.Sprintf("quantize%d/%s/threads=%d/resident=%d", bits, dt, threads, resident), func(b *testing.B) {
		d := testDevice(b)
		p, err := quantize8Program(ops.Quantize8{Blocksize: 256})
		block := 256
		if bits == 4 {
			block = 64
			p, err = quantize4Program(quant.NF4)
		}
		require.NoError(b, err)
		p.Exact = true
		p.Define = append(p.Define, "T "+dt, fmt.Sprintf("BLOCK %d", block), fmt.Sprintf("THREADS %d", threads), fmt.Sprintf("RESIDENT %d", resident))
		f, err := d.Function(p, "quantize_blocks")
		require.NoError(b, err)
		const n = 100_000_000 / 256 * 256
		size := int64(2)
		if dt == "f32" {
			size = 4
		}
		x, codes, absmax := space(b, d, 1, size*n), space(b, d, 1, n), space(b, d, 1, n/16)
		fill, err := d.Function(Program{Define: []string{"T " + dt}, Text: `KERNEL bench_fill(T *x, i64 n) {
  for (i64 i = global_thread(); i < n; i += global_threads()) {
    u32 h = (u32)i * 2654435761u, sum = 0;
    for (int k = 0; k < 4; k++) h = (h ^ h >> 15) * 2246822519u, sum += h >> 16;  // nearly normal
    x[i] = narrow<T>(((float)sum - 131072.0f) / 37837.0f);
  }
}`}, "bench_fill")
		require.NoError(b, err)
		c := &Call{Dev: d, Stream: d.Stream(0).(*Stream)}
		require.NoError(b, d.enter(func() error { return c.Launch(fill, Rows(4096, 256), x[0], int64(n)) }))
		graphTime(b, d, float64(size*n+n*int64(bits)/8+4*n/int64(block)), 1, func(c *Call, _ int) error {
			return c.Launch(f, Rows(resident*d.sms, threads), x[0], codes[0], absmax[0], int64(n/8))
		})
	})
}
