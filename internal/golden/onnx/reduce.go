package onnx

import (
	"math"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// reduction is a function of axes, and its value on nothing.
type reduction struct {
	f     func(x graph.Value, axes ...int) graph.Value
	empty float64
	kinks bool
}

func init() {
	for name, r := range map[string]reduction{
		"ReduceSum":       {f: ops.Sum},
		"ReduceMean":      {f: ops.Mean, empty: math.NaN()},
		"ReduceProd":      {f: ops.Prod, empty: 1},
		"ReduceMax":       {f: ops.MaxOf, empty: math.Inf(-1), kinks: true},
		"ReduceMin":       {f: ops.MinOf, empty: math.Inf(1), kinks: true},
		"ReduceL1":        {f: ops.L1Norm, kinks: true},
		"ReduceL2":        {f: ops.L2Norm, kinks: true},
		"ReduceSumSquare": {f: ops.SumSquare},
		"ReduceLogSum":    {f: func(x graph.Value, axes ...int) graph.Value { return ops.Log(ops.Sum(x, axes...)) }, empty: math.Inf(-1)},
		"ReduceLogSumExp": {f: ops.LogSumExp, empty: math.Inf(-1)},
	} {
		register(name, Operator{Build: r.build, Kinks: r.kinks})
	}
	register("ArgMax", Operator{Build: argOf(ops.ArgMax), NoGrad: "the result is an index"})
	register("ArgMin", Operator{Build: argOf(ops.ArgMin), NoGrad: "the result is an index"})
	register("Hardmax", Operator{Build: hardmax, NoGrad: stepwise})
	register("CumSum", Operator{Build: cumulative(ops.CumSum)})
	register("CumProd", Operator{Build: cumulative(ops.CumProd)})
	register("TopK", Operator{Build: topK, Kinks: true, Promote: []int{0}})
	register("Einsum", Operator{Build: func(n *Node) []graph.Value { return one(ops.Einsum(n.String("equation"), n.Ins()...)) }})
	register("MatMul", Operator{Build: func(n *Node) []graph.Value { return one(matMul(n.In(0), n.In(1))) }})
	register("Gemm", Operator{Build: gemm})
}

func (r reduction) build(n *Node) []graph.Value {
	x := n.In(0)
	if x.DType() == tensor.Bool {
		r.f = map[string]func(graph.Value, ...int) graph.Value{"ReduceMax": ops.AnyOf, "ReduceMin": ops.AllOf}[n.Op]
	}
	over := axes(n, 1, x.Rank())
	if len(over) == 0 {
		if n.Bool("noop_with_empty_axes") { // each element by itself
			return one(r.f(ops.Reshape(x, append(x.Shape().Dims(), 1)...), -1))
		}
		for i := range x.Rank() {
			over = append(over, i)
		}
	}
	var keep, drop []int
	inputs := 1
	for i, d := range x.Shape().Dims() {
		if slices.Contains(over, i) {
			keep, inputs = append(keep, 1), inputs*d
		} else {
			keep, drop = append(keep, d), append(drop, d)
		}
	}
	if !n.Bool("keepdims") {
		keep = drop
	}
	if inputs == 0 {
		return one(ops.BroadcastTo(ops.Scalar(x, r.empty), keep...))
	}
	return one(ops.Reshape(r.f(x, over...), keep...))
}

// argOf gives the position of the first extreme, or of the last by searching from the end.
func argOf(f func(x graph.Value, axis int) graph.Value) Handler {
	return func(n *Node) []graph.Value {
		x, axis := n.In(0), n.Int("axis")
		var at graph.Value
		if n.Bool("select_last_index") {
			at = f(ops.Flip(x, axis), axis)
			at = ops.Sub(ops.Scalar(at, float64(x.Dim(axis)-1)), at)
		} else {
			at = f(x, axis)
		}
		if n.Bool("keepdims") {
			dims := x.Shape().Dims()
			dims[(axis+len(dims))%len(dims)] = 1
			at = ops.Reshape(at, dims...)
		}
		return one(ops.Cast(at, tensor.I64))
	}
}

// hardmax is one where the first largest element is.
func hardmax(n *Node) []graph.Value {
	x, axis := n.In(0), n.Int("axis")
	return one(oneHot(ops.ArgMax(x, axis), x.Dim(axis), axis, x.DType()))
}

// oneHot puts the new axis where it is wanted.
func oneHot(idx graph.Value, depth, axis int, d tensor.DType) graph.Value {
	hot := ops.OneHot(idx, depth, d)
	rank := hot.Rank()
	var perm []int
	for i := range rank - 1 {
		perm = append(perm, i)
	}
	return ops.Transpose(hot, slices.Insert(perm, (axis+rank)%rank, rank-1)...)
}

func cumulative(f func(x graph.Value, axis int, o ops.Cumulative) graph.Value) Handler {
	return func(n *Node) []graph.Value {
		o := ops.Cumulative{Exclusive: n.Bool("exclusive"), Reverse: n.Bool("reverse")}
		return one(f(n.In(0), int(n.HostFloat(1, 0)), o))
	}
}

func topK(n *Node) []graph.Value {
	v, at := ops.TopK(n.In(0), int(n.HostFloat(1, 0)), n.Int("axis"), n.Bool("largest"))
	return []graph.Value{v, ops.Cast(at, tensor.I64)}
}

// matMul is numpy.matmul: leading axes broadcast, and a vector is a row on the left and a column on the right.
func matMul(a, b graph.Value) graph.Value {
	left, right, out := "...ij", "...jk", "...ik"
	if a.Rank() == 1 {
		left, out = "j", "...k"
	}
	if b.Rank() == 1 {
		right, out = "j", out[:len(out)-1]
	}
	if a.Rank() == 1 && b.Rank() == 1 {
		out = ""
	}
	return ops.Einsum(left+","+right+"->"+out, a, b)
}

func gemm(n *Node) []graph.Value {
	op := ops.MatMul{TransA: n.Bool("transA"), TransB: n.Bool("transB")}
	y := ops.Scale(n.Graph().Apply(op, n.In(0), n.In(1))[0], n.Float("alpha"))
	if n.Has(2) {
		y = ops.Add(y, ops.Scale(n.In(2), n.Float("beta")))
	}
	return one(y)
}
