package layers

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Attention is causal self-attention with rotary positions and grouped key/value heads (Vaswani et al. 2017, Su et al. 2021,
// Ainslie et al. 2023).
type Attention struct {
	Q Projection `name:"q_proj"`
	K Projection `name:"k_proj"`
	V Projection `name:"v_proj"`
	O Projection `name:"o_proj"`

	Heads, KVHeads, HeadDim int
	Interleaved             bool  // rotate pairs (2i, 2i+1) instead of (i, i+D/2)
	Window                  int32 // keys a query sees, itself included; 0 = all
}

// AttentionContext is what a step shares among its attention layers.
type AttentionContext struct {
	Cos, Sin graph.Value // f32 (B, T, D/2), from ops.RopeTables
	DocStart graph.Value // i32 (B, T): first key of the token's document in its row; absent = 0
	Cache    *KVCache    // of this layer; nil = attend within the row
	Start    graph.Value // i32 (B): tokens in the cache before this call; with Cache only

	// Eager rounds in 16-bit compute dtypes where the eager code of transformers does, to compare runs number by number. Without it
	// rotary products, scores and probabilities stay in float32, which is nearer to the true value and holds no scores. It has no effect
	// in float32, and takes no Cache.
	Eager bool
}

// KVCache holds the keys and values of one layer for generation: (B, KVHeads, Tmax, D) each.
type KVCache struct{ K, V *graph.Var }

// NewKVCache declares a cache of fixed capacity.
func NewKVCache(name string, d tensor.DType, batch, kvHeads, capacity, headDim int) *KVCache {
	t := tensor.T(d, batch, kvHeads, capacity, headDim)
	return &KVCache{graph.NewVar(name+".k", t), graph.NewVar(name+".v", t)}
}

// NewAttention takes q_proj, k_proj, v_proj and o_proj from src.
func NewAttention(src Source, dim, heads, kvHeads, headDim int, bias bool) *Attention {
	return &Attention{
		Q:     src.Linear("q_proj", dim, heads*headDim, bias),
		K:     src.Linear("k_proj", dim, kvHeads*headDim, bias),
		V:     src.Linear("v_proj", dim, kvHeads*headDim, bias),
		O:     src.Linear("o_proj", heads*headDim, dim, bias),
		Heads: heads, KVHeads: kvHeads, HeadDim: headDim,
	}
}

// Forward maps x (B, T, dim) to (B, T, dim).
func (a *Attention) Forward(x graph.Value, c AttentionContext) graph.Value {
	if !x.Valid() {
		return x
	}
	if d := x.DType(); c.Eager && (d == tensor.F16 || d == tensor.BF16) {
		return a.eager(x, c)
	}
	b, t := x.Dim(0), x.Dim(1)
	split := func(y graph.Value, heads int) graph.Value { return ops.Reshape(y, b, t, heads, a.HeadDim) }
	q := ops.RoPE(split(named("q_proj", a.Q, x), a.Heads), c.Cos, c.Sin, a.Interleaved)
	k := ops.RoPE(split(named("k_proj", a.K, x), a.KVHeads), c.Cos, c.Sin, a.Interleaved)
	v := split(named("v_proj", a.V, x), a.KVHeads)
	o := ops.AttendOptions{Scale: float32(1 / math.Sqrt(float64(a.HeadDim))), Causal: true, Window: a.Window, DocStart: c.DocStart}
	if c.Cache != nil {
		k, v = c.Cache.append(k, v, c.Start)
		o.HeadMajor, o.QOffset = true, c.Start
		o.KVLen = ops.AddScalar(c.Start, float64(t))
	}
	y := ops.Attend(q, k, v, o)
	return named("o_proj", a.O, ops.Reshape(y, b, t, a.Heads*a.HeadDim))
}

// append writes the new keys and values in place and returns the whole caches.
func (c *KVCache) append(k, v, start graph.Value) (graph.Value, graph.Value) {
	if !k.Valid() || !v.Valid() {
		return k, v
	}
	g := k.Graph()
	put := func(cache *graph.Var, x graph.Value) graph.Value {
		y := ops.WriteCache(g.Read(cache), ops.Cast(x, cache.Type.DType), start)
		g.Write(cache, y)
		return y
	}
	return put(c.K, k), put(c.V, v)
}
