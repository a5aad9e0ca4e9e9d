package cpu

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// load makes output elements [lo, hi) of an input that is no scalar available in its class.
func (m *machine) load(v, lo, hi int) {
	p, o, src := m.p, &m.p.inputs[v], m.c.In[v]
	n := hi - lo
	if p.reg[v] < 0 { // in place
		off := lo
		if !o.whole {
			off = p.offset(o, lo)
		}
		if o.typ.DType == tensor.F32 {
			m.f32[v] = tensor.View[float32](src)[off : off+n]
		} else {
			m.f64[v] = tensor.View[float64](src)[off : off+n]
		}
		return
	}
	m.view(v, n)
	if o.whole {
		m.widen(v, 0, o.typ.DType, src, lo, n, 1)
		return
	}
	step := o.strides[len(p.dims)-1]
	for at := lo; at < hi; { // run by run along the innermost axis
		run := min(p.inner-at%p.inner, hi-at)
		m.widen(v, at-lo, o.typ.DType, src, p.offset(o, at), run, step)
		at += run
	}
}

// offset is the element of an operand that belongs to an output element.
func (p *program) offset(o *operand, at int) (off int) {
	for axis := len(p.dims) - 1; axis >= 0; axis-- {
		off += at % p.dims[axis] * o.strides[axis]
		at /= p.dims[axis]
	}
	return off
}

// isWide reports whether elements of d are used where they lie.
func isWide(d tensor.DType) bool { return d == tensor.F32 || d == tensor.F64 }

// widen converts n elements of src, from element off on with a stride of 0 or 1 (or more), into the register of v at position
// pos.
func (m *machine) widen(v, pos int, d tensor.DType, src []byte, off, n, stride int) {
	if (d == tensor.BF16 || d == tensor.F16) && stride == 1 {
		vec.Widen(m.f32[v][pos:pos+n], src[2*off:2*(off+n)], d)
		return
	}
	switch d {
	case tensor.F32:
		widenTo(m.f32[v][pos:pos+n], tensor.View[float32](src), off, stride, func(x float32) float32 { return x })
	case tensor.BF16:
		widenTo(m.f32[v][pos:pos+n], tensor.View[tensor.BFloat16](src), off, stride, tensor.BFloat16.Float32)
	case tensor.F16:
		widenTo(m.f32[v][pos:pos+n], tensor.View[tensor.Float16](src), off, stride, tensor.Float16.Float32)
	case tensor.Bool:
		widenTo(m.f32[v][pos:pos+n], src, off, stride, func(x byte) float32 { return float32(x) })
	case tensor.F64:
		widenTo(m.f64[v][pos:pos+n], tensor.View[float64](src), off, stride, func(x float64) float64 { return x })
	case tensor.U8:
		widenInt(m.ints[v][pos:pos+n], src, off, stride)
	case tensor.I8:
		widenInt(m.ints[v][pos:pos+n], tensor.View[int8](src), off, stride)
	case tensor.I16:
		widenInt(m.ints[v][pos:pos+n], tensor.View[int16](src), off, stride)
	case tensor.U16:
		widenInt(m.ints[v][pos:pos+n], tensor.View[uint16](src), off, stride)
	case tensor.I32:
		widenInt(m.ints[v][pos:pos+n], tensor.View[int32](src), off, stride)
	case tensor.U32:
		widenInt(m.ints[v][pos:pos+n], tensor.View[uint32](src), off, stride)
	case tensor.I64, tensor.U64:
		widenInt(m.ints[v][pos:pos+n], tensor.View[int64](src), off, stride)
	}
}

func widenTo[D, S any](dst []D, src []S, off, stride int, f func(S) D) {
	if stride == 0 {
		x := f(src[off])
		for i := range dst {
			dst[i] = x
		}
		return
	}
	for i := range dst {
		dst[i] = f(src[off+i*stride])
	}
}

func widenInt[S int8 | int16 | int32 | int64 | uint8 | uint16 | uint32](dst []int64, src []S, off, stride int) {
	for i := range dst {
		dst[i] = int64(src[off+i*stride])
	}
}

// store writes the block of value v to output k, unless the instruction wrote it there already.
func (m *machine) store(k, v, lo, hi int) {
	if m.p.inPlace(v) {
		return
	}
	out := m.c.Out[k]
	d := m.p.outs[k].DType
	switch d {
	case tensor.F32:
		if m.p.stream {
			m.storePast(tensor.View[float32](out)[lo:hi], m.f32[v])
		} else {
			copy(tensor.View[float32](out)[lo:hi], m.f32[v])
		}
	case tensor.F64:
		copy(tensor.View[float64](out)[lo:hi], m.f64[v])
	case tensor.BF16, tensor.F16:
		vec.Narrow(out[2*lo:2*hi], m.f32[v], d)
	case tensor.Bool:
		narrowTruth(out[lo:hi], m.f32[v])
	case tensor.U8:
		narrow(out[lo:hi], m.ints[v])
	case tensor.I8:
		narrow(tensor.View[int8](out)[lo:hi], m.ints[v])
	case tensor.I16:
		narrow(tensor.View[int16](out)[lo:hi], m.ints[v])
	case tensor.U16:
		narrow(tensor.View[uint16](out)[lo:hi], m.ints[v])
	case tensor.I32:
		narrow(tensor.View[int32](out)[lo:hi], m.ints[v])
	case tensor.U32:
		narrow(tensor.View[uint32](out)[lo:hi], m.ints[v])
	case tensor.I64, tensor.U64:
		copy(tensor.View[int64](out)[lo:hi], m.ints[v])
	}
}

