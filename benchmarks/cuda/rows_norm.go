package main

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	const tokens, dim, heads, size, classes = 8192, 4096, 32, 128, 128256
	x, w := floats(tensor.BF16, tokens, dim), filled(scales, tensor.BF16, dim)
	q, qw := floats(tensor.BF16, tokens*heads, size), filled(scales, tensor.BF16, size)
	add(
		memoryRow("RMSNorm forward", ops.RMSNormOp{Eps: 1e-5}, x, w),
		memoryRow("RMSNorm backward", ops.RMSNormGradOp{Eps: 1e-5, NeedX: true}, x, w, x),
		memoryRow("RMSNorm backward with weight", ops.RMSNormGradOp{Eps: 1e-5, NeedX: true, NeedW: true}, x, w, x),
		memoryRow("RMSNorm forward", ops.RMSNormOp{Eps: 1e-5}, q, qw),
		memoryRow("RMSNorm backward", ops.RMSNormGradOp{Eps: 1e-5, NeedX: true}, q, qw, q),
		memoryRow("residual sum and its RMSNorm", ops.AddNormOp{Eps: 1e-5}, x, x, w, operand{}),
		memoryRow("RMSNorm backward, added to the stream's", ops.AddRMSNormGradOp{Eps: 1e-5}, x, x, w, x),
		memoryRow("LayerNorm forward", ops.LayerNormOp{Eps: 1e-5}, x, w, w),
		memoryRow("LayerNorm backward with parameters", ops.LayerNormGradOp{Eps: 1e-5, NeedX: true, NeedW: true, NeedB: true}, x, w, x),
	)
	for _, h := range []int{heads, 8} {
		table := floats(tensor.F32, tokens, size/2)
		add(memoryRow("RoPE", ops.RoPEOp{}, floats(tensor.BF16, tokens, h, size), table, table))
	}
	z, labels, row := floats(tensor.BF16, tokens/4, classes), operand{t: tensor.T(tensor.I32, tokens/4), ramp: 61}, filled(scales, tensor.F32, tokens/4)
	gpt2, odd := floats(tensor.BF16, tokens/4, 768), filled(small, tensor.BF16, 50257, 768) // GPT-2's, an odd number of classes
	narrow := operand{t: tensor.T(tensor.I32, tokens/4), ramp: 24}
	oddProduct := 2 * float64(tokens/4) * 768 * 50257
	hidden, head := floats(tensor.BF16, tokens/4, dim), filled(small, tensor.BF16, classes, dim)
	product := 2 * float64(tokens/4) * dim * classes
	add(
		memoryRow("cross-entropy forward", ops.TokenLossOp{}, z, labels),
		memoryRow("cross-entropy backward", ops.TokenLossGradOp{}, z, labels, row, row, operand{}),
		headRow("head and loss, forward", product, ops.LinearCrossEntropyOp{}, hidden, head, labels),
		headRow("head and loss, forward and gradient of a frozen head", 2*product, ops.LinearLossUnitOp{}, hidden, head, labels),
		headRow("head and loss, gradient of a trained head", 3*product, ops.LinearCrossEntropyGradOp{NeedX: true, NeedW: true}, hidden, head, labels, row, row, operand{}),
		headRow("head and loss, forward", oddProduct, ops.LinearCrossEntropyOp{}, gpt2, odd, narrow),
		headRow("head and loss, gradient of a trained head", 3*oddProduct, ops.LinearCrossEntropyGradOp{NeedX: true, NeedW: true}, gpt2, odd, narrow, row, row, operand{}),
		memoryRow("LayerNorm backward with parameters", ops.LayerNormGradOp{Eps: 1e-5, NeedX: true, NeedW: true, NeedB: true},
			floats(tensor.BF16, 2*tokens, 768), filled(scales, tensor.BF16, 768), floats(tensor.BF16, 2*tokens, 768)),
	)
}

// memoryRow is an op that memory bounds: it reads its operands and writes its results once.
func memoryRow(name string, op graph.Op, in ...operand) Row {
	types := make([]tensor.Type, len(in))
	for i, o := range in {
		types[i] = o.t
	}
	bytes := size(in)
	out, err := op.Infer(types)
	for _, t := range out {
		bytes += float64(t.Bytes())
	}
	return Row{Work: name, Detail: fmt.Sprint(in[0].t), Bytes: bytes, Make: func(r *rig) (*work, error) {
		if err != nil {
			return nil, err
		}
		return r.op(op, in...)
	}}
}

// headRow is the head of a model with its loss: products over a vocabulary.
func headRow(name string, flops float64, op graph.Op, in ...operand) Row {
	return Row{Work: name, Detail: fmt.Sprintf("%v to %d classes", in[0].t, in[1].t.Dim(0)), Flops: flops, Make: func(r *rig) (*work, error) { return r.op(op, in...) }}
}
