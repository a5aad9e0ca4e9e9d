package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/gemm"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildGroupByExpert)
	Register(buildGroupedMatMul)
	Register(buildGroupedOuter)
	Register(buildQuantGrouped)
	Register(buildInt8Grouped)
}

// buildGroupByExpert is a counting sort.
func buildGroupByExpert(_ *Device, o ops.GroupByExpert, _ device.Spec) (*Kernel, error) {
	return &Kernel{ScratchBytes: 4 * int64(o.Experts+1), Run: func(c *Call) error {
		expert := tensor.View[int32](c.In[0])
		order, inverse, offsets := tensor.View[int32](c.Out[0]), tensor.View[int32](c.Out[1]), tensor.View[int32](c.Out[2])
		next := tensor.View[int32](c.Scratch)[:o.Experts+1]
		clear(next)
		bin := func(e int32) int32 {
			if e < 0 || int(e) >= o.Experts {
				return int32(o.Experts)
			}
			return e
		}
		for _, e := range expert {
			next[bin(e)]++
		}
		at := int32(0)
		for e := range next {
			offsets[e] = at
			at, next[e] = at+next[e], at
		}
		for i, e := range expert {
			e = bin(e)
			order[next[e]], inverse[i] = int32(i), next[e]
			next[e]++
		}
		return nil
	}}, nil
}

// grouped is a product for each expert, over the rows between two offsets.
type grouped struct {
	d       *Device
	experts int
	rows    int
	m, n, k int // of one product; one of m and k is 0 and stands for the rows of the expert
	scratch func(m, n, k, threads int) int64
	args    func(c *Call, e, lo, hi int) gemm.Args // of the rows [lo, hi) of expert e

	lanes int
	each  int64 // scratch of a lane
	errs  []error
	small []stretch // of a launch: experts whose products are spread over threads whole
}

// stretch is the rows of an expert.
type stretch struct{ expert, lo, hi int }

// kernel runs large products one after another, each on all threads, and then the small ones beside each other. Package gemm gives the same
// bits either way.
func (g *grouped) kernel(offsets int, before func(c *Call, lo []stretch) error, beforeBytes int64) *Kernel {
	g.lanes = min(g.d.threads, g.experts)
	rows := min(g.rows, smallProduct/max(g.volume(1), 1)+1)
	g.each = (g.scratch(g.extents(rows)) + 63) &^ 63
	m, n, k, _ := g.extents(g.rows)
	g.errs, g.small = make([]error, g.lanes), make([]stretch, 0, g.experts)
	stretches := make([]stretch, 0, g.experts)
	need := max(g.scratch(m, n, k, g.d.threads), g.each*int64(g.lanes))
	return &Kernel{ScratchBytes: beforeBytes + need, Run: func(c *Call) error {
		stretches = g.split(stretches[:0], c, tensor.View[int32](c.In[offsets]))
		if before != nil {
			if err := before(c, stretches); err != nil {
				return err
			}
		}
		return g.run(c, stretches, c.Scratch[beforeBytes:])
	}}
}

// volume is the multiply-adds of a product over some rows.
func (g *grouped) volume(rows int) int {
	m, n, k, _ := g.extents(rows)
	return m * n * k
}

// extents of a product over some rows, for one thread.
func (g *grouped) extents(rows int) (m, n, k, threads int) {
	if g.m == 0 {
		return rows, g.n, g.k, 1
	}
	return g.m, g.n, rows, 1
}

// split turns offsets into stretches within the rows and clears results that no product writes.
func (g *grouped) split(stretches []stretch, c *Call, offsets []int32) []stretch {
	end := 0
	row := g.n * len(c.Out[0]) / max(g.rows*g.n, 1) // bytes
	for e := range g.experts {
		lo := min(max(int(offsets[e]), end), g.rows)
		hi := min(max(int(offsets[e+1]), lo), g.rows)
		if g.m == 0 {
			clear(c.Out[0][end*row : lo*row])
		}
		if hi > lo || g.m > 0 {
			stretches = append(stretches, stretch{e, lo, hi})
		}
		end = hi
	}
	if g.m == 0 {
		clear(c.Out[0][end*row:])
	}
	return stretches
}

