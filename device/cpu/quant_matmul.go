package cpu

import (
	"encoding/binary"
	"math"

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
	var lut [16]uint64
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
			decode4(row[:n], w.codes, lo, &lut)
			row, lo = row[n:], lo+n
		}
	}
}

// fill makes the table of one block: the bits of its values, rounded to the compute dtype.
func (w *weight4) fill(lut *[16]uint64, scale float32) {
	for i, v := range w.values {
		x := float32(v * scale)
		switch w.round {
		case tensor.BF16:
			x = tensor.ToBF16(x).Float32()
		case tensor.F16:
			x = tensor.ToF16(x).Float32()
		}
		lut[i] = uint64(math.Float32bits(x))
	}
}

// decode4 is lookup4 for float32, whole words at a time: four bytes of codes become four stores of two elements.
func decode4(dst []float32, codes []byte, lo int, lut *[16]uint64) {
	if lo%2 == 1 && len(dst) > 0 {
		dst[0] = math.Float32frombits(uint32(lut[codes[lo/2]&15]))
		dst, lo = dst[1:], lo+1
	}
	if n := len(dst); n%2 == 1 {
		dst[n-1] = math.Float32frombits(uint32(lut[codes[(lo+n)/2]>>4]))
	}
	in, out := codes[lo/2:lo/2+len(dst)/2], tensor.AsBytes(dst)
	for ; len(in) >= 4 && len(out) >= 32; in, out = in[4:], out[32:] {
		c := binary.LittleEndian.Uint32(in)
		binary.LittleEndian.PutUint64(out, lut[c>>4&15]|lut[c&15]<<32)
		binary.LittleEndian.PutUint64(out[8:], lut[c>>12&15]|lut[c>>8&15]<<32)
		binary.LittleEndian.PutUint64(out[16:], lut[c>>20&15]|lut[c>>16&15]<<32)
		binary.LittleEndian.PutUint64(out[24:], lut[c>>28]|lut[c>>24&15]<<32)
	}
	for i, c := range in {
		binary.LittleEndian.PutUint64(out[8*i:], lut[c>>4]|lut[c&15]<<32)
	}
}
