package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() { Register(buildQuantEmbed) }

// buildQuantEmbed decodes only the rows that are looked up.
func buildQuantEmbed(d *Device, o ops.QuantEmbed, s device.Spec) (*Kernel, error) {
	if o.To == tensor.F64 {
		return nil, device.ErrNoKernel
	}
	n, row := s.In[0].Size(), o.Cols*o.To.Size()
	w := &weight4{blocksize: o.Blocksize, cols: o.Cols, values: o.Scheme.Values()}
	return &Kernel{Run: func(c *Call) error {
		w.bind(c.In[1:])
		defer w.release()
		ids := tensor.View[int32](c.In[0])
		return d.ranges(n, max(quantGrain/max(o.Cols, 1), 1), func(lo, hi int) {
			for i := lo; i < hi; i++ {
				dst := c.Out[0][i*row : (i+1)*row]
				if id := int(ids[i]); id >= 0 && id < o.Rows {
					dequantizeRow4(w, dst, id*o.Cols, o.To)
				} else {
					clear(dst)
				}
			}
		})
	}}, nil
}

func dequantizeRow4(w *weight4, dst []byte, lo int, to tensor.DType) {
	switch to {
	case tensor.BF16:
		dequantizeFlat(w, tensor.View[tensor.BFloat16](dst), lo, tensor.ToBF16)
	case tensor.F16:
		dequantizeFlat(w, tensor.View[tensor.Float16](dst), lo, tensor.ToF16)
	default:
		dequantizeFlat(w, tensor.View[float32](dst), lo, func(x float32) float32 { return x })
	}
}
