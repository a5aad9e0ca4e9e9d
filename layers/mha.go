package layers

import (
	"errors"
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// MultiheadAttention is attention of one sequence over another or itself (Vaswani et al. 2017), with the weights of PyTorch's
// layer: in_proj_weight (3·dim, dim) and in_proj_bias for the query, key and value in this order, and out_proj. Where keys or
// values have another width, q_proj_weight, k_proj_weight and v_proj_weight stand in place of in_proj_weight.
type MultiheadAttention struct {
	In   *graph.Var `name:"in_proj_weight"`
	Q    *graph.Var `name:"q_proj_weight"`
	K    *graph.Var `name:"k_proj_weight"`
	V    *graph.Var `name:"v_proj_weight"`
	Bias *graph.Var `name:"in_proj_bias"` // nil: none
	Out  Projection `name:"out_proj"`

	Dim, Heads int
	Dropout    Dropout // of the attention weights
}

// MultiheadOptions are the settings of NewMultiheadAttention; the zero value is PyTorch's default.
type MultiheadOptions struct {
	NoBias             bool
	KeyWidth, ValWidth int // features of keys and values; 0: those of the query
	Dropout            Dropout
}

// AttentionMasks say what is hidden, as PyTorch does: true, or -Inf in an additive mask, hides a key. Each may be absent.
type AttentionMasks struct {
	Mask       graph.Value // bool, or a float to add to the scores: (Tq, Tk), or (B, Tq, Tk), or (B or 1, heads or 1, Tq, Tk)
	KeyPadding graph.Value // bool (B, Tk)
	Causal     bool        // query i sees keys 0..i
}

// NewMultiheadAttention takes the weights of an attention of dim features in heads from src, with PyTorch's initialisation.
func NewMultiheadAttention(src Source, dim, heads int, o MultiheadOptions) *MultiheadAttention {
	m := &MultiheadAttention{Dim: dim, Heads: heads, Dropout: o.Dropout}
	kw, vw := o.KeyWidth, o.ValWidth
	if kw == 0 {
		kw = dim
	}
	if vw == 0 {
		vw = dim
	}
	xavier := func(rows, cols int) Init { return Uniform(math.Sqrt(6 / float64(max(rows+cols, 1)))) }
	if kw == dim && vw == dim {
		m.In = src.Var("in_proj_weight", xavier(3*dim, dim), 3*dim, dim)
	} else {
		m.Q = src.Var("q_proj_weight", xavier(dim, dim), dim, dim)
		m.K = src.Var("k_proj_weight", xavier(dim, kw), dim, kw)
		m.V = src.Var("v_proj_weight", xavier(dim, vw), dim, vw)
	}
	if !o.NoBias {
		m.Bias = src.Var("in_proj_bias", Zeros(), 3*dim)
	}
	m.Out = src.Linear("out_proj", dim, dim, !o.NoBias)
	return m
}

// Forward attends with queries q (B, Tq, dim) over keys k (B, Tk, ·) and values v (B, Tk, ·), as (B, Tq, dim); self-attention is
// Forward(x, x, x, ...). A query that sees no key gives the output projection of zeros, where PyTorch gives NaN. Without Mask,
// KeyPadding and dropout the scores are never in memory. random is for dropout, over the queries; its zero value means
// inference.
func (m *MultiheadAttention) Forward(q, k, v graph.Value, masks AttentionMasks, random Random) graph.Value {
	if q.Valid() && (k.Absent() || v.Absent()) {
		return q.Graph().Fail("multihead_attention", []graph.Value{q, k, v}, errors.New("keys or values are absent"))
	}
	for _, x := range []graph.Value{q, k, v} {
		if !x.Valid() {
			return x
		}
	}
	if err := m.check(q.Type(), k.Type(), v.Type()); err != nil {
		return q.Graph().Fail("multihead_attention", []graph.Value{q, k, v}, err)
	}
	d := m.Dim / m.Heads
	split := func(x graph.Value, i int) graph.Value {
		y := m.project(x, i)
		return ops.Reshape(y, y.Dim(0), y.Dim(1), m.Heads, d)
	}
	qh, kh, vh := split(q, 0), split(k, 1), split(v, 2)
	var y graph.Value
	dropping := m.Dropout.Rate > 0 && !random.Key.Absent()
	if masks.Mask.Absent() && masks.KeyPadding.Absent() && !dropping {
		y = ops.Attend(qh, kh, vh, ops.AttendOptions{Causal: masks.Causal})
	} else {
		o := masks.options(q.Graph(), q.Dim(1), k.Dim(1))
		if dropping {
			o.Weights = func(w graph.Value) graph.Value { // (B, H, Tq, Tk): random numbers belong to queries
				return ops.Transpose(m.Dropout.Forward(ops.Transpose(w, 0, 2, 1, 3), random), 0, 2, 1, 3)
			}
		}
		headMajor := func(x graph.Value) graph.Value { return ops.Transpose(x, 0, 2, 1, 3) }
		y = headMajor(ops.AttendMasked(headMajor(qh), headMajor(kh), headMajor(vh), o).Out)
	}
	if !y.Valid() {
		return y
	}
	return m.Out.Forward(ops.Reshape(y, q.Dim(0), q.Dim(1), m.Dim))
}

func (m *MultiheadAttention) check(in ...tensor.Type) error {
	if m.Heads < 1 || m.Dim%m.Heads != 0 {
		return fmt.Errorf("%d features do not divide into %d heads", m.Dim, m.Heads)
	}
	for i, t := range in {
		width := m.Dim
		if m.In == nil {
			if w := []*graph.Var{m.Q, m.K, m.V}[i]; w != nil {
				width = w.Type.Dim(1)
			}
		}
		if t.Rank() != 3 || t.Dim(2) != width || !t.DType.IsFloat() || t.DType != in[0].DType {
			return fmt.Errorf("input %d is %v, must be (B, T, %d) of one float dtype", i, t, width)
		}
	}
	return nil
}

// project computes the query (0), key (1) or value (2) of x.
func (m *MultiheadAttention) project(x graph.Value, i int) graph.Value {
	g := x.Graph()
	part := func(v *graph.Var) graph.Value { return ops.Slice(g.Read(v), 0, i*m.Dim, (i+1)*m.Dim) }
	var w graph.Value
	if m.In != nil {
		w = part(m.In)
	} else {
		w = g.Read([]*graph.Var{m.Q, m.K, m.V}[i])
	}
	y := ops.Linear(x, ops.Cast(w, x.DType()))
	if m.Bias == nil || !y.Valid() {
		return y
	}
	return ops.Add(y, ops.Cast(part(m.Bias), x.DType()))
}

// options turns what is hidden into what is seen.
func (a AttentionMasks) options(g *graph.Graph, tq, tk int) ops.MaskedOptions {
	var o ops.MaskedOptions
	see := func(m graph.Value) {
		if o.Mask.Absent() {
			o.Mask = m
		} else {
			o.Mask = ops.And(o.Mask, m)
		}
	}
	if m := a.Mask; m.Valid() {
		if m.Rank() == 3 {
			m = ops.Reshape(m, m.Dim(0), 1, m.Dim(1), m.Dim(2))
		}
		if m.DType() == tensor.Bool {
			see(ops.Not(m))
		} else {
			o.Bias = m
		}
	}
	if p := a.KeyPadding; p.Valid() {
		see(ops.Not(ops.Reshape(p, p.Dim(0), 1, 1, -1)))
	}
	if a.Causal {
		see(ops.CausalMask(g, tq, tk, 0))
	}
	return o
}
