package cpu

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() { Register(buildReduce) }

// reduction maps each output element to the input elements it combines: the reduced axes are walked in row-major order.
type reduction struct {
	kept, red       []int // extents
	keptSt, redSt   []int // strides in elements
	outputs, inputs int   // number of outputs, and of inputs an output
	contiguous      bool  // the reduced elements of an output are adjacent
}

func newReduction(t tensor.Type, axes uint16) reduction {
	r := reduction{outputs: 1, inputs: 1}
	st := t.Shape.Strides()
	for i := range t.Rank() {
		n := t.Dim(i)
		if axes>>i&1 == 1 {
			r.red, r.redSt, r.inputs = append(r.red, n), append(r.redSt, st[i]), r.inputs*n
		} else {
			r.kept, r.keptSt, r.outputs = append(r.kept, n), append(r.keptSt, st[i]), r.outputs*n
		}
	}
	r.contiguous = true
	want := 1
	for i := len(r.red) - 1; i >= 0; i-- {
		if r.red[i] != 1 && r.redSt[i] != want {
			r.contiguous = false
		}
		want *= r.red[i]
	}
	return r
}

func offset(k int, dims, strides []int) int {
	off := 0
	for i := len(dims) - 1; i >= 0; i-- {
		off += k % dims[i] * strides[i]
		k /= dims[i]
	}
	return off
}

// sumSegment is how many elements are added in sequence before their sum joins the next level of the pairwise tree.
const sumSegment = 256

func buildReduce(d *Device, op ops.Reduce, s device.Spec) (*Kernel, error) {
	if v, ok := newVecReduce(op, s.In[0]); ok {
		return v.kernel(d, s), nil
	}
	r := newReduction(s.In[0], op.Axes)
	offs := make([]int, 0)
	if !r.contiguous {
		offs = make([]int, r.inputs)
		for i := range offs {
			offs[i] = offset(i, r.red, r.redSt)
		}
	}
	if !s.In[0].DType.IsFloat() {
		return reduceInts(d, op.Kind, r, offs, s), nil
	}
	f := foldFor(op.Kind)
	k := &Kernel{}
	if op.Kind == ops.RedSum && r.outputs < wideSum && r.inputs >= 2*sumChunk {
		chunks := (r.inputs + sumChunk - 1) / sumChunk
		k.ScratchBytes = int64(chunks*r.outputs) * 8
	}
	k.Run = func(c *Call) error {
		in, out := reader{s.In[0].DType, c.In[0]}, reader{s.Out[0].DType, c.Out[0]}
		if k.ScratchBytes > 0 {
			return sumChunks(d, r, offs, in, out, tensor.View[float64](c.Scratch))
		}
		return d.ranges(r.outputs, max(reduceGrain/max(r.inputs, 1), 1), func(lo, hi int) {
			for o := lo; o < hi; o++ {
				seg := segment{in, offset(o, r.kept, r.keptSt), offs}
				out.set(o, f(seg, 0, r.inputs))
			}
		})
	}
	return k, nil
}

// A sum to few outputs is cut into chunks of fixed size, so that threads can share it and its bits do not depend on them.
const (
	wideSum     = 64
	sumChunk    = 16 << 10
	reduceGrain = 16 << 10
)

func sumChunks(d *Device, r reduction, offs []int, in, out reader, part []float64) error {
	chunks := (r.inputs + sumChunk - 1) / sumChunk
	err := d.parallel(chunks*r.outputs, func(t int) {
		o, ch := t/chunks, t%chunks
		seg := segment{in, offset(o, r.kept, r.keptSt), offs}
		part[t] = foldSum(seg, ch*sumChunk, min((ch+1)*sumChunk, r.inputs))
	})
	for o := range r.outputs {
		var sum float64
		for _, p := range part[o*chunks : (o+1)*chunks] {
			sum += p
		}
		out.set(o, sum)
	}
	return err
}

// segment is the input of one output element: position i is at base+offs[i], or base+i when offs is empty.
type segment struct {
	src  reader
	base int
	offs []int
}

func (s segment) at(i int) float64 {
	if len(s.offs) > 0 {
		return s.src.get(s.base + s.offs[i])
	}
	return s.src.get(s.base + i)
}

// run32 is positions [lo, hi) as they lie in memory, nil unless they are adjacent float32.
func (s segment) run32(lo, hi int) []float32 {
	if len(s.offs) > 0 || s.src.d != tensor.F32 || lo >= hi {
		return nil
	}
	return tensor.View[float32](s.src.b)[s.base+lo : s.base+hi]
}

