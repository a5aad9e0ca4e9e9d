package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// AddMatMulParts is several sums of AddMatMul whose products have the right operand in common: from op(A) (M, K), op(B) (K, N) and one C (M_i, N) for each
// of Parts, whose rows together are M, it gives C_i + Alpha times the rows of op(A)·op(B) that are C_i's. It is what a plan makes of the gradients of
// adapters that read the same input.
type AddMatMulParts struct {
	TransA, TransB bool
	Alpha          float32
	Parts          int8
}

var (
	_ graph.Decomposable = AddMatMulParts{}
	_ graph.Aliaser      = AddMatMulParts{}
	_ graph.Coster       = AddMatMulParts{}
)

// Name implements graph.Op.
func (AddMatMulParts) Name() string { return "add_matmul_parts" }

// NumOut is the number of outputs: a sum for each part.
func (o AddMatMulParts) NumOut() int { return int(o.Parts) }

// Infer implements graph.Op.
func (o AddMatMulParts) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if o.Parts < 1 {
		return nil, fmt.Errorf("has no parts")
	}
	if err := arity(in, 2+int(o.Parts)); err != nil {
		return nil, err
	}
	if in[0].Rank() != 2 {
		return nil, fmt.Errorf("the operands must be matrices, got %v", in[0])
	}
	p, err := o.Product(in)
	if err != nil {
		return nil, err
	}
	rows := 0
	for i, c := range in[2:] {
		if c.DType != p.DType || c.Rank() != 2 || c.Dim(1) != p.Dim(1) {
			return nil, fmt.Errorf("cannot add rows of %v to part %d, %v", p, i, c)
		}
		rows += c.Dim(0)
	}
	if rows != p.Dim(0) {
		return nil, fmt.Errorf("the parts have %d rows, the product %v", rows, p)
	}
	return in[2:], nil
}

// Product returns the type of the product whose rows are added to the parts.
func (o AddMatMulParts) Product(in []tensor.Type) (tensor.Type, error) {
	return o.each().Product([]tensor.Type{in[2], in[0], in[1]})
}

// each is the op of one part.
func (o AddMatMulParts) each() AddMatMul { return AddMatMul{o.TransA, o.TransB, o.Alpha} }

// Decompose implements graph.Decomposable.
func (o AddMatMulParts) Decompose(in []Value) []Value {
	out := make([]Value, len(in)-2)
	at := 0
	for i, c := range in[2:] {
		n := c.Dim(0)
		out[i] = one(o.each(), c, Slice(in[0], b2i(o.TransA), at, at+n), in[1])
		at += n
	}
	return out
}

// Cost implements graph.Coster.
func (o AddMatMulParts) Cost(in, out []tensor.Type) (flops, bytes int64) {
	_, k, _, _ := MatMul{o.TransA, o.TransB}.dims(in[0], in[1])
	for _, t := range out {
		flops += 2 * int64(t.Size()) * int64(k)
	}
	return flops, sumBytes(in) + sumBytes(out)
}

// Alias implements graph.Aliaser: each sum takes the place of what is added to.
func (o AddMatMulParts) Alias() []graph.AliasPair {
	out := make([]graph.AliasPair, o.Parts)
	for i := range out {
		out[i] = graph.AliasPair{Out: i, In: 2 + i}
	}
	return out
}