// storePast writes a block past the caches, unless the output is where an input was: those lines are in the caches already.
func (m *machine) storePast(dst, x []float32) {
	if inPlace(m.c) {
		copy(dst, x)
		return
	}
	vec.Stream(dst, x)
}

func narrow[D int8 | int16 | int32 | uint8 | uint16 | uint32](dst []D, src []int64) {
	for i := range dst {
		dst[i] = D(src[i])
	}
}

func narrowTruth(dst []byte, src []float32) {
	for i, x := range src {
		dst[i] = byte(toInt(tensor.Bool, float64(x)))
	}
}

func (m *machine) castFrom32(v int, to tensor.DType, a []float32) {
	switch {
	case to == tensor.Bool:
		for i, x := range a {
			m.f32[v][i] = float32(toInt(to, float64(x)))
		}
	case classOf(to) == classF32:
		copy(m.f32[v], a)
		if to != tensor.F32 {
			roundBlock(to, m.f32[v])
		}
	case classOf(to) == classF64:
		for i, x := range a {
			m.f64[v][i] = float64(x)
		}
	default:
		for i, x := range a {
			m.ints[v][i] = toInt(to, float64(x))
		}
	}
}

func (m *machine) castFrom64(v int, to tensor.DType, a []float64) {
	switch classOf(to) {
	case classF32:
		for i, x := range a {
			m.f32[v][i] = round32(to, float32(x))
			if to == tensor.Bool {
				m.f32[v][i] = float32(toInt(to, x))
			}
		}
	case classF64:
		copy(m.f64[v], a)
	case classInt:
		for i, x := range a {
			m.ints[v][i] = toInt(to, x)
		}
	}
}

func (m *machine) castFromInt(v int, from, to tensor.DType, a []int64) {
	unsigned := from == tensor.U64
	switch classOf(to) {
	case classF32:
		for i, x := range a {
			if to == tensor.Bool && x != 0 {
				x = 1
			}
			m.f32[v][i] = round32(to, intTo32(x, unsigned && to != tensor.Bool))
		}
	case classF64:
		for i, x := range a {
			m.f64[v][i] = intTo64(x, unsigned)
		}
	case classInt:
		for i, x := range a {
			m.ints[v][i] = wrap(to, x)
		}
	}
}

func intTo32(x int64, unsigned bool) float32 {
	if unsigned {
		return float32(uint64(x))
	}
	return float32(x)
}

func intTo64(x int64, unsigned bool) float64 {
	if unsigned {
		return float64(uint64(x))
	}
	return float64(x)
}

// toInt converts a float as tensor.Set does: truncated and saturated; true for anything but 0.
func toInt(d tensor.DType, x float64) int64 {
	switch d {
	case tensor.Bool:
		if x != 0 {
			return 1
		}
		return 0
	case tensor.I64:
		return tensor.ToInt64(x)
	case tensor.U64:
		switch {
		case !(x > 0):
			return 0
		case x >= math.MaxUint64:
			return -1
		case x >= math.MaxInt64:
			return int64(uint64(x))
		}
		return int64(x)
	}
	lo, hi := limits(d)
	if x != x {
		return 0
	}
	return int64(min(max(x, float64(lo)), float64(hi)))
}

func limits(d tensor.DType) (lo, hi int64) {
	bits := d.Size() * 8
	if d.IsSigned() {
		return -1 << (bits - 1), 1<<(bits-1) - 1
	}
	return 0, 1<<bits - 1
}

// wrap keeps the low bits of an integer result, as the element type would.
func wrap(d tensor.DType, x int64) int64 {
	switch d {
	case tensor.Bool:
		return x & 1
	case tensor.I8:
		return int64(int8(x))
	case tensor.U8:
		return int64(uint8(x))
	case tensor.I16:
		return int64(int16(x))
	case tensor.U16:
		return int64(uint16(x))
	case tensor.I32:
		return int64(int32(x))
	case tensor.U32:
		return int64(uint32(x))
	}
	return x
}

func round32(d tensor.DType, x float32) float32 {
	switch d {
	case tensor.BF16:
		return tensor.ToBF16(x).Float32()
	case tensor.F16:
		return tensor.ToF16(x).Float32()
	}
	return x
}

func roundBlock(d tensor.DType, x []float32) {
	switch d {
	case tensor.BF16:
		vec.OpRoundBF16.Run(x, x, nil, nil)
	case tensor.F16:
		vec.OpRoundF16.Run(x, x, nil, nil)
	}
}