// fold combines positions [lo, hi) of a segment.
type fold func(s segment, lo, hi int) float64

func foldFor(k ops.Reduction) fold {
	switch k {
	case ops.RedMax:
		return func(s segment, lo, hi int) float64 {
			m := math.Inf(-1)
			for i := lo; i < hi; i++ {
				m = max(m, s.at(i)) // unlike math.Max, NaN wins over infinity
			}
			return m
		}
	case ops.RedMin:
		return func(s segment, lo, hi int) float64 {
			m := math.Inf(1)
			for i := lo; i < hi; i++ {
				m = min(m, s.at(i))
			}
			return m
		}
	case ops.RedProd:
		return func(s segment, lo, hi int) float64 {
			p := 1.0
			for i := lo; i < hi; i++ {
				p *= s.at(i)
			}
			return p
		}
	case ops.RedArgMax:
		return func(s segment, lo, hi int) float64 {
			if x := s.run32(lo, hi); x != nil {
				return float64(lo + argMax32(x))
			}
			return foldArg(s, lo, hi, func(x, best float64) bool { return x > best })
		}
	case ops.RedArgMin:
		return func(s segment, lo, hi int) float64 {
			return foldArg(s, lo, hi, func(x, best float64) bool { return x < best })
		}
	}
	return foldSum
}

// foldArg is the position of the first element that no other beats; the first NaN beats all.
func foldArg(s segment, lo, hi int, beats func(x, best float64) bool) float64 {
	best, at := s.at(lo), lo
	for i := lo; i < hi && best == best; i++ {
		if x := s.at(i); x != x || beats(x, best) {
			best, at = x, i
		}
	}
	return float64(at)
}

// argMax32 is foldArg for the largest of adjacent float32: the scores of a vocabulary, at each step of generation.
func argMax32(x []float32) int {
	best, at := x[0], 0
	for i, v := range x {
		if v > best {
			best, at = v, i
		} else if v != v {
			return i
		}
	}
	return at
}

// foldSum adds in float64, over runs of sumSegment elements.
func foldSum(s segment, lo, hi int) float64 {
	var total float64
	for lo < hi {
		end := min(lo+sumSegment, hi)
		var part float64
		for ; lo < end; lo++ {
			part += s.at(lo)
		}
		total += part
	}
	return total
}

// reader gives the elements of raw storage as float64; integers beyond 2^53 lose precision.
type reader struct {
	d tensor.DType
	b []byte
}

func (r reader) get(i int) float64 {
	switch r.d {
	case tensor.F32:
		return float64(tensor.View[float32](r.b)[i])
	case tensor.F64:
		return tensor.View[float64](r.b)[i]
	}
	return readOther(r.d, r.b, i)
}

// readOther is get for the less common element types.
func readOther(d tensor.DType, b []byte, i int) float64 {
	switch d {
	case tensor.BF16:
		return float64(tensor.View[tensor.BFloat16](b)[i].Float32())
	case tensor.F16:
		return float64(tensor.View[tensor.Float16](b)[i].Float32())
	case tensor.I64:
		return float64(tensor.View[int64](b)[i])
	case tensor.U64:
		return float64(tensor.View[uint64](b)[i])
	case tensor.I32:
		return float64(tensor.View[int32](b)[i])
	case tensor.U32:
		return float64(tensor.View[uint32](b)[i])
	case tensor.I16:
		return float64(tensor.View[int16](b)[i])
	case tensor.U16:
		return float64(tensor.View[uint16](b)[i])
	case tensor.I8:
		return float64(int8(b[i]))
	}
	return float64(b[i])
}

// set stores v, rounding floats and saturating integers.
func (r reader) set(i int, v float64) {
	switch r.d {
	case tensor.F32:
		tensor.View[float32](r.b)[i] = float32(v)
	case tensor.F64:
		tensor.View[float64](r.b)[i] = v
	case tensor.F16, tensor.BF16:
		store32(r.d, r.b, i, float32(v))
	default:
		storeInt(r.d, r.b, i, toInt(r.d, v))
	}
}

// storeInt writes the low bytes of x as one integer or bool element.
func storeInt(d tensor.DType, b []byte, i int, x int64) {
	switch d.Size() {
	case 8:
		tensor.View[int64](b)[i] = x
	case 4:
		tensor.View[int32](b)[i] = int32(x)
	case 2:
		tensor.View[int16](b)[i] = int16(x)
	default:
		b[i] = byte(x)
	}
}
