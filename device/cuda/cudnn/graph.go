package cudnn

import "math"

// dims are extents or strides of a tensor (batch, head, row, column).
type dims [4]int64

// packed are the strides of a tensor without gaps.
func (d dims) packed() dims { return dims{d[1] * d[2] * d[3], d[2] * d[3], d[3], 1} }

// swapped exchanges the last two.
func (d dims) swapped() dims { return dims{d[0], d[1], d[3], d[2]} }

// node is a tensor of a graph.
type node struct {
	desc          uintptr
	dtype         DType
	dims, strides dims
}

// graph collects operations.
type graph struct {
	builder
	ops     []uintptr
	roles   []Role   // of the operands, in the order of a call's pointers
	scalars []uint32 // the bits of the operands after them, which are by-value numbers
	next    int64    // id
	lens    [2]*node // rows and columns of each batch, nil if all
}

const (
	scalarIDs  = 1000
	virtualIDs = 2000
)

type tensorOptions struct {
	id               int64
	virtual, byValue bool
	ragged           *node
}

func (g *graph) tensor(t DType, d, strides dims, o tensorOptions) *node {
	n := &node{desc: g.make(kindTensor), dtype: t, dims: d, strides: strides}
	set(&g.builder, n.desc, tensorType, typeDataType, t)
	set(&g.builder, n.desc, tensorDims, typeInt64, d[:]...)
	set(&g.builder, n.desc, tensorStrides, typeInt64, strides[:]...)
	set(&g.builder, n.desc, tensorID, typeInt64, o.id)
	set(&g.builder, n.desc, tensorAlign, typeInt64, int64(Alignment))
	set(&g.builder, n.desc, tensorVirtual, typeBool, o.virtual)
	set(&g.builder, n.desc, tensorByValue, typeBool, o.byValue)
	if o.ragged != nil {
		set(&g.builder, n.desc, tensorRagged, typeDescriptor, o.ragged.desc)
	}
	g.finalize(n.desc, kindTensor)
	return n
}

// operand is a tensor in device memory.
func (g *graph) operand(r Role, t DType, d, strides dims, ragged *node) *node {
	g.roles = append(g.roles, r)
	return g.tensor(t, d, strides, tensorOptions{id: int64(r), ragged: ragged})
}

// virtual is an intermediate.
func (g *graph) virtual(t DType, d, strides dims) *node {
	g.next++
	return g.tensor(t, d, strides, tensorOptions{id: virtualIDs + g.next, virtual: true})
}

func (g *graph) like(x *node, t DType) *node { return g.virtual(t, x.dims, x.strides) }

// scalar is a number that a call passes by value.
func (g *graph) scalar(v float32) *node { return g.value(F32, math.Float32bits(v)) }

func (g *graph) value(t DType, bits uint32) *node {
	g.scalars = append(g.scalars, bits)
	one := dims{1, 1, 1, 1}
	return g.tensor(t, one, one, tensorOptions{id: scalarIDs + int64(len(g.scalars)), byValue: true})
}

// step is a pointwise operation's description.
type step struct {
	mode mode
	prec DType // of the arithmetic
	axis int64 // 0: none
}

func (g *graph) pointwise(s step, y *node, x, b, t *node) *node {
	d := g.make(kindPointwise)
	set(&g.builder, d, pointwiseMode, typePointwiseMode, s.mode)
	set(&g.builder, d, pointwisePrec, typeDataType, s.prec)
	if s.axis != 0 {
		set(&g.builder, d, pointwiseAxis, typeInt64, s.axis)
	}
	g.finalize(d, kindPointwise)
	op := g.make(kindOpPointwise)
	set(&g.builder, op, opPointwiseDesc, typeDescriptor, d)
	out := opPointwiseY
	if s.mode == modeTanhBack { // b is the incoming gradient
		set(&g.builder, op, opPointwiseDY, typeDescriptor, b.desc)
		b, out = nil, opPointwiseDX
	}
	set(&g.builder, op, opPointwiseX, typeDescriptor, x.desc)
	if b != nil {
		set(&g.builder, op, opPointwiseB, typeDescriptor, b.desc)
	}
	if t != nil {
		set(&g.builder, op, opPointwiseT, typeDescriptor, t.desc)
	}
	set(&g.builder, op, out, typeDescriptor, y.desc)
	g.add(op, kindOpPointwise)
	return y
}

