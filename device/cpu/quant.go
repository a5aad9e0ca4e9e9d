package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildDequantize)
	Register(buildQuantize4)
	Register(buildQuantize8)
	Register(buildDequantize8)
}

// quantGrain is the elements of a task that quantizes or dequantizes.
const quantGrain = 16 << 10

// blocksPerTask is how many whole blocks make a task.
func blocksPerTask(blocksize int) int { return max(quantGrain/blocksize, 1) }

func buildDequantize(d *Device, o ops.Dequantize, s device.Spec) (*Kernel, error) {
	if o.To == tensor.F64 {
		return nil, device.ErrNoKernel
	}
	n, each := o.Rows*o.Cols, blocksPerTask(o.Blocksize)*o.Blocksize
	blocks := (n + each - 1) / each
	scheme, size := o.Scheme, o.To.Size()
	return &Kernel{Run: func(c *Call) error {
		w := &weight4{blocksize: o.Blocksize, cols: o.Cols, values: scheme.Values()}
		w.bind(c.In)
		return d.ranges(blocks, 1, func(lo, hi int) {
			lo, hi = lo*each, min(hi*each, n)
			dst := c.Out[0][lo*size : hi*size]
			switch o.To {
			case tensor.BF16:
				dequantizeFlat(w, tensor.View[tensor.BFloat16](dst), lo, tensor.ToBF16)
			case tensor.F16:
				dequantizeFlat(w, tensor.View[tensor.Float16](dst), lo, tensor.ToF16)
			default:
				dequantizeFlat(w, tensor.View[float32](dst), lo, func(x float32) float32 { return x })
			}
		})
	}}, nil
}

// weight4 reads a weight in 4 bits.
type weight4 struct {
	blocksize, cols int
	values          [16]float32
	codes           []byte
	absmax          []float32 // nil with double quantization
	absmax8         []byte
	nested          []float32
	offset          float32
	book            [256]float32
	round           tensor.DType // what Block rounds to
}

// bind takes the operands of the op: codes, absmax and, nested, nested_absmax and offset.
func (w *weight4) bind(in [][]byte) {
	w.codes = in[0]
	if len(in) == 2 {
		w.absmax = tensor.View[float32](in[1])
		return
	}
	w.absmax8, w.nested = in[1], tensor.View[float32](in[2])
	w.offset, w.book = tensor.View[float32](in[3])[0], quant.DynamicSigned().Values()
}

// scale is the absmax of block b.
func (w *weight4) scale(b int) float32 {
	if w.absmax != nil {
		return w.absmax[b]
	}
	return float32(w.book[w.absmax8[b]]*w.nested[b/quant.StateBlocksize]) + w.offset
}

// dequantizeFlat writes len(dst) elements from element lo of the weight on.
func dequantizeFlat[E any](w *weight4, dst []E, lo int, round func(float32) E) {
	var lut [16]E
	for len(dst) > 0 {
		b := lo / w.blocksize
		scale := w.scale(b)
		for i, v := range w.values {
			lut[i] = round(float32(v * scale))
		}
		n := min((b+1)*w.blocksize-lo, len(dst))
		lookup4(dst[:n], w.codes, lo, &lut)
		dst, lo = dst[n:], lo+n
	}
}

// lookup4 decodes len(dst) elements, the first of which is element lo.
func lookup4[E any](dst []E, codes []byte, lo int, lut *[16]E) {
	if lo%2 == 1 && len(dst) > 0 {
		dst[0] = lut[codes[lo/2]&15]
		dst, lo = dst[1:], lo+1
	}
	pairs := codes[lo/2:]
	for i := 0; len(dst) >= 2 && i < len(pairs); i++ {
		b := pairs[i]
		dst[0], dst[1] = lut[b>>4], lut[b&15]
		dst = dst[2:]
		lo += 2
	}
	if len(dst) == 1 {
		dst[0] = lut[codes[lo/2]>>4]
	}
}

