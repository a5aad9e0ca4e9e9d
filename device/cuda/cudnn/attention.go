package cudnn

import "fmt"

// Attention says which attention a graph computes: q (B, Tq, Hq, D), k and v with any strides of batch, head and position.
type Attention struct {
	DType                      DType // F16 or BF16
	B, Tq, Tk, Hq, Hkv, D      int64 // packed: B document slots of at most Tq = Tk tokens
	KeyBatch, KeyHead, KeyStep int64 // strides of k and v in elements
	Scale, SoftCap             float32
	Causal                     bool // query t sees keys 0..t
	Window                     int64
	// Packed has documents of any lengths lie one after another. Stats are then (token, head) instead of (batch, head, token).
	Packed bool
	// Deterministic gives equal bits in every run, for workspace that grows with Tq·Tk.
	Deterministic bool
	Backward      bool
}

// Role is an operand of a plan.
type Role int

// The operands. Those of Accum to DVFull are scratch of the backward pass.
const (
	Q Role = 1 + iota
	K
	V
	O
	Stats // natural logarithm of the sum of exponentials, f32
	DO
	DQ
	DK
	DV
	SoftmaxSum  // f32, like Stats
	Accum       // f32, as many elements as q; not when Deterministic
	DKFull      // packed with Hq > Hkv only: as many elements as q
	DVFull      // likewise
	LenQ        // packed: i32 (B), documents' lengths
	LenK        // the same for keys
	OffsetQ     // packed: i64 (B + 1), where a document begins in q, in elements
	OffsetK     // in k
	OffsetStats // in Stats
	Roles       // how many there are, and one
)

var roleNames = [Roles]string{Q: "q", K: "k", V: "v", O: "o", Stats: "lse", DO: "do", DQ: "dq", DK: "dk", DV: "dv", SoftmaxSum: "softmax_sum",
	Accum: "dq_accum", DKFull: "dk_full", DVFull: "dv_full", LenQ: "len_q", LenK: "len_k", OffsetQ: "offset_q", OffsetK: "offset_k", OffsetStats: "offset_stats"}

// String names an operand.
func (r Role) String() string {
	if r > 0 && r < Roles {
		return roleNames[r]
	}
	return fmt.Sprintf("operand %d", int(r))
}

// Key names the graph in a cache of plans.
func (a Attention) Key() string { return fmt.Sprintf("attention %+v", a) }

// sketch is a graph of an attention being made.
type sketch struct {
	graph
	Attention
	q, k, v, o, stats   *node
	offQ, offK, offStat *node
	scale               *node
	scores, rows        dims
}

func (a Attention) sketch(l *Library) *sketch {
	s := &sketch{graph: graph{builder: builder{lib: l}}, Attention: a}
	s.scores, s.rows = dims{a.B, a.Hq, a.Tq, a.Tk}, dims{a.B, a.Hq, a.Tq, 1}
	if a.Packed {
		s.lens = [2]*node{s.counts(LenQ, I32, a.B), s.counts(LenK, I32, a.B)}
		s.offQ, s.offK, s.offStat = s.counts(OffsetQ, I64, a.B+1), s.counts(OffsetK, I64, a.B+1), s.counts(OffsetStats, I64, a.B+1)
	}
	return s
}

func (s *sketch) counts(r Role, t DType, n int64) *node {
	return s.operand(r, t, dims{n, 1, 1, 1}, dims{1, 1, 1, 1}, nil)
}

// queries is an operand that lies as q does.
func (s *sketch) queries(r Role, t DType) *node {
	return s.operand(r, t, dims{s.B, s.Hq, s.Tq, s.D}, s.queryStrides(), s.offQ)
}

func (s *sketch) queryStrides() dims { return dims{s.Tq * s.Hq * s.D, s.D, s.Hq * s.D, 1} }

// keys is an operand that lies as k does, and turned one with its last two axes exchanged.
func (s *sketch) keys(r Role, turned bool) *node {
	d, strides := dims{s.B, s.Hkv, s.Tk, s.D}, dims{s.KeyBatch, s.KeyHead, s.KeyStep, 1}
	if turned {
		d, strides = d.swapped(), strides.swapped()
	}
	return s.operand(r, s.DType, d, strides, s.offK)
}

// numbers is an operand with a number for each query and head.
func (s *sketch) numbers(r Role) *node {
	strides := dims{s.Hq * s.Tq, s.Tq, 1, 1}
	if s.Packed {
		strides = dims{s.Hq * s.Tq, 1, s.Hq, 1}
	}
	return s.operand(r, F32, s.rows, strides, s.offStat)
}

func (s *sketch) perRow() *node { return s.virtual(F32, s.rows, s.rows.packed()) }

// scored are the scaled, capped products of queries and keys, and what went into tanh where there is a cap.
func (s *sketch) scored() (score, inner *node) {
	x := s.matmul(product{m: 'q', n: 'k', pad: !s.Backward}, s.q, s.k, s.virtual(F32, s.scores, s.scores.packed()))
	s.scale = s.scalar(s.Scale)
	x = s.binary(modeMul, x, s.scale)
	if s.SoftCap > 0 {
		inner = s.binary(modeDiv, x, s.scalar(s.SoftCap))
		x = s.binary(modeMul, s.unary(modeTanh, inner), s.scalar(s.SoftCap))
	}
	if s.Packed {
		row, col := s.index(x, 2, I32), s.index(x, 3, I32)
		both := s.compare(modeAnd, s.compare(modeLess, row, s.lens[0]), s.compare(modeLess, col, s.lens[1]))
		x = s.where(both, x)
	}
	return x, inner
}

