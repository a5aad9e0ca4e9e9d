package cuda

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/driver"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// benchDevice is the GPU; the emulator's times say nothing.
func benchDevice(b *testing.B) *Device {
	b.Helper()
	if _, err := driver.Open(); err != nil {
		b.Skip(err)
	}
	d, err := New(Options{})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, d.Close()) })
	return d
}

// benchKernel times launches of a kernel on buffers of its own, and reports operations.
func benchKernel(b *testing.B, d *Device, k *Kernel, flops float64, out int64, in ...int64) {
	b.Helper()
	place := func(n int64) device.Ptr {
		buf, err := d.Alloc(max(n, 1))
		require.NoError(b, err)
		b.Cleanup(func() { require.NoError(b, buf.Free()) })
		s := d.Stream(0).(*Stream)
		require.NoError(b, d.enter(func() error {
			a, err := d.address(device.Ptr{Buf: buf}, n)
			require.NoError(b, err)
			return d.api.Set(driver.Addr(a), 0x3c, n, s.handle)
		}))
		return device.Ptr{Buf: buf}
	}
	if k.dev == nil {
		k.dev, k.call = d, Call{In: make([]Addr, len(in)), Out: make([]Addr, 1), Dev: d}
		k.in, k.out = in, []int64{out}
	}
	var at []device.Ptr
	for _, n := range in {
		at = append(at, place(n))
	}
	y, scratch, s := place(out), place(k.Scratch()), d.Stream(0).(*Stream)
	run := func(n int) {
		for range n {
			require.NoError(b, k.Launch(s, at, []device.Ptr{y}, scratch))
		}
	}
	run(2)
	require.NoError(b, s.Reserve(2))
	require.NoError(b, s.Mark())
	b.ResetTimer()
	run(b.N)
	require.NoError(b, s.Mark())
	marks, err := s.Marks()
	require.NoError(b, err)
	each := (marks[1].At - marks[0].At).Seconds() / float64(b.N)
	b.ReportMetric(flops/each/1e12, "TFLOP/s")
	b.ReportMetric(each*1e6, "µs")
}

// The kernels here beside the library's, on one shape a dtype and layout.
func BenchmarkProducts(b *testing.B) {
	d := benchDevice(b)
	for _, dt := range []tensor.DType{tensor.BF16, tensor.F16, tensor.I8, tensor.F32} {
		for _, trans := range []int{2, 0, 1} {
			m, n, k := 8192, 4096, 4096
			s := dense(m, n, k, dt, dt, dt, trans == 2)
			if trans == 1 {
				s.a.trans, s.a.ld = true, m
			}
			if dt == tensor.I8 {
				s.c.dtype = tensor.I32
			}
			for _, own := range []bool{true, false} {
				g, err := d.gemm(s)
				if own {
					g, err = d.ownGemm(s)
				}
				require.NoError(b, err)
				b.Run(fmt.Sprintf("%v/%s/%s", dt, []string{"nn", "tn", "nt"}[trans], g.label), func(b *testing.B) {
					kernel := &Kernel{ScratchBytes: g.scratch, Enqueue: func(c *Call) error {
						return g.enqueue(c, gemmAt{a: c.In[0], b: c.In[1], c: c.Out[0], scratch: c.Scratch})
					}}
					size := int64(dt.Size())
					benchKernel(b, d, kernel, 2*float64(m)*float64(n)*float64(k), int64(m*n*s.c.dtype.Size()), int64(m*k)*size, int64(k*n)*size)
				})
			}
		}
	}
}

// How many int32 sums of Linear8bitLt are best in flight.
func BenchmarkLinear8Chunks(b *testing.B) {
	d := benchDevice(b)
	const m, n, k = 8192, 14336, 4096
	bf := func(dims ...int) tensor.Type { return tensor.T(tensor.BF16, dims...) }
	spec := device.Spec{In: []tensor.Type{bf(m, k), tensor.T(tensor.I8, n, k), tensor.T(tensor.F32, n), {}}, Out: []tensor.Type{bf(m, n)}}
	for _, mib := range []int{14, 28, 56, 112, 224, 448} {
		b.Run(fmt.Sprintf("%dMiB", mib), func(b *testing.B) {
			kernel, err := d.linear8(ops.Int8Linear{}, spec, mib<<20)
			require.NoError(b, err)
			run := kernel.Enqueue
			kernel.Enqueue = func(c *Call) error {
				c.In[3] = 0 // no bias
				return run(c)
			}
			benchKernel(b, d, kernel, 2*m*n*k, 2*m*n, 2*m*k, n*k, 4*n, 256)
		})
	}
}
