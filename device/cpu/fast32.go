package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
)

// vectorOps are the rows of the pointwise table that have vector loops. They agree with the table's functions within the units in the
// last place that package vec states; bools are 0 and 1 there.
var vectorOps = map[ops.Func]vec.Op{
	ops.FnAdd: vec.OpAdd, ops.FnSub: vec.OpSub, ops.FnMul: vec.OpMul, ops.FnDiv: vec.OpDiv,
	ops.FnMin: vec.OpMin, ops.FnMax: vec.OpMax,
	ops.FnEq: vec.OpEq, ops.FnNe: vec.OpNe, ops.FnLt: vec.OpLt, ops.FnLe: vec.OpLe,
	ops.FnAnd: vec.OpMin, ops.FnOr: vec.OpMax, ops.FnNot: vec.OpNot, ops.FnWhere: vec.OpWhere,
	ops.FnNeg: vec.OpNeg, ops.FnAbs: vec.OpAbs, ops.FnSign: vec.OpSign, ops.FnReLU: vec.OpReLU,
	ops.FnFloor: vec.OpFloor, ops.FnCeil: vec.OpCeil, ops.FnRound: vec.OpRound, ops.FnTrunc: vec.OpTrunc,
	ops.FnSqrt: vec.OpSqrt, ops.FnRsqrt: vec.OpRsqrt, ops.FnIsFinite: vec.OpFinite,
	ops.FnExp: vec.OpExp, ops.FnExpm1: vec.OpExpm1, ops.FnLog: vec.OpLog, ops.FnLog1p: vec.OpLog1p,
	ops.FnSin: vec.OpSin, ops.FnCos: vec.OpCos, ops.FnTanh: vec.OpTanh, ops.FnErf: vec.OpErf,
	ops.FnSigmoid: vec.OpSigmoid, ops.FnSiLU: vec.OpSiLU, ops.FnGELU: vec.OpGELU, ops.FnGELUTanh: vec.OpGELUTanh,
	ops.FnSoftplus: vec.OpSoftplus,
}

// vectorOp returns the vector loop of a row. Arithmetic without assembly is left to the table's own loops, which are not called an
// element at a time.
func vectorOp(f ops.Func) (vec.Op, bool) {
	op, ok := vectorOps[f]
	if ok && !op.Accelerated() && op < vec.OpExp && ops.Table[f].F32 != nil {
		return 0, false
	}
	return op, ok
}
