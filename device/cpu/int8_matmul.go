package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/gemm"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildInt8MatMul)
	Register(buildInt8WeightMatMul)
}

// gemm8 computes an int8 product, or m rows of it at a time.
type gemm8 struct {
	m, n, k        int
	transA, transB bool
	threads        int
	a, b           []int8
	scratch        []byte
}

func newGemm8(m, n, k int, o ops.Int8MatMul, threads int) *gemm8 {
	return &gemm8{m: m, n: n, k: k, transA: o.TransA, transB: o.TransB, threads: threads}
}

func (g *gemm8) carve(c *scratchCut) {
	g.scratch = cutScratch[byte](c, int(gemm.Int8ScratchBytes(g.m, g.n, g.k, g.threads)))
}

func (g *gemm8) release() { g.a, g.b, g.scratch = nil, nil, nil }

// tile writes rows first to first+rows-1, at most m of them, to dst.
func (g *gemm8) tile(d *Device, dst []int32, first, rows int) error {
	a := gemm.Mat8{Data: g.a, LD: g.m, Trans: true}
	if !g.transA {
		a = gemm.Mat8{Data: g.a[first*g.k:], LD: g.k}
	}
	b := gemm.Mat8{Data: g.b, LD: g.n, Trans: g.transB}
	if g.transB {
		b.LD = g.k
	}
	return gemm.Int8(d.pool, g.scratch, gemm.Int8Args{M: rows, N: g.n, K: g.k, A: a, B: b, C: dst})
}

func buildInt8MatMul(d *Device, o ops.Int8MatMul, s device.Spec) (*Kernel, error) {
	m, n := s.Out[0].Dim(0), s.Out[0].Dim(1)
	k := s.In[0].Dim(1)
	if o.TransA {
		k = s.In[0].Dim(0)
	}
	g := newGemm8(m, n, k, o, d.threads)
	var need scratchCut
	g.carve(&need)
	return &Kernel{ScratchBytes: need.used, Run: func(c *Call) error {
		g.carve(&scratchCut{b: c.Scratch})
		defer g.release()
		g.a, g.b = tensor.View[int8](c.In[0]), tensor.View[int8](c.In[1])
		return g.tile(d, tensor.View[int32](c.Out[0]), 0, m)
	}}, nil
}

// weight8 decodes a weight while package gemm packs it: code·(absmax/127), rounded to the compute dtype.
type weight8 struct {
	codes []int8
	stats []float32
	cols  int
	round tensor.DType
}

// Block implements gemm.Source.
func (w *weight8) Block(dst []float32, ld, r0, r1, c0, c1 int) {
	for r := r0; r < r1; r++ {
		src := w.codes[r*w.cols+c0:][:c1-c0]
		row := dst[(r-r0)*ld:][:len(src)]
		scale := float32(w.stats[r] * quant.Int8RowScale)
		switch w.round {
		case tensor.BF16:
			scaleThrough[tensor.BFloat16](row, src, scale, w.round)
		case tensor.F16:
			scaleThrough[tensor.Float16](row, src, scale, w.round)
		default:
			quant.ScaleCodes(row, src, scale)
		}
	}
}

// scaleThrough writes code·scale as a 16-bit type has it.
func scaleThrough[E quant.Real](row []float32, src []int8, scale float32, d tensor.DType) {
	var half [512]E
	for i := 0; i < len(src); i += len(half) {
		n := min(len(half), len(src)-i)
		quant.ScaleCodes(half[:n], src[i:], scale)
		vec.Widen(row[i:i+n], tensor.AsBytes(half[:n]), d)
	}
}

func buildInt8WeightMatMul(d *Device, o ops.Int8WeightMatMul, s device.Spec) (*Kernel, error) {
	x, y := s.In[0], s.Out[0]
	if x.DType == tensor.F64 {
		return nil, device.ErrNoKernel
	}
	k, n := x.Dim(-1), y.Dim(-1)
	m := 1
	for i := range x.Rank() - 1 {
		m *= x.Dim(i)
	}
	w := &weight8{cols: s.In[1].Dim(1), round: x.DType}
	return &Kernel{ScratchBytes: gemm.ScratchBytes(m, n, k, d.threads), Run: func(c *Call) error {
		w.codes, w.stats = tensor.View[int8](c.In[1]), tensor.View[float32](c.In[2])
		defer func() { w.codes, w.stats = nil, nil }()
		return gemm.Gemm(d.pool, c.Scratch, 1, gemm.Args{M: m, N: n, K: k,
			A: gemm.Mat{Data: c.In[0], DType: x.DType}, B: gemm.Mat{Source: w, Trans: !o.Trans},
			C: gemm.Out{Data: c.Out[0], DType: y.DType}})
	}}, nil
}
