package onnx

import (
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	for name, f := range map[string]Handler{
		"Gather": func(n *Node) []graph.Value { return one(ops.Gather(n.In(0), n.Int("axis"), wrapped(n, n.Int("axis")))) },
		"GatherElements": func(n *Node) []graph.Value {
			return one(ops.GatherElements(n.In(0), n.Int("axis"), wrapped(n, n.Int("axis"))))
		},
		"GatherND":      gatherND,
		"TensorScatter": tensorScatter,
	} {
		register(name, Operator{Build: f})
	}
	register("GatherND", Operator{Build: gatherND, Promote: []int{0}})
	register("ScatterElements", Operator{Build: scatterElements, Kinks: true})
	register("ScatterND", Operator{Build: scatterND, Kinks: true})
	register("OneHot", Operator{Build: oneHotValues})
	registerIn("ai.onnx.preview.training", "Momentum", Operator{Build: momentum})
}

// wrapped is input 1 with negative positions counted from the end of an axis of input 0.
func wrapped(n *Node, axis int) graph.Value { return wrap(n.In(1), n.In(0).Dim(axis)) }

func wrap(idx graph.Value, size int) graph.Value {
	return ops.Where(ops.Less(idx, ops.Scalar(idx, 0)), ops.AddScalar(idx, float64(size)), idx)
}

// wrapTuples counts each component of index tuples from the end of its own axis.
func wrapTuples(n *Node, batch int) graph.Value {
	x, idx := n.In(0), n.In(1)
	sizes := make([]int64, idx.Dim(-1))
	for i := range sizes {
		sizes[i] = int64(x.Dim(batch + i))
	}
	return ops.Where(ops.Less(idx, ops.Scalar(idx, 0)), ops.Add(idx, constant(n.Graph(), sizes)), idx)
}

func gatherND(n *Node) []graph.Value {
	batch := n.Int("batch_dims")
	return one(ops.GatherND(n.In(0), wrapTuples(n, batch), batch))
}

var scatterKinds = map[string]ops.ScatterKind{
	"none": ops.ScatterSet, "add": ops.ScatterSum, "mul": ops.ScatterProd, "max": ops.ScatterMax, "min": ops.ScatterMin,
}

func scatterElements(n *Node) []graph.Value {
	axis := n.Int("axis")
	return one(ops.ScatterElements(n.In(0), axis, wrapped(n, axis), n.In(2), scatterKinds[n.String("reduction")]))
}

func scatterND(n *Node) []graph.Value {
	return one(ops.ScatterND(n.In(0), wrapTuples(n, 0), n.In(2), scatterKinds[n.String("reduction")]))
}

// tensorScatter writes a block of steps into a cache, for each row of the batch from a position of its own; in circular mode it
// goes on at the start.
func tensorScatter(n *Node) []graph.Value {
	cache, u, axis := n.In(0), n.In(1), n.Int("axis")
	axis = (axis + cache.Rank()) % cache.Rank()
	step := make([]int, u.Rank())
	row := make([]int, u.Rank())
	for i := range step {
		step[i], row[i] = 1, 1
	}
	step[axis], row[0] = u.Dim(axis), u.Dim(0)
	at := ops.Iota(n.Graph(), tensor.T(tensor.I64, step...), axis)
	if n.Has(2) {
		at = ops.Add(at, ops.Reshape(n.In(2), row...))
	}
	if n.String("mode") == "circular" {
		at = ops.Mod(at, ops.Scalar(at, float64(cache.Dim(axis))))
	}
	return one(ops.ScatterElements(cache, axis, ops.BroadcastTo(at, u.Shape().Dims()...), u, ops.ScatterSet))
}

// oneHotValues has the off and on values as an input.
func oneHotValues(n *Node) []graph.Value {
	depth := int(n.HostFloat(1, 0))
	hot := oneHot(wrap(ops.Cast(n.In(0), tensor.I64), depth), depth, n.Int("axis"), tensor.Bool)
	off, on := ops.Reshape(ops.Slice(n.In(2), 0, 0, 1)), ops.Reshape(ops.Slice(n.In(2), 0, 1, 2))
	return one(ops.Where(hot, on, off))
}

// momentum is one step of SGD on several tensors: all new X, then all new V.
func momentum(n *Node) []graph.Value {
	rate, count := n.In(0), (n.NumIn()-2)/3
	alpha, beta := n.Float("alpha"), n.Float("beta")
	if n.HostFloat(1, 0) == 0 {
		beta = 1 // the first step takes the whole gradient
	}
	out := make([]graph.Value, 2*count)
	for i := range count {
		x, g, v := n.In(2+i), n.In(2+count+i), n.In(2+2*count+i)
		g = ops.Add(ops.Scale(x, n.Float("norm_coefficient")), g)
		v = ops.Add(ops.Scale(v, alpha), ops.Scale(g, beta))
		step := v
		if n.String("mode") == "nesterov" {
			step = ops.Add(g, ops.Scale(v, alpha))
		}
		out[i], out[count+i] = ops.Sub(x, ops.Mul(rate, step)), v
	}
	return out
}
