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
	launch, keyBytes := attnLauncher(b, c, dt, threads, backward)
	best := math.Inf(1)
	b.ReportAllocs()
	for b.Loop() {
		start := time.Now()
		require.NoError(b, launch())
		best = min(best, time.Since(start).Seconds())
	}
	c.report(b, best, map[bool]int{false: 2, true: 5}[backward], keyBytes)
}

// attnLauncher builds the kernel of a case with operands on a device of its own, and returns what launches it.
func attnLauncher(t testing.TB, c attnCase, dt tensor.DType, threads int, backward bool) (launch func() error, keyBytes int64) {
	dev := attnDevice(t, threads)
	r := c.build(t, dt, false, false)
	n := r.o.Node()
	op, types := n.Op, n.InTypes()
	if backward {
		op = ops.AttentionGrad(n.Op.(ops.Attention))
		types = []tensor.Type{types[0], types[1], types[2], r.o.Type(), r.lse.Type(), r.o.Type(), types[3], types[4], types[5], {}, types[6], types[7]}
	}
	outTypes, err := op.Infer(types)
	require.NoError(t, err)
	k, err := dev.Kernel(device.Spec{Op: op, In: types, Out: outTypes})
	require.NoError(t, err)
	alloc := func(x tensor.Type) device.Ptr {
		if x.DType == tensor.Invalid {
			return device.Ptr{}
		}
		buf, err := dev.Alloc(x.Bytes())
		require.NoError(t, err)
		return device.Ptr{Buf: buf}
	}
	in, out := make([]device.Ptr, len(types)), make([]device.Ptr, len(outTypes))
	for i, x := range outTypes {
		out[i] = alloc(x)
	}
	for i, x := range types {
		if in[i] = alloc(x); i < len(n.In) {
			if x, ok := r.feed[n.In[i]].(*tensor.Tensor); ok && (!backward || i < 3) {
				require.NoError(t, dev.Stream(0).Upload(in[i], x.Bytes()))
			}
		}
	}
	scratch, err := dev.Alloc(k.Scratch())
	require.NoError(t, err)
	return func() error { return k.Launch(dev.Stream(0), in, out, device.Ptr{Buf: scratch}) }, 2 * types[1].Bytes()
}

// TestAttentionAllocatesNothing launches kernels of each kind: once warm they use their scratch alone.
func TestAttentionAllocatesNothing(t *testing.T) {
	for _, c := range []attnCase{
		{name: "tiles", b: 2, tq: 70, tk: 70, hq: 4, hkv: 2, d: 20, causal: true},
		{name: "few", b: 2, tq: 1, tk: 600, hq: 4, hkv: 2, d: 24, causal: true, headMajor: true, offset: []int32{599, 3}},
	} {
		for _, backward := range []bool{false, true} {
			launch, _ := attnLauncher(t, c, tensor.BF16, 2, backward)
			require.Zero(t, testing.AllocsPerRun(20, func() {
				if err := launch(); err != nil {
					t.Error(err)
				}
			}), "%s backward=%v", c.name, backward)
		}
	}
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
