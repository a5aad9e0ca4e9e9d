package cuda

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// attnCase is an attention with its operands.
type attnCase struct {
	name              string
	dtype             tensor.DType
	b, tq, tk         int
	hq, hkv, d        int
	op                ops.Attention
	doc, offset, lens []int32
	bounds            ops.DocumentBounds // of doc, for a library
	dlse              bool
}

func (c *attnCase) String() string { return fmt.Sprintf("%s/%v", c.name, c.dtype) }

func (c *attnCase) types(dtype tensor.DType) (q, k, lse tensor.Type) {
	q, k, lse = tensor.T(dtype, c.b, c.tq, c.hq, c.d), tensor.T(dtype, c.b, c.tk, c.hkv, c.d), tensor.T(tensor.F32, c.b, c.hq, c.tq)
	if c.op.HeadMajor {
		k = tensor.T(dtype, c.b, c.hkv, c.tk, c.d)
	}
	if dtype == tensor.F64 {
		lse.DType = tensor.F64
	}
	return q, k, lse
}

// extras are the optional operands; absent ones are nil.
func (c *attnCase) extras() []*tensor.Tensor {
	make := func(x []int32, dims ...int) *tensor.Tensor {
		if x == nil {
			return nil
		}
		t := tensor.New(tensor.T(tensor.I32, dims...))
		copy(tensor.View[int32](t.Bytes()), x)
		return t
	}
	return []*tensor.Tensor{make(c.doc, c.b, c.tq), make(c.offset, c.b), make(c.lens, c.b)}
}

// random fills a tensor with values that the dtype holds exactly.
func random(rng *rand.Rand, t tensor.Type, dtype tensor.DType) *tensor.Tensor {
	out, one := tensor.New(t), tensor.New(tensor.T(dtype, 1))
	for i := range t.Size() {
		one.Set(0, rng.NormFloat64())
		out.Set(i, one.At(0))
	}
	return out
}

func converted(t *tensor.Tensor, d tensor.DType) *tensor.Tensor {
	out := tensor.New(tensor.Type{DType: d, Shape: t.Type().Shape})
	for i := range t.Type().Size() {
		out.Set(i, t.At(i))
	}
	return out
}

// launch runs a kernel on operands, nil ones absent.
func launch(t testing.TB, dev device.Device, k device.Kernel, in []*tensor.Tensor, out []tensor.Type) []*tensor.Tensor {
	t.Helper()
	s := dev.Stream(0)
	hold := func(n int64) device.Ptr {
		b, err := dev.Alloc(n)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, b.Free()) })
		return device.Ptr{Buf: b}
	}
	var src, dst []device.Ptr
	for _, x := range in {
		var p device.Ptr
		if x != nil {
			p = hold(int64(len(x.Bytes())))
			require.NoError(t, s.Upload(p, x.Bytes()))
		}
		src = append(src, p)
	}
	for _, o := range out {
		p := hold(o.Bytes())
		require.NoError(t, s.Upload(p, fouled(int(o.Bytes()))))
		dst = append(dst, p)
	}
	var scratch device.Ptr
	if k.Scratch() > 0 {
		scratch = hold(k.Scratch())
		require.NoError(t, s.Upload(scratch, fouled(int(k.Scratch()))))
	}
	require.NoError(t, k.Launch(s, src, dst, scratch))
	var got []*tensor.Tensor
	for i, o := range out {
		x := tensor.New(o)
		require.NoError(t, s.Download(x.Bytes(), dst[i]))
		got = append(got, x)
	}
	return got
}

// fouled is memory full of NaN.
func fouled(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = 0xff
	}
	return b
}

func spec(op device.Op, in []*tensor.Tensor, out ...tensor.Type) device.Spec {
	s := device.Spec{Op: op, Out: out}
	for _, x := range in {
		if x == nil {
			s.In = append(s.In, tensor.Type{})
		} else {
			s.In = append(s.In, x.Type())
		}
	}
	return s
}

// attnResult are all outputs of an attention and its gradient.
type attnResult struct {
	o, lse, dq, dk, dv *tensor.Tensor
	labels             [2]string // of the kernels, forward and backward
}

// operands are q, k, v, do and dlse.
func (c *attnCase) operands() (q, k, v, do, dlse *tensor.Tensor) {
	rng := rand.New(rand.NewPCG(uint64(c.tq), uint64(c.d)))
	tq, tk, tl := c.types(tensor.F32)
	q, k, v, do = random(rng, tq, c.dtype), random(rng, tk, c.dtype), random(rng, tk, c.dtype), random(rng, tq, c.dtype)
	if c.dlse {
		tl.DType = tensor.F32
		dlse = random(rng, tl, c.dtype)
	}
	return q, k, v, do, dlse
}

