package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/gemm"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildGroupByExpert)
	Register(buildGroupedMatMul)
	Register(buildGroupedOuter)
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
	m, n, k int                              // of one product; one of m and k is 0 and stands for the rows of the expert
	need    func(m, n, k, threads int) int64 // scratch of a product
	args    func(c *Call, s stretch) gemm.Args
	before  func(c *Call, stretches []stretch) error           // called first; nil: nothing is
	few     func(c *Call, s stretch, mem []byte) (bool, error) // a way of its own for few rows; nil or false: there is none
	head    int64                                              // scratch of before
	fewMem  int64                                              // scratch of few

	lanes  int
	each   int64 // scratch of a lane
	errs   []error
	laneFn func(lane int)

	// Of a launch.
	call      *Call
	scratch   []byte
	stretches []stretch
	small     []stretch // experts whose products are spread over threads whole
}

// stretch is the rows of an expert.
type stretch struct{ expert, lo, hi int }

// kernel runs large products one after another, each on all threads, and then the small ones beside each other. Package gemm gives the same
// bits either way.
func (g *grouped) kernel(offsets int) *Kernel {
	g.lanes = min(g.d.threads, g.experts)
	rows := min(g.rows, smallProduct/max(g.volume(1), 1)+1)
	g.each = (g.need(g.extents(rows)) + 63) &^ 63
	m, n, k, _ := g.extents(g.rows)
	g.errs, g.small, g.stretches, g.laneFn = make([]error, g.lanes), make([]stretch, 0, g.experts), make([]stretch, 0, g.experts), g.lane
	need := max(g.need(m, n, k, g.d.threads), g.each*int64(g.lanes), g.fewMem)
	return &Kernel{ScratchBytes: g.head + need, Run: func(c *Call) error {
		g.call, g.scratch = c, c.Scratch[g.head:]
		defer func() { g.call, g.scratch = nil, nil }()
		g.split(tensor.View[int32](c.In[offsets]))
		if g.before != nil {
			if err := g.before(c, g.stretches); err != nil {
				return err
			}
		}
		return g.run()
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
func (g *grouped) split(offsets []int32) {
	out, end := g.call.Out[0], 0
	row := g.n * len(out) / max(g.rows*g.n, 1) // bytes
	g.stretches = g.stretches[:0]
	for e := range g.experts {
		lo := min(max(int(offsets[e]), end), g.rows)
		hi := min(max(int(offsets[e+1]), lo), g.rows)
		if g.m == 0 {
			clear(out[end*row : lo*row])
		}
		if hi > lo || g.m > 0 {
			g.stretches = append(g.stretches, stretch{e, lo, hi})
		}
		end = hi
	}
	if g.m == 0 {
		clear(out[end*row:])
	}
}

func (g *grouped) run() error {
	g.small = g.small[:0]
	for _, s := range g.stretches {
		if g.few != nil {
			if done, err := g.few(g.call, s, g.scratch); done || err != nil {
				if err != nil {
					return err
				}
				continue
			}
		}
		if g.volume(s.hi-s.lo) < smallProduct {
			g.small = append(g.small, s)
			continue
		}
		if err := gemm.Gemm(g.d.pool, g.scratch, 1, g.args(g.call, s)); err != nil {
			return err
		}
	}
	clear(g.errs)
	if err := g.d.parallel(min(g.lanes, len(g.small)), g.laneFn); err != nil {
		return err
	}
	for _, err := range g.errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// lane computes every so many-th small product.
func (g *grouped) lane(lane int) {
	mem := g.scratch[int64(lane)*g.each:][:g.each]
	for i := lane; i < len(g.small) && g.errs[lane] == nil; i += min(g.lanes, len(g.small)) {
		g.errs[lane] = gemm.Gemm(nil, mem, 1, g.args(g.call, g.small[i]))
	}
}

func buildGroupedMatMul(d *Device, o ops.GroupedMatMul, s device.Spec) (*Kernel, error) {
	x, w, y := s.In[0], s.In[1], s.Out[0]
	size, each := x.DType.Size(), w.Dim(1)*w.Dim(2)*w.DType.Size()
	g := &grouped{d: d, experts: w.Dim(0), rows: x.Dim(0), n: y.Dim(1), k: x.Dim(1), need: gemm.ScratchBytes}
	g.args = func(c *Call, s stretch) gemm.Args {
		return gemm.Args{M: s.hi - s.lo, N: g.n, K: g.k, A: gemm.Mat{Data: c.In[0][s.lo*g.k*size : s.hi*g.k*size], DType: x.DType},
			B: gemm.Mat{Data: c.In[1][s.expert*each : (s.expert+1)*each], DType: w.DType, Trans: !o.Trans},
			C: gemm.Out{Data: c.Out[0][s.lo*g.n*size : s.hi*g.n*size], DType: y.DType}}
	}
	return g.kernel(2), nil
}

func buildGroupedOuter(d *Device, _ ops.GroupedOuter, s device.Spec) (*Kernel, error) {
	a, b, y := s.In[0], s.In[1], s.Out[0]
	m, n, size := a.Dim(1), b.Dim(1), a.DType.Size()
	if m == 0 {
		return &Kernel{Run: func(*Call) error { return nil }}, nil
	}
	g := &grouped{d: d, experts: y.Dim(0), rows: a.Dim(0), m: m, n: n, need: gemm.ScratchBytes}
	g.args = func(c *Call, s stretch) gemm.Args {
		return gemm.Args{M: m, N: n, K: s.hi - s.lo, A: gemm.Mat{Data: c.In[0][s.lo*m*size : s.hi*m*size], DType: a.DType, Trans: true},
			B: gemm.Mat{Data: c.In[1][s.lo*n*size : s.hi*n*size], DType: b.DType},
			C: gemm.Out{Data: c.Out[0][s.expert*m*n*size : (s.expert+1)*m*n*size], DType: y.DType}}
	}
	return g.kernel(2), nil
}
