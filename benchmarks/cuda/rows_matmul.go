package main

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	const tokens, in, out, rank = 8192, 4096, 14336, 16
	add(
		gemmShapeRow("x·Wᵀ", ops.MatMul{TransB: true}, tokens, out, in),
		gemmShapeRow("dy·W", ops.MatMul{}, tokens, in, out),
		gemmShapeRow("dyᵀ·x", ops.MatMul{TransA: true}, out, in, tokens),
		gemmShapeRow("x·Wᵀ, one token", ops.MatMul{TransB: true}, 1, out, in),
	)
	add(loraRows(tokens, in, out, rank)...)
	for _, s := range [][3]int{{tokens / 2, out, rank}, {tokens / 2, in, rank}, {tokens, in / 4, rank}, {tokens / 2, out, 2 * rank}} {
		add(pairRows(s[0], s[1], s[2])...)
	}
	for _, m := range []int{1, 128, tokens} {
		for _, threshold := range []float32{0, 6} {
			add(linear8Row(m, in, out, threshold))
		}
	}
	add(linear8GradRow(tokens, in, out))
	add(linear8PartRows(tokens, in, out)...)
	for _, n := range []int{4096, 1024} { // a small product, and rows of experts
		add(groupedRow(tokens, 2048, n, 64))
	}
}

// gemmShapeRow is a product of bf16 matrices: (m, k) by (k, n) as op stores them.
func gemmShapeRow(name string, op ops.MatMul, m, n, k int) Row {
	a, b := floats(tensor.BF16, m, k), floats(tensor.BF16, k, n)
	if op.TransA {
		a = floats(tensor.BF16, k, m)
	}
	if op.TransB {
		b = floats(tensor.BF16, n, k)
	}
	row := Row{Work: "product bf16", Detail: fmt.Sprintf("%s, %d×%d by %d", name, m, k, n), Make: func(r *rig) (*work, error) { return r.op(op, a, b) }}
	if m < 64 {
		row.Bytes = size([]operand{a, b}) + 2*float64(m*n)
	} else {
		row.Flops = 2 * float64(m) * float64(n) * float64(k)
	}
	return row
}

// loraRows are the products of an adapter of a rank: x·Aᵀ, its product with B added to y, and the gradients.
func loraRows(tokens, in, out, rank int) []Row {
	bf := func(dims ...int) operand { return floats(tensor.BF16, dims...) }
	row := func(name string, op graph.Op, inPlace bool, operands ...operand) Row {
		types := make([]tensor.Type, len(operands))
		for i, o := range operands {
			types[i] = o.t
		}
		bytes := size(operands)
		if y, err := op.Infer(types); err == nil {
			bytes += float64(y[0].Bytes())
		}
		return Row{Work: "LoRA product", Detail: fmt.Sprintf("%s, rank %d, %d tokens, %d→%d", name, rank, tokens, in, out), Bytes: bytes,
			Make: func(r *rig) (*work, error) { return r.build(op, inPlace, operands) }}
	}
	return []Row{
		row("s = x·Aᵀ", ops.MatMul{TransB: true}, false, bf(tokens, in), bf(rank, in)),
		row("y += s·Bᵀ", ops.AddMatMul{TransB: true, Alpha: 2}, true, bf(tokens, out), bf(tokens, rank), bf(out, rank)),
		row("t = dy·B", ops.MatMul{}, false, bf(tokens, out), bf(out, rank)),
		row("dx += t·A", ops.AddMatMul{Alpha: 2}, true, bf(tokens, in), bf(tokens, rank), bf(rank, in)),
		row("dB = dyᵀ·s", ops.MatMul{TransA: true}, false, bf(tokens, out), bf(tokens, rank)),
		row("dA = tᵀ·x", ops.MatMul{TransA: true}, false, bf(tokens, rank), bf(tokens, in)),
	}
}

