package ops

import "github.com/bitsandbyes/bitsandbyes/graph"

// How thin products that share an operand become one, as those of the adapters of several layers with one input: see graph/plan's stack.

var (
	_ graph.Stacker = MatMul{}
	_ graph.Stacker = ScaleMatMul{}
	_ graph.Stacker = AddMatMul{}
	_ graph.Turner  = MatMul{}
	_ graph.Turner  = ScaleMatMul{}
	_ graph.Turner  = AddMatMul{}
	_ graph.Chainer = AddMatMul{}
)

// rowBytes is what the rows of a transposed result are a multiple of, as kernels that read many elements at once want them.
const rowBytes = 16

// joinRows is the axis of an operand along which more rows of op(operand) are joined, and joinColumns that of more columns.
func joinRows(trans bool) Join    { return Join{Axis: int8(b2i(trans))} }
func joinColumns(trans bool) Join { return Join{Axis: int8(b2i(!trans))} }

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Stacked implements graph.Stacker. Products that share the left operand give rows of their transposes, which are views where columns would not be.
func (o MatMul) Stacked(n *graph.Node, shared int) (graph.Stack, bool) {
	return o.stacked(n, shared, func(m MatMul) graph.Op { return m })
}

func (o MatMul) stacked(n *graph.Node, shared int, with func(MatMul) graph.Op) (graph.Stack, bool) {
	if n.Out[0].Rank() != 2 {
		return graph.Stack{}, false
	}
	if shared == 1 {
		return graph.Stack{Op: func(int) graph.Op { return with(o) }, Join: joinRows(o.TransA), Input: 0}, true
	}
	turned := with(MatMul{TransA: !o.TransB, TransB: !o.TransA})
	return graph.Stack{Op: func(int) graph.Op { return turned }, Join: joinColumns(o.TransB), Input: 1, Turned: true},
		n.Out[0].Dim(0)*n.Out[0].DType.Size()%rowBytes == 0
}

// Stacked implements graph.Stacker.
func (o ScaleMatMul) Stacked(n *graph.Node, shared int) (graph.Stack, bool) {
	return o.MatMul.stacked(n, shared, func(m MatMul) graph.Op { return ScaleMatMul{m, o.Alpha} })
}

// Stacked hides that of MatMul.
func (WideMatMul) Stacked(*graph.Node, int) (graph.Stack, bool) { return graph.Stack{}, false }

// Stacked implements graph.Stacker, with the right operand in common and sums of the product's shape.
func (o AddMatMul) Stacked(n *graph.Node, shared int) (graph.Stack, bool) {
	if shared != 2 || n.Out[0].Rank() != 2 || n.In[1].Rank() != 2 {
		return graph.Stack{}, false
	}
	p, err := o.Product(n.InTypes())
	op := func(nodes int) graph.Op { return AddMatMulParts{o.TransA, o.TransB, o.Alpha, int8(nodes)} }
	return graph.Stack{Op: op, Join: joinRows(o.TransA), Input: 1, Each: true}, err == nil && p.Shape == n.Out[0].Shape
}

// Turned implements graph.Turner.
func (o MatMul) Turned(i int) (graph.Op, bool) { return o.turned(i), true }

func (o MatMul) turned(i int) MatMul {
	if i == 0 {
		return MatMul{!o.TransA, o.TransB}
	}
	return MatMul{o.TransA, !o.TransB}
}

// Turned implements graph.Turner.
func (o ScaleMatMul) Turned(i int) (graph.Op, bool) { return ScaleMatMul{o.turned(i), o.Alpha}, true }

// Turned implements graph.Turner.
func (o WideMatMul) Turned(i int) (graph.Op, bool) { return WideMatMul{o.turned(i)}, true }

// Turned implements graph.Turner: for the operands of the product.
func (o AddMatMul) Turned(i int) (graph.Op, bool) {
	if i == 0 {
		return nil, false
	}
	m := MatMul{o.TransA, o.TransB}.turned(i - 1)
	return AddMatMul{m.TransA, m.TransB, o.Alpha}, true
}

// Chained implements graph.Chainer.
func (o AddMatMul) Chained(before graph.Op) (left, right graph.Op, ok bool) {
	m := MatMul{o.TransA, o.TransB}
	switch b := before.(type) {
	case MatMul:
		ok = b == m && o.Alpha == 1
	case ScaleMatMul:
		ok = b == ScaleMatMul{m, o.Alpha}
	case AddMatMul:
		ok = b == o
	}
	return joinColumns(o.TransA), joinRows(o.TransB), ok
}
