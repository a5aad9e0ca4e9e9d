package onnx

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

const rounding = "rounding is piecewise constant"

func init() {
	register("Cast", Operator{Build: func(n *Node) []graph.Value { return one(castTo(n, n.In(0), TypeName(n.Int("to")))) }})
	register("CastLike", Operator{Build: func(n *Node) []graph.Value { return one(castTo(n, n.In(0), n.InType(1))) }})
	register("BitCast", Operator{NoGrad: "bits have no slope", Build: func(n *Node) []graph.Value {
		return one(ops.BitCast(n.In(0), n.DType(TypeName(n.Int("to")))))
	}})
	register("QuantizeLinear", Operator{Build: quantizeLinear, NoGrad: rounding})
	register("DequantizeLinear", Operator{Build: dequantizeLinear})
	register("DynamicQuantizeLinear", Operator{Build: dynamicQuantize, NoGrad: rounding})
	register("QLinearMatMul", Operator{Build: qLinearMatMul, NoGrad: rounding})
}

var miniFloats = map[string]ops.MiniFloat{"FLOAT8E4M3FN": ops.E4M3, "FLOAT8E5M2": ops.E5M2, "FLOAT4E2M1": ops.E2M1}

// castTo converts to an ONNX type. Four- and two-bit integers keep the low bits; small floats round to nearest.
func castTo(n *Node, x graph.Value, typ string) graph.Value {
	e, ok := elemNamed(typ)
	if !ok {
		n.Fail("element type %q is not known", typ)
		return x
	}
	if f, ok := miniFloats[typ]; ok {
		return ops.RoundFloat(ops.Cast(x, n.DType(typ)), f, n.Bool("saturate"))
	}
	if e.bits >= 8 {
		return ops.Cast(x, n.DType(typ))
	}
	v := ops.Cast(x, tensor.I32)
	top := ops.Scalar(v, math.Ldexp(1, e.bits))
	v = ops.Mod(v, top)
	if e.dtype.IsSigned() {
		v = ops.Where(ops.GreaterEqual(v, ops.Scalar(v, math.Ldexp(1, e.bits-1))), ops.Sub(v, top), v)
	}
	return ops.Cast(v, e.dtype)
}

// spread repeats a scale or zero point along the axes of x: one for all, one an entry of an axis, or one a block of an axis.
func spread(n *Node, p, x graph.Value) graph.Value {
	axis, block := n.Int("axis"), n.Int("block_size")
	switch {
	case p.Absent() || p.Type().Size() == 1:
		return ops.Reshape(p)
	case block > 0:
		axis = (axis + x.Rank()) % x.Rank()
		idx := make([]int32, x.Dim(axis))
		for i := range idx {
			idx[i] = int32(i / block)
		}
		return ops.Gather(p, axis, constant(n.Graph(), idx))
	}
	dims := make([]int, x.Rank())
	for i := range dims {
		dims[i] = 1
	}
	dims[(axis+len(dims))%len(dims)] = p.Type().Size()
	return ops.Reshape(p, dims...)
}

func quantizeLinear(n *Node) []graph.Value {
	x := n.In(0)
	typ := n.InType(2)
	if typ == "" {
		typ = "UINT8"
		if to := n.Int("output_dtype"); to != 0 {
			typ = TypeName(to)
		}
	}
	y := ops.Div(x, spread(n, n.In(1), x))
	if f, ok := miniFloats[typ]; ok {
		return one(ops.Cast(ops.RoundFloat(y, f, n.Bool("saturate")), n.DType(typ)))
	}
	return one(toInteger(n, y, spread(n, n.In(2), x), typ))
}

// toInteger rounds half to even, adds the zero point and saturates to the true range of a type.
func toInteger(n *Node, y, zero graph.Value, typ string) graph.Value {
	e, _ := elemNamed(typ)
	y = ops.Round(ops.Cast(y, tensor.F64))
	if !zero.Absent() {
		y = ops.Add(y, ops.Cast(zero, y.DType()))
	}
	lo, hi := 0.0, math.Ldexp(1, e.bits)-1
	if e.dtype.IsSigned() {
		lo, hi = -math.Ldexp(1, e.bits-1), math.Ldexp(1, e.bits-1)-1
	}
	return ops.Cast(ops.Clip(y, lo, hi), n.DType(typ))
}

func dequantizeLinear(n *Node) []graph.Value {
	q, scale := n.In(0), n.In(1)
	y := ops.Cast(q, scale.DType())
	if zero := spread(n, n.In(2), q); !zero.Absent() {
		y = ops.Sub(y, ops.Cast(zero, scale.DType()))
	}
	y = ops.Mul(y, spread(n, scale, q))
	if to := n.Int("output_dtype"); to != 0 {
		y = ops.Cast(y, n.DType(TypeName(to)))
	}
	return one(y)
}

// dynamicQuantize takes the range of the data, with 0 in it, to 8 bits.
func dynamicQuantize(n *Node) []graph.Value {
	x := n.In(0)
	zero := ops.Scalar(x, 0)
	lo, hi := ops.Min(ops.MinOf(x), zero), ops.Max(ops.MaxOf(x), zero)
	scale := ops.Scale(ops.Sub(hi, lo), 1.0/255)
	point := toInteger(n, ops.Neg(ops.Div(lo, scale)), graph.Value{}, "UINT8")
	return []graph.Value{toInteger(n, ops.Div(x, scale), point, "UINT8"), scale, point}
}

// qLinearMatMul multiplies integers less their zero points exactly, then scales and rounds.
func qLinearMatMul(n *Node) []graph.Value {
	whole := func(i int) graph.Value {
		v := ops.Cast(n.In(i), tensor.F64)
		return ops.Sub(v, ops.Cast(n.In(i+2), v.DType()))
	}
	scale := func(i int) graph.Value { return ops.Cast(n.In(i), tensor.F64) }
	y := ops.Mul(matMul(whole(0), whole(3)), ops.Div(ops.Mul(scale(1), scale(4)), scale(6)))
	return one(toInteger(n, y, n.In(7), n.OutType(0)))
}
