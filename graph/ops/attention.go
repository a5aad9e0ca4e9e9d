package ops

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Attention is scaled dot-product attention (Vaswani et al. 2017) with grouped key heads (Ainslie et al. 2023), computed
// without ever holding the score matrix (Dao et al. 2022).
//
// Inputs: q (B, Tq, Hq, D); k and v (B, Tk, Hkv, D), or (B, Hkv, Tk, D) with HeadMajor, as KV caches lie; and, each optional,
// doc_start (B, Tq), q_offset (B) and kv_len (B), all i32, and the two outputs of Documents of doc_start, for kernels that take packed
// rows so. Hkv divides Hq: query head h reads key head h / (Hq/Hkv).
//
// Query t of a row stands at position p = q_offset + t of the key sequence and sees the keys from
// max(doc_start[t], p-Window+1) to min(p, kv_len-1), the bounds by p only with Causal. Without q_offset p = t, without kv_len
// all Tk keys count.
//
// Outputs: o (B, Tq, Hq, D) in q's dtype, and lse (B, Hq, Tq), the logarithm of the sum of the exponentials of the scores, in
// f32 (f64 for f64). A query that sees no key gives zeros and NoKeys.
type Attention struct {
	Scale     float32 // factor on q·k, usually 1/sqrt(D)
	Causal    bool
	Window    int32   // keys a query sees, its own included; 0: all. Needs Causal
	SoftCap   float32 // c: scores become c·tanh(score/c) (Gemma 2); 0: none
	HeadMajor bool
	Longest   int32 // what Documents has; 0 without it
}

// NoKeys is the lse of a query that sees no key: a finite number, so that checks for non-finite values hold, and low enough to
// weigh nothing where results over parts of the keys are merged.
const NoKeys = -1e30

// Positions of the inputs of Attention and, after the first three, of AttentionGrad.
const (
	attnQ = iota
	attnK
	attnV
	attnDocStart
	attnQOffset
	attnKVLen
	attnLengths
	attnOffsets
	attnInputs
)

var (
	_ graph.Differentiable = Attention{}
	_ graph.Decomposable   = Attention{}
	_ graph.Coster         = Attention{}
)

// AttendOptions are the attributes and optional inputs of Attend; see Attention.
type AttendOptions struct {
	Scale     float32 // 0: 1/sqrt(D)
	Causal    bool
	Window    int32   // 0: none
	SoftCap   float32 // 0: none
	HeadMajor bool    // k and v are (B, Hkv, Tk, D)

	DocStart Value // (B, Tq) i32
	QOffset  Value // (B) i32
	KVLen    Value // (B) i32

	Bounds DocumentBounds // of the documents of DocStart
}

// Attend returns attention of q (B, Tq, Hq, D) over k and v (B, Tk, Hkv, D), as (B, Tq, Hq, D).
func Attend(q, k, v Value, o AttendOptions) Value {
	if o.Scale == 0 && q.Valid() && q.Dim(-1) > 0 {
		o.Scale = float32(1 / math.Sqrt(float64(q.Dim(-1))))
	}
	op := Attention{Scale: o.Scale, Causal: o.Causal, Window: o.Window, SoftCap: o.SoftCap, HeadMajor: o.HeadMajor}
	var lengths, offsets Value
	if o.DocStart.Valid() && q.Valid() && k.Valid() && v.Valid() && o.QOffset.Absent() && o.KVLen.Absent() {
		d, err := op.Dims(q.Type(), k.Type(), v.Type())
		if list, ok := o.Bounds.listFor(op, d, q.DType()); err == nil && ok && d.extras([]tensor.Type{o.DocStart.Type(), {}, {}}) == nil {
			made := apply(list, o.DocStart) // the same node for all layers that share it
			lengths, offsets, op.Longest = made[0], made[1], list.Longest
		}
	}
	return apply(op, q, k, v, o.DocStart, o.QOffset, o.KVLen, lengths, offsets)[0]
}

// Name implements graph.Op.
func (Attention) Name() string { return "attention" }

// NumOut is the number of outputs: o and lse.
func (Attention) NumOut() int { return 2 }

// Infer implements graph.Op.
func (o Attention) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if len(in) != attnInputs {
		return nil, fmt.Errorf("takes %d inputs (optional ones may be absent), got %d", attnInputs, len(in))
	}
	d, err := o.Dims(in[attnQ], in[attnK], in[attnV])
	if err != nil {
		return nil, err
	}
	if err := d.extras(in[attnDocStart:]); err != nil {
		return nil, err
	}
	if err := o.listed(in[attnDocStart], in[attnLengths], in[attnOffsets]); err != nil {
		return nil, err
	}
	return []tensor.Type{in[attnQ], d.lse(in[attnQ].DType)}, nil
}

// AttentionDims are the extents of an attention.
type AttentionDims struct {
	B, Tq, Tk int // rows, queries and keys
	Hq, Hkv   int // query heads and key heads
	Rep       int // query heads that share a key head
	D         int // head size
}

