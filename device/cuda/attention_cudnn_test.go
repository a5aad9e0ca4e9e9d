package cuda

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestDocuments: lengths and offsets of the documents of some rows, and the gate where they cannot be told.
func TestDocuments(t *testing.T) {
	d := testDevice(t)
	const hq, hkv, size = 4, 2, 16
	rows, tokens, slots := 2, 37, 9
	for _, c := range []struct {
		name    string
		starts  []int32
		lengths []int32 // nil: the gate opens
	}{
		{"long", starts(3, 4100, 1, 700, 33, 2000, 8, 9), []int32{1, 700, 33, 2000, 8, 9, 1, 700, 33, 615, 1, 700, 33, 2000, 8, 9, 1, 700, 33, 615,
			1, 700, 33, 2000, 8, 9, 1, 700, 33, 615, 0, 0}},
		{"three", starts(rows, tokens, 20, 1), []int32{20, 1, 16, 20, 1, 16, 0, 0, 0}},
		{"one", starts(rows, tokens, tokens), []int32{37, 37, 0, 0, 0, 0, 0, 0, 0}},
		{"too many", starts(rows, tokens, 5), nil},
		{"no documents", append(make([]int32, tokens+3), starts(1, tokens-3, 100)...), []int32{37, 37, 0, 0, 0, 0, 0, 0, 0}},
		{"sliding", func() []int32 {
			x := make([]int32, rows*tokens)
			x[20], x[21] = 10, 11
			return x
		}(), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			rows, tokens, slots := rows, tokens, slots
			if c.name == "long" { // a thread has more tokens than it reads at once
				rows, tokens, slots = 3, 4100, len(c.lengths)
			}
			doc := tensor.New(tensor.T(tensor.I32, rows, tokens))
			copy(tensor.View[int32](doc.Bytes()), c.starts)
			q, k := tensor.T(tensor.BF16, rows, tokens, hq, size), tensor.T(tensor.BF16, rows, tokens, hkv, size)
			a, err := newAttention(d, ops.Attention{Scale: 1, Causal: true}, device.Spec{In: []tensor.Type{q, k, k}})
			require.NoError(t, err)
			var mem parts
			docs, err := a.newDocuments(int32(slots), &mem)
			require.NoError(t, err)
			offsets, lse := tensor.T(tensor.I64, slots+1), tensor.New(tensor.T(tensor.F32, rows, hq, tokens))
			for i := range lse.Type().Size() {
				lse.Set(i, float64(i))
			}
			in := []*tensor.Tensor{doc, lse}
			s := spec(ops.Attention{}, in, tensor.T(tensor.I32, 1), tensor.T(tensor.I32, slots), offsets, offsets, offsets,
				tensor.T(tensor.F32, rows, tokens, hq))
			kern := &Kernel{Label: "documents", Enqueue: func(c *Call) error {
				a.see([]Addr{c.In[0], 0, 0})
				return c.Launch(docs.findFn, Rows(3, documentThreads), &a.args, docs.slots, c.Out[0], c.Out[1], c.Out[2], c.Out[3], c.Out[4], c.In[1], c.Out[5])
			}}
			out := launch(t, d, kern.bind(d, s), in, s.Out)
			want, gate, at := make([]int32, slots), int32(1), int64(0)
			if c.lengths != nil {
				want, gate = c.lengths, 0
			}
			require.Equal(t, gate, tensor.View[int32](out[0].Bytes())[0])
			require.Equal(t, want, tensor.View[int32](out[1].Bytes()))
			for i := range slots + 1 {
				require.Equal(t, at*hq*size, tensor.View[int64](out[2].Bytes())[i], "q %d", i)
				require.Equal(t, at*hkv*size, tensor.View[int64](out[3].Bytes())[i], "k %d", i)
				require.Equal(t, at*hq, tensor.View[int64](out[4].Bytes())[i], "numbers %d", i)
				if i < slots {
					at += int64(want[i])
				}
			}
			for i := range lse.Type().Size() {
				b, h, tok := i/tokens/hq, i/tokens%hq, i%tokens
				require.Equal(t, float64(i), out[5].At((b*tokens+tok)*hq+h), "lse of row %d, head %d, token %d", b, h, tok)
			}
		})
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

// TestAttentionUnaligned: views that are not aligned to 16 bytes are taken by the plain kernel.
func TestAttentionUnaligned(t *testing.T) {
	d := testDevice(t)
	c := attnCases(tensor.BF16)[5]
	want := c.reference(t)
	q, k, v, _, _ := c.operands()
	tq, _, tl := c.types(c.dtype)
	in := []*tensor.Tensor{converted(q, c.dtype), converted(k, c.dtype), converted(v, c.dtype), nil, nil, nil}
	s := spec(c.op, in, tq, tl)
	kern, err := d.Kernel(s)
	require.NoError(t, err)
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
	require.NoError(t, kern.Launch(stream, src, dst, scratch))
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
