package onnx

import (
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	register("SoftmaxCrossEntropyLoss", Operator{Build: func(n *Node) []graph.Value {
		o, labels, ok := classLoss(n)
		if !ok {
			return nil
		}
		x := n.In(0)
		loss := ops.Cast(ops.ClassLoss(x, labels, o), x.DType())
		return []graph.Value{loss, ops.LogSoftmax(x, 1)}
	}})
	register("NegativeLogLikelihoodLoss", Operator{Build: func(n *Node) []graph.Value {
		o, labels, ok := classLoss(n)
		if !ok {
			return nil
		}
		return one(ops.Cast(ops.NLLLoss(n.In(0), labels, o), n.In(0).DType()))
	}})
	register("Dropout", Operator{Build: dropout})
	register("Gelu", Operator{Build: func(n *Node) []graph.Value {
		if n.String("approximate") == "tanh" {
			return one(ops.GELUTanh(n.In(0)))
		}
		return one(ops.GELU(n.In(0)))
	}})
	register("SwiGLU", Operator{Build: func(n *Node) []graph.Value {
		x := n.In(0)
		return one(ops.Mul(ops.Mul(x, ops.Sigmoid(ops.Scale(x, n.Float("alpha")))), n.In(1)))
	}})
}

func classLoss(n *Node) (o ops.ClassLossOptions, labels graph.Value, ok bool) {
	o.Weight = n.In(2)
	switch r := n.String("reduction"); r {
	case "mean":
		o.Reduction = ops.LossMean
	case "sum":
		o.Reduction = ops.LossSum
	case "none":
		o.Reduction = ops.LossNone
	default:
		n.Fail("reduction %s", r)
		return o, labels, false
	}
	if n.HasAttr("ignore_index") {
		o.Ignore = []int{n.Int("ignore_index")}
	}
	return o, ops.Cast(n.In(1), tensor.I32), true
}

// dropout covers what is not random: inference, and training that drops nothing.
func dropout(n *Node) []graph.Value {
	training := n.HostFloat(2, 0) != 0
	if training && n.HostFloat(1, 0.5) != 0 {
		return n.Fail("a random mask")
	}
	x := n.In(0)
	mask := ops.BroadcastTo(ops.Fill(n.Graph(), tensor.Bool, 1), x.Shape().Dims()...)
	return []graph.Value{x, mask}
}