func buildQuantize4(d *Device, o ops.Quantize4, s device.Spec) (*Kernel, error) {
	n, bs := s.In[0].Size(), o.Blocksize
	return &Kernel{Run: func(c *Call) error {
		absmax := tensor.View[float32](c.Out[1])
		return d.firstError(quant.Blocks(n, bs), blocksPerTask(bs), func(lo, hi int) error {
			from, to := lo*bs, min(hi*bs, n)
			codes, scales := c.Out[0][from/2:quant.PackedSize(to)], absmax[lo:hi]
			switch s.In[0].DType {
			case tensor.BF16:
				return quant.Quantize4(codes, scales, tensor.View[tensor.BFloat16](c.In[0])[from:to], bs, o.Scheme)
			case tensor.F16:
				return quant.Quantize4(codes, scales, tensor.View[tensor.Float16](c.In[0])[from:to], bs, o.Scheme)
			}
			return quant.Quantize4(codes, scales, tensor.View[float32](c.In[0])[from:to], bs, o.Scheme)
		})
	}}, nil
}

func buildQuantize8(d *Device, o ops.Quantize8, s device.Spec) (*Kernel, error) {
	n, bs, book := s.In[0].Size(), o.Blocksize, bookOf(o.Unsigned)
	return &Kernel{Run: func(c *Call) error {
		absmax := tensor.View[float32](c.Out[1])
		return d.firstError(quant.Blocks(n, bs), blocksPerTask(bs), func(lo, hi int) error {
			from, to := lo*bs, min(hi*bs, n)
			codes, scales := c.Out[0][from:to], absmax[lo:hi]
			switch s.In[0].DType {
			case tensor.BF16:
				return quantize8(codes, scales, tensor.View[tensor.BFloat16](c.In[0])[from:to], o, book)
			case tensor.F16:
				return quantize8(codes, scales, tensor.View[tensor.Float16](c.In[0])[from:to], o, book)
			}
			return quantize8(codes, scales, tensor.View[float32](c.In[0])[from:to], o, book)
		})
	}}, nil
}

func quantize8[E quant.Real](codes []byte, absmax []float32, x []E, o ops.Quantize8, book *quant.Codebook) error {
	err := quant.Quantize8(codes, absmax, x, o.Blocksize, book)
	if err == nil && o.Moment {
		for i, k := range codes {
			codes[i] = book.SignAdjust(k, wide(x[i]))
		}
	}
	return err
}

func wide[E quant.Real](x E) float32 {
	switch x := any(x).(type) {
	case tensor.BFloat16:
		return x.Float32()
	case tensor.Float16:
		return x.Float32()
	case float32:
		return x
	}
	return 0
}

func bookOf(unsigned bool) *quant.Codebook {
	if unsigned {
		return quant.DynamicUnsigned()
	}
	return quant.DynamicSigned()
}

func buildDequantize8(d *Device, o ops.Dequantize8, s device.Spec) (*Kernel, error) {
	if o.To == tensor.F64 {
		return nil, device.ErrNoKernel
	}
	n, bs, book := s.In[0].Size(), o.Blocksize, bookOf(o.Unsigned)
	return &Kernel{Run: func(c *Call) error {
		absmax := tensor.View[float32](c.In[1])
		return d.firstError(quant.Blocks(n, bs), blocksPerTask(bs), func(lo, hi int) error {
			from, to := lo*bs, min(hi*bs, n)
			codes, scales := c.In[0][from:to], absmax[lo:hi]
			switch o.To {
			case tensor.BF16:
				return quant.Dequantize8(tensor.View[tensor.BFloat16](c.Out[0])[from:to], codes, scales, bs, book)
			case tensor.F16:
				return quant.Dequantize8(tensor.View[tensor.Float16](c.Out[0])[from:to], codes, scales, bs, book)
			}
			return quant.Dequantize8(tensor.View[float32](c.Out[0])[from:to], codes, scales, bs, book)
		})
	}}, nil
}

// firstError is ranges for a function that can fail; of several errors one is returned.
func (d *Device) firstError(n, grain int, f func(lo, hi int) error) error {
	failed := make(chan error, 1)
	err := d.ranges(n, grain, func(lo, hi int) {
		if err := f(lo, hi); err != nil {
			select {
			case failed <- err:
			default:
			}
		}
	})
	select {
	case first := <-failed:
		return first
	default:
		return err
	}
}
