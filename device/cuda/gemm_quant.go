package cuda

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// coded is a product by a weight in 4 bits that kernels/gemm_quant.cu decodes on its way to tensor cores: x·Wᵀ, or x·W where trans.
type coded struct {
	spec      gemmSpec
	add       bool // the first operand is what the product is added to
	w         weight4
	args      gemmArgs
	scales    scaleArgs
	shared    int
	fast, any *Function // any takes operands that are no multiples of 16; fast is nil where no rows of x can be
	reduce    *Function
	scratch   int64
}

const (
	codedRows   = 64  // of x, one tile: with more, decoding the weight once for all was faster at each size measured
	codedWidth  = 128 // WIDTH of kernels/gemm_quant.cu
	codedDeep   = 64  // inner indices of a step
	codedStages = 3
)

var codedFiles = []string{"eight.cuh", "fourbit.cuh", "tensor_core.cuh", "gemm.cuh", "gemm_tiles.cuh", "gemm_quant.cu"}

// codedProduct returns nil where the kernel lacks the case.
func (d *Device) codedProduct(w weight4, dtype tensor.DType, m int, trans, add bool) (*coded, error) {
	n, k := w.rows, w.cols
	if trans {
		n, k = k, n
	}
	switch {
	case m == 0 || n == 0 || k == 0 || m > codedRows, d.capability < 80, !d.multiplies(dtype), !powerBlock(w.blocksize), w.cols%32 != 0, ceilDiv(n, codedWidth) > maxGridYZ:
		return nil, nil
	}
	s := gemmSpec{m: m, n: n, k: k, batch: 1, alpha: 1, a: gemmMat{dtype: dtype, ld: k}, b: gemmMat{dtype: dtype, ld: w.cols, trans: !trans}, c: gemmMat{dtype: dtype, ld: n}, add: add}
	p := &coded{spec: s, add: add, w: w, args: s.args()}
	p.shared = (codedStages*codedRows + 2*codedWidth) * 2 * codedDeep
	p.splits(d.sms)
	if err := p.functions(d); err != nil || p.args.splits == 1 {
		return p, err
	}
	p.scratch = aligned(int64(p.args.splits) * int64(m) * int64(n) * 4)
	var err error
	p.reduce, err = d.splitsReducer(s)
	return p, err
}

// functions names the kernel for multiples of 16, where rows of x can be some, and that for any address.
func (p *coded) functions(d *Device) (err error) {
	anywhere := func() (*Function, error) { return d.Function(p.program(0), "gemm_quant") }
	if p.spec.k%8 != 0 {
		p.any, err = anywhere()
		return err
	}
	if p.fast, err = d.Function(p.program(1), "gemm_quant"); err == nil {
		p.any, err = seldom(d, anywhere)
	}
	return err
}

func (p *coded) program(aligned int) Program {
	s := p.spec
	q := p.w.program(s.a.dtype, "gemm_quant.cu", "TC "+cType(s.c.dtype), "SUM float", "TRANS_A 0", fmt.Sprint("TRANS_B ", b2i(s.b.trans)), "CHUNKS 8",
		fmt.Sprint("HEIGHT ", codedRows), fmt.Sprint("STAGES ", codedStages), fmt.Sprint("ALIGNED ", aligned))
	q.Files, q.Exact = codedFiles, false // values are computed by functions that are never contracted
	return q
}

// splits cuts the inner axis so that two blocks find work on each multiprocessor: their warps decode while others multiply.
func (p *coded) splits(processors int) {
	const shortest = 512 // inner indices of a part that are worth the second pass
	s := p.spec
	n := min(2*processors/ceilDiv(s.n, codedWidth), s.k/shortest, 64)
	if n < 2 {
		return
	}
	part := ceilDiv(ceilDiv(s.k, n), codedDeep) * codedDeep
	p.args.splits, p.args.part = int32(ceilDiv(s.k, part)), int32(part)
}

func (p *coded) kernel() *Kernel {
	label := "gemm_quant"
	if n := p.args.splits; n > 1 {
		label += fmt.Sprintf("_split%d", n)
	}
	return &Kernel{Label: label, ScratchBytes: p.scratch, Enqueue: p.enqueue}
}

func (p *coded) enqueue(c *Call) error {
	in := c.In
	a := &p.args
	a.add = 0
	if p.add {
		a.add, in = in[0], in[1:]
	}
	a.a, a.b, a.c, a.partial = in[0], in[1], c.Out[0], c.Scratch
	p.scales = p.w.scales(in[1:])
	f := p.fast
	if f == nil || (a.a|a.b)%accessBytes != 0 {
		f = p.any
	}
	g := Geometry{Grid: [3]int{1, ceilDiv(p.spec.n, codedWidth), int(a.splits)}, Block: [3]int{256}, Shared: p.shared}
	if err := c.Launch(f, g, a, &p.scales); err != nil || a.splits == 1 {
		return err
	}
	return c.Launch(p.reduce, Over(int64(p.spec.m)*int64(p.spec.n), 256, 4), a)
}
