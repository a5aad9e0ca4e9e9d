package cuda

import (
	"fmt"
	"math/bits"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() { Register(buildQuantGroup) }

// buildQuantGroup is for few rows on tensor cores; the others stay single products.
func buildQuantGroup(d *Device, o ops.QuantMatMulGroup, s device.Spec) (*Kernel, error) {
	t := newThinGroup(o, s)
	if t == nil || !d.multiplies(s.In[0].DType) {
		return nil, device.ErrNoKernel
	}
	if err := t.build(d, s.In[0].DType, t.shared(d)); err != nil {
		return nil, err
	}
	return t.kernel(), nil
}

// newThinGroup returns nil where quant_thin lacks the case.
func newThinGroup(o ops.QuantMatMulGroup, s device.Spec) *thin {
	x := s.In[0]
	m := tensor.S(x.Shape.Dims()[:x.Rank()-1]...).Size()
	t := &thin{m: m, cols: x.Dim(-1), size: int64(x.DType.Size())}
	fits := m > 0 && m <= thinGroupRows
	o.Inputs(func(i int, q ops.QuantProduct, from, to int) {
		w := weight4{q.Scheme, q.Blocksize, q.N, q.K, q.Nested}
		p := thinOperands{w: w, weight: from, out: i, to: -1, s: -1, bias: -1}
		if q.Bias {
			p.bias = from + q.BiasAt()
			fits = fits && (t.bias == tensor.Invalid || t.bias == s.In[p.bias].DType)
			t.bias = s.In[p.bias].DType
		}
		if q.Rank > 0 {
			p.s, p.rank, p.alpha = to-2, q.Rank, q.Alpha
			fits = fits && (t.low == tensor.Invalid || t.low == s.In[to-1].DType)
			t.low = s.In[to-1].DType
		}
		fits = fits && w.thin() && q.N > 0 && max(q.N, q.K) <= thinMost && q.Scheme == o.Of[0].Scheme && q.Nested == o.Of[0].Nested
		t.parts = append(t.parts, p)
	})
	if !fits {
		return nil
	}
	return t
}

// shared is how many warps share the inner axis.
func (t *thin) shared(d *Device) int {
	blocks := 0
	for _, p := range t.parts {
		blocks += ceilDiv(p.w.rows, 16)
	}
	return thinWarps(16*blocks, t.cols, t.m, d.Multiprocessors())
}

// thin is products of one x by kernels/quant_thin.cu, without scratch.
type thin struct {
	parts      []thinOperands
	x          int // which input
	m, cols    int
	size       int64        // bytes of an element of x and y
	low, bias  tensor.DType // those of the adapters' B and of biases; Invalid: none has one
	cores, any *Function    // cores is nil where quant_thin does not have the case
	warps      int
	lean       bool // by fewer loads (LEAN of kernels/quant_thin.cu), where that can be: not chosen, but timed
	blocks     int
	args       thinArgs
}

// thinOperands says which inputs and outputs of the op belong to a product.
type thinOperands struct {
	w           weight4
	weight, out int // the codes, which scales follow, and the result
	to          int // what the product is added to; -1: nothing
	s           int // the adapter's s, which B follows; -1: none
	bias        int // -1: none
	rank        int
	alpha       float32
}

// thinPart is struct Part of kernels/quant_thin.cu, and thinArgs its Parts.
type thinPart struct {
	codes                            Addr
	scales                           scaleArgs
	s, b, c, bias, y                 Addr
	alpha                            float32
	rank, n, first, shift, blocksize int32
}

type thinArgs struct{ of [ops.GroupMost]thinPart }

// Rows of x that a launch of the kernels takes.
const (
	thinRows      = 32 // quant_thin, eight to a column of tensor-core tiles
	thinRowsAny   = 4  // quant_thin_any
	thinGroupRows = 8  // several products at once: with more rows other ways compete
)

const thinMost = 1 << 30 // rows or columns of a weight, which kernels of few rows count in 32 bits, and step beyond

var thinFiles = []string{"eight.cuh", "fourbit.cuh", "tensor_core.cuh", "quant_thin.cu"}

// thinProduct is one product, added to the first input where add is true. It returns nil where x has too many rows, or the weight is too long.
func (d *Device) thinProduct(w weight4, dtype tensor.DType, m int, add bool) (*thin, error) {
	cores := m <= thinRows && w.thin() && d.multiplies(dtype)
	if !cores && m > thinRowsAny || max(w.rows, w.cols) > thinMost {
		return nil, nil
	}
	x := b2i(add)
	t := &thin{parts: []thinOperands{{w: w, weight: x + 1, to: x - 1, s: -1, bias: -1}}, x: x, m: m, cols: w.cols, size: int64(dtype.Size())}
	warps := 0
	if cores {
		warps = t.shared(d)
	}
	return t, t.build(d, dtype, warps)
}

// thin reports whether quant_thin has weights of this shape.
func (w weight4) thin() bool { return w.cols%32 == 0 && w.cols > 0 && powerBlock(w.blocksize) }

// build names the kernels; warps is 0 where only quant_thin_any has the case.
func (t *thin) build(d *Device, dtype tensor.DType, warps int) (err error) {
	one := t.parts[0].w
	for i, p := range t.parts {
		if p.w.blocksize != one.blocksize {
			one.blocksize = 0 // each has its own
		}
		t.args.of[i] = thinPart{alpha: p.alpha, rank: int32(p.rank), n: int32(p.w.rows), first: int32(t.blocks), blocksize: int32(p.w.blocksize),
			shift: int32(bits.TrailingZeros(uint(p.w.blocksize)))}
		t.blocks += ceilDiv(p.w.rows, 16)
	}
	program := one.program(dtype, "quant_thin.cu")
	program.Exact = false // values are computed by functions that are never contracted
	if t.low != tensor.Invalid {
		program.Define = append(program.Define, "LOW "+cType(t.low))
	}
	if t.bias != tensor.Invalid {
		program.Define = append(program.Define, "BIAS "+cType(t.bias))
	}
	if warps > 0 {
		t.warps = warps
		program.Files = thinFiles
		program.Define = append(program.Define, thinDefines(t.cols, t.m, warps)...)
		if t.lean && t.canBeLean() {
			program.Define = append(program.Define, "LEAN 1")
		}
		if len(t.parts) > 1 {
			program.Define = append(program.Define, fmt.Sprint("PARTS ", len(t.parts)))
		}
		if t.cores, err = d.Function(program, "quant_thin"); err != nil {
			return err
		}
	}
	t.any, err = d.Function(program, "quant_thin_any")
	return err
}

// multiplies reports whether tensor cores take the dtype: f16 from compute capability 7.5 on, bf16 from 8.0.
func (d *Device) multiplies(dtype tensor.DType) bool {
	return dtype == tensor.F16 && d.Capability() >= 75 || dtype == tensor.BF16 && d.Capability() >= 80
}

// thinColumns is how many tensor-core tiles of eight hold m rows of x: a power of two.
func thinColumns(m int) int {
	columns := 1
	for 8*columns < m {
		columns *= 2
	}
	return columns
}

// thinWarps is how many warps share the inner dimension: so many that the blocks of a multiprocessor, at once, have up to 32 together, and each has a step
// of 128 to do.
func thinWarps(n, k, m, processors int) int {
	warps := 8
	if thinColumns(m) == 1 {
		resident := ((n+15)/16 + processors - 1) / processors
		for 2*warps*resident <= 32 {
			warps *= 2
		}
	}
	for warps > 1 && k/128 < warps {
		warps /= 2
	}
	return warps
}

// thinDefines are the constants of quant_thin. BLOCKS bounds its registers: 64, 80 or 128 a thread by the number of tiles.
func thinDefines(k, m, warps int) []string {
	columns := thinColumns(m)
	most := map[int]int{1: 32, 2: 24, 4: 16}[columns] // warps of a multiprocessor
	return []string{"TENSOR_CORES", fmt.Sprintf("WARPS %d", warps), fmt.Sprintf("COLUMNS %d", columns), fmt.Sprintf("BLOCKS %d", max(most/warps, 1)), fmt.Sprint("EVEN ", b2i(k%128 == 0))}
}

// canBeLean reports whether the rows of x are few and those of the weights short enough for LEAN.
func (t *thin) canBeLean() bool {
	for _, p := range t.parts {
		if t.cols > 256*p.w.blocksize {
			return false
		}
	}
	return t.m <= 2
}

func (t *thin) kernel() *Kernel {
	switch {
	case t == nil:
		return nil
	case t.cores == nil:
		return &Kernel{Label: "quant_thin_any", Enqueue: t.plain}
	case len(t.parts) > 1:
		return &Kernel{Label: fmt.Sprint("quant_thin_", len(t.parts)), Enqueue: t.enqueue}
	}
	return &Kernel{Label: "quant_thin", Enqueue: t.enqueue}
}

// place puts the addresses of a launch into its arguments, and reports whether quant_thin can read them.
func (t *thin) place(c *Call) (aligned bool) {
	at := c.In[t.x]
	for i, o := range t.parts {
		p := &t.args.of[i]
		p.codes, p.scales, p.y = c.In[o.weight], o.w.scales(c.In[o.weight:]), c.Out[o.out]
		if o.to >= 0 {
			p.c = c.In[o.to]
		}
		if o.s >= 0 {
			p.s, p.b = c.In[o.s], c.In[o.s+1]
		}
		if o.bias >= 0 {
			p.bias = c.In[o.bias]
		}
		at |= p.codes
	}
	return at%accessBytes == 0
}

func (t *thin) enqueue(c *Call) error {
	if !t.place(c) {
		return t.plain(c)
	}
	return c.Launch(t.cores, Rows(t.blocks, t.warps*WarpSize), c.In[t.x], &t.args, int32(t.m), int32(t.cols))
}

// plain takes operands of any alignment, a product and a few rows of x a launch.
func (t *thin) plain(c *Call) error {
	t.place(c)
	for i := range t.parts {
		for r := 0; r < t.m; r += thinRowsAny {
			p := t.args.of[i]
			p.y += Addr(int64(r) * int64(p.n) * t.size)
			if p.c != 0 {
				p.c += Addr(int64(r) * int64(p.n) * t.size)
			}
			if p.s != 0 {
				p.s += Addr(int64(r) * int64(p.rank) * t.size)
			}
			if err := c.Launch(t.any, Rows(ceilDiv(int(p.n), 4), 4*WarpSize), c.In[t.x]+Addr(int64(r)*int64(t.cols)*t.size), &p,
				int32(min(t.m-r, thinRowsAny)), int32(t.cols)); err != nil {
				return err
			}
		}
	}
	return nil
}
