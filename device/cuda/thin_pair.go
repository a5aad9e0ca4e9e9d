package cuda

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() { Register(buildMatMulPair) }

const (
	// pairRank is the largest rank of kernels/thin_pair.cu. Beyond it the parts of both results, float32, are as much as what is saved by reading X once.
	pairRank = 32
	// pairBytes is how large X must be. Of less, the parts of both results, and the launch that adds them up, take as long as reading X again.
	pairBytes  = 16 << 20
	pairRows   = 32 // of a unit
	pairStages = 5  // units in shared memory at most: 128 KB of X on their way, four times what a memory of 4 TB/s needs
	pairShared = 200 << 10
	// pairOnce is the size of X from which on it cannot stay in the last cache for whoever reads it next.
	pairOnce = 64 << 20
)

// buildMatMulPair is for products that take their time from reading X. The others stay two products.
func buildMatMulPair(d *Device, o ops.MatMulPair, s device.Spec) (*Kernel, error) {
	if s.In[0].Bytes() < d.pairBytes {
		return nil, device.ErrNoKernel
	}
	p, err := d.newThinPair(o, s)
	if p == nil || err != nil {
		return nil, err
	}
	return &Kernel{Label: "thin_pair", ScratchBytes: p.scratch, Enqueue: p.enqueue}, nil
}

// thinPair is both products by kernels/thin_pair.cu.
type thinPair struct {
	args            thinPairArgs
	add             bool
	rank            int
	threads, shared int
	blocks          int
	partT, scratch  int64     // bytes of the parts of T, and of all
	fast, any, sum  *Function // any takes operands that are no multiples of 16
}

// thinPairArgs is struct ThinPair.
type thinPairArgs struct {
	x, b, s, c, t, d Addr
	partT, partD     Addr
	m, n, each, more int32
	alphaT, alphaD   float32
}

// newThinPair returns ErrNoKernel where the kernel lacks the case.
func (d *Device) newThinPair(o ops.MatMulPair, s device.Spec) (*thinPair, error) {
	x, out := s.In[0], s.Out[1].DType
	m, n, rank := x.Dim(0), x.Dim(1), s.In[1].Dim(1)
	switch {
	case d.capability < 80, x.DType.Size() != 2, out != x.DType && out != tensor.F32, o.TransS && m%8 != 0, rank%8 != 0, rank == 0, rank > pairRank,
		m == 0, n == 0, n%8 != 0, m > 1<<30, n > 1<<30:
		return nil, device.ErrNoKernel
	}
	warps, stages, shared := d.pairShape(rank, o.TransS)
	if stages == 0 || m <= (stages-1)*pairRows { // so few rows of 16 MB are wider than any layer
		return nil, device.ErrNoKernel
	}
	p := &thinPair{rank: rank, add: o.Add, threads: warps * WarpSize, shared: shared}
	columns := 64 * warps
	groups := ceilDiv(n, columns)
	units := ceilDiv(m, pairRows) * groups
	if units > 1<<30 {
		return nil, device.ErrNoKernel
	}
	p.blocks = min(units, d.sms)
	p.args = thinPairArgs{m: int32(m), n: int32(n), each: int32(units / p.blocks), more: int32(units % p.blocks), alphaT: o.AlphaT, alphaD: o.AlphaD}
	p.partT = aligned(int64(groups) * int64(m) * int64(rank) * 4)
	p.scratch = p.partT + aligned(int64(p.blocks+groups)*int64(columns)*int64(rank)*4)
	program := func(aligned int) Program {
		return pairProgram(o, x.DType, out, rank, warps, stages, aligned, b2i(x.Bytes() > pairOnce))
	}
	var err error
	if p.fast, err = d.Function(program(1), "thin_pair"); err != nil {
		return nil, err
	}
	if p.any, err = d.Function(program(0), "thin_pair"); err != nil {
		return nil, err
	}
	p.sum, err = d.Function(program(1), "thin_pair_sum")
	return p, err
}

func pairProgram(o ops.MatMulPair, dt, out tensor.DType, rank, warps, stages, aligned, once int) Program {
	return Program{Files: []string{"tensor_core.cuh", "thin_pair.cu"}, Define: []string{"T " + cType(dt), "TD " + cType(out), fmt.Sprint("RANK ", rank), fmt.Sprint("WARPS ", warps),
		fmt.Sprint("STAGES ", stages), fmt.Sprint("TRANS_S ", b2i(o.TransS)), fmt.Sprint("ALIGNED ", aligned), fmt.Sprint("ONCE ", once)}}
}

// pairShape is how many warps a block has, a multiprocessor's only one, how many units wait in shared memory, 0 where too few fit, and its bytes.
func (d *Device) pairShape(rank int, transS bool) (warps, stages, shared int) {
	warps = 8
	if d.shared < 150<<10 {
		warps = 4
	}
	row, rows := rank/8, pairRows // chunks and rows of S
	if transS {
		row, rows = pairRows/8, rank
	}
	if row == 2 { // see s_at
		row = 3
	}
	stage := pairRows*64*warps*2 + rows*row*16
	rest := 2*warps/2*pairRows*rank*4 + 64*warps*rank*2 // sums of T, of two units, and B
	if stages = min((min(d.shared, pairShared)-rest)/stage, pairStages); stages < 3 {
		return 0, 0, 0
	}
	return warps, stages, stages*stage + rest
}

func (p *thinPair) enqueue(c *Call) error {
	a := &p.args
	a.x, a.b, a.s, a.c, a.t, a.d = c.In[0], c.In[1], c.In[2], 0, c.Out[0], c.Out[1]
	if p.add {
		a.c = c.In[3]
	}
	a.partT, a.partD = c.Scratch, c.Scratch+Addr(p.partT)
	f := p.fast
	if (a.x|a.b|a.s)%accessBytes != 0 {
		f = p.any
	}
	if err := c.Launch(f, Geometry{Grid: [3]int{p.blocks}, Block: [3]int{p.threads}, Shared: p.shared}, a); err != nil {
		return err
	}
	return p.addUp(c)
}

// addUp enqueues the second launch.
func (p *thinPair) addUp(c *Call) error {
	const threads = 128 // of a block, and elements of it
	a := &p.args
	t, d := ceilDiv(int(a.m)*p.rank, threads), ceilDiv(int(a.n)*p.rank, threads)
	return c.Launch(p.sum, Geometry{Grid: [3]int{t + d}, Block: [3]int{threads}}, a, int32(t))
}
