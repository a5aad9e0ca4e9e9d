package cuda

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestDocuments: lists of more tokens than a thread reads at once, as the CPU makes them.
func TestDocuments(t *testing.T) {
	d := testDevice(t)
	ref := cpu.New(cpu.Options{Threads: 1})
	defer func() { require.NoError(t, ref.Close()) }()
	late := starts(3, 4100, 1, 700, 33, 2000, 8, 9)
	late[2*4100+4000] = 5 // no division
	for _, c := range []struct {
		name           string
		starts         []int32
		rows           int
		slots, longest int32
		none           int32
	}{
		{"long", starts(3, 4100, 1, 700, 33, 2000, 8, 9), 3, 32, 2000, 0},
		{"too_long", starts(3, 4100, 1, 700, 33, 2000, 8, 9), 3, 32, 1999, 1},
		{"too_many", starts(3, 4100, 1, 700, 33, 2000, 8, 9), 3, 28, 2000, 1},
		{"most", starts(2, 1024, 2), 2, ops.MaxDocuments, 2, 0},
		{"late", late, 3, 32, 4100, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			doc := tensor.New(tensor.T(tensor.I32, c.rows, len(c.starts)/c.rows))
			copy(tensor.View[int32](doc.Bytes()), c.starts)
			op := ops.Documents{Slots: c.slots, Longest: c.longest, Heads: 4, KeyHeads: 2, HeadDim: 16}
			want, got := listed(t, ref, op, doc), listed(t, d, op, doc)
			require.Equal(t, c.none, tensor.View[int32](want[0].Bytes())[c.slots])
			for i := range want {
				require.Equal(t, want[i].Bytes(), got[i].Bytes(), "output %d", i)
			}
		})
	}
}

// listed computes lengths and offsets of documents on a device.
func listed(t testing.TB, dev device.Device, op ops.Documents, doc *tensor.Tensor) []*tensor.Tensor {
	t.Helper()
	out, err := op.Infer([]tensor.Type{doc.Type()})
	require.NoError(t, err)
	in := []*tensor.Tensor{doc}
	s := spec(op, in, out...)
	kern, err := dev.Kernel(s)
	require.NoError(t, err)
	return launch(t, dev, kern, in, s.Out)
}

// TestAttentionTurn: lse as a library has it.
func TestAttentionTurn(t *testing.T) {
	d := testDevice(t)
	const rows, heads, tokens = 3, 5, 70
	lse := tensor.New(tensor.T(tensor.F32, rows, heads, tokens))
	for i := range lse.Type().Size() {
		lse.Set(i, float64(i))
	}
	a := &attention{dev: d, dtype: tensor.BF16, args: attnArgs{b: rows, tq: tokens, hq: heads}}
	f, err := d.Function(a.program("attention_turn.cu"), "attend_turn")
	require.NoError(t, err)
	in := []*tensor.Tensor{lse}
	s := spec(ops.Attention{}, in, tensor.T(tensor.F32, rows, tokens, heads))
	kern := &Kernel{Label: "turn", Enqueue: func(c *Call) error { return c.Launch(f, Rows(3, turnThreads), &a.args, c.In[0], c.Out[0]) }}
	got := launch(t, d, kern.bind(d, s), in, s.Out)[0]
	for i := range lse.Type().Size() {
		b, h, tok := i/tokens/heads, i/tokens%heads, i%tokens
		require.Equal(t, float64(i), got.At((b*tokens+tok)*heads+h), "row %d, head %d, token %d", b, h, tok)
	}
}

// TestAttentionListed: the library is asked for as many documents as the list has room for, of the length that is promised; without a list
// packed rows are not for it.
func TestAttentionListed(t *testing.T) {
	q, k, lengths := tensor.T(tensor.BF16, 2, 4096, 32, 128), tensor.T(tensor.BF16, 2, 4096, 8, 128), tensor.T(tensor.I32, 25)
	doc := []tensor.Type{tensor.T(tensor.I32, 2, 4096), {}, {}}
	for _, c := range []struct {
		op      ops.Attention
		lengths tensor.Type
		ok      bool
		window  int64
	}{
		{ops.Attention{Scale: 1, Causal: true}, tensor.Type{}, false, 0},
		{ops.Attention{Scale: 1, Causal: true, Longest: 640}, lengths, true, 0},
		{ops.Attention{Scale: 1, Causal: true, Longest: 640, Window: 640}, lengths, true, 0},
		{ops.Attention{Scale: 1, Causal: true, Longest: 640, Window: 639}, lengths, true, 639},
		{ops.Attention{Scale: 1, Causal: true, Longest: 100}, lengths, false, 0}, // short ones are left to own kernels
	} {
		a, err := newAttention(&Device{capability: 90, shared: 227 << 10}, c.op, device.Spec{In: []tensor.Type{q, k, k}})
		require.NoError(t, err)
		a.listed(c.lengths)
		g, ok := a.graph(doc, false)
		require.Equal(t, c.ok, ok, "%+v", c.op)
		if ok {
			require.Equal(t, []int64{24, 640, 640, c.window}, []int64{g.B, g.Tq, g.Tk, g.Window})
		}
	}
}