// Dims reads the extents off the types of q, k and v, or says why they do not fit.
func (o Attention) Dims(q, k, v tensor.Type) (d AttentionDims, err error) {
	if q.Rank() != 4 || k.Rank() != 4 || k.Shape != v.Shape {
		return d, fmt.Errorf("q must be (B, Tq, Hq, D) and k, v of one shape of rank 4, got %v, %v, %v", q.Shape, k.Shape, v.Shape)
	}
	if !q.DType.IsFloat() || k.DType != q.DType || v.DType != q.DType {
		return d, fmt.Errorf("q, k and v must share one float dtype, got %v, %v, %v; cast them", q.DType, k.DType, v.DType)
	}
	d = AttentionDims{B: q.Dim(0), Tq: q.Dim(1), Hq: q.Dim(2), D: q.Dim(3), Tk: k.Dim(1), Hkv: k.Dim(2)}
	if o.HeadMajor {
		d.Tk, d.Hkv = d.Hkv, d.Tk
	}
	switch {
	case k.Dim(0) != d.B || k.Dim(3) != d.D:
		return d, fmt.Errorf("k %v does not match the batch and head size of q %v", k.Shape, q.Shape)
	case d.B == 0 || d.Tq == 0 || d.Tk == 0 || d.D == 0 || d.Hkv == 0 || d.Hq == 0:
		return d, fmt.Errorf("an axis is empty: q %v, k %v", q.Shape, k.Shape)
	case d.Hq%d.Hkv != 0:
		return d, fmt.Errorf("%d query heads cannot share %d key heads evenly; is k head-major?", d.Hq, d.Hkv)
	case o.Window < 0 || (o.Window > 0 && !o.Causal):
		return d, fmt.Errorf("a window of %d keys needs causal attention and a positive size", o.Window)
	case !(o.SoftCap >= 0) || math.IsInf(float64(o.SoftCap), 0):
		return d, fmt.Errorf("the soft cap must be finite and positive, or 0 for none, got %v", o.SoftCap)
	}
	d.Rep = d.Hq / d.Hkv
	return d, nil
}

// extras checks doc_start, q_offset and kv_len, where present.
func (d AttentionDims) extras(in []tensor.Type) error {
	want := [3]tensor.Type{tensor.T(tensor.I32, d.B, d.Tq), tensor.T(tensor.I32, d.B), tensor.T(tensor.I32, d.B)}
	for i, name := range [3]string{"doc_start", "q_offset", "kv_len"} {
		if in[i].DType != tensor.Invalid && in[i] != want[i] {
			return fmt.Errorf("%s must be %v, got %v", name, want[i], in[i])
		}
	}
	return nil
}

// listed checks the outputs of Documents, where present.
func (o Attention) listed(doc, lengths, offsets tensor.Type) error {
	none := tensor.Type{}
	if lengths == none && offsets == none && o.Longest == 0 {
		return nil
	}
	if doc == none || o.Longest < 1 || lengths.DType != tensor.I32 || lengths.Rank() != 1 || offsets != tensor.T(tensor.I64, 3, lengths.Dim(0)+1) {
		return fmt.Errorf("a list of documents comes with doc_start, Longest and both outputs of documents, got doc_start %v, Longest %d, %v and %v",
			doc, o.Longest, lengths, offsets)
	}
	return nil
}

// lse is the type of the second output.
func (d AttentionDims) lse(q tensor.DType) tensor.Type {
	return tensor.T(wide(q), d.B, d.Hq, d.Tq)
}

// Cost implements graph.Coster: two products, halved where causality hides half of the keys.
func (o Attention) Cost(in, out []tensor.Type) (flops, bytes int64) {
	d, err := o.Dims(in[attnQ], in[attnK], in[attnV])
	if err != nil {
		return 0, 0
	}
	return 4 * o.pairs(d) * int64(d.D), sumBytes(in) + sumBytes(out)
}

// pairs is the number of (query, key) pairs that are not hidden by causality or the window.
func (o Attention) pairs(d AttentionDims) int64 {
	keys := int64(d.Tk)
	if o.Causal && d.Tq == d.Tk {
		keys = (keys + 1) / 2
	}
	if o.Window > 0 {
		keys = min(keys, int64(o.Window))
	}
	return int64(d.B) * int64(d.Hq) * int64(d.Tq) * keys
}

// VJP implements graph.Differentiable by AttentionGrad, which recomputes the probabilities from lse.
func (o Attention) VJP(n *graph.Node, gy []Value, _ []bool) []Value {
	do := gy[0]
	if do.Absent() {
		do = ZerosLike(n.Output(0))
	}
	gx := apply(AttentionGrad(o), n.In[attnQ], n.In[attnK], n.In[attnV], n.Output(0), n.Output(1), do,
		n.In[attnDocStart], n.In[attnQOffset], n.In[attnKVLen], gy[1], n.In[attnLengths], n.In[attnOffsets])
	return append(gx, make([]Value, attnInputs-len(gx))...)
}