// reference computes the case on the CPU in f32.
func (c *attnCase) reference(t testing.TB) attnResult {
	t.Helper()
	ref := cpu.New(cpu.Options{Threads: 2})
	t.Cleanup(func() { require.NoError(t, ref.Close()) })
	q, k, v, do, dlse := c.operands()
	var r attnResult
	in := append(append([]*tensor.Tensor{q, k, v}, c.extras()...), nil, nil)
	tq, tk, tl := c.types(tensor.F32)
	s := spec(c.op, in, tq, tl)
	kern, err := ref.Kernel(s)
	require.NoError(t, err)
	out := launch(t, ref, kern, in, s.Out)
	r.o, r.lse = out[0], out[1]
	in = append(append([]*tensor.Tensor{q, k, v, r.o, r.lse, do}, c.extras()...), dlse, nil, nil)
	s = spec(ops.AttentionGrad(c.op), in, tq, tk, tk)
	kern, err = ref.Kernel(s)
	require.NoError(t, err)
	out = launch(t, ref, kern, in, s.Out)
	r.dq, r.dk, r.dv = out[0], out[1], out[2]
	return r
}

type attnChoice struct {
	name              string
	forward, backward func(a *attention) (attnRun, error)
	fits              func(a *attention) bool
}

// chosen is what the device chooses where it times nothing.
var chosen = attnChoice{name: "chosen"}

func (attnChoice) pick(a *attention, own func(*attention) (attnRun, error), pass attnPass, extra []tensor.Type) (attnRun, error) {
	if own != nil {
		return own(a)
	}
	return pass.byRule(a, extra)
}

// ownAttention are the kernels that need no library, each with what it can take.
var ownAttention = []attnChoice{
	{"plain", (*attention).plainForward, (*attention).plainBackward, func(*attention) bool { return true }},
	{"flash", (*attention).flashForward, (*attention).flashBackward, (*attention).flashFits},
	{"simt", (*attention).simtForward, (*attention).simtBackward, (*attention).simtFits},
	{"group", (*attention).groupForward, (*attention).groupBackward, (*attention).groupFits},
	{"few", (*attention).fewForward, (*attention).plainBackward, (*attention).fewFits},
	{"few in many parts", func(a *attention) (attnRun, error) { return a.fewBy(attnFew{1, 4, 64}) }, (*attention).plainBackward, (*attention).fewFits},
}

func (c *attnCase) fits(t testing.TB, d *Device, choice attnChoice) bool {
	t.Helper()
	q, k, _ := c.types(c.dtype)
	a, err := newAttention(d, c.op, device.Spec{In: []tensor.Type{q, k, k}})
	require.NoError(t, err)
	return choice.fits(a)
}

// compute runs the case on the device.
func (c *attnCase) compute(t testing.TB, d *Device, choice attnChoice) attnResult {
	t.Helper()
	tq, tk, tl := c.types(c.dtype)
	q, k, v, do, dlse := c.operands()
	for _, x := range []**tensor.Tensor{&q, &k, &v, &do} {
		*x = converted(*x, c.dtype)
	}
	if dlse != nil {
		dlse = converted(dlse, tl.DType)
	}
	op, list := c.list(t, d)
	in := append(append([]*tensor.Tensor{q, k, v}, c.extras()...), list...)
	s := spec(op, in, tq, tl)
	var r attnResult
	a, err := newAttention(d, op, s)
	require.NoError(t, err)
	a.listed(s.In[6])
	run, err := choice.pick(a, choice.forward, attnForward, s.In[3:6])
	require.NoError(t, err)
	r.labels[0] = run.label
	out := launch(t, d, a.forwardKernel(run).bind(d, s), in, s.Out)
	r.o, r.lse = out[0], out[1]
	in = append(append(append([]*tensor.Tensor{q, k, v, r.o, r.lse, do}, c.extras()...), dlse), list...)
	s = spec(ops.AttentionGrad(op), in, tq, tk, tk)
	a, err = newAttention(d, op, s)
	require.NoError(t, err)
	a.listed(s.In[10])
	run, err = choice.pick(a, choice.backward, attnBackward, s.In[6:10])
	require.NoError(t, err)
	r.labels[1] = run.label
	out = launch(t, d, a.backwardKernel(run).bind(d, s), in, s.Out)
	r.dq, r.dk, r.dv = out[0], out[1], out[2]
	return r
}

