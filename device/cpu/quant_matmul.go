package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/gemm"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/internal/fourbit"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildQuantMatMul)
	Register(buildAddQuantMatMul)
}

// buildQuantMatMul multiplies by a weight that is never whole in memory. One to four rows of x are multiplied by the codes as they are
// stored; for more, package gemm has the weight decoded while it packs it, a few panels at a time, in the plan's scratch.
func buildQuantMatMul(d *Device, o ops.QuantMatMul, s device.Spec) (*Kernel, error) {
	x, y := s.In[0], s.Out[0]
	if x.DType == tensor.F64 {
		return nil, device.ErrNoKernel
	}
	m := 1
	for i := range x.Rank() - 1 {
		m *= x.Dim(i)
	}
	p := &product4{d: d, w: newWeight4(o.Scheme, o.Blocksize, o.K, x.DType), m: m, rows: o.N, trans: o.Trans, dtype: x.DType}
	if unit := fourbit.Unit(o.K, o.Blocksize); unit > 0 && m > 0 && m <= fourbit.MaxVectors && o.N > 0 && o.K > 0 {
		return newVectors4(p, unit).kernel(), nil
	}
	return p.kernel(x.Dim(-1), y.Dim(-1), o.Nested), nil
}

// buildAddQuantMatMul is the product by panels, added to what is there. A few rows have no such kernel: their products are cheap to add.
func buildAddQuantMatMul(d *Device, o ops.AddQuantMatMul, s device.Spec) (*Kernel, error) {
	y, err := o.Product(s.In)
	if err != nil {
		return nil, err
	}
	x := s.In[1]
	m := x.Size() / max(x.Dim(-1), 1)
	if x.DType == tensor.F64 || m <= fourbit.MaxVectors {
		return nil, device.ErrNoKernel
	}
	p := &product4{d: d, w: newWeight4(o.Scheme, o.Blocksize, o.K, x.DType), m: m, rows: o.N, trans: o.Trans, dtype: x.DType, first: 1}
	return p.kernel(x.Dim(-1), y.Dim(-1), o.Nested), nil
}

// product4 is a product by a weight of rows x w.Cols, or by its transpose.
type product4 struct {
	d     *Device
	w     *weight4
	m     int // rows of x
	rows  int
	trans bool // y = x·W, otherwise y = x·Wᵀ
	dtype tensor.DType
	first int // input x; what the product is added to lies before it

	scales []float32 // of a launch
}

// kernel is the product by panels. Second-level scales are restored for all blocks first: panels need them in another order.
func (p *product4) kernel(k, n int, nested bool) *Kernel {
	scales := 0
	if nested {
		scales = (quant.Blocks(p.rows*p.w.Cols, p.w.Blocksize) + 15) &^ 15
	}
	restore := func(task int) {
		lo := task * restoreGrain
		hi := min(lo+restoreGrain, len(p.scales))
		p.w.Scales(p.scales[lo:hi], lo)
	}
	return &Kernel{ScratchBytes: 4*int64(scales) + gemm.PackedScratchBytes(p.m, n, k, p.d.threads), Run: func(c *Call) error {
		p.w.bind(c.In[p.first+1:])
		defer p.release()
		if nested {
			p.scales = tensor.View[float32](c.Scratch)[:len(p.w.Absmax8)]
			if err := p.d.pool.Run((len(p.scales)+restoreGrain-1)/restoreGrain, restore); err != nil {
				return err
			}
			p.w.Absmax = p.scales
		}
		if out := c.Out[0]; p.first == 1 && len(out) > 0 && &out[0] != &c.In[0][0] {
			copy(out, c.In[0])
		}
		return gemm.Gemm(p.d.pool, c.Scratch[4*scales:], 1, gemm.Args{M: p.m, N: n, K: k, Accumulate: p.first == 1,
			A: gemm.Mat{Data: c.In[p.first], DType: p.dtype}, B: gemm.Mat{Source: p.w, Trans: !p.trans},
			C: gemm.Out{Data: c.Out[0], DType: p.dtype}})
	}}
}

// restoreGrain is the scales that a task restores.
const restoreGrain = 32 << 10

func (p *product4) release() {
	p.w.release()
	p.scales = nil
}

// Pack implements gemm.Packer.
func (w *weight4) Pack(dst []float32, width, lane, lanes, k0, kb int, laneRows bool) bool {
	if !laneRows {
		return w.PackRows(dst, width*kb, width, lanes/width, k0, kb, lane)
	}
	for at := 0; at < lanes; at += width {
		if !w.PackLanes(dst[at*kb:][:width*kb], width, lane+at, min(width, lanes-at), k0, kb) {
			return false
		}
	}
	return true
}