func (g *graph) add(op uintptr, k kind) { g.ops = append(g.ops, g.finalize(op, k)) }

// unary and binary are float arithmetic with a result shaped like x.
func (g *graph) unary(m mode, x *node) *node {
	return g.pointwise(step{mode: m}, g.like(x, F32), x, nil, nil)
}

func (g *graph) binary(m mode, x, b *node) *node {
	return g.pointwise(step{mode: m}, g.like(x, F32), x, b, nil)
}

// index is the position of each element of x along an axis.
func (g *graph) index(x *node, axis int64, prec DType) *node {
	return g.pointwise(step{modeIndex, prec, axis}, g.like(x, I32), x, nil, nil)
}

func (g *graph) compare(m mode, x, b *node) *node {
	return g.pointwise(step{mode: m, prec: boolean}, g.like(x, boolean), x, b, nil)
}

// where is x where the mask holds and minus infinity elsewhere.
func (g *graph) where(mask, x *node) *node {
	return g.pointwise(step{mode: modeSelect}, g.like(x, F32), x, g.scalar(float32(math.Inf(-1))), mask)
}

// product says which of the per-batch lengths bound a matmul's extents: 'q' and 'k', or 0.
type product struct {
	m, n, k byte
	pad     bool // what is outside gives 0
}

func (g *graph) matmul(p product, a, b, c *node) *node {
	d := g.make(kindMatmul)
	set(&g.builder, d, matmulPrec, typeDataType, F32)
	if p.pad && g.lens[0] != nil {
		set(&g.builder, d, matmulPadding, typeDouble, float64(0))
	}
	g.finalize(d, kindMatmul)
	op := g.make(kindOpMatmul)
	set(&g.builder, op, opMatmulA, typeDescriptor, a.desc)
	set(&g.builder, op, opMatmulB, typeDescriptor, b.desc)
	set(&g.builder, op, opMatmulC, typeDescriptor, c.desc)
	set(&g.builder, op, opMatmulDesc, typeDescriptor, d)
	for i, which := range [3]byte{p.m, p.n, p.k} {
		if which == 0 || g.lens[0] == nil {
			continue
		}
		length := g.lens[0]
		if which == 'k' {
			length = g.lens[1]
		}
		set(&g.builder, op, opMatmulM+attr(i), typeDescriptor, length.desc)
	}
	g.add(op, kindOpMatmul)
	return c
}

// reduce folds the axes in which y is shorter than x.
func (g *graph) reduce(how int32, x, y *node) *node {
	d := g.make(kindReduction)
	set(&g.builder, d, reductionMode, typeReductionOp, how)
	set(&g.builder, d, reductionPrec, typeDataType, F32)
	g.finalize(d, kindReduction)
	op := g.make(kindOpReduction)
	set(&g.builder, op, opReductionX, typeDescriptor, x.desc)
	set(&g.builder, op, opReductionY, typeDescriptor, y.desc)
	set(&g.builder, op, opReductionDesc, typeDescriptor, d)
	g.add(op, kindOpReduction)
	return y
}

// reshape is x seen through the extents, strides and type of y.
func (g *graph) reshape(x, y *node) *node {
	op := g.make(kindOpReshape)
	set(&g.builder, op, opReshapeX, typeDescriptor, x.desc)
	set(&g.builder, op, opReshapeY, typeDescriptor, y.desc)
	g.add(op, kindOpReshape)
	return y
}

// finish makes the operation graph. A machine without a device has no handle; the graph is checked all the same.
func (g *graph) finish(handle uintptr) uintptr {
	d := g.make(kindOperationGraph)
	set(&g.builder, d, graphOps, typeDescriptor, g.ops...)
	if handle != 0 {
		set(&g.builder, d, graphHandle, typeHandle, handle)
	}
	return g.finalize(d, kindOperationGraph)
}