// list is the attention with the list of documents that ops.Attend gives it, if it does.
func (c *attnCase) list(t testing.TB, d *Device) (ops.Attention, []*tensor.Tensor) {
	t.Helper()
	if c.doc == nil {
		return c.op, make([]*tensor.Tensor, 2)
	}
	g := graph.New("list")
	q, k, _ := c.types(c.dtype)
	kv := g.Input("k", k)
	y := ops.Attend(g.Input("q", q), kv, kv, ops.AttendOptions{Scale: c.op.Scale, Causal: c.op.Causal, Window: c.op.Window, SoftCap: c.op.SoftCap,
		DocStart: g.Input("doc", tensor.T(tensor.I32, c.b, c.tq)), Bounds: c.bounds})
	require.NoError(t, g.Err())
	lengths := y.Node().In[6]
	if lengths.Absent() {
		return c.op, make([]*tensor.Tensor, 2)
	}
	return y.Node().Op.(ops.Attention), listed(t, d, lengths.Node().Op.(ops.Documents), c.extras()[0])
}

// near requires that got differs from want by no more than limit times the root mean square of want, in root mean square, and by no more
// than five times limit times the largest of want anywhere.
func near(t testing.TB, what string, got, want *tensor.Tensor, limit float64) {
	t.Helper()
	require.Equal(t, want.Type().Shape, got.Type().Shape, what)
	n := want.Type().Size()
	var square, off, most, largest float64
	at := 0
	for i := range n {
		w, g := want.At(i), got.At(i)
		if w == ops.NoKeys || g == ops.NoKeys || math.Abs(w) > 1e29 {
			require.InDelta(t, w, g, 1e24, "%s %d", what, i)
			continue
		}
		require.False(t, math.IsNaN(g), "%s: element %d of %v is NaN, want %v", what, i, got.Type(), w)
		square += w * w
		largest = max(largest, math.Abs(w))
		off += (g - w) * (g - w)
		if d := math.Abs(g - w); d > most {
			most, at = d, i
		}
	}
	scale := math.Sqrt(square/float64(n)) + 1e-6
	rms := math.Sqrt(off/float64(n)) / scale
	require.LessOrEqual(t, rms, limit, "%s %v: relative error; worst element %d is %v, want %v", what, got.Type(), at, got.At(at), want.At(at))
	require.LessOrEqual(t, most, 5*limit*(largest+1e-6), "%s %v: element %d is %v, want %v", what, got.Type(), at, got.At(at), want.At(at))
}

func (r attnResult) near(t testing.TB, want attnResult, limit float64) {
	t.Helper()
	near(t, "o", r.o, want.o, limit)
	near(t, "lse", r.lse, want.lse, limit/10+1e-5)
	near(t, "dq", r.dq, want.dq, 2*limit)
	near(t, "dk", r.dk, want.dk, 2*limit)
	near(t, "dv", r.dv, want.dv, 2*limit)
}

// attnLimits are relative errors of o by dtype.
var attnLimits = map[tensor.DType]float64{tensor.BF16: 4e-3, tensor.F16: 1e-3, tensor.F32: 3e-6, tensor.F64: 3e-6}

// starts marks documents of the given lengths in each row of t tokens.
func starts(rows, t int, lengths ...int) []int32 {
	var out []int32
	for range rows {
		at := 0
		for i := 0; at < t; i++ {
			n := min(lengths[i%len(lengths)], t-at)
			for range n {
				out = append(out, int32(at))
			}
			at += n
		}
	}
	return out
}

