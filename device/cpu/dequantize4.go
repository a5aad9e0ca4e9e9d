package cpu

import (
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/internal/fourbit"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildDequantize)
	Register(buildQuantEmbed)
}

// streamFrom is the bytes of an output from which it is written past the caches: it would not stay in them.
const streamFrom = 16 << 20

// streamLine is what such outputs must be aligned to.
const streamLine = 64

// weight4 reads a weight in 4 bits.
type weight4 struct {
	fourbit.Matrix
	book [256]float32
}

func newWeight4(s quant.Scheme, blocksize, cols int, round tensor.DType) *weight4 {
	w := &weight4{Matrix: fourbit.Matrix{Weight: fourbit.Weight{Blocksize: blocksize, Values: s.Values()}, Cols: cols, Round: round}}
	w.book = quant.DynamicSigned().Values()
	w.Book = &w.book
	return w
}

// bind takes the operands of the op: codes, absmax and, nested, nested_absmax and offset.
func (w *weight4) bind(in [][]byte) {
	w.Codes = in[0]
	if len(in) == 2 {
		w.Absmax = tensor.View[float32](in[1])
		return
	}
	w.Absmax8, w.Nested, w.Offset = in[1], tensor.View[float32](in[2]), tensor.View[float32](in[3])[0]
}

// release drops the references to the operands.
func (w *weight4) release() { w.Codes, w.Absmax, w.Absmax8, w.Nested = nil, nil, nil, nil }

// decode writes the elements from lo on to dst, which is of dtype to.
func (w *weight4) decode(dst []byte, to tensor.DType, lo int, stream bool) {
	if to == tensor.F32 {
		w.Float32(tensor.View[float32](dst), lo, stream)
		return
	}
	w.Half(tensor.View[uint16](dst), to, lo, stream)
}

func buildDequantize(d *Device, o ops.Dequantize, s device.Spec) (*Kernel, error) {
	if o.To == tensor.F64 {
		return nil, device.ErrNoKernel
	}
	n, each := o.Rows*o.Cols, blocksPerTask(o.Blocksize)*o.Blocksize
	size, w := o.To.Size(), newWeight4(o.Scheme, o.Blocksize, o.Cols, o.To)
	large := n*size >= streamFrom && o.Blocksize%32 == 0
	tasks := min((n+each-1)/each, maxTasks)
	var out []byte
	stream := false
	task := func(t int) {
		lo, hi := (n+each-1)/each*t/tasks*each, min((n+each-1)/each*(t+1)/tasks*each, n)
		w.decode(out[lo*size:hi*size], o.To, lo, stream)
	}
	return &Kernel{Run: func(c *Call) error {
		w.bind(c.In)
		out = c.Out[0]
		stream = large && uintptr(unsafe.Pointer(&out[0]))%streamLine == 0
		err := d.pool.Run(tasks, task)
		w.release()
		out = nil
		return err
	}}, nil
}

// buildQuantEmbed decodes only the rows that are looked up.
func buildQuantEmbed(d *Device, o ops.QuantEmbed, s device.Spec) (*Kernel, error) {
	if o.To == tensor.F64 {
		return nil, device.ErrNoKernel
	}
	n, row := s.In[0].Size(), o.Cols*o.To.Size()
	w := newWeight4(o.Scheme, o.Blocksize, o.Cols, o.To)
	return &Kernel{Run: func(c *Call) error {
		w.bind(c.In[1:])
		defer w.release()
		ids := tensor.View[int32](c.In[0])
		return d.ranges(n, max(quantGrain/max(o.Cols, 1), 1), func(lo, hi int) {
			for i := lo; i < hi; i++ {
				dst := c.Out[0][i*row : (i+1)*row]
				if id := int(ids[i]); id >= 0 && id < o.Rows {
					w.decode(dst, o.To, id*o.Cols, false)
				} else {
					clear(dst)
				}
			}
		})
	}}, nil
}
