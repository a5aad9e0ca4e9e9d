package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// attnCase is one shape and mask of attention.
type attnCase struct {
	name               string
	b, tq, tk, hq, hkv int
	d                  int
	causal, headMajor  bool
	window             int32
	softCap            float32
	docs               []int // starts of the documents of each row
	offset, length     []int32
}

func attnCases() []attnCase {
	return []attnCase{
		{name: "single", b: 1, tq: 1, tk: 1, hq: 1, hkv: 1, d: 1, causal: true},
		{name: "full", b: 2, tq: 7, tk: 13, hq: 4, hkv: 4, d: 7},
		{name: "causal", b: 2, tq: 13, tk: 13, hq: 2, hkv: 2, d: 64, causal: true},
		{name: "causal long", b: 1, tq: 210, tk: 210, hq: 2, hkv: 2, d: 13, causal: true},
		{name: "gqa 2", b: 2, tq: 100, tk: 100, hq: 4, hkv: 2, d: 5, causal: true},
		{name: "gqa 4 one key head", b: 1, tq: 30, tk: 30, hq: 4, hkv: 1, d: 100, causal: true},
		{name: "gqa 3 head major", b: 2, tq: 50, tk: 50, hq: 6, hkv: 2, d: 13, causal: true, headMajor: true},
		{name: "window", b: 1, tq: 140, tk: 140, hq: 2, hkv: 1, d: 8, causal: true, window: 17},
		{name: "window 1", b: 1, tq: 40, tk: 40, hq: 2, hkv: 2, d: 8, causal: true, window: 1},
		{name: "soft cap", b: 2, tq: 33, tk: 33, hq: 4, hkv: 2, d: 16, causal: true, softCap: 1.5},
		{name: "soft cap full", b: 1, tq: 5, tk: 150, hq: 2, hkv: 1, d: 16, softCap: 0.5},
		{name: "documents", b: 2, tq: 200, tk: 200, hq: 2, hkv: 1, d: 8, causal: true, docs: []int{0, 7, 8, 100, 150}},
		{name: "documents window cap", b: 2, tq: 130, tk: 130, hq: 4, hkv: 2, d: 4, causal: true, docs: []int{0, 64, 70}, window: 20, softCap: 2},
		{name: "documents not causal", b: 1, tq: 30, tk: 30, hq: 2, hkv: 2, d: 16, docs: []int{0, 9, 29}},
		{name: "prefill", b: 2, tq: 7, tk: 64, hq: 4, hkv: 2, d: 16, causal: true, headMajor: true, offset: []int32{3, 50}, length: []int32{10, 57}},
		{name: "no key", b: 2, tq: 5, tk: 9, hq: 2, hkv: 1, d: 7, causal: true, offset: []int32{-3, 0}, length: []int32{9, 0}},
		{name: "beyond", b: 2, tq: 5, tk: 9, hq: 2, hkv: 1, d: 7, causal: true, offset: []int32{100, 5}, length: []int32{9, 70}, window: 3},
		{name: "decode", b: 2, tq: 1, tk: 1100, hq: 4, hkv: 2, d: 16, causal: true, headMajor: true, offset: []int32{1050, 3}, length: []int32{1051, 4}},
		{name: "decode mqa", b: 1, tq: 1, tk: 1700, hq: 8, hkv: 1, d: 7, causal: true, offset: []int32{1698}, length: []int32{1699}},
		{name: "many heads a key", b: 1, tq: 3, tk: 20, hq: 130, hkv: 1, d: 4, causal: true},
	}
}

// options builds the attributes and optional inputs, and their feeds.
func (c attnCase) options(g *graph.Graph, feed plan.Feed) (o ops.AttendOptions) {
	o = ops.AttendOptions{Causal: c.causal, Window: c.window, SoftCap: c.softCap, HeadMajor: c.headMajor}
	vector := func(name string, vals []int32, dims ...int) graph.Value {
		v := g.Input(name, tensor.T(tensor.I32, dims...))
		feed[v], _ = tensor.Of(vals, dims...)
		return v
	}
	if c.docs != nil {
		o.DocStart = vector("doc_start", c.docStart(), c.b, c.tq)
	}
	if c.offset != nil {
		o.QOffset = vector("q_offset", c.offset, c.b)
	}
	if c.length != nil {
		o.KVLen = vector("kv_len", c.length, c.b)
	}
	return o
}

// docStart shifts the documents by the row, so that rows differ.
func (c attnCase) docStart() []int32 {
	out := make([]int32, 0, c.b*c.tq)
	for b := range c.b {
		for t := range c.tq {
			start := 0
			for _, s := range c.docs {
				if s > 0 {
					s += b
				}
				if s <= t {
					start = s
				}
			}
			out = append(out, int32(start))
		}
	}
	return out
}