// attnCases are shapes and options that meet every edge of the tiles, in one dtype.
func attnCases(dtype tensor.DType) []attnCase {
	scale := func(d int) float32 { return float32(1 / math.Sqrt(float64(d))) }
	causal := func(d int) ops.Attention { return ops.Attention{Scale: scale(d), Causal: true} }
	window := ops.Attention{Scale: scale(64), Causal: true, Window: 20, SoftCap: 3}
	cached := ops.Attention{Scale: scale(64), Causal: true, HeadMajor: true}
	return []attnCase{
		{name: "causal", dtype: dtype, b: 2, tq: 150, tk: 150, hq: 4, hkv: 2, d: 64, op: causal(64)},
		{name: "all", dtype: dtype, b: 1, tq: 70, tk: 131, hq: 2, hkv: 2, d: 128, op: ops.Attention{Scale: scale(128)}, dlse: true},
		{name: "window_cap", dtype: dtype, b: 1, tq: 140, tk: 140, hq: 3, hkv: 1, d: 64, op: window},
		{name: "packed", dtype: dtype, b: 2, tq: 200, tk: 200, hq: 2, hkv: 1, d: 80, op: causal(80), doc: starts(2, 200, 1, 60, 3, 70, 33)},
		{name: "packed_window", dtype: dtype, b: 1, tq: 160, tk: 160, hq: 2, hkv: 1, d: 64, op: window, doc: starts(1, 160, 50, 7)},
		{name: "odd_head", dtype: dtype, b: 1, tq: 33, tk: 33, hq: 2, hkv: 1, d: 40, op: causal(40)},
		{name: "wide_head", dtype: dtype, b: 1, tq: 70, tk: 70, hq: 2, hkv: 1, d: 256, op: causal(256)},
		{name: "cached", dtype: dtype, b: 3, tq: 20, tk: 130, hq: 4, hkv: 2, d: 64, op: cached, offset: []int32{0, 100, 50}, lens: []int32{20, 120, 0}},
		{name: "generate", dtype: dtype, b: 2, tq: 1, tk: 300, hq: 8, hkv: 2, d: 64, op: cached, offset: []int32{0, 250}, lens: []int32{1, 251}},
		{name: "few", dtype: dtype, b: 1, tq: 5, tk: 260, hq: 3, hkv: 1, d: 64, op: window, offset: []int32{200}},
		{name: "few_unseen", dtype: dtype, b: 2, tq: 4, tk: 70, hq: 4, hkv: 1, d: 72, op: ops.Attention{Scale: 0.1}, lens: []int32{0, 33}},
		{name: "one", dtype: dtype, b: 1, tq: 1, tk: 1, hq: 32, hkv: 1, d: 8, op: causal(8), dlse: true},
		{name: "few_wide", dtype: dtype, b: 1, tq: 3, tk: 67, hq: 4, hkv: 2, d: 256, op: causal(256), offset: []int32{63}},
		{name: "five", dtype: dtype, b: 3, tq: 17, tk: 37, hq: 2, hkv: 1, d: 5, op: ops.Attention{Scale: 0.5}, lens: []int32{37, 0, 1}},
		{name: "far_queries", dtype: dtype, b: 1, tq: 90, tk: 20, hq: 1, hkv: 1, d: 64, op: window},
	}
}

// TestAttentionOwn: each own kernel against the CPU in f32. On the emulator, where the programs differ by a type's name only, f16 is left out,
// and most cases of f32 for kernels that are not made for it, and the other way round.
func TestAttentionOwn(t *testing.T) {
	d := testDevice(t)
	for _, dtype := range []tensor.DType{tensor.BF16, tensor.F16, tensor.F32} {
		if dtype == tensor.F16 && onEmulator() {
			continue
		}
		for i, c := range attnCases(dtype) {
			var want *attnResult
			for _, choice := range ownAttention {
				t.Run(c.String()+"/"+choice.name, func(t *testing.T) {
					if onEmulator() && i > 2 && (dtype == tensor.F32) != (choice.name == "simt") {
						t.Skip("on a GPU only")
					}
					if !c.fits(t, d, choice) {
						t.Skip("not for this kernel")
					}
					if want == nil {
						w := c.reference(t)
						want = &w
					}
					c.compute(t, d, choice).near(t, *want, attnLimits[dtype])
				})
			}
		}
	}
}

// TestAttentionNaN: a NaN in a query or a key is in every result that it belongs to, and in no other query's.
func TestAttentionNaN(t *testing.T) {
	d := testDevice(t)
	c := attnCase{dtype: tensor.BF16, b: 1, tq: 3, tk: 200, hq: 2, hkv: 1, d: 64, op: ops.Attention{Scale: 0.1, HeadMajor: true}, lens: []int32{190}}
	tq, _, tl := c.types(c.dtype)
	for _, choice := range ownAttention {
		for _, where := range []string{"query", "key", "value", "hidden", "capped query"} {
			t.Run(choice.name+"/"+where, func(t *testing.T) {
				c := c
				q, k, v, _, _ := c.operands()
				q, k, v = converted(q, c.dtype), converted(k, c.dtype), converted(v, c.dtype)
				switch where {
				case "query", "capped query":
					if where != "query" {
						c.op.SoftCap = 4
					}
					q.Set((1*c.hq+1)*c.d+5, math.NaN()) // of token 1, head 1
				case "key":
					k.Set(100*c.d+63, math.NaN())
				case "value":
					v.Set(100*c.d+63, math.NaN())
				case "hidden":
					k.Set(191*c.d, math.NaN())
					v.Set(191*c.d, math.NaN())
				}
				in := append(append([]*tensor.Tensor{q, k, v}, c.extras()...), nil, nil)
				s := spec(c.op, in, tq, tl)
				a, err := newAttention(d, c.op, s)
				require.NoError(t, err)
				run, err := choice.forward(a)
				require.NoError(t, err)
				o := launch(t, d, a.forwardKernel(run).bind(d, s), in, s.Out)[0]
				for i := range tq.Size() {
					want := where == "key" || where == "value" && i%c.d == 63 || (where == "query" || where == "capped query") && i/c.d == 3
					require.Equal(t, want, math.IsNaN(o.At(i)), "element %d of %v", i, tq)
				}
			})
		}
	}
}
