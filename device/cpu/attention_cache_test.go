package cpu

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// cachedStep is a plan that writes T positions into the caches and attends to them.
type cachedStep struct {
	p           *plan.Plan
	q, k, v     graph.Value
	pos, length graph.Value
	out         graph.Value
	tokens      int
}

func newCachedStep(t *testing.T, s *plan.Session, dt tensor.DType, cacheK, cacheV *graph.Var, tokens, heads int) *cachedStep {
	t.Helper()
	b, kv, d := cacheK.Type.Dim(0), cacheK.Type.Dim(1), cacheK.Type.Dim(3)
	g := graph.New(fmt.Sprintf("step%d", tokens))
	c := &cachedStep{tokens: tokens}
	c.q, c.k, c.v = g.Input("q", tensor.T(dt, b, tokens, heads, d)), g.Input("k", tensor.T(dt, b, tokens, kv, d)), g.Input("v", tensor.T(dt, b, tokens, kv, d))
	c.pos, c.length = g.Input("pos", tensor.T(tensor.I32, b)), g.Input("len", tensor.T(tensor.I32, b))
	newK, newV := ops.WriteCache(g.Read(cacheK), c.k, c.pos), ops.WriteCache(g.Read(cacheV), c.v, c.pos)
	g.Write(cacheK, newK)
	g.Write(cacheV, newV)
	c.out = ops.Attend(c.q, newK, newV, ops.AttendOptions{Causal: true, HeadMajor: true, QOffset: c.pos, KVLen: c.length})
	var err error
	c.p, err = plan.Compile([]graph.Value{c.out}, plan.Options{Session: s, Device: s.Store().Device()})
	require.NoError(t, err)
	return c
}

// run feeds tokens [at, at+T) of full (B, T, H, D) tensors.
func (c *cachedStep) run(t *testing.T, q, k, v *tensor.Tensor, at int) *tensor.Tensor {
	t.Helper()
	b := q.Shape().Dim(0)
	pos, length := make([]int32, b), make([]int32, b)
	for i := range b {
		pos[i], length[i] = int32(at), int32(at+c.tokens)
	}
	feed := plan.Feed{c.q: timeSlice(q, at, c.tokens), c.k: timeSlice(k, at, c.tokens), c.v: timeSlice(v, at, c.tokens)}
	feed[c.pos], _ = tensor.Of(pos)
	feed[c.length], _ = tensor.Of(length)
	res, err := c.p.Run(context.Background(), feed)
	require.NoError(t, err)
	return res.Tensor(c.out)
}

// timeSlice returns x[:, at:at+n] of a (B, T, ...) tensor.
func timeSlice(x *tensor.Tensor, at, n int) *tensor.Tensor {
	dims := x.Shape().Dims()
	row := len(x.Bytes()) / (dims[0] * dims[1])
	total := dims[1]
	dims[1] = n
	out := tensor.New(tensor.T(x.DType(), dims...))
	for b := range dims[0] {
		copy(out.Bytes()[b*n*row:(b+1)*n*row], x.Bytes()[(b*total+at)*row:])
	}
	return out
}

// TestCacheDecode checks that a prefill and single steps through a cache give what attention over the whole sequence gives.
func TestCacheDecode(t *testing.T) {
	const prefill, total, capacity = 37, 45, 64
	dev := attnDevice(t, 2)
	for _, dt := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F64} {
		c := attnCase{b: 2, tq: total, tk: total, hq: 4, hkv: 2, d: 16, causal: true}
		r := c.build(t, dt, false, false)
		full, err := plan.Eval(dev, r.feed, r.o)
		require.NoError(t, err)
		q, k, v := c.data(dt)
		cacheK := graph.NewVar("cache.k", tensor.T(dt, c.b, c.hkv, capacity, c.d))
		cacheV := graph.NewVar("cache.v", tensor.T(dt, c.b, c.hkv, capacity, c.d))
		session := plan.NewSession(plan.NewStore(dev))
		first := newCachedStep(t, session, dt, cacheK, cacheV, prefill, c.hq)
		next := newCachedStep(t, session, dt, cacheK, cacheV, 1, c.hq)
		tol := map[tensor.DType]float64{tensor.F32: 2e-6, tensor.BF16: 1e-2, tensor.F64: 1e-12}[dt]
		got := first.run(t, q, k, v, 0)
		attnClose(t, numbers(timeSlice(full[0], 0, prefill)), got, tol, "prefill")
		for at := prefill; at < total; at++ {
			got = next.run(t, q, k, v, at)
			attnClose(t, numbers(timeSlice(full[0], at, 1)), got, tol, fmt.Sprintf("%v step %d", dt, at))
		}
		require.NoError(t, first.p.Close())
		require.NoError(t, next.p.Close())
		require.NoError(t, session.Close())
	}
}

