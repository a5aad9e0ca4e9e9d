package cpu

import (
	"context"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func attnBenchCases() []attnCase {
	return []attnCase{
		{name: "B8T256H4D64", b: 8, tq: 256, tk: 256, hq: 4, hkv: 4, d: 64, causal: true},
		{name: "B8T256H4D64full", b: 8, tq: 256, tk: 256, hq: 4, hkv: 4, d: 64},
		{name: "B1T2048H8D64", b: 1, tq: 2048, tk: 2048, hq: 8, hkv: 8, d: 64, causal: true},
		{name: "B1T2048H8D64full", b: 1, tq: 2048, tk: 2048, hq: 8, hkv: 8, d: 64},
		{name: "B1T2048H8D128", b: 1, tq: 2048, tk: 2048, hq: 8, hkv: 8, d: 128, causal: true},
		{name: "B1T2048H8kv2D64", b: 1, tq: 2048, tk: 2048, hq: 8, hkv: 2, d: 64, causal: true},
		{name: "B1T2048H8D64window256", b: 1, tq: 2048, tk: 2048, hq: 8, hkv: 8, d: 64, causal: true, window: 256},
	}
}

// BenchmarkAttention launches the kernels alone. GFLOP/s counts two products of visible scores forward and five backward, in the
// mean and in the fastest launch.
func BenchmarkAttention(b *testing.B) {
	for _, c := range attnBenchCases() {
		for _, dt := range []tensor.DType{tensor.F32, tensor.BF16} {
			for _, threads := range []int{1, 2} {
				for _, backward := range []bool{false, true} {
					name := fmt.Sprintf("%s/%v/%s/%d", c.name, dt, map[bool]string{false: "forward", true: "backward"}[backward], threads)
					b.Run(name, func(b *testing.B) { benchAttention(b, c, dt, threads, backward) })
				}
			}
		}
	}
}

// BenchmarkAttentionDecode reads a cache with one query a head; GB/s counts the bytes of the keys and values.
func BenchmarkAttentionDecode(b *testing.B) {
	for _, c := range []attnCase{
		{name: "B1T2048H8D64", b: 1, tq: 1, tk: 2048, hq: 8, hkv: 8, d: 64, causal: true, headMajor: true, offset: []int32{2047}},
		{name: "B8T2048H32kv8D128", b: 8, tq: 1, tk: 2048, hq: 32, hkv: 8, d: 128, causal: true, headMajor: true, offset: []int32{2047, 2047, 2047, 2047, 2047, 2047, 2047, 2047}},
		{name: "B1T4096H8kv2D64", b: 1, tq: 1, tk: 4096, hq: 8, hkv: 2, d: 64, causal: true, headMajor: true, offset: []int32{4095}},
		{name: "B1T64H8D8", b: 1, tq: 1, tk: 64, hq: 8, hkv: 8, d: 8, causal: true, headMajor: true, offset: []int32{63}},
	} {
		for _, dt := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16} {
			for _, threads := range []int{1, 2} {
				b.Run(fmt.Sprintf("%s/%v/%d", c.name, dt, threads), func(b *testing.B) { benchAttention(b, c, dt, threads, false) })
			}
		}
	}
}

func benchAttention(b *testing.B, c attnCase, dt tensor.DType, threads int, backward bool) {
	dev := attnDevice(b, threads)
	r := c.build(b, dt, false, false)
	n := r.o.Node()
	op, types, products := n.Op, n.InTypes(), 2
	if backward {
		products = 5
		op = ops.AttentionGrad(n.Op.(ops.Attention))
		types = []tensor.Type{types[0], types[1], types[2], r.o.Type(), r.lse.Type(), r.o.Type(), types[3], types[4], types[5], {}}
	}
	outTypes, err := op.Infer(types)
	require.NoError(b, err)
	k, err := dev.Kernel(device.Spec{Op: op, In: types, Out: outTypes})
	require.NoError(b, err)
	alloc := func(t tensor.Type) device.Ptr {
		if t.DType == tensor.Invalid {
			return device.Ptr{}
		}
		buf, err := dev.Alloc(t.Bytes())
		require.NoError(b, err)
		return device.Ptr{Buf: buf}
	}
	in, out := make([]device.Ptr, len(types)), make([]device.Ptr, len(outTypes))
	for i, t := range outTypes {
		out[i] = alloc(t)
	}
	for i, t := range types {
		if in[i] = alloc(t); i < len(n.In) {
			if x, ok := r.feed[n.In[i]].(*tensor.Tensor); ok && (!backward || i < 3) {
				require.NoError(b, dev.Stream(0).Upload(in[i], x.Bytes()))
			}
		}
	}
	scratch, err := dev.Alloc(k.Scratch())
	require.NoError(b, err)
	best := math.Inf(1)
	b.ReportAllocs()
	for b.Loop() {
		start := time.Now()
		require.NoError(b, k.Launch(dev.Stream(0), in, out, device.Ptr{Buf: scratch}))
		best = min(best, time.Since(start).Seconds())
	}
	c.report(b, best, products, 2*types[1].Bytes())
}

// report gives bandwidth where there is one query, else work.
func (c attnCase) report(b *testing.B, best float64, products int, keyBytes int64) {
	mean := b.Elapsed().Seconds() / float64(b.N)
	if c.tq == 1 {
		b.ReportMetric(float64(keyBytes)/mean/1e9, "GB/s")
		b.ReportMetric(float64(keyBytes)/best/1e9, "best-GB/s")
		return
	}
	pairs := 0
	for t := range c.tq {
		for j := range c.tk {
			if c.visible(nil, 0, t, j) {
				pairs++
			}
		}
	}
	flops := float64(2*products*c.b*c.hq*c.d) * float64(pairs)
	b.ReportMetric(flops/mean/1e9, "GFLOP/s")
	b.ReportMetric(flops/best/1e9, "best-GFLOP/s")
}

// BenchmarkAttentionDecomposed runs the textbook formula on the same work, forward and backward together.
func BenchmarkAttentionDecomposed(b *testing.B) {
	for _, decomposed := range []bool{false, true} {
		c := attnBenchCases()[0]
		b.Run(fmt.Sprintf("%s/decomposed=%v", c.name, decomposed), func(b *testing.B) {
			r := c.build(b, tensor.F32, decomposed, false)
			vals := []graph.Value{r.o}
			grads, err := autograd.GradValues(r.loss, r.q, r.k, r.v)
			require.NoError(b, err)
			p, err := plan.Compile(append(vals, grads...), plan.Options{Device: attnDevice(b, 2)})
			require.NoError(b, err)
			best := math.Inf(1)
			for b.Loop() {
				start := time.Now()
				_, err := p.Run(context.Background(), r.feed)
				require.NoError(b, err)
				best = min(best, time.Since(start).Seconds())
			}
			c.report(b, best, 7, 0)
			require.NoError(b, p.Close())
		})
	}
}
