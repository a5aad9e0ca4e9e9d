package onnx

import (
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	register("BatchNormalization", Operator{Build: batchNorm})
	register("InstanceNormalization", Operator{Build: func(n *Node) []graph.Value {
		return one(ops.GroupNorm(n.In(0), n.In(0).Dim(1), n.In(1), n.In(2), n.Float("epsilon")))
	}})
	register("LRN", Operator{Build: lrn})
	register("LpNormalization", Operator{Build: func(n *Node) []graph.Value {
		return one(ops.LpNormalize(n.In(0), float64(n.Int("p")), n.Int("axis"), 1e-12))
	}, Kinks: true})
	register("LayerNormalization", Operator{Build: layerNorm})
	register("RMSNormalization", Operator{Build: rmsNorm})
	register("Softmax", Operator{Build: func(n *Node) []graph.Value { return softmax(n, ops.Softmax) }})
	register("LogSoftmax", Operator{Build: func(n *Node) []graph.Value { return softmax(n, ops.LogSoftmax) }})
}

func softmax(n *Node, f func(x graph.Value, axis int) graph.Value) []graph.Value {
	if n.Opset < 13 {
		return n.Fail("softmax over several axes, as before operator set 13")
	}
	return one(f(n.In(0), n.Int("axis")))
}

// batchNorm in training mode also gives the running statistics, of which momentum is kept.
func batchNorm(n *Node) []graph.Value {
	x, w, b, mean, variance, eps := n.In(0), n.In(1), n.In(2), n.In(3), n.In(4), n.Float("epsilon")
	if !n.Bool("training_mode") {
		return one(ops.BatchNormFixed(x, w, b, mean, variance, eps))
	}
	y, m, v := ops.BatchNorm(x, w, b, eps)
	keep := n.Float("momentum")
	mix := func(old, now graph.Value) graph.Value {
		return ops.Add(ops.Scale(old, keep), ops.Scale(ops.Cast(now, old.DType()), 1-keep))
	}
	return []graph.Value{y, mix(mean, m), mix(variance, v)}
}

// lrn has the larger half of an even size after the channel, ops.LocalResponseNorm before it.
func lrn(n *Node) []graph.Value {
	size := n.Int("size")
	if size%2 == 0 {
		return n.Fail("a neighbourhood of an even number of channels")
	}
	return one(ops.LocalResponseNorm(n.In(0), size, n.Float("alpha"), n.Float("beta"), n.Float("bias")))
}

// normRows is x with the axes from the attribute on as one, and the extents that a statistic has.
func normRows(n *Node) (x graph.Value, width int, stat []int) {
	x = n.In(0)
	axis := n.Int("axis")
	if axis < 0 {
		axis += x.Rank()
	}
	stat, width = x.Shape().Dims(), 1
	for i := axis; i < len(stat); i++ {
		width *= stat[i]
		stat[i] = 1
	}
	return ops.Reshape(x, -1, width), width, stat
}

func layerNorm(n *Node) []graph.Value {
	x, width, stat := normRows(n)
	flat := func(i int) graph.Value {
		if !n.Has(i) {
			return graph.Value{}
		}
		return ops.Reshape(n.In(i), width)
	}
	y := ops.LayerNorm(x, flat(1), flat(2), n.Float("epsilon"))
	z := ops.Cast(x, stash(n))
	mean := ops.Mean(z, -1)
	c := ops.Sub(z, ops.Reshape(mean, -1, 1))
	rstd := ops.Rsqrt(ops.AddScalar(ops.Mean(ops.Square(c), -1), n.Float("epsilon")))
	return []graph.Value{ops.Reshape(y, n.In(0).Shape().Dims()...), ops.Reshape(mean, stat...), ops.Reshape(rstd, stat...)}
}

// stash is the type of the statistics.
func stash(n *Node) tensor.DType {
	if n.Has(0) && n.In(0).DType() == tensor.F64 {
		return tensor.F64
	}
	return tensor.F32
}

func rmsNorm(n *Node) []graph.Value {
	x, width, _ := normRows(n)
	w := ops.Reshape(ops.BroadcastTo(n.In(1), scaleDims(n)...), width)
	return one(ops.Reshape(ops.RMSNorm(x, w, n.Float("epsilon")), n.In(0).Shape().Dims()...))
}

// scaleDims are the extents of the normalised axes.
func scaleDims(n *Node) []int {
	axis := n.Int("axis")
	if axis < 0 {
		axis += n.In(0).Rank()
	}
	return n.In(0).Shape().Dims()[axis:]
}
