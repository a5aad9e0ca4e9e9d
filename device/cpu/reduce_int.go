package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// reduceInts is Reduce on integers, carried in 64 bits, exactly.
func reduceInts(d *Device, kind ops.Reduction, r reduction, offs []int, s device.Spec) *Kernel {
	typ, out := s.In[0].DType, s.Out[0].DType
	fold := foldInts[int64]
	if typ == tensor.U64 {
		fold = foldInts[uint64]
	}
	return &Kernel{Label: "reduce_int", Run: func(c *Call) error {
		return d.ranges(r.outputs, max(reduceGrain/max(r.inputs, 1), 1), func(lo, hi int) {
			for o := lo; o < hi; o++ {
				seg := segment{reader{typ, c.In[0]}, offset(o, r.kept, r.keptSt), offs}
				storeInt(out, c.Out[0], o, clampInt(out, fold(kind, seg, r.inputs)))
			}
		})
	}}
}

// foldInts combines n positions of a segment in I, the signed or unsigned reading of 64 bits.
func foldInts[I int64 | uint64](kind ops.Reduction, s segment, n int) int64 {
	var acc I
	if kind == ops.RedProd {
		acc = 1
	}
	at := 0
	for i := range n {
		x := I(s.intAt(i))
		switch kind {
		case ops.RedSum:
			acc += x
		case ops.RedProd:
			acc *= x
		default:
			if larger := kind == ops.RedMax || kind == ops.RedArgMax; i == 0 || larger && x > acc || !larger && x < acc {
				acc, at = x, i
			}
		}
	}
	if kind == ops.RedArgMax || kind == ops.RedArgMin {
		return int64(at)
	}
	return int64(acc)
}

// intAt is at for integers: exact, u64 by its bits.
func (s segment) intAt(i int) int64 {
	if len(s.offs) > 0 {
		i = s.offs[i]
	}
	return loadInt(s.src.d, s.src.b, s.base+i)
}

// loadInt reads one integer or bool element, u64 by its bits.
func loadInt(d tensor.DType, b []byte, i int) int64 {
	switch d {
	case tensor.I64, tensor.U64:
		return tensor.View[int64](b)[i]
	case tensor.I32:
		return int64(tensor.View[int32](b)[i])
	case tensor.U32:
		return int64(tensor.View[uint32](b)[i])
	case tensor.I16:
		return int64(tensor.View[int16](b)[i])
	case tensor.U16:
		return int64(tensor.View[uint16](b)[i])
	case tensor.I8:
		return int64(int8(b[i]))
	}
	return int64(b[i])
}

// clampInt saturates to a type narrower than 64 bits.
func clampInt(d tensor.DType, x int64) int64 {
	if d.Size() == 8 {
		return x
	}
	lo, hi := limits(d)
	return min(max(x, lo), hi)
}