// pairRows are the two products of an adapter's gradients that read the gradient of its layer's output, as a step has them, and both at once.
func pairRows(tokens, out, rank int) []Row {
	bf := func(dims ...int) operand { return floats(tensor.BF16, dims...) }
	dy, b, s, grad := bf(tokens, out), bf(out, rank), bf(tokens, rank), floats(tensor.F32, out, rank)
	row := func(name string, op graph.Op, operands ...operand) Row {
		least := size([]operand{dy, b, s, s}) + 2*size([]operand{grad})
		return Row{Work: "LoRA gradients", Detail: fmt.Sprintf("%s, rank %d, %d tokens, %d columns", name, rank, tokens, out), Bytes: least,
			Make: func(r *rig) (*work, error) { return r.build(op, true, operands) }}
	}
	return []Row{
		row("t = dy·B", ops.MatMul{}, dy, b),
		row("dB += dyᵀ·s", ops.AddMatMul{TransA: true, Alpha: 2}, grad, dy, s),
		row("t and dB at once", ops.MatMulPair{AlphaT: 1, AlphaD: 2, Add: true}, dy, b, s, grad),
	}
}

// linear8Row is the forward pass of Linear8bitLt on bf16 rows; eight columns in 4096 hold outliers beyond 6.
func linear8Row(m, in, out int, threshold float32) Row {
	x, codes, stats := filled(planted, tensor.BF16, m, in), filled(normal, tensor.I8, out, in), filled(scales, tensor.F32, out)
	row := Row{Work: "Linear8bitLt", Detail: fmt.Sprintf("%d×%d→%d, threshold %v", m, in, out, threshold), Make: func(r *rig) (*work, error) {
		return r.op(ops.Int8Linear{Threshold: threshold}, x, codes, stats, operand{})
	}}
	if m < 64 {
		row.Bytes = size([]operand{x, codes, stats}) + 2*float64(m*out)
	} else {
		row.Flops = 2 * float64(m) * float64(in) * float64(out)
	}
	return row
}

// linear8PartRows are the steps of Linear8bitLt as ops of their own.
func linear8PartRows(m, in, out int) []Row {
	n, product := float64(m)*float64(in), float64(m)*float64(out)
	return []Row{
		{Work: "Linear8bitLt, quantized rows", Detail: fmt.Sprintf("%d×%d bf16", m, in), Bytes: 3 * n, Make: func(r *rig) (*work, error) {
			return r.op(ops.QuantizeRows8{}, floats(tensor.BF16, m, in))
		}},
		{Work: "Linear8bitLt, int8 product", Detail: fmt.Sprintf("%d×%d→%d in one", m, in, out), Flops: 2 * n * float64(out), Make: func(r *rig) (*work, error) {
			return r.op(ops.Int8MatMul{TransB: true}, filled(normal, tensor.I8, m, in), filled(normal, tensor.I8, out, in))
		}},
		{Work: "Linear8bitLt, values of sums", Detail: fmt.Sprintf("%d×%d to bf16", m, out), Bytes: 6 * product, Make: func(r *rig) (*work, error) {
			return r.op(ops.DequantizeProduct8{To: tensor.BF16}, filled(normal, tensor.I32, m, out), filled(scales, tensor.F32, m), filled(scales, tensor.F32, out), operand{})
		}},
	}
}

// linear8GradRow is the input gradient of Linear8bitLt.
func linear8GradRow(m, in, out int) Row {
	return Row{Work: "Linear8bitLt gradient", Detail: fmt.Sprintf("%d×%d→%d", m, out, in), Flops: 2 * float64(m) * float64(in) * float64(out),
		Make: func(r *rig) (*work, error) {
			return r.op(ops.Int8WeightMatMul{Trans: true}, floats(tensor.BF16, m, out), filled(normal, tensor.I8, out, in), filled(scales, tensor.F32, out))
		}}
}

// groupedRow multiplies rows of experts, as many of each: the products of a mixture of experts.
func groupedRow(rows, k, n, experts int) Row {
	return Row{Work: "grouped product bf16", Detail: fmt.Sprintf("%d rows, %d experts, %d→%d", rows, experts, k, n), Flops: 2 * float64(rows) * float64(k) * float64(n),
		Make: func(r *rig) (*work, error) {
			offsets := operand{t: tensor.T(tensor.I32, experts+1), ramp: rows / experts}
			return r.op(ops.GroupedMatMul{}, floats(tensor.BF16, rows, k), floats(tensor.BF16, experts, n, k), offsets)
		}}
}
