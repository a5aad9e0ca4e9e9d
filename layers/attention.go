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

	// QNorm and KNorm normalise every head of the queries and keys before they turn, as Qwen3 and Gemma 3 do; nil: no norm.
	QNorm *RMSNorm `name:"q_norm"`
	KNorm *RMSNorm `name:"k_norm"`

	AttentionShape
}

// AttentionShape is the arithmetic of attention between its projections. It has no weights.
type AttentionShape struct {
	Heads, KVHeads, HeadDim int
	Interleaved             bool    // rotate pairs (2i, 2i+1) instead of (i, i+D/2)
	Window                  int32   // keys a query sees, itself included; 0 = all
	Scale                   float64 // factor on q·k; 0 = 1/sqrt(HeadDim)
	SoftCap                 float64 // c: scores become c·tanh(score/c), as in Gemma 2; 0 = none
}

// AttentionContext is what a step shares among its attention layers.
type AttentionContext struct {
	Cos, Sin graph.Value        // f32 (B, T, R/2), from ops.RopeTables: the first R features of a head turn; absent = none do
	DocStart graph.Value        // i32 (B, T): first key of the token's document in its row; absent = 0
	Bounds   ops.DocumentBounds // of the documents of DocStart; zero = nothing is known of them
	Routes   *Routes            // notes where routers of experts send tokens; nil = nothing does
	Cache    *KVCache           // of this layer; nil = attend within the row
	Start    graph.Value        // i32 (B): tokens in the cache before this call; with Cache only

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
		Q:              src.Linear("q_proj", dim, heads*headDim, bias),
		K:              src.Linear("k_proj", dim, kvHeads*headDim, bias),
		V:              src.Linear("v_proj", dim, kvHeads*headDim, bias),
		O:              src.Linear("o_proj", heads*headDim, dim, bias),
		AttentionShape: AttentionShape{Heads: heads, KVHeads: kvHeads, HeadDim: headDim},
	}
}

// Forward maps x (B, T, dim) to (B, T, dim).
func (a *Attention) Forward(x graph.Value, c AttentionContext) graph.Value {
	if !x.Valid() {
		return x
	}
	q := a.split(named("q_proj", a.Q, x), a.Heads)
	k := a.split(named("k_proj", a.K, x), a.KVHeads)
	v := a.split(named("v_proj", a.V, x), a.KVHeads)
	if a.QNorm != nil {
		q = a.QNorm.Forward(q)
	}
	if a.KNorm != nil {
		k = a.KNorm.Forward(k)
	}
	return named("o_proj", a.O, a.Attend(q, k, v, c))
}

// FusedAttention is Attention with one projection for queries, keys and values, whose rows lie in this order (Phi-3).
type FusedAttention struct {
	QKV Projection `name:"qkv_proj"`
	O   Projection `name:"o_proj"`

	AttentionShape
}

// NewFusedAttention takes qkv_proj and o_proj from src.
func NewFusedAttention(src Source, dim int, s AttentionShape) *FusedAttention {
	return &FusedAttention{
		QKV:            src.Linear("qkv_proj", dim, (s.Heads+2*s.KVHeads)*s.HeadDim, false),
		O:              src.Linear("o_proj", s.Heads*s.HeadDim, dim, false),
		AttentionShape: s,
	}
}

// Forward maps x (B, T, dim) to (B, T, dim).
func (a *FusedAttention) Forward(x graph.Value, c AttentionContext) graph.Value {
	return named("o_proj", a.O, a.AttendFused(named("qkv_proj", a.QKV, x), c))
}

// split turns (B, T, heads·D) into (B, T, heads, D).
func (s AttentionShape) split(y graph.Value, heads int) graph.Value {
	if !y.Valid() {
		return y
	}
	return ops.Reshape(y, y.Dim(0), y.Dim(1), heads, s.HeadDim)
}

// AttendFused is Attend of y (B, T, (Heads + 2·KVHeads)·D), which holds queries, keys and values in this order.
func (s AttentionShape) AttendFused(y graph.Value, c AttentionContext) graph.Value {
	if !y.Valid() {
		return y
	}
	q, kv := s.Heads*s.HeadDim, s.KVHeads*s.HeadDim
	parts := ops.Split(y, -1, q, kv, kv)
	return s.Attend(s.split(parts[0], s.Heads), s.split(parts[1], s.KVHeads), s.split(parts[2], s.KVHeads), c)
}

// Attend turns q (B, T, Heads, D) and k (B, T, KVHeads, D) by the rotary tables, if there are any, and attends: (B, T, Heads·D).
func (s AttentionShape) Attend(q, k, v graph.Value, c AttentionContext) graph.Value {
	if !q.Valid() {
		return q
	}
	if d := q.DType(); c.Eager && (d == tensor.F16 || d == tensor.BF16) {
		return s.eager(q, k, v, c)
	}
	b, t := q.Dim(0), q.Dim(1)
	if !c.Cos.Absent() {
		q, k = ops.RoPE(q, c.Cos, c.Sin, s.Interleaved), ops.RoPE(k, c.Cos, c.Sin, s.Interleaved)
	}
	o := ops.AttendOptions{Scale: float32(s.scale()), Causal: true, Window: s.Window, SoftCap: float32(s.SoftCap), DocStart: c.DocStart, Bounds: c.Bounds}
	if c.Cache != nil {
		k, v = c.Cache.append(k, v, c.Start)
		o.HeadMajor, o.QOffset = true, c.Start
		o.KVLen = ops.AddScalar(c.Start, float64(t))
	}
	return ops.Reshape(ops.Attend(q, k, v, o), b, t, s.Heads*s.HeadDim)
}

func (s AttentionShape) scale() float64 {
	if s.Scale == 0 {
		return 1 / math.Sqrt(float64(s.HeadDim))
	}
	return s.Scale
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
