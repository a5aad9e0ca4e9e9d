package cuda

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
)

func init() {
	Register(buildSumSquares)
	Register(buildStochasticRound)
}

// How SumSquares is cut: into at most squareBlocks stretches of a multiple of squareGrain elements.
const (
	squareThreads = 256
	squareGrain   = 4096
	squareBlocks  = 1024
)

func buildSumSquares(d *Device, _ ops.SumSquares, s device.Spec) (*Kernel, error) {
	p := Program{Files: []string{"random.cuh", "slab.cu"}}
	sums, err := d.Function(p, "square_sums")
	if err != nil {
		return nil, err
	}
	total, err := d.Function(p, "square_total")
	if err != nil {
		return nil, err
	}
	n := int64(s.In[0].Size())
	grains := (n + squareGrain - 1) / squareGrain
	each := max((grains+squareBlocks-1)/squareBlocks, 1) * squareGrain
	blocks := int((n + each - 1) / each)
	return &Kernel{Label: "slab.cu", ScratchBytes: 8 * int64(blocks), Enqueue: func(c *Call) error {
		if blocks > 0 {
			if err := c.Launch(sums, Rows(blocks, squareThreads), c.In[0], n, each, c.Scratch); err != nil {
				return err
			}
		}
		return c.Launch(total, Rows(1, squareThreads), c.Scratch, int32(blocks), c.Out[0])
	}}, nil
}

func buildStochasticRound(d *Device, o ops.StochasticRound, s device.Spec) (*Kernel, error) {
	round, err := d.Function(Program{Files: []string{"random.cuh", "slab.cu"}, Define: []string{"TO " + cType(s.Out[0].DType)}}, "round_slab")
	if err != nil {
		return nil, err
	}
	t, err := d.slabTable(o.Layout, 0)
	if err != nil {
		return nil, err
	}
	return &Kernel{Label: "slab.cu", Enqueue: func(c *Call) error {
		if err := c.Zero(c.Out[0], s.Out[0].Bytes()); err != nil || t.chunks == 0 { // the padding
			return err
		}
		return c.Launch(round, Rows(t.chunks, 256), c.In[0], c.In[1], c.Out[0], t.slots, t.list, o.Seed)
	}}, nil
}