// TestAttentionGate: behind a closed gate nothing is written but lse, transposed from what a library left; behind an open one few blocks do
// all the work.
func TestAttentionGate(t *testing.T) {
	d := testDevice(t)
	c := attnCases(tensor.BF16)[0]
	c.b, c.tq, c.tk = 1, 290, 290
	if !onEmulator() {
		c.b, c.tq, c.tk = 4, 1500, 1500 // more tiles than blocks, as on the emulator
	}
	want := c.reference(t)
	q, k, v, do, _ := c.operands()
	tq, tk, tl := c.types(c.dtype)
	for _, x := range []**tensor.Tensor{&q, &k, &v, &do} {
		*x = converted(*x, c.dtype)
	}
	for _, open := range []int32{0, 1} {
		gate := tensor.New(tensor.T(tensor.I32, 1))
		tensor.View[int32](gate.Bytes())[0] = open
		stats := tensor.New(tensor.T(tensor.F32, c.b, c.tq, c.hq))
		for i := range stats.Type().Size() {
			b, tok, h := i/c.hq/c.tq, i/c.hq%c.tq, i%c.hq
			stats.Set(i, want.lse.At((b*c.hq+h)*c.tq+tok))
		}
		in := []*tensor.Tensor{q, k, v, gate, converted(want.o, c.dtype), want.lse, do, stats}
		s := spec(ops.Attention{}, in, tq, tl, tq, tk, tk)
		a, err := newAttention(d, c.op, s)
		require.NoError(t, err)
		a.gated = true
		f, err := a.flashForward()
		require.NoError(t, err)
		b, err := a.flashBackward()
		require.NoError(t, err)
		kern := &Kernel{Label: "gated", ScratchBytes: b.scratch, Enqueue: func(c *Call) error {
			a.args.gate, a.args.stats = c.In[3], c.In[7]
			io := attnIO{q: c.In[0], k: c.In[1], v: c.In[2], o: c.Out[0], lse: c.Out[1]}
			if err := f.enqueue(c, &io, 0); err != nil {
				return err
			}
			io = attnIO{q: c.In[0], k: c.In[1], v: c.In[2], o: c.In[4], lse: c.In[5], dout: c.In[6], dq: c.Out[2], dk: c.Out[3], dv: c.Out[4]}
			return b.enqueue(c, &io, c.Scratch)
		}}
		out := launch(t, d, kern.bind(d, s), in, s.Out)
		if open == 0 {
			for _, i := range []int{0, 2, 3, 4} {
				require.Equal(t, fouled(len(out[i].Bytes())), out[i].Bytes(), "output %d behind a closed gate", i)
			}
			require.Equal(t, want.lse.Bytes(), out[1].Bytes(), "lse as the library left it")
			continue
		}
		attnResult{o: out[0], lse: out[1], dq: out[2], dk: out[3], dv: out[4]}.near(t, want, attnLimits[c.dtype])
	}
}

// TestAttentionUnaligned: views that are not aligned to 16 bytes are taken by another kernel, which is compiled by the first launch that has some,
// be it while a graph is recorded.
func TestAttentionUnaligned(t *testing.T) {
	d := fresh(t)
	c := attnCases(tensor.BF16)[5]
	want := c.reference(t)
	q, k, v, _, _ := c.operands()
	tq, _, tl := c.types(c.dtype)
	in := []*tensor.Tensor{converted(q, c.dtype), converted(k, c.dtype), converted(v, c.dtype), nil, nil, nil, nil, nil}
	s := spec(c.op, in, tq, tl)
	kern, err := d.Kernel(s)
	require.NoError(t, err)
	require.Nil(t, d.Prepare(context.Background(), []device.Kernel{kern}))
	prepared, asked := compiled(d)
	require.Less(t, prepared, asked)
	stream := d.Stream(0)
	hold := func(n int64) device.Ptr {
		b, err := d.Alloc(n + 64)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, b.Free()) })
		return device.Ptr{Buf: b, Off: 4}
	}
	src := make([]device.Ptr, len(in))
	for i, x := range in[:3] {
		src[i] = hold(int64(len(x.Bytes())))
		require.NoError(t, stream.Upload(src[i], x.Bytes()))
	}
	o, lse := tensor.New(tq), tensor.New(tl)
	dst := []device.Ptr{hold(tq.Bytes()), hold(tl.Bytes())}
	scratch := hold(max(kern.Scratch(), 1))
	scratch.Off = 0
	g, err := d.Capture(stream, func() error { return kern.Launch(stream, src, dst, scratch) })
	require.NoError(t, err)
	n, _ := compiled(d)
	require.Greater(t, n, prepared)
	require.NoError(t, g.Launch(stream))
	require.NoError(t, g.Free())
	require.NoError(t, stream.Download(o.Bytes(), dst[0]))
	require.NoError(t, stream.Download(lse.Bytes(), dst[1]))
	near(t, "o", o, want.o, attnLimits[c.dtype])
	near(t, "lse", lse, want.lse, attnLimits[c.dtype])
}

