package main

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	wide, hidden := tensor.T(tensor.BF16, 8192, 14336), tensor.T(tensor.BF16, 8192, 4096)
	add(
		chainRow("SwiGLU forward", swiglu, wide, wide),
		chainRow("SwiGLU backward", swigluGrad, wide, wide, wide),
		chainRow("residual add", func(in []graph.Value) []graph.Value { return []graph.Value{ops.Add(in[0], in[1])} }, hidden, hidden),
		chainRow("add bias", func(in []graph.Value) []graph.Value { return []graph.Value{ops.Add(in[0], in[1])} }, wide, tensor.T(tensor.BF16, 14336)),
		castRow(tensor.F32, tensor.BF16, 1e8), castRow(tensor.BF16, tensor.F32, 1e8),
		softmaxRow(8192, 4096),
		reduceRow("sum of rows", 8192, 14336, 1), reduceRow("sum of columns", 8192, 14336, 0), reduceRow("sum of columns", 16384, 768, 0), reduceRow("sum of all", 8192, 14336, -1),
		dropoutRow(8192, 4096),
	)
}

// swiglu is silu(gate)·up.
func swiglu(in []graph.Value) []graph.Value { return []graph.Value{ops.Mul(ops.SiLU(in[0]), in[1])} }

// swigluGrad is the gradients of gate and up from gate, up and the cotangent.
func swigluGrad(in []graph.Value) []graph.Value {
	x, up, gy := in[0], in[1], in[2]
	s := ops.Sigmoid(x)
	slope := ops.Mul(s, ops.AddScalar(ops.Mul(x, ops.Sub(ops.Scalar(x, 1), s)), 1))
	return []graph.Value{ops.Mul(ops.Mul(gy, up), slope), ops.Mul(gy, ops.SiLU(x))}
}

// chainRow is elementwise work as the planner fuses it: one kernel.
func chainRow(name string, f func([]graph.Value) []graph.Value, in ...tensor.Type) Row {
	g := graph.New(name)
	vals := make([]graph.Value, len(in))
	bytes := 0.0
	for i, t := range in {
		vals[i] = g.Input(fmt.Sprint("x", i), t)
		bytes += float64(t.Bytes())
	}
	outs := f(vals)
	for _, v := range outs {
		bytes += float64(v.Type().Bytes())
	}
	return Row{Work: name, Detail: fmt.Sprint(in[0]), Bytes: bytes, Make: func(r *rig) (*work, error) {
		op, ins := program(outs)
		return r.op(op, ins...)
	}}
}

// program is the chain that computes values, each from what it reads, and its inputs.
func program(outs []graph.Value) (graph.Fused, []operand) {
	prog := &graph.Program{}
	var ins []operand
	at := map[graph.Value]int{}
	var visit func(v graph.Value) int
	visit = func(v graph.Value) int {
		if i, ok := at[v]; ok {
			return i
		}
		op, ok := v.Node().Op.(graph.Elementwise)
		if !ok {
			ins = append(ins, operand{t: v.Type()})
			at[v] = -len(ins)
			return at[v]
		}
		args := make([]int, len(v.Node().In))
		for j, x := range v.Node().In {
			args[j] = visit(x)
		}
		prog.Instrs = append(prog.Instrs, graph.Instr{Op: op, Args: args, Type: v.Type()})
		at[v] = len(prog.Instrs) - 1
		return at[v]
	}
	for _, v := range outs {
		prog.Outs = append(prog.Outs, visit(v))
	}
	return graph.Fused{Prog: prog}, ins
}

func castRow(from, to tensor.DType, n int) Row {
	return Row{Work: "cast", Detail: fmt.Sprintf("%.0e %v to %v", float64(n), from, to), Bytes: float64(n * (from.Size() + to.Size())),
		Make: func(r *rig) (*work, error) { return r.op(ops.Pointwise{F: ops.FnCast, To: to}, floats(from, n)) }}
}

func softmaxRow(rows, n int) Row {
	return Row{Work: "softmax", Detail: fmt.Sprintf("%d×%d bf16", rows, n), Bytes: 4 * float64(rows*n),
		Make: func(r *rig) (*work, error) { return r.op(ops.SoftmaxOp{}, floats(tensor.BF16, rows, n)) }}
}

// reduceRow sums along an axis, both for -1.
func reduceRow(name string, rows, n, axis int) Row {
	axes := uint16(3)
	if axis >= 0 {
		axes = 1 << axis
	}
	return Row{Work: name, Detail: fmt.Sprintf("%d×%d bf16", rows, n), Bytes: 2 * float64(rows*n),
		Make: func(r *rig) (*work, error) {
			return r.op(ops.Reduce{Kind: ops.RedSum, Axes: axes}, floats(tensor.BF16, rows, n))
		}}
}

func dropoutRow(rows, n int) Row {
	return Row{Work: "dropout", Detail: fmt.Sprintf("%d×%d bf16", rows, n), Bytes: 4 * float64(rows*n), Make: func(r *rig) (*work, error) {
		ids := floats(tensor.I32, 1, rows)
		return r.op(ops.DropoutOp{Rate: 0.1, Site: 1}, floats(tensor.BF16, 1, rows, n), floats(tensor.U32, 2), ids, ids)
	}}
}