func (g *grouped) run(c *Call, stretches []stretch, scratch []byte) error {
	g.small = g.small[:0]
	for _, s := range stretches {
		if g.volume(s.hi-s.lo) < smallProduct {
			g.small = append(g.small, s)
			continue
		}
		if err := gemm.Gemm(g.d.pool, scratch, 1, g.args(c, s.expert, s.lo, s.hi)); err != nil {
			return err
		}
	}
	clear(g.errs)
	lanes := min(g.lanes, len(g.small))
	if err := g.d.parallel(lanes, func(lane int) {
		mem := scratch[int64(lane)*g.each:][:g.each]
		for i := lane; i < len(g.small) && g.errs[lane] == nil; i += lanes {
			s := g.small[i]
			g.errs[lane] = gemm.Gemm(nil, mem, 1, g.args(c, s.expert, s.lo, s.hi))
		}
	}); err != nil {
		return err
	}
	for _, err := range g.errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func buildGroupedMatMul(d *Device, o ops.GroupedMatMul, s device.Spec) (*Kernel, error) {
	x, w, y := s.In[0], s.In[1], s.Out[0]
	size, each := x.DType.Size(), w.Dim(1)*w.Dim(2)*w.DType.Size()
	g := &grouped{d: d, experts: w.Dim(0), rows: x.Dim(0), n: y.Dim(1), k: x.Dim(1), scratch: gemm.ScratchBytes}
	g.args = func(c *Call, e, lo, hi int) gemm.Args {
		return gemm.Args{M: hi - lo, N: g.n, K: g.k, A: gemm.Mat{Data: c.In[0][lo*g.k*size : hi*g.k*size], DType: x.DType},
			B: gemm.Mat{Data: c.In[1][e*each : (e+1)*each], DType: w.DType, Trans: !o.Trans},
			C: gemm.Out{Data: c.Out[0][lo*g.n*size : hi*g.n*size], DType: y.DType}}
	}
	return g.kernel(2, nil, 0), nil
}

func buildGroupedOuter(d *Device, _ ops.GroupedOuter, s device.Spec) (*Kernel, error) {
	a, b, y := s.In[0], s.In[1], s.Out[0]
	m, n, size := a.Dim(1), b.Dim(1), a.DType.Size()
	if m == 0 {
		return &Kernel{Run: func(*Call) error { return nil }}, nil
	}
	g := &grouped{d: d, experts: y.Dim(0), rows: a.Dim(0), m: m, n: n, scratch: gemm.ScratchBytes}
	g.args = func(c *Call, e, lo, hi int) gemm.Args {
		return gemm.Args{M: m, N: n, K: hi - lo, A: gemm.Mat{Data: c.In[0][lo*m*size : hi*m*size], DType: a.DType, Trans: true},
			B: gemm.Mat{Data: c.In[1][lo*n*size : hi*n*size], DType: b.DType},
			C: gemm.Out{Data: c.Out[0][e*m*n*size : (e+1)*m*n*size], DType: y.DType}}
	}
	return g.kernel(2, nil, 0), nil
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

// quantGrouped makes the arguments of products by quantized matrices of n rows.
func quantGrouped(g *grouped, s device.Spec, n int, trans bool, from func(row int) gemm.Source) {
	x, y := s.In[0], s.Out[0]
	g.rows, g.n, g.k = x.Dim(0), y.Dim(1), x.Dim(1)
	size := x.DType.Size()
	sources := make([]gemm.Source, g.experts)
	for e := range sources {
		sources[e] = from(e * n)
	}
	g.args = func(c *Call, e, lo, hi int) gemm.Args {
		return gemm.Args{M: hi - lo, N: g.n, K: g.k, A: gemm.Mat{Data: c.In[0][lo*g.k*size : hi*g.k*size], DType: x.DType},
			B: gemm.Mat{Source: sources[e], Trans: !trans}, C: gemm.Out{Data: c.Out[0][lo*g.n*size : hi*g.n*size], DType: y.DType}}
	}
}

// buildQuantGrouped has weights decoded while they are packed. Second-level scales are restored first, of experts that have rows.
func buildQuantGrouped(d *Device, o ops.QuantGroupedMatMul, s device.Spec) (*Kernel, error) {
	if s.In[0].DType == tensor.F64 {
		return nil, device.ErrNoKernel
	}
	w := newWeight4(o.Scheme, o.Blocksize, o.K, s.In[0].DType)
	g := &grouped{d: d, experts: o.Experts, scratch: gemm.PackedScratchBytes}
	quantGrouped(g, s, o.N, o.Trans, func(row int) gemm.Source { return packedFrom{w, row} })
	each, scales := o.N*o.K, 0
	if o.Nested {
		scales = (quant.Blocks(o.Experts*each, o.Blocksize) + 15) &^ 15
	}
	k := g.kernel(1, func(c *Call, stretches []stretch) error {
		w.bind(c.In[2:])
		if !o.Nested {
			return nil
		}
		restored := tensor.View[float32](c.Scratch)[:len(w.Absmax8)]
		for _, e := range stretches { // one after another: experts may stretch a block
			lo, hi := e.expert*each/o.Blocksize, quant.Blocks((e.expert+1)*each, o.Blocksize)
			if err := d.ranges(hi-lo, restoreGrain, func(a, b int) { w.Scales(restored[lo+a:lo+b], lo+a) }); err != nil {
				return err
			}
		}
		w.Absmax = restored
		return nil
	}, 4*int64(scales))
	run := k.Run
	k.Run = func(c *Call) error {
		defer w.release()
		return run(c)
	}
	return k, nil
}

func buildInt8Grouped(d *Device, o ops.Int8GroupedMatMul, s device.Spec) (*Kernel, error) {
	if s.In[0].DType == tensor.F64 {
		return nil, device.ErrNoKernel
	}
	codes := s.In[2]
	w := &weight8{cols: codes.Dim(2), round: s.In[0].DType}
	g := &grouped{d: d, experts: codes.Dim(0), scratch: gemm.ScratchBytes}
	quantGrouped(g, s, codes.Dim(1), o.Trans, func(row int) gemm.Source { return rowsFrom{w, row} })
	k := g.kernel(1, func(c *Call, _ []stretch) error {
		w.codes, w.stats = tensor.View[int8](c.In[2]), tensor.View[float32](c.In[3])
		return nil
	}, 0)
	run := k.Run
	k.Run = func(c *Call) error {
		defer func() { w.codes, w.stats = nil, nil }()
		return run(c)
	}
	return k, nil
}
