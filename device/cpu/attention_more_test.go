package cpu

import (
	"context"
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

// attnSmall are cases with every feature, small enough for finite differences.
func attnSmall() []attnCase {
	return []attnCase{
		{name: "causal", b: 1, tq: 5, tk: 5, hq: 2, hkv: 2, d: 4, causal: true},
		{name: "cap and documents", b: 2, tq: 7, tk: 7, hq: 4, hkv: 2, d: 3, causal: true, docs: []int{0, 3, 4}, window: 3, softCap: 1.2},
		{name: "cached", b: 2, tq: 3, tk: 9, hq: 2, hkv: 1, d: 4, causal: true, headMajor: true, offset: []int32{2, -1}, length: []int32{5, 9}},
	}
}

// TestAttentionFiniteDifferences checks first and second derivatives in f64 along one random direction of q, k and v: the
// gradient against differences of the loss, and the gradient of the gradient's projection against differences of that.
func TestAttentionFiniteDifferences(t *testing.T) {
	dev := attnDevice(t, 2)
	for _, c := range attnSmall() {
		r := c.build(t, tensor.F64, false, true)
		dir := rand.New(rand.NewPCG(9, 9))
		wrt := []graph.Value{r.q, r.k, r.v}
		along := make([]*tensor.Tensor, 3)
		for i, v := range wrt {
			along[i] = attnRandom(dir, tensor.F64, v.Shape().Dims()...)
		}
		slope := slopeAlong(t, r.loss, wrt, along)
		curve := slopeAlong(t, slope, wrt, along)
		p, err := plan.Compile([]graph.Value{r.loss, slope, curve}, plan.Options{Device: dev})
		require.NoError(t, err)
		at := func(eps float64) plan.Result {
			feed := plan.Feed{}
			for v, x := range r.feed {
				feed[v] = x
			}
			for i, v := range wrt {
				moved := r.feed[v].(*tensor.Tensor).Clone()
				for j := range moved.Type().Size() {
					moved.Set(j, moved.At(j)+eps*along[i].At(j))
				}
				feed[v] = moved
			}
			res, err := p.Run(context.Background(), feed)
			require.NoError(t, err)
			return res
		}
		const eps = 1e-5
		lo, mid, hi := at(-eps), at(0), at(eps)
		first := (hi.Float(r.loss) - lo.Float(r.loss)) / (2 * eps)
		second := (hi.Float(slope) - lo.Float(slope)) / (2 * eps)
		require.InEpsilon(t, first, mid.Float(slope), 1e-6, c.name)
		require.InEpsilon(t, second, mid.Float(curve), 1e-6, c.name)
		require.NoError(t, p.Close())
	}
}

// slopeAlong is the derivative of a scalar along a direction.
func slopeAlong(t *testing.T, loss graph.Value, wrt []graph.Value, dir []*tensor.Tensor) graph.Value {
	t.Helper()
	grads, err := autograd.GradValues(loss, wrt...)
	require.NoError(t, err)
	sum := ops.Scalar(loss, 0)
	for i, g := range grads {
		sum = ops.Add(sum, ops.Sum(ops.Mul(g, loss.Graph().Const(dir[i]))))
	}
	return sum
}

// TestAttentionGradDecomposition checks that the decomposition of the gradient is what the f32 kernel computes.
func TestAttentionGradDecomposition(t *testing.T) {
	dev := attnDevice(t, 2)
	for _, c := range append(attnSmall(), attnCases()[9], attnCases()[12], attnCases()[15]) {
		r := c.build(t, tensor.F32, false, true)
		grads, err := autograd.GradValues(r.loss, r.q, r.k, r.v)
		require.NoError(t, err)
		n := grads[0].Node()
		require.IsType(t, ops.AttentionGrad{}, n.Op)
		parts := n.Op.(graph.Decomposable).Decompose(n.In)
		out, err := plan.Eval(dev, r.feed, append(parts, grads...)...)
		require.NoError(t, err)
		for i := range parts {
			attnClose(t, numbers(out[i]), out[i+3], 1e-5, c.name)
		}
	}
}

func TestAttentionNonFinite(t *testing.T) {
	dev := attnDevice(t, 1)
	c := attnCase{name: "nan", b: 1, tq: 4, tk: 4, hq: 1, hkv: 1, d: 4, causal: true}
	r := c.build(t, tensor.F32, false, false)
	r.feed[r.k].(*tensor.Tensor).Set(2*4, math.NaN())
	out, err := plan.Eval(dev, r.feed, r.o)
	require.NoError(t, err)
	require.False(t, math.IsNaN(out[0].At(1*4)), "query 1 does not see key 2")
	require.True(t, math.IsNaN(out[0].At(2*4)), "query 2 does")
}

// TestAttentionWithoutKeys checks that a query that sees no key gives zeros and NoKeys, and takes no gradient, whatever the keys
// and values that others see hold.
func TestAttentionWithoutKeys(t *testing.T) {
	dev := attnDevice(t, 1)
	for _, tq := range []int{4, 40} { // single queries, a tile
		c := attnCase{name: "blind", b: 1, tq: tq, tk: tq, hq: 1, hkv: 1, d: 8, causal: true, offset: []int32{-2}}
		r := c.build(t, tensor.F32, false, false)
		for _, x := range []graph.Value{r.k, r.v} {
			for i := range c.d {
				r.feed[x].(*tensor.Tensor).Set(i, []float64{math.NaN(), math.Inf(1)}[i%2])
			}
		}
		grads, err := autograd.GradValues(r.loss, r.q)
		require.NoError(t, err)
		out, err := plan.Eval(dev, r.feed, r.o, r.lse, grads[0])
		require.NoError(t, err)
		for i := range 2 * c.d {
			require.Zero(t, out[0].At(i))
			require.Zero(t, out[2].At(i))
		}
		require.Equal(t, float64(float32(ops.NoKeys)), out[1].At(1))
		require.True(t, math.IsNaN(out[0].At(2*c.d)), "query 2 sees key 0")
	}
}

// TestAttentionHugeScores checks that large scores neither overflow nor lose the distribution.
func TestAttentionHugeScores(t *testing.T) {
	dev := attnDevice(t, 1)
	c := attnCase{name: "huge", b: 1, tq: 3, tk: 200, hq: 1, hkv: 1, d: 4}
	r := c.build(t, tensor.F32, false, false)
	q := r.feed[r.q].(*tensor.Tensor)
	for i := range q.Type().Size() {
		q.Set(i, 4096*q.At(i))
	}
	k, v := r.feed[r.k].(*tensor.Tensor), r.feed[r.v].(*tensor.Tensor)
	o, lse := c.reference64(q, k, v)
	out, err := plan.Eval(dev, r.feed, r.o, r.lse)
	require.NoError(t, err)
	attnClose(t, o, out[0], 2e-3, "o")
	attnClose(t, lse, out[1], 1e-6, "lse")
}

// reference64 is reference with the largest score subtracted, for scores beyond the exponential's range.
func (c attnCase) reference64(q, k, v *tensor.Tensor) (o, lse []float64) {
	for t := range c.tq {
		scores, top := make([]float64, c.tk), math.Inf(-1)
		for j := range scores {
			for e := range c.d {
				scores[j] += q.At(t*c.d+e) * k.At(j*c.d+e) / math.Sqrt(float64(c.d))
			}
			top = max(top, scores[j])
		}
		sum, row := 0.0, make([]float64, c.d)
		for j, s := range scores {
			sum += math.Exp(s - top)
			for e := range row {
				row[e] += math.Exp(s-top) * v.At(j*c.d+e)
			}
		}
		for e := range row {
			o = append(o, row[e]/sum)
		}
		lse = append(lse, top+math.Log(sum))
	}
	return o, lse
}

func TestAttentionErrors(t *testing.T) {
	type in struct{ q, k []int }
	f32, i32 := tensor.F32, tensor.I32
	for _, c := range []struct {
		want string
		in   in
		o    func(g *graph.Graph) ops.AttendOptions
	}{
		{"cannot share", in{[]int{1, 4, 3, 8}, []int{1, 4, 2, 8}}, nil},
		{"rank 4", in{[]int{1, 4, 24}, []int{1, 4, 2, 8}}, nil},
		{"head size", in{[]int{1, 4, 2, 8}, []int{1, 4, 2, 4}}, nil},
		{"empty", in{[]int{1, 0, 2, 8}, []int{1, 4, 2, 8}}, nil},
		{"window", in{[]int{1, 4, 2, 8}, []int{1, 4, 2, 8}}, func(*graph.Graph) ops.AttendOptions { return ops.AttendOptions{Window: 3} }},
		{"soft cap", in{[]int{1, 4, 2, 8}, []int{1, 4, 2, 8}}, func(*graph.Graph) ops.AttendOptions { return ops.AttendOptions{SoftCap: -1} }},
		{"doc_start", in{[]int{1, 4, 2, 8}, []int{1, 4, 2, 8}}, func(g *graph.Graph) ops.AttendOptions {
			return ops.AttendOptions{DocStart: g.Input("d", tensor.T(i32, 4))}
		}},
		{"kv_len", in{[]int{1, 4, 2, 8}, []int{1, 4, 2, 8}}, func(g *graph.Graph) ops.AttendOptions {
			return ops.AttendOptions{KVLen: g.Input("d", tensor.T(f32, 1))}
		}},
	} {
		g := graph.New("bad")
		q, k := g.Input("q", tensor.T(f32, c.in.q...)), g.Input("k", tensor.T(f32, c.in.k...))
		var o ops.AttendOptions
		if c.o != nil {
			o = c.o(g)
		}
		require.False(t, ops.Attend(q, k, k, o).Valid())
		require.ErrorContains(t, g.Err(), c.want)
	}
}
