package optest

import (
	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
)

// gradients differentiates the plain sum of the floating-point outputs.
func gradients(outs, wrt []graph.Value) ([]graph.Value, error) {
	var loss graph.Value
	for _, y := range outs {
		if !y.Valid() || !y.DType().IsFloat() {
			continue
		}
		s := ops.Sum(ops.Mul(y, y)) // not plain: the cotangents shall differ
		if loss.Absent() {
			loss = s
		} else {
			loss = ops.Add(loss, ops.Cast(s, loss.DType()))
		}
	}
	if loss.Absent() || len(wrt) == 0 {
		return nil, nil
	}
	return autograd.GradValues(loss, wrt...)
}