// causal hides what lies after a query, and before its window.
func (s *sketch) causal(x *node) *node {
	if !s.Causal {
		return x
	}
	row, col := s.index(x, 2, F32), s.index(x, 3, F32)
	x = s.where(s.compare(modeAtLeast, row, col), x)
	if s.Window > 0 {
		row, col := s.index(x, 2, F32), s.index(x, 3, F32)
		end := s.pointwise(step{mode: modeAdd, axis: 3}, s.like(x, F32), col, s.scalar(float32(s.Window)), nil)
		x = s.where(s.compare(modeGreater, end, row), x)
	}
	return x
}

// forward makes o and stats of q, k and v.
func (a Attention) forward(l *Library) *sketch {
	s := a.sketch(l)
	s.q, s.k, s.v = s.queries(Q, s.DType), s.keys(K, true), s.keys(V, false)
	s.o, s.stats = s.queries(O, s.DType), s.numbers(Stats)
	x, _ := s.scored()
	x = s.causal(x)
	top := s.reduce(reduceMax, x, s.perRow())
	e := s.unary(modeExp, s.binary(modeSub, x, top))
	sum := s.reduce(reduceAdd, e, s.perRow())
	s.pointwise(step{mode: modeAdd}, s.stats, top, s.unary(modeLog, sum), nil)
	p := s.pointwise(step{mode: modeDiv}, s.like(e, s.DType), e, sum, nil)
	s.matmul(product{m: 'q', k: 'k'}, p, s.v, s.o)
	return s
}

// backward makes dq, dk and dv of q, k, v, o, do and stats.
func (a Attention) backward(l *Library) *sketch {
	s := a.sketch(l)
	s.q, s.k, s.v = s.queries(Q, s.DType), s.keys(K, true), s.keys(V, true)
	s.o, s.stats = s.queries(O, s.DType), s.numbers(Stats)
	do := s.queries(DO, s.DType)
	dq, dk, dv := s.queries(DQ, s.DType), s.keys(DK, false), s.keys(DV, false)
	full := dims{s.B, s.Hq, s.Tq, s.D}
	both := s.pointwise(step{mode: modeMul}, s.virtual(F32, full, full.packed()), do, s.o, nil)
	sum := s.pointwise(step{mode: modeMul}, s.numbers(SoftmaxSum), s.reduce(reduceAdd, both, s.perRow()), s.scalar(1), nil)

	x, inner := s.scored()
	p := s.unary(modeExp, s.causal(s.binary(modeSub, x, s.stats)))
	s.keyGradient(p, do, dv, DVFull)

	ds := s.matmul(product{m: 'q', n: 'k'}, do, s.v, s.virtual(F32, s.scores, s.scores.packed()))
	ds = s.binary(modeMul, s.binary(modeSub, ds, sum), p)
	if s.SoftCap > 0 {
		ds = s.binary(modeMul, ds, s.scalar(s.SoftCap))
		ds = s.pointwise(step{mode: modeTanhBack}, s.like(ds, F32), inner, ds, nil)
		ds = s.binary(modeDiv, ds, s.scalar(s.SoftCap))
	}
	ds = s.binary(modeMul, ds, s.scale)
	s.keyGradient(ds, s.q, dk, DKFull)

	keys := s.reshape(s.k, s.tensor(s.DType, s.k.dims.swapped(), s.k.strides.swapped(), tensorOptions{id: s.id(), virtual: true, ragged: s.offK}))
	if s.Deterministic {
		s.matmul(product{m: 'q', k: 'k'}, ds, keys, dq)
		return s
	}
	strides := full.packed()
	if s.Packed {
		strides = s.queryStrides()
	}
	accum := s.matmul(product{m: 'q', k: 'k'}, ds, keys, s.operand(Accum, F32, full, strides, s.offQ))
	s.pointwise(step{mode: modeIdentity}, dq, accum, nil, nil)
	return s
}

func (s *sketch) id() int64 {
	s.next++
	return virtualIDs + s.next
}

// keyGradient adds weightsᵀ·x over queries, and over the heads that share a key head, into y.
func (s *sketch) keyGradient(weights, x, y *node, role Role) {
	turned := s.reshape(weights, s.virtual(s.DType, s.scores.swapped(), s.scores.packed().swapped()))
	p := product{m: 'k', k: 'q'}
	if s.Hq == s.Hkv {
		s.matmul(p, turned, x, y)
		return
	}
	d := dims{s.B, s.Hq, s.Tk, s.D}
	if !s.Packed {
		s.reduce(reduceAdd, s.matmul(p, turned, x, s.virtual(s.DType, d, d.packed())), y)
		return
	}
	// In memory, sized by tokens; the library multiplies the offsets of y by the heads that share a key head.
	rep := s.Hq / s.Hkv
	strides := dims{y.strides[0] * rep, y.strides[1], y.strides[2] * rep, 1}
	s.reduce(reduceAdd, s.matmul(p, turned, x, s.operand(role, s.DType, d, strides, s.offK)), y)
}
