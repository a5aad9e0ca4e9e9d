package main

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	const rows, cols = 4096, 14336
	for _, nested := range []bool{false, true} {
		add(dequantizeRow(rows, cols, nested))
	}
	add(quantize4Row(rows, cols), quantize8Row(1e8), dequantize8Row(1e8))
	for _, shape := range [][2]int{{rows, cols}, {14336, 4096}, {4096, 4096}} {
		for _, m := range []int{1, 4, 16, 32, 64} {
			add(quantLinearRow("NF4 GEMV", m, shape[0], shape[1], false))
		}
	}
	// Before products of many rows, which take the clock of a device at its cap of power down for a while.
	for _, rank := range []int{0, 16} {
		add(quantGroupRow("q, k, v", 4096, rank, 4096, 1024, 1024), quantGroupRow("gate, up", 4096, rank, 14336, 14336), quantGroupRow("out", 4096, rank, 4096), quantGroupRow("down", 14336, rank, 4096))
	}
	add(thinRow("q, k, v", 4096, 16, 16, 16), thinRow("gate, up", 4096, 16, 16), thinRow("down", 14336, 16))
	for _, m := range []int{128, 256, 512} {
		add(quantLinearRow("NF4 linear", m, rows, cols, false), quantLinearRow("NF4 linear", m, 14336, 4096, false))
	}
	for _, m := range []int{16, 64, 256, 512} {
		add(quantLinearRow("NF4 linear", m, rows, cols, true))
	}
	for _, m := range []int{128, 512, 2048, 8192} {
		add(quantLinearRow("NF4 linear", m, 4096, 4096, false))
	}
	add(quantLinearRow("NF4 linear", 8192, rows, cols, false), quantLinearRow("NF4 linear", 8192, rows, cols, true))
}

// quantGroupRow is the products of a token that read one input, in one launch; with a rank each adds an adapter's part, stored in float32.
func quantGroupRow(name string, k, rank int, rows ...int) Row {
	o := ops.QuantMatMulGroup{N: int8(len(rows))}
	in := []operand{floats(tensor.BF16, 1, k)}
	for i, n := range rows {
		o.Of[i] = ops.QuantProduct{QuantMatMul: ops.QuantMatMul{Scheme: quant.NF4, Blocksize: 64, N: n, K: k, Nested: true}, Rank: rank, Alpha: 2}
		in = append(in, weight(n, k, true)...)
		if rank > 0 {
			in = append(in, floats(tensor.BF16, 1, rank), floats(tensor.F32, n, rank))
		}
	}
	return Row{Work: "NF4 projections of a token", Detail: fmt.Sprintf("%s, rank %d", name, rank), Bytes: size(in), Make: func(r *rig) (*work, error) { return r.op(o, in...) }}
}

// thinRow is the narrow sides of adapters that read a token, stored in float32.
func thinRow(name string, k int, ranks ...int) Row {
	o := ops.MatMulGroup{N: int8(len(ranks))}
	in := []operand{floats(tensor.BF16, 1, k)}
	for i, r := range ranks {
		o.Alpha[i] = 1
		in = append(in, floats(tensor.F32, r, k))
	}
	return Row{Work: "x·Aᵀ of a token", Detail: fmt.Sprintf("%s, K=%d, ranks %v", name, k, ranks), Bytes: size(in), Make: func(r *rig) (*work, error) { return r.op(o, in...) }}
}

// weight is the parts of a random weight in 4 bits, blocks of 64.
func weight(rows, cols int, nested bool) []operand {
	n := rows * cols
	blocks := quant.Blocks(n, 64)
	codes := filled(normal, tensor.U8, quant.PackedSize(n))
	if !nested {
		return []operand{codes, filled(scales, tensor.F32, blocks)}
	}
	return []operand{codes, filled(normal, tensor.U8, blocks), filled(scales, tensor.F32, quant.Blocks(blocks, quant.StateBlocksize)), filled(scales, tensor.F32)}
}

func size(in []operand) (bytes float64) {
	for _, o := range in {
		bytes += float64(o.t.Bytes())
	}
	return bytes
}

func nestedWord(nested bool) string {
	if nested {
		return "nested"
	}
	return "plain"
}

func dequantizeRow(rows, cols int, nested bool) Row {
	in := weight(rows, cols, nested)
	return Row{Work: "dequantize NF4→bf16", Detail: fmt.Sprintf("%d×%d, %s", rows, cols, nestedWord(nested)), Bytes: size(in) + 2*float64(rows*cols),
		Make: func(r *rig) (*work, error) {
			return r.op(ops.Dequantize{Scheme: quant.NF4, Blocksize: 64, Rows: rows, Cols: cols, To: tensor.BF16, Nested: nested}, in...)
		}}
}

func quantize4Row(rows, cols int) Row {
	n := float64(rows * cols)
	return Row{Work: "quantize NF4", Detail: fmt.Sprintf("%d×%d of bf16", rows, cols), Bytes: 2*n + n/2 + n/16, Make: func(r *rig) (*work, error) {
		return r.op(ops.Quantize4{Scheme: quant.NF4, Blocksize: 64}, floats(tensor.BF16, rows, cols))
	}}
}

func quantize8Row(n int) Row {
	return Row{Work: "8-bit blockwise quantize", Detail: fmt.Sprintf("%.0e bf16, block 256", float64(n)), Bytes: 3*float64(n) + float64(n)/64,
		Make: func(r *rig) (*work, error) { return r.op(ops.Quantize8{Blocksize: 256}, floats(tensor.BF16, n)) }}
}

func dequantize8Row(n int) Row {
	return Row{Work: "8-bit blockwise dequantize", Detail: fmt.Sprintf("%.0e bf16, block 256", float64(n)), Bytes: 3*float64(n) + float64(n)/64,
		Make: func(r *rig) (*work, error) {
			return r.op(ops.Dequantize8{Blocksize: 256, To: tensor.BF16}, filled(normal, tensor.U8, n), filled(scales, tensor.F32, quant.Blocks(n, 256)))
		}}
}

// quantLinearRow is a product by a weight with double quantization; trans is that of the gradient.
func quantLinearRow(name string, m, n, k int, trans bool) Row {
	in := weight(n, k, true)
	inner, detail := k, fmt.Sprintf("M=%d, %d×%d", m, n, k)
	if trans {
		inner, detail = n, detail+", gradient"
	}
	row := Row{Work: name, Detail: detail, Make: func(r *rig) (*work, error) {
		return r.op(ops.QuantMatMul{Scheme: quant.NF4, Blocksize: 64, N: n, K: k, Nested: true, Trans: trans},
			append([]operand{floats(tensor.BF16, m, inner)}, in...)...)
	}}
	if m < 64 {
		row.Bytes = size(in) + 2*float64(m*(n+k))
	} else {
		row.Flops = 2 * float64(m) * float64(n) * float64(k)
	}
	return row
}
