package cuda

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// BenchmarkAttentionTiles times the tensor-core kernels with several tiles, for the choice in attention_flash.go: causal, 32 and 8 heads of
// 128, two rows of 4096.
func BenchmarkAttentionTiles(b *testing.B) {
	d := testDevice(b)
	if onEmulator() {
		b.Skip("the emulator has no speed")
	}
	q, k, lse := tensor.T(tensor.BF16, 2, 4096, 32, 128), tensor.T(tensor.BF16, 2, 4096, 8, 128), tensor.T(tensor.F32, 2, 32, 4096)
	op := ops.Attention{Scale: 0.088388, Causal: true}
	make := func() *attention {
		a, err := newAttention(d, op, device.Spec{In: []tensor.Type{q, k, k}})
		require.NoError(b, err)
		return a
	}
	none := tensor.Type{}
	forward := func(b *testing.B, a *attention, run attnRun, err error) {
		require.NoError(b, err)
		s := device.Spec{Op: op, In: []tensor.Type{q, k, k, none, none, none, none, none}, Out: []tensor.Type{q, lse}}
		timeKernel(b, d, a.forwardKernel(run).bind(d, s), s, 2*2*4096*4096*32*128)
	}
	backward := func(b *testing.B, a *attention, run attnRun, err error) {
		require.NoError(b, err)
		s := device.Spec{Op: ops.AttentionGrad(op), In: []tensor.Type{q, k, k, q, lse, q, none, none, none, none, none, none}, Out: []tensor.Type{q, k, k}}
		timeKernel(b, d, a.backwardKernel(run).bind(d, s), s, 5*2*4096*4096*32*128)
	}
	if d.Capability() == attnGroupCapability {
		for _, t := range groupTilesForward {
			b.Run(fmt.Sprintf("forward/group/%v", t), func(b *testing.B) {
				a := make()
				run, err := a.groupTiled(t)
				forward(b, a, run, err)
			})
		}
		for _, tq := range groupTilesDQ {
			for _, tk := range groupTilesDKV {
				b.Run(fmt.Sprintf("backward/group/%v/%v", tq, tk), func(b *testing.B) {
					a := make()
					run, err := a.groupGradTiled(tq, tk)
					backward(b, a, run, err)
				})
			}
		}
	}
	for _, t := range []attnTile{{128, 64, 2}, {128, 64, 1}, {64, 64, 1}, {128, 32, 2}, {64, 128, 1}, {128, 128, 1}} {
		b.Run(fmt.Sprintf("forward/%v", t), func(b *testing.B) {
			a := make()
			run, err := a.flashTiled(t)
			forward(b, a, run, err)
		})
	}
	for _, t := range [][2]attnTile{{{64, 64, 1}, {64, 64, 1}}, {{64, 32, 1}, {64, 64, 2}}, {{128, 64, 1}, {64, 128, 1}},
		{{128, 32, 1}, {32, 128, 2}}, {{64, 64, 1}, {32, 64, 2}}} {
		b.Run(fmt.Sprintf("backward/%v", t), func(b *testing.B) {
			a := make()
			run, err := a.flashGradTiled(t[0], t[1])
			backward(b, a, run, err)
		})
	}
}

// BenchmarkAttentionFew times the kernel of generation with other constants than those chosen: one query of 32 heads over 8 heads of keys, in a cache of 8192.
func BenchmarkAttentionFew(b *testing.B) {
	d := testDevice(b)
	if onEmulator() {
		b.Skip("the emulator has no speed")
	}
	const most = 8192
	q, k := tensor.T(tensor.BF16, 1, 1, 32, 128), tensor.T(tensor.BF16, 1, 8, most, 128)
	for _, w := range []attnFew{{4, 1, 2}, {2, 3, 2}, {2, 3, 4}, {1, 4, 2}, {1, 4, 4}} {
		a, err := newAttention(d, ops.Attention{Scale: 0.088388, HeadMajor: true, Causal: true}, device.Spec{In: []tensor.Type{q, k, k}})
		require.NoError(b, err)
		run, err := a.fewBy(w)
		require.NoError(b, err)
		const turns = 8
		keys, values := space(b, d, turns, k.Bytes()), space(b, d, turns, k.Bytes())
		queries, rest := space(b, d, turns, 2*q.Bytes()), space(b, d, turns, run.scratch+4096)
		for _, seen := range []int32{128, 512, 2048, 4096} {
			b.Run(fmt.Sprintf("%+v/keys=%d", w, seen), func(b *testing.B) {
				buffer, err := d.Alloc(8)
				require.NoError(b, err)
				defer func() { require.NoError(b, buffer.Free()) }()
				require.NoError(b, d.Stream(0).Upload(device.Ptr{Buf: buffer}, tensor.AsBytes([]int32{seen - 1, seen})))
				at, err := d.address(device.Ptr{Buf: buffer}, 8)
				require.NoError(b, err)
				a.args.offset, a.args.length = at, at+4
				graphTime(b, d, float64(2*2*8*128)*float64(seen), turns, func(c *Call, i int) error {
					return run.enqueue(c, &attnIO{q: queries[i], k: keys[i], v: values[i], o: queries[i] + Addr(q.Bytes()), lse: rest[i]}, rest[i]+256)
				})
			})
		}
	}
}

// timeKernel times launches on noise, since zeros take less power and run at another clock, and reports TFLOP/s by the stream's clock.
func timeKernel(b *testing.B, d *Device, k *Kernel, s device.Spec, flops float64) {
	b.Helper()
	hold := func(n int64) device.Ptr {
		buf, err := d.Alloc(max(n, 1))
		require.NoError(b, err)
		b.Cleanup(func() { require.NoError(b, buf.Free()) })
		if n < 4 {
			return device.Ptr{Buf: buf}
		}
		at, err := d.address(device.Ptr{Buf: buf}, n)
		require.NoError(b, err)
		require.NoError(b, d.enter(func() error {
			r, err := d.newTrial()
			if err != nil {
				return err
			}
			defer r.close()
			return errors.Join(r.noise(at, n), d.api.Sync(r.stream.handle))
		}))
		return device.Ptr{Buf: buf}
	}
	in, out := make([]device.Ptr, len(s.In)), make([]device.Ptr, len(s.Out))
	for i, t := range s.In {
		if t.DType != tensor.Invalid {
			in[i] = hold(t.Bytes())
		}
	}
	for i, t := range s.Out {
		out[i] = hold(t.Bytes())
	}
	scratch, stream := hold(k.Scratch()), d.Stream(0)
	require.NoError(b, k.Launch(stream, in, out, scratch))
	timer, ok := stream.(device.Timer)
	require.True(b, ok)
	require.NoError(b, timer.Reserve(2))
	require.NoError(b, timer.Mark())
	for range b.N {
		require.NoError(b, k.Launch(stream, in, out, scratch))
	}
	require.NoError(b, timer.Mark())
	marks, err := timer.Marks()
	require.NoError(b, err)
	seconds := (marks[1].At - marks[0].At).Seconds() / float64(b.N)
	b.ReportMetric(seconds*1e3, "ms/launch")
	b.ReportMetric(flops/seconds/1e12, "TFLOP/s")
}