func (c attnCase) keyDims() []int {
	if c.headMajor {
		return []int{c.b, c.hkv, c.tk, c.d}
	}
	return []int{c.b, c.tk, c.hkv, c.d}
}

func (c attnCase) data(dt tensor.DType) (q, k, v *tensor.Tensor) {
	r := rand.New(rand.NewPCG(1, uint64(c.tq*c.tk)))
	return attnRandom(r, dt, c.b, c.tq, c.hq, c.d), attnRandom(r, dt, c.keyDims()...), attnRandom(r, dt, c.keyDims()...)
}

// attnRandom values are exact in every float dtype, so that cases at several dtypes have the same inputs.
func attnRandom(r *rand.Rand, dt tensor.DType, dims ...int) *tensor.Tensor {
	t := tensor.New(tensor.T(dt, dims...))
	for i := range t.Type().Size() {
		t.Set(i, float64(r.IntN(129)-64)/32)
	}
	return t
}

// reference computes o and lse in float64, query by query.
func (c attnCase) reference(q, k, v *tensor.Tensor) (o, lse []float64) {
	o, lse = make([]float64, c.b*c.tq*c.hq*c.d), make([]float64, c.b*c.hq*c.tq)
	docs := c.docStart()
	scale := float64(float32(1 / math.Sqrt(float64(c.d))))
	for b := range c.b {
		for h := range c.hq {
			for t := range c.tq {
				at := ((b*c.tq+t)*c.hq + h) * c.d
				var weights, scores []float64
				var seen []int
				for j := range c.tk {
					if !c.visible(docs, b, t, j) {
						continue
					}
					s := 0.0
					for e := range c.d {
						s += q.At(at+e) * k.At(c.keyAt(b, h, j)+e)
					}
					s *= scale
					if c.softCap > 0 {
						s = float64(c.softCap) * math.Tanh(s/float64(c.softCap))
					}
					scores, seen = append(scores, s), append(seen, j)
				}
				sum := 0.0
				for _, s := range scores {
					weights = append(weights, math.Exp(s))
					sum += math.Exp(s)
				}
				lse[(b*c.hq+h)*c.tq+t] = math.Log(sum)
				if len(seen) == 0 {
					lse[(b*c.hq+h)*c.tq+t] = ops.NoKeys
				}
				for i, j := range seen {
					for e := range c.d {
						o[at+e] += weights[i] / sum * v.At(c.keyAt(b, h, j)+e)
					}
				}
			}
		}
	}
	return o, lse
}

func (c attnCase) keyAt(b, h, j int) int {
	h /= c.hq / c.hkv
	if c.headMajor {
		return ((b*c.hkv+h)*c.tk + j) * c.d
	}
	return ((b*c.tk+j)*c.hkv + h) * c.d
}

func (c attnCase) visible(docs []int32, b, t, j int) bool {
	p := t
	if c.offset != nil {
		p += int(c.offset[b])
	}
	switch {
	case c.length != nil && j >= int(c.length[b]):
		return false
	case c.docs != nil && j < int(docs[b*c.tq+t]):
		return false
	case c.causal && j > p:
		return false
	case c.window > 0 && j <= p-int(c.window):
		return false
	}
	return true
}

// attnRun is a built case: outputs, and gradients of a random weighting of o (and of lse with weighLSE).
type attnRun struct {
	g       *graph.Graph
	feed    plan.Feed
	q, k, v graph.Value
	o, lse  graph.Value
	loss    graph.Value
}

func (c attnCase) build(t testing.TB, dt tensor.DType, decomposed, weighLSE bool) attnRun {
	t.Helper()
	r := attnRun{g: graph.New(c.name), feed: plan.Feed{}}
	qt, kt, vt := c.data(dt)
	r.q, r.k, r.v = r.g.Input("q", qt.Type()), r.g.Input("k", kt.Type()), r.g.Input("v", vt.Type())
	r.feed[r.q], r.feed[r.k], r.feed[r.v] = qt, kt, vt
	opts := c.options(r.g, r.feed)
	r.o = ops.Attend(r.q, r.k, r.v, opts)
	require.NoError(t, r.g.Err())
	n := r.o.Node()
	if decomposed {
		parts := n.Op.(graph.Decomposable).Decompose(n.In)
		r.o, r.lse = parts[0], parts[1]
	} else {
		r.lse = n.Output(1)
	}
	w := attnRandom(rand.New(rand.NewPCG(3, 3)), dt, r.o.Shape().Dims()...)
	r.loss = ops.Sum(ops.Cast(ops.Mul(r.o, r.g.Const(w)), wideOf(dt)))
	if weighLSE {
		u := attnRandom(rand.New(rand.NewPCG(4, 4)), wideOf(dt), r.lse.Shape().Dims()...)
		real := ops.Where(ops.Greater(r.lse, ops.Scalar(r.lse, -1e20)), r.lse, ops.Scalar(r.lse, 0))
		r.loss = ops.Add(r.loss, ops.Sum(ops.Mul(real, r.g.Const(u))))
	}
	require.NoError(t, r.g.Err())
	return r
}

