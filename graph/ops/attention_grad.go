package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// AttentionGrad is the gradient of Attention with the same attributes. Inputs: q, k, v, the outputs o and lse, the cotangent
// do of o, then doc_start, q_offset, kv_len, dlse, the cotangent of lse, and the outputs of Documents, each of these six optional.
// Outputs: dq, dk, dv with the types of q, k, v.
//
// With P = exp(S - lse): dV = Pᵀ·dO, dS = P∘(dO·Vᵀ - rowsum(dO∘O) + dlse), dQ = scale·dS·K, dK = scale·dSᵀ·Q. It has no VJP of
// its own: second derivatives go through the decomposition, where o and lse are inputs like any other.
type AttentionGrad Attention

// Positions of the inputs of AttentionGrad after q, k, v.
const (
	attnGradO = attnV + 1 + iota
	attnGradLSE
	attnGradDO
	attnGradDocStart
	attnGradQOffset
	attnGradKVLen
	attnGradDLSE
	attnGradLengths
	attnGradOffsets
	attnGradInputs
)

var (
	_ graph.Decomposable = AttentionGrad{}
	_ graph.Coster       = AttentionGrad{}
)

// Name implements graph.Op.
func (AttentionGrad) Name() string { return "attention_grad" }

// NumOut is the number of outputs: dq, dk and dv.
func (AttentionGrad) NumOut() int { return 3 }

// Dims is Attention.Dims.
func (o AttentionGrad) Dims(q, k, v tensor.Type) (AttentionDims, error) {
	return Attention(o).Dims(q, k, v)
}

// Infer implements graph.Op.
func (o AttentionGrad) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if len(in) != attnGradInputs {
		return nil, fmt.Errorf("takes %d inputs (optional ones may be absent), got %d", attnGradInputs, len(in))
	}
	d, err := o.Dims(in[attnQ], in[attnK], in[attnV])
	if err != nil {
		return nil, err
	}
	if err := d.extras(in[attnGradDocStart:]); err != nil {
		return nil, err
	}
	if err := Attention(o).listed(in[attnGradDocStart], in[attnGradLengths], in[attnGradOffsets]); err != nil {
		return nil, err
	}
	q, lse := in[attnQ], d.lse(in[attnQ].DType)
	if in[attnGradO] != q || in[attnGradDO] != q {
		return nil, fmt.Errorf("o and do must be %v like q, got %v and %v", q, in[attnGradO], in[attnGradDO])
	}
	if in[attnGradLSE] != lse || (in[attnGradDLSE].DType != tensor.Invalid && in[attnGradDLSE] != lse) {
		return nil, fmt.Errorf("lse and dlse must be %v, got %v and %v", lse, in[attnGradLSE], in[attnGradDLSE])
	}
	return []tensor.Type{q, in[attnK], in[attnV]}, nil
}

// Cost implements graph.Coster: five products.
func (o AttentionGrad) Cost(in, out []tensor.Type) (flops, bytes int64) {
	d, err := o.Dims(in[attnQ], in[attnK], in[attnV])
	if err != nil {
		return 0, 0
	}
	return 10 * Attention(o).pairs(d) * int64(d.D), sumBytes(in) + sumBytes(out)
}

// Decompose implements graph.Decomposable.
func (o AttentionGrad) Decompose(in []Value) []Value {
	p := Attention(o).parts(in[attnQ], in[attnK], in[attnV], in[attnGradDocStart:])
	raw := p.rawScores()
	s := p.capped(raw)
	zero := Scalar(s, 0)
	// Masked twice: a hidden score may overflow the exponential, and infinity times zero would spoil second derivatives.
	prob := p.masked(Exp(p.masked(Sub(s, p.keep(in[attnGradLSE])), zero)), zero)
	do := p.headMajor(in[attnGradDO])
	shift := p.keep(Sum(Mul(do, p.headMajor(in[attnGradO])), -1))
	if dlse := in[attnGradDLSE]; !dlse.Absent() {
		shift = Sub(shift, p.keep(dlse))
	}
	ds := Mul(prob, Sub(p.unfold(one(MatMul{TransB: true}, do, p.v)), shift))
	if o.SoftCap != 0 { // d c·tanh(x/c) = 1 - tanh²
		t := Div(s, Scalar(s, float64(o.SoftCap)))
		ds = Mul(ds, Sub(Scalar(s, 1), Mul(t, t)))
	}
	ds = p.fold(Scale(ds, float64(o.Scale)))
	dq := Dot(ds, p.k)
	dk := one(MatMul{TransA: true}, ds, p.q)
	dv := one(MatMul{TransA: true}, p.fold(prob), do)
	return []Value{p.queryMajor(dq), p.keysBack(dk), p.keysBack(dv)}
}