// TestAttentionCuDNN: the library's passes against the CPU in f32 and against own kernels, on a GPU that has it.
func TestAttentionCuDNN(t *testing.T) {
	d := testDevice(t)
	for _, f := range describeCUDNN(d) {
		t.Log(f.Text)
	}
	if d.cudnn.err != nil {
		t.Skip(d.cudnn.err)
	}
	window := ops.Attention{Scale: 0.1, Causal: true, Window: 70}
	capped := ops.Attention{Scale: 0.1, Causal: true, SoftCap: 4}
	both := ops.Attention{Scale: 0.1, Causal: true, SoftCap: 4, Window: 100}
	causal, all := ops.Attention{Scale: 0.1, Causal: true}, ops.Attention{Scale: 0.1}
	bf, half := tensor.BF16, tensor.F16
	few := starts(2, 512, 100, 60, 1, 200)
	for _, c := range []attnCase{
		{name: "causal", dtype: bf, b: 2, tq: 512, tk: 512, hq: 8, hkv: 2, d: 128, op: causal},
		{name: "heads", dtype: half, b: 1, tq: 333, tk: 333, hq: 4, hkv: 4, d: 64, op: causal},
		{name: "all", dtype: bf, b: 2, tq: 200, tk: 333, hq: 4, hkv: 1, d: 80, op: all},
		{name: "window", dtype: bf, b: 1, tq: 512, tk: 512, hq: 4, hkv: 2, d: 128, op: window},
		{name: "cap", dtype: bf, b: 1, tq: 300, tk: 300, hq: 4, hkv: 2, d: 128, op: capped},
		{name: "window_cap", dtype: bf, b: 1, tq: 512, tk: 512, hq: 4, hkv: 2, d: 96, op: both},
		{name: "packed", dtype: bf, b: 2, tq: 512, tk: 512, hq: 8, hkv: 2, d: 128, op: causal, doc: few},
		{name: "packed_heads", dtype: half, b: 2, tq: 512, tk: 512, hq: 4, hkv: 4, d: 64, op: causal, doc: few},
		{name: "packed_window_cap", dtype: bf, b: 2, tq: 512, tk: 512, hq: 4, hkv: 1, d: 128, op: both, doc: few},
		{name: "packed_whole", dtype: bf, b: 2, tq: 512, tk: 512, hq: 4, hkv: 1, d: 128, op: causal, doc: make([]int32, 1024)},
		{name: "packed_too_many", dtype: bf, b: 2, tq: 512, tk: 512, hq: 4, hkv: 1, d: 128, op: causal, doc: starts(2, 512, 10, 3)},
		{name: "packed_bounded", dtype: bf, b: 2, tq: 512, tk: 512, hq: 8, hkv: 2, d: 128, op: causal, doc: few, bounds: ops.DocumentBounds{Most: 12, Longest: 200}},
		{name: "packed_short", dtype: bf, b: 2, tq: 512, tk: 512, hq: 4, hkv: 1, d: 128, op: causal, doc: starts(2, 512, 10, 33), bounds: ops.DocumentBounds{Most: 60, Longest: 33}},
		{name: "packed_too_long", dtype: bf, b: 2, tq: 512, tk: 512, hq: 4, hkv: 1, d: 128, op: causal, doc: few, bounds: ops.DocumentBounds{Most: 12, Longest: 100}},
	} {
		want := c.reference(t)
		for _, deterministic := range []bool{false, true} {
			name := c.String()
			if deterministic {
				name += "/deterministic"
			}
			t.Run(name, func(t *testing.T) {
				was := *d.arithmetic.Load()
				defer func() { require.NoError(t, d.SetArithmetic(was)) }()
				require.NoError(t, d.SetArithmetic(device.Arithmetic{Deterministic: deterministic}))
				got := c.compute(t, d, chosen)
				for g, p := range d.cudnn.plans {
					if p.err != nil {
						t.Logf("%+v: %v", g, p.err)
					}
				}
				require.True(t, strings.HasPrefix(got.labels[0], "attention_cudnn"), "forward is %s", got.labels[0])
				if c.doc != nil || c.tk%128 == 0 || d.cudnn.handle.Library().Number() >= cudnnOddKeys {
					require.True(t, strings.HasPrefix(got.labels[1], "attention_cudnn"), "backward is %s", got.labels[1])
				}
				got.near(t, want, attnLimits[c.dtype])
				got.near(t, c.compute(t, d, ownAttention[1]), 2*attnLimits[c.dtype])
				if deterministic {
					again := c.compute(t, d, chosen)
					for _, p := range [][2]*tensor.Tensor{{got.o, again.o}, {got.dq, again.dq}, {got.dk, again.dk}, {got.dv, again.dv}} {
						require.Equal(t, p[0].Bytes(), p[1].Bytes(), "two runs differ")
					}
				}
			})
		}
	}
}
