package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() { Register(buildScatterRows) }

// buildScatterRows combines rows in index order. Work is cut over the columns of a row, so every element sees the same order
// whatever the number of threads.
func buildScatterRows(d *Device, op ops.ScatterRows, s device.Spec) (*Kernel, error) {
	typ := s.In[0].DType
	n, m := s.In[0].Dim(0), s.In[1].Size()
	inner := s.In[0].Size() / max(n, 1)
	wide := s.In[1].DType == tensor.I64
	k := &Kernel{}
	half := typ == tensor.BF16 || typ == tensor.F16
	if half && op.Kind != ops.ScatterSet {
		k.ScratchBytes = int64(s.In[0].Size()) * 4
	}
	k.Run = func(c *Call) error {
		if len(c.Out[0]) > 0 && &c.Out[0][0] != &c.In[0][0] {
			copy(c.Out[0], c.In[0])
		}
		sc := rowScatter{kind: op.Kind, idx: indexOf(c.In[1], wide), n: n, m: m, inner: inner}
		return d.ranges(inner, max(shapeGrain/max(m, 1), 16), func(lo, hi int) { sc.columns(typ, c, lo, hi) })
	}
	return k, nil
}

type rowScatter struct {
	kind        ops.ScatterKind
	idx         index
	n, m, inner int
}

// columns works on columns [lo, hi) of every row.
func (sc rowScatter) columns(typ tensor.DType, c *Call, lo, hi int) {
	switch {
	case sc.kind == ops.ScatterSet:
		sc.set(c.Out[0], c.In[2], typ.Size(), lo, hi)
	case c.Scratch != nil:
		sc.halves(typ, c, lo, hi)
	default:
		sc.combine(typ, c, lo, hi)
	}
}

func (sc rowScatter) set(dst, u []byte, elem, lo, hi int) {
	for k := range sc.m {
		if i := sc.idx.at(k); i >= 0 && i < sc.n {
			copy(dst[(i*sc.inner+lo)*elem:(i*sc.inner+hi)*elem], u[(k*sc.inner+lo)*elem:])
		}
	}
}

func (sc rowScatter) combine(typ tensor.DType, c *Call, lo, hi int) {
	switch typ {
	case tensor.F32:
		scatterRows[float32](sc, c, lo, hi)
	case tensor.F64:
		scatterRows[float64](sc, c, lo, hi)
	case tensor.I8:
		scatterRows[int8](sc, c, lo, hi)
	case tensor.I16:
		scatterRows[int16](sc, c, lo, hi)
	case tensor.I32:
		scatterRows[int32](sc, c, lo, hi)
	case tensor.I64:
		scatterRows[int64](sc, c, lo, hi)
	case tensor.U8:
		scatterRows[uint8](sc, c, lo, hi)
	case tensor.U16:
		scatterRows[uint16](sc, c, lo, hi)
	case tensor.U32:
		scatterRows[uint32](sc, c, lo, hi)
	case tensor.U64:
		scatterRows[uint64](sc, c, lo, hi)
	}
}

type number interface {
	float32 | float64 | int8 | int16 | int32 | int64 | uint8 | uint16 | uint32 | uint64
}

func scatterRows[E number](sc rowScatter, c *Call, lo, hi int) {
	dst, u := tensor.View[E](c.Out[0]), tensor.View[E](c.In[2])
	for k := range sc.m {
		i := sc.idx.at(k)
		if i < 0 || i >= sc.n {
			continue
		}
		to, from := dst[i*sc.inner+lo:i*sc.inner+hi], u[k*sc.inner+lo:]
		for j := range to {
			to[j] = meet(sc.kind, to[j], from[j])
		}
	}
}

// meet combines what lies at a place with an update.
func meet[E number](kind ops.ScatterKind, a, b E) E {
	switch kind {
	case ops.ScatterSum:
		return a + b
	case ops.ScatterProd:
		return a * b
	case ops.ScatterMax:
		return max(a, b)
	}
	return min(a, b)
}

// halves is combine for bf16 and f16, carried in float32.
func (sc rowScatter) halves(typ tensor.DType, c *Call, lo, hi int) {
	acc := tensor.View[float32](c.Scratch)
	each := func(f func(at int)) {
		for r := range sc.n {
			for j := lo; j < hi; j++ {
				f(r*sc.inner + j)
			}
		}
	}
	each(func(at int) { acc[at] = load32(typ, c.Out[0], at) })
	for k := range sc.m {
		i := sc.idx.at(k)
		if i < 0 || i >= sc.n {
			continue
		}
		for j := lo; j < hi; j++ {
			acc[i*sc.inner+j] = meet(sc.kind, acc[i*sc.inner+j], load32(typ, c.In[2], k*sc.inner+j))
		}
	}
	each(func(at int) { store32(typ, c.Out[0], at, acc[at]) })
}