func wideOf(dt tensor.DType) tensor.DType {
	if dt == tensor.F64 {
		return dt
	}
	return tensor.F32
}

func attnDevice(t testing.TB, threads int) *Device {
	d := New(Options{Threads: threads})
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

// attnClose compares elements with a tolerance relative to the larger of 1 and the size of the numbers.
func attnClose(t testing.TB, want []float64, got *tensor.Tensor, tol float64, what string) {
	t.Helper()
	require.Equal(t, len(want), got.Type().Size(), what)
	for i, w := range want {
		if g := got.At(i); !(math.Abs(g-w) <= tol*max(1, math.Abs(w))) {
			require.Failf(t, "differs", "%s: element %d is %v, want %v within %v", what, i, g, w, tol)
		}
	}
}

func numbers(x *tensor.Tensor) []float64 {
	out := make([]float64, x.Type().Size())
	for i := range out {
		out[i] = x.At(i)
	}
	return out
}

func TestAttentionForward(t *testing.T) {
	dev := attnDevice(t, 2)
	for _, c := range attnCases() {
		q, k, v := c.data(tensor.F64)
		o, lse := c.reference(q, k, v)
		for _, dt := range []tensor.DType{tensor.F64, tensor.F32, tensor.BF16, tensor.F16} {
			tol := map[tensor.DType]float64{tensor.F64: 1e-12, tensor.F32: 3e-6, tensor.BF16: 8e-3, tensor.F16: 1e-3}[dt]
			lseTol := tol
			if dt != tensor.F64 {
				lseTol = 3e-6
			}
			for _, decomposed := range []bool{false, true} {
				name := fmt.Sprintf("%s %v decomposed=%v", c.name, dt, decomposed)
				r := c.build(t, dt, decomposed, false)
				out, err := plan.Eval(dev, r.feed, r.o, r.lse)
				require.NoError(t, err, name)
				attnClose(t, o, out[0], tol, name+" o")
				attnClose(t, lse, out[1], lseTol, name+" lse")
			}
		}
	}
}

// TestAttentionGradients compares the kernels with the gradient that autograd finds through the decomposition in f64.
func TestAttentionGradients(t *testing.T) {
	dev := attnDevice(t, 2)
	for _, c := range attnCases() {
		exact := attnGradients(t, dev, c.build(t, tensor.F64, true, true))
		for _, dt := range []tensor.DType{tensor.F64, tensor.F32, tensor.BF16, tensor.F16} {
			got := attnGradients(t, dev, c.build(t, dt, false, true))
			tol := map[tensor.DType]float64{tensor.F64: 1e-11, tensor.F32: 1e-5, tensor.BF16: 4e-2, tensor.F16: 5e-3}[dt]
			for i, name := range []string{"dq", "dk", "dv"} {
				attnClose(t, numbers(exact[i]), got[i], tol, fmt.Sprintf("%s %v %s", c.name, dt, name))
			}
		}
	}
}

func attnGradients(t testing.TB, dev *Device, r attnRun) []*tensor.Tensor {
	t.Helper()
	grads, err := autograd.GradValues(r.loss, r.q, r.k, r.v)
	require.NoError(t, err)
	out, err := plan.Eval(dev, r.feed, grads...)
	require.NoError(t, err)
	return out
}

// TestAttentionThreads checks that outputs and gradients have the same bits for any number of threads.
func TestAttentionThreads(t *testing.T) {
	for _, c := range attnCases() {
		for _, dt := range []tensor.DType{tensor.F32, tensor.BF16} {
			var want []*tensor.Tensor
			for _, threads := range []int{1, 2, 5} {
				r := c.build(t, dt, false, false)
				grads, err := autograd.GradValues(r.loss, r.q, r.k, r.v)
				require.NoError(t, err)
				got, err := plan.Eval(attnDevice(t, threads), r.feed, append(grads, r.o, r.lse)...)
				require.NoError(t, err)
				if want == nil {
					want = got
				}
				for i := range got {
					require.Equal(t, want[i].Bytes(), got[i].Bytes(), "%s %v output %d, %d threads", c.name, dt, i, threads)
				}
			}
		}
	}
}