// cacheGraph is a cache write that is not in place.
func cacheGraph(dt tensor.DType) (cache, x, pos, out graph.Value) {
	g := graph.New("cache")
	cache, x = g.Input("cache", tensor.T(dt, 3, 2, 7, 3)), g.Input("x", tensor.T(dt, 3, 2, 2, 3))
	pos = g.Input("pos", tensor.T(tensor.I32, 3))
	return cache, x, pos, ops.WriteCache(cache, x, pos)
}

func TestCacheWrite(t *testing.T) {
	dev := attnDevice(t, 2)
	for _, dt := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F64, tensor.I8} {
		cache, x, pos, out := cacheGraph(dt)
		c, n := tensor.New(cache.Type()), tensor.New(x.Type())
		for i := range c.Type().Size() {
			c.Set(i, -float64(i%100))
		}
		for i := range n.Type().Size() {
			n.Set(i, float64(i+1))
		}
		at, err := tensor.Of([]int32{0, 5, 3})
		require.NoError(t, err)
		parts := out.Node().Op.(graph.Decomposable).Decompose(out.Node().In)
		res, err := plan.Eval(dev, plan.Feed{cache: c, x: n, pos: at}, out, parts[0])
		require.NoError(t, err)
		require.Equal(t, res[1].Bytes(), res[0].Bytes(), "%v", dt)
		require.Equal(t, n.At(((1*2+1)*2+0)*3), res[0].At(((1*2+0)*7+6)*3), "row 1, head 0, second position")
	}
}

func TestCacheWriteErrors(t *testing.T) {
	dev := attnDevice(t, 1)
	cache, x, pos, out := cacheGraph(tensor.F32)
	for _, p := range [][]int32{{0, 6, 0}, {-1, 0, 0}, {0, 0, 1<<31 - 1}} {
		at, err := tensor.Of(p)
		require.NoError(t, err)
		_, err = plan.Eval(dev, plan.Feed{cache: tensor.New(cache.Type()), x: tensor.New(x.Type()), pos: at}, out)
		require.ErrorContains(t, err, "capacity of 7")
	}
	_, err := autograd.GradValues(ops.Sum(out), x)
	require.ErrorContains(t, err, "no gradient")

	g := graph.New("bad")
	f := func(dims ...int) graph.Value { return g.Input(fmt.Sprint(dims), tensor.T(tensor.F32, dims...)) }
	require.False(t, ops.WriteCache(f(1, 2, 4, 8), f(1, 5, 2, 8), g.Input("p", tensor.T(tensor.I32, 1))).Valid())
	require.ErrorContains(t, g.Err(), "do not fit a cache of 4")
}

// TestCacheMustBeInPlace checks that a plan is refused when something needs the old cache after the write.
func TestCacheMustBeInPlace(t *testing.T) {
	g := graph.New("copy")
	cache := graph.NewVar("cache", tensor.T(tensor.F32, 1, 1, 4, 2))
	x, pos := g.Input("x", tensor.T(tensor.F32, 1, 1, 1, 2)), g.Input("pos", tensor.T(tensor.I32, 1))
	old := g.Read(cache)
	fresh := ops.WriteCache(old, x, pos)
	g.Write(cache, fresh)
	_, err := plan.Compile([]graph.Value{ops.Sum(ops.Mul(old, fresh))}, plan.Options{Device: attnDevice(t, 1)})
	require.ErrorContains(t, err, "in place")
}
