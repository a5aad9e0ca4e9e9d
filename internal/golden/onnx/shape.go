package onnx

import (
	"math"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

const shapeOnly = "depends on the shape only"

func init() {
	for name, f := range map[string]Handler{
		"Reshape": reshape, "Flatten": flatten, "Squeeze": squeeze, "Unsqueeze": unsqueeze, "Expand": expand, "Transpose": transpose,
		"Concat": concat, "Split": split, "Slice": slice, "Compress": compress,
	} {
		register(name, Operator{Build: f})
	}
	register("Pad", Operator{Build: pad, Promote: []int{0}})
	register("Trilu", Operator{Build: trilu, Promote: []int{0}})
	register("Shape", Operator{Build: shape, NoGrad: shapeOnly})
	register("Size", Operator{Build: size, NoGrad: shapeOnly})
	register("EyeLike", Operator{Build: eyeLike, NoGrad: shapeOnly})
	register("ConstantOfShape", Operator{Build: constantOfShape, NoGrad: "a constant"})
	register("Range", Operator{Build: rangeOf, NoGrad: "its size depends on its inputs"})
}

func reshape(n *Node) []graph.Value {
	x := n.In(0)
	dims, _ := n.HostInts(1)
	for i, d := range dims {
		if d == 0 && !n.Bool("allowzero") {
			dims[i] = x.Dim(i)
		}
	}
	return one(ops.Reshape(x, dims...))
}

func flatten(n *Node) []graph.Value {
	x, axis := n.In(0), n.Int("axis")
	if axis < 0 {
		axis += x.Rank()
	}
	dims := x.Shape().Dims()
	return one(ops.Reshape(x, tensor.S(dims[:axis]...).Size(), tensor.S(dims[axis:]...).Size()))
}

// axes reads axes from input i, else from the attribute, counted from 0 for the given rank.
func axes(n *Node, i, rank int) []int {
	list, ok := n.HostInts(i)
	if !ok {
		list = n.Ints("axes")
	}
	for j, a := range list {
		if a < 0 {
			list[j] = a + rank
		}
	}
	return list
}

func squeeze(n *Node) []graph.Value {
	x := n.In(0)
	drop := axes(n, 1, x.Rank())
	var dims []int
	for i, d := range x.Shape().Dims() {
		if !(slices.Contains(drop, i) || len(drop) == 0 && d == 1) {
			dims = append(dims, d)
		}
	}
	return one(ops.Reshape(x, dims...))
}

func unsqueeze(n *Node) []graph.Value {
	x := n.In(0)
	list, _ := n.HostInts(1)
	rank := x.Rank() + len(list)
	added := axes(n, 1, rank)
	rest := x.Shape().Dims()
	dims := make([]int, rank)
	for i := range dims {
		if slices.Contains(added, i) {
			dims[i] = 1
		} else {
			dims[i], rest = rest[0], rest[1:]
		}
	}
	return one(ops.Reshape(x, dims...))
}

func expand(n *Node) []graph.Value {
	dims, _ := n.HostInts(1)
	s, err := tensor.Broadcast(n.In(0).Shape(), tensor.S(dims...))
	if err != nil {
		return n.Fail("%w", err)
	}
	return one(ops.BroadcastTo(n.In(0), s.Dims()...))
}

func transpose(n *Node) []graph.Value {
	perm := n.Ints("perm")
	if perm == nil {
		for i := range n.In(0).Rank() {
			perm = append([]int{i}, perm...)
		}
	}
	return one(ops.Transpose(n.In(0), perm...))
}

func concat(n *Node) []graph.Value { return one(ops.Concat(n.Int("axis"), n.Ins()...)) }

// split cuts into given sizes, or into equal parts of which the last may be smaller.
func split(n *Node) []graph.Value {
	x, axis := n.In(0), n.Int("axis")
	sizes, ok := n.HostInts(1)
	if !ok {
		parts, left := n.NumOut(), x.Dim(axis)
		for each := (left + parts - 1) / parts; len(sizes) < parts; left -= sizes[len(sizes)-1] {
			sizes = append(sizes, min(each, left))
		}
	}
	return ops.Split(x, axis, sizes...)
}

func slice(n *Node) []graph.Value {
	x := n.In(0)
	starts, _ := n.HostInts(1)
	ends, _ := n.HostInts(2)
	at := axes(n, 3, x.Rank())
	steps, ok := n.HostInts(4)
	for i := range starts {
		axis, step := i, 1
		if at != nil {
			axis = at[i]
		}
		if ok {
			step = steps[i]
		}
		x = sliceAxis(x, axis, starts[i], ends[i], step)
	}
	return one(x)
}

// sliceAxis clamps the bounds as NumPy does; a negative step takes the elements by their positions.
func sliceAxis(x graph.Value, axis, start, end, step int) graph.Value {
	n := x.Dim(axis)
	lo, hi := 0, n
	if step < 0 {
		lo, hi = -1, n-1
	}
	clamp := func(i int) int {
		if i < 0 {
			i += n
		}
		return min(max(i, lo), hi)
	}
	start, end = clamp(start), clamp(end)
	if step > 0 {
		return ops.SliceStep(x, axis, start, max(start, end), step)
	}
	var idx []int32
	for i := start; i > end; i += step {
		idx = append(idx, int32(i))
	}
	return ops.Gather(x, axis, constant(x.Graph(), idx))
}

// constant embeds a vector.
func constant[E tensor.Element](g *graph.Graph, vals []E) graph.Value {
	t, err := tensor.Of(vals)
	if err != nil {
		return g.Fail("constant", nil, err)
	}
	return g.Const(t)
}

var padModes = map[string]ops.PadMode{"constant": ops.PadConstant, "reflect": ops.PadReflect, "edge": ops.PadEdge, "wrap": ops.PadWrap}

func pad(n *Node) []graph.Value {
	x := n.In(0)
	counts, _ := n.HostInts(1)
	at := axes(n, 3, x.Rank())
	mode, ok := padModes[n.String("mode")]
	if !ok {
		return n.Fail("padding mode %q", n.String("mode"))
	}
	lo, hi := make([]int, x.Rank()), make([]int, x.Rank())
	for i := range len(counts) / 2 {
		axis := i
		if at != nil {
			axis = at[i]
		}
		lo[axis], hi[axis] = counts[i], counts[len(counts)/2+i]
	}
	return one(ops.PadBy(x, lo, hi, mode, n.HostFloat(2, 0)))
}

func trilu(n *Node) []graph.Value {
	k := int(n.HostFloat(1, 0))
	if n.Bool("upper") {
		return one(ops.Triu(n.In(0), k))
	}
	return one(ops.Tril(n.In(0), k))
}

// compress keeps the elements whose flag is set: the flags decide the shape, so they must be known.
func compress(n *Node) []graph.Value {
	x, axis := n.In(0), n.Int("axis")
	if !n.HasAttr("axis") {
		x = ops.Reshape(x, x.Type().Size())
	}
	flags, _ := n.HostInts(1)
	var idx []int32
	for i, f := range flags {
		if f != 0 {
			idx = append(idx, int32(i))
		}
	}
	return one(ops.Gather(x, axis, constant(n.Graph(), idx)))
}

func shape(n *Node) []graph.Value {
	dims := n.In(0).Shape().Dims()
	bound := func(name string, def int) int {
		if !n.HasAttr(name) {
			return def
		}
		i := n.Int(name)
		if i < 0 {
			i += len(dims)
		}
		return min(max(i, 0), len(dims))
	}
	lo := bound("start", 0)
	var out []int64
	for _, d := range dims[lo:max(lo, bound("end", len(dims)))] {
		out = append(out, int64(d))
	}
	return one(constant(n.Graph(), out))
}

func size(n *Node) []graph.Value {
	return one(n.Graph().Const(tensor.Scalar(int64(n.In(0).Type().Size()))))
}

func eyeLike(n *Node) []graph.Value {
	x, d := n.In(0), n.In(0).DType()
	if n.HasAttr("dtype") {
		d = n.DType(TypeName(n.Int("dtype")))
	}
	return one(ops.Eye(n.Graph(), d, x.Dim(0), x.Dim(1), n.Int("k")))
}

func constantOfShape(n *Node) []graph.Value {
	dims, _ := n.HostInts(0)
	v, _ := n.Tensor("value")
	if v == nil {
		v = tensor.Scalar(float32(0))
	}
	return one(ops.BroadcastTo(ops.Fill(n.Graph(), v.DType(), v.At(0)), dims...))
}

func rangeOf(n *Node) []graph.Value {
	start, limit, delta := n.HostFloat(0, 0), n.HostFloat(1, 0), n.HostFloat(2, 1)
	count := max(int(math.Ceil((limit-start)/delta)), 0)
	d := n.DType(n.OutType(0))
	i := ops.Iota(n.Graph(), tensor.T(tensor.F64, count), 0)
	return one(ops.Cast(ops.AddScalar(ops.Scale(i, delta), start), d))
}
