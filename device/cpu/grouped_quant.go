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
	Register(buildQuantGrouped)
	Register(buildInt8Grouped)
}

// rowsFrom is a source whose rows begin at a row of another: one expert's matrix.
type rowsFrom struct {
	gemm.Source
	first int
}

// Block implements gemm.Source.
func (s rowsFrom) Block(dst []float32, ld, r0, r1, c0, c1 int) {
	s.Source.Block(dst, ld, s.first+r0, s.first+r1, c0, c1)
}

// packedFrom is rowsFrom for a source that packs itself.
type packedFrom struct {
	gemm.Packer
	first int
}

// Block implements gemm.Source.
func (s packedFrom) Block(dst []float32, ld, r0, r1, c0, c1 int) {
	s.Packer.Block(dst, ld, s.first+r0, s.first+r1, c0, c1)
}

// Pack implements gemm.Packer.
func (s packedFrom) Pack(dst []float32, width, lane, lanes, k0, kb int, laneRows bool) bool {
	if laneRows {
		lane += s.first
	} else {
		k0 += s.first
	}
	return s.Packer.Pack(dst, width, lane, lanes, k0, kb, laneRows)
}

// quantGrouped makes the products of rows by quantized matrices of n rows.
func quantGrouped(d *Device, s device.Spec, experts, n int, trans bool, from func(row int) gemm.Source) *grouped {
	x, y := s.In[0], s.Out[0]
	g := &grouped{d: d, experts: experts, rows: x.Dim(0), n: y.Dim(1), k: x.Dim(1)}
	size := x.DType.Size()
	sources := make([]gemm.Source, experts)
	for e := range sources {
		sources[e] = from(e * n)
	}
	g.args = func(c *Call, s stretch) gemm.Args {
		return gemm.Args{M: s.hi - s.lo, N: g.n, K: g.k, A: gemm.Mat{Data: c.In[0][s.lo*g.k*size : s.hi*g.k*size], DType: x.DType},
			B: gemm.Mat{Source: sources[s.expert], Trans: !trans}, C: gemm.Out{Data: c.Out[0][s.lo*g.n*size : s.hi*g.n*size], DType: y.DType}}
	}
	return g
}

// grouped4 is a grouped product by a weight in 4 bits.
type grouped4 struct {
	d         *Device
	o         ops.QuantGroupedMatMul
	w         *weight4
	dtype     tensor.DType
	vectors   [fourbit.MaxVectors]*vectors4 // of one to four rows of one expert; nil where the shape has none
	one       *weight4                      // of an expert, for vectors
	restored  []float32                     // of a launch: first-level scales
	first     int                           // of the blocks of an expert
	restoreFn func(task int)
	blocks    int
}

// buildQuantGrouped has weights decoded while they are packed; one to four rows of an expert are multiplied by codes as they are stored.
// Second-level scales are restored first, of experts that have rows.
func buildQuantGrouped(d *Device, o ops.QuantGroupedMatMul, s device.Spec) (*Kernel, error) {
	dtype := s.In[0].DType
	if dtype == tensor.F64 {
		return nil, device.ErrNoKernel
	}
	q := &grouped4{d: d, o: o, w: newWeight4(o.Scheme, o.Blocksize, o.K, dtype), dtype: dtype}
	q.restoreFn = q.restore
	g := quantGrouped(d, s, o.Experts, o.N, o.Trans, func(row int) gemm.Source { return packedFrom{q.w, row} })
	g.need, g.before = gemm.PackedScratchBytes, q.begin
	if o.Nested {
		g.head = 4 * int64((quant.Blocks(o.Experts*o.N*o.K, o.Blocksize)+15)&^15)
	}
	if unit := fourbit.Unit(o.K, o.Blocksize); unit > 0 && o.N > 0 && o.K > 0 && o.N*o.K%o.Blocksize == 0 {
		q.one = newWeight4(o.Scheme, o.Blocksize, o.K, dtype)
		for i := range q.vectors {
			p := &product4{d: d, w: q.one, m: i + 1, rows: o.N, trans: o.Trans, dtype: dtype}
			q.vectors[i] = newVectors4(p, unit)
			g.fewMem = max(g.fewMem, 4*int64(q.vectors[i].layout(nil)))
		}
		g.few = q.few
	}
	k := g.kernel(1)
	run := k.Run
	k.Run = func(c *Call) error {
		defer q.release()
		return run(c)
	}
	return k, nil
}

// begin takes the operands and restores scales.
func (q *grouped4) begin(c *Call, stretches []stretch) error {
	q.w.bind(c.In[2:])
	if !q.o.Nested {
		return nil
	}
	q.restored = tensor.View[float32](c.Scratch)[:len(q.w.Absmax8)]
	each := q.o.N * q.o.K
	for _, s := range stretches { // one after another: experts may share a block
		q.first = s.expert * each / q.o.Blocksize
		q.blocks = quant.Blocks((s.expert+1)*each, q.o.Blocksize) - q.first
		if err := q.d.pool.Run((q.blocks+restoreGrain-1)/restoreGrain, q.restoreFn); err != nil {
			return err
		}
	}
	q.w.Absmax = q.restored
	return nil
}

func (q *grouped4) restore(task int) {
	lo := q.first + task*restoreGrain
	hi := min(lo+restoreGrain, q.first+q.blocks)
	q.w.Scales(q.restored[lo:hi], lo)
}

// few multiplies up to four rows.
func (q *grouped4) few(c *Call, s stretch, mem []byte) (bool, error) {
	rows := s.hi - s.lo
	if rows > len(q.vectors) {
		return false, nil
	}
	v, each := q.vectors[rows-1], q.o.N*q.o.K
	blocks := each / q.o.Blocksize
	q.one.Codes, q.one.Absmax = q.w.Codes[s.expert*each/2:(s.expert+1)*each/2], q.w.Absmax[s.expert*blocks:(s.expert+1)*blocks]
	v.layout(tensor.View[float32](mem[:len(mem)&^63]))
	in, out := q.o.K*q.dtype.Size(), q.o.N*q.dtype.Size()
	if q.o.Trans {
		in, out = out, in
	}
	v.out = c.Out[0][s.lo*out : s.hi*out]
	defer v.release()
	return true, v.run(c.In[0][s.lo*in : s.hi*in])
}

func (q *grouped4) release() {
	q.w.release()
	q.restored = nil
}

func buildInt8Grouped(d *Device, o ops.Int8GroupedMatMul, s device.Spec) (*Kernel, error) {
	if s.In[0].DType == tensor.F64 {
		return nil, device.ErrNoKernel
	}
	codes := s.In[2]
	w := &weight8{cols: codes.Dim(2), round: s.In[0].DType}
	g := quantGrouped(d, s, codes.Dim(0), codes.Dim(1), o.Trans, func(row int) gemm.Source { return rowsFrom{w, row} })
	g.need = gemm.ScratchBytes
	k := g.kernel(1)
	run := k.Run
	k.Run = func(c *Call) error {
		w.codes, w.stats = tensor.View[int8](c.In[2]), tensor.View[float32](c.In[3])
		defer func() { w.codes, w.stats = nil, nil }()
		return run(c)
	}
	return k, nil
}
