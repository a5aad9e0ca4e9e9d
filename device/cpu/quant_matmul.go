package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/gemm"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() { Register(buildQuantMatMul) }

// buildQuantMatMul multiplies by a weight that is decoded while package gemm packs it: a few panels of it exist as float32 at a
// time, in the plan's scratch, never the whole.
func buildQuantMatMul(d *Device, o ops.QuantMatMul, s device.Spec) (*Kernel, error) {
	x, y := s.In[0], s.Out[0]
	if x.DType == tensor.F64 {
		return nil, device.ErrNoKernel
	}
	k, n := x.Dim(-1), y.Dim(-1)
	m := 1
	for i := range x.Rank() - 1 {
		m *= x.Dim(i)
	}
	w := &weight4{blocksize: o.Blocksize, cols: o.K, values: o.Scheme.Values(), round: x.DType}
	return &Kernel{ScratchBytes: gemm.ScratchBytes(m, n, k, d.threads), Run: func(c *Call) error {
		w.bind(c.In[1:])
		defer w.release()
		return gemm.Gemm(d.pool, c.Scratch, 1, gemm.Args{M: m, N: n, K: k,
			A: gemm.Mat{Data: c.In[0], DType: x.DType}, B: gemm.Mat{Source: w, Trans: !o.Trans},
			C: gemm.Out{Data: c.Out[0], DType: y.DType}})
	}}, nil
}

// release drops the references to the operands.
func (w *weight4) release() { w.codes, w.absmax, w.absmax8, w.nested = nil, nil, nil, nil }

// Block implements gemm.Source.
func (w *weight4) Block(dst []float32, ld, r0, r1, c0, c1 int) {
	var lut [16]float32
	last := -1
	for r := r0; r < r1; r++ {
		row := dst[(r-r0)*ld:][:c1-c0]
		for lo := r*w.cols + c0; len(row) > 0; {
			b := lo / w.blocksize
			if b != last {
				last = b
				w.fill(&lut, w.scale(b))
			}
			n := min((b+1)*w.blocksize-lo, len(row))
			lookup4(row[:n], w.codes, lo, &lut)
			row, lo = row[n:], lo+n
		}
	}
}

// fill makes the table of one block, rounded to the compute dtype.
func (w *weight4) fill(lut *[16]float32, scale float32) {
	for i, v := range w.values {
		lut[i] = float32(v * scale)
	}
	switch w.round {
	case tensor.BF16:
		for i, v := range lut {
			lut[i] = tensor.ToBF16(v).Float32()
		}
	case tensor.F16:
		for i, v := range lut {
			lut[i] = tensor.ToF16(v).Float32()
		}
	}
}