// Decompose implements graph.Decomposable.
func (o Attention) Decompose(in []Value) []Value {
	p := o.parts(in[attnQ], in[attnK], in[attnV], in[attnDocStart:])
	s := p.capped(p.rawScores())
	s = p.masked(s, Scalar(s, NoKeys))
	top := one(Barrier{}, p.keep(MaxOf(s, -1))) // cancels out of both outputs, and so does its gradient
	e := p.masked(Exp(Sub(s, top)), Scalar(s, 0))
	sum := p.keep(Sum(e, -1))
	some := Greater(sum, Scalar(sum, 0))
	sum = Where(some, sum, Scalar(sum, 1))
	lse := Where(some, Add(top, Log(sum)), Scalar(sum, NoKeys))
	out := Dot(p.fold(Div(e, sum)), p.v)
	return []Value{p.queryMajor(out), Reshape(lse, p.B, p.Hq, p.Tq)}
}

// attnParts are the operands of a decomposed attention in the wide dtype. Scores are (B, Hkv, Rep, Tq, Tk); folded, as matrix
// products take them, (B, Hkv, Rep·Tq, Tk).
type attnParts struct {
	AttentionDims
	op      Attention
	dtype   tensor.DType // of q, k and v
	q, k, v Value        // (B, Hkv, Rep·Tq, D), (B, Hkv, Tk, D) twice
	mask    Value        // (B or 1, 1, 1, Tq or 1, Tk), true where visible; absent when all is
}

func (o Attention) parts(q, k, v Value, extra []Value) attnParts {
	d, _ := o.Dims(q.Type(), k.Type(), v.Type())
	p := attnParts{AttentionDims: d, op: o, dtype: q.DType()}
	p.q, p.k, p.v = p.headMajor(q), p.keys(k), p.keys(v)
	p.mask = p.visible(q.Graph(), extra[0], extra[1], extra[2])
	return p
}

// headMajor turns (B, Tq, Hq, D) into (B, Hkv, Rep·Tq, D).
func (p attnParts) headMajor(x Value) Value {
	x = Cast(Transpose(x, 0, 2, 1, 3), wide(p.dtype))
	return Reshape(x, p.B, p.Hkv, p.Rep*p.Tq, p.D)
}

// queryMajor undoes headMajor, the dtype included.
func (p attnParts) queryMajor(x Value) Value {
	return Cast(Transpose(Reshape(x, p.B, p.Hq, p.Tq, p.D), 0, 2, 1, 3), p.dtype)
}

func (p attnParts) keys(x Value) Value {
	if !p.op.HeadMajor {
		x = Transpose(x, 0, 2, 1, 3)
	}
	return Cast(x, wide(p.dtype))
}

// keysBack undoes keys.
func (p attnParts) keysBack(x Value) Value {
	if !p.op.HeadMajor {
		x = Transpose(x, 0, 2, 1, 3)
	}
	return Cast(x, p.dtype)
}

func (p attnParts) visible(g *graph.Graph, doc, offset, length Value) Value {
	key := Iota(g, tensor.T(tensor.I32, 1, 1, 1, 1, p.Tk), 4)
	var mask Value
	also := func(m Value) {
		if mask.Absent() {
			mask = m
		} else {
			mask = And(mask, m)
		}
	}
	if p.op.Causal {
		pos := Iota(g, tensor.T(tensor.I32, 1, 1, 1, p.Tq, 1), 3)
		if !offset.Absent() {
			pos = Add(pos, Reshape(offset, p.B, 1, 1, 1, 1))
		}
		also(LessEqual(key, pos))
		if p.op.Window > 0 {
			also(Greater(key, AddScalar(pos, -float64(p.op.Window))))
		}
	}
	if !doc.Absent() {
		also(GreaterEqual(key, Reshape(doc, p.B, 1, 1, p.Tq, 1)))
	}
	if !length.Absent() {
		also(Less(key, Reshape(length, p.B, 1, 1, 1, 1)))
	}
	return mask
}

// rawScores are scale·q·k before the soft cap.
func (p attnParts) rawScores() Value {
	return p.unfold(Scale(one(MatMul{TransB: true}, p.q, p.k), float64(p.op.Scale)))
}

func (p attnParts) capped(s Value) Value {
	if p.op.SoftCap == 0 {
		return s
	}
	return Scale(Tanh(Div(s, Scalar(s, float64(p.op.SoftCap)))), float64(p.op.SoftCap))
}

// masked is x where visible and other elsewhere.
func (p attnParts) masked(x, other Value) Value {
	if p.mask.Absent() {
		return x
	}
	return Where(p.mask, x, other)
}

func (p attnParts) unfold(x Value) Value { return Reshape(x, p.B, p.Hkv, p.Rep, p.Tq, p.Tk) }
func (p attnParts) fold(x Value) Value   { return Reshape(x, p.B, p.Hkv, p.Rep*p.Tq, p.Tk) }

// keep gives one number a query the shape that broadcasts against scores.
func (p attnParts) keep(x Value) Value { return Reshape(x, p.B, p.Hkv, p.Rep, p.Tq, 1) }
