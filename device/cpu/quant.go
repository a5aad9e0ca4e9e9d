package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildQuantize4)
	Register(buildQuantize8)
	Register(buildDequantize8)
}

// quantGrain is the elements of a task that quantizes or dequantizes.
const quantGrain = 16 << 10

// blocksPerTask is how many whole blocks make a task.
func blocksPerTask(blocksize int) int { return max(quantGrain/blocksize, 1) }

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
	if o.Moment {
		return quant.QuantizeMoments8(codes, absmax, x, o.Blocksize, book)
	}
	return quant.Quantize8(codes, absmax, x, o.Blocksize, book)
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
	n, bs, book, size := s.In[0].Size(), o.Blocksize, bookOf(o.Unsigned), o.To.Size()
	return &Kernel{Run: func(c *Call) error {
		absmax := tensor.View[float32](c.In[1])
		return d.firstError(quant.Blocks(n, bs), blocksPerTask(bs), func(lo, hi int) error {
			from, to := lo*bs, min(hi*bs, n)
			dst, codes, scales := c.Out[0][from*size:to*size], c.In[0][from:to], absmax[lo:hi]
			switch o.To {
			case tensor.BF16:
				return dequantize8(tensor.View[tensor.BFloat16](dst), codes, scales, bs, book, n*size)
			case tensor.F16:
				return dequantize8(tensor.View[tensor.Float16](dst), codes, scales, bs, book, n*size)
			}
			return dequantize8(tensor.View[float32](dst), codes, scales, bs, book, n*size)
		})
	}}, nil
}

// dequantize8 writes a part of an output of that many bytes.
func dequantize8[E quant.Real](dst []E, codes []byte, absmax []float32, blocksize int, book *quant.Codebook, bytes int) error {
	if bytes >= quant.StreamBytes {
		return quant.Dequantize8Large(dst, codes, absmax, blocksize, book)
	}
	return quant.Dequantize8(dst, codes, absmax, blocksize, book)
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
