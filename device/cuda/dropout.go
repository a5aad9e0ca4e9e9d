package cuda

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
)

func init() {
	Register(buildDropout)
	Register(buildPhilox)
}

// featureThreads is the block of kernels whose threads have some features of a token.
const featureThreads = 256

// overFeatures is a thread for each `each` of n features of each token.
func overFeatures(tokens, n, each int) Geometry {
	g := Over(int64(tokens)*int64((n+each-1)/each), featureThreads, 1)
	g.Grid[0] = min(g.Grid[0], maxGrid)
	return g
}

// dropoutArgs is struct Dropout.
type dropoutArgs struct {
	x, sample, pos Addr
	all, n, parts  int64
	mul, shift     uint32
	small, _       int32
}

func buildDropout(d *Device, op ops.DropoutOp, s device.Spec) (*Kernel, error) {
	dt, tokens := s.In[0].DType, s.In[2].Size()
	n := s.In[0].Size() / max(tokens, 1)
	program := func(width int) Program {
		return Program{Files: []string{"random.cuh", "eight.cuh", "dropout.cu"}, Define: []string{"T " + cType(dt), fmt.Sprint("V ", width)}}
	}
	single, err := d.Function(program(1), "dropout")
	if err != nil {
		return nil, err
	}
	packs, width := single, 4
	for _, w := range []int{8, 4} {
		if n%w == 0 && w*dt.Size() <= accessBytes {
			if packs, err = d.Function(program(w), "dropout"); err != nil {
				return nil, err
			}
			width = w
			break
		}
	}
	size := Addr(width * dt.Size())
	scale := number(dt, op.Scale())
	return &Kernel{Enqueue: func(c *Call) error {
		if tokens*n == 0 {
			return nil
		}
		f, width := packs, width
		if c.In[0]%size != 0 || c.Out[0]%size != 0 {
			f, width = single, 4
		}
		parts := (n + width - 1) / width
		a := dropoutArgs{x: c.In[0], sample: c.In[2], pos: c.In[3], all: int64(tokens) * int64(parts), n: int64(n), parts: int64(parts)}
		if a.all <= math.MaxInt32 {
			a.small = 1
			a.mul, a.shift = divisor(uint32(parts))
		}
		g := Over(a.all, featureThreads, 4)
		g.Grid[0] = min(g.Grid[0], maxGrid)
		return c.Launch(f, g, c.Out[0], &a, c.In[1], op.Site, op.Threshold(), scale)
	}}, nil
}

func buildPhilox(d *Device, op ops.PhiloxOp, s device.Spec) (*Kernel, error) {
	f, err := d.Function(Program{Files: []string{"random.cuh", "dropout.cu"}}, "random_words")
	if err != nil {
		return nil, err
	}
	tokens, n := s.In[1].Size(), int(op.N)
	return &Kernel{Enqueue: func(c *Call) error {
		if tokens*n == 0 {
			return nil
		}
		return c.Launch(f, overFeatures(tokens, n, 4), c.Out[0], c.In[0], c.In[1], c.In[2], int64(tokens), int64(n), op.Site)
	}}, nil
}
