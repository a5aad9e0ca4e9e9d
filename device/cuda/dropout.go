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
	packs, width, places := single, 4, 1
	for _, w := range []int{8, 4} {
		if n%w == 0 && w*dt.Size() <= accessBytes {
			if packs, err = d.Function(program(w), "dropout"); err != nil {
				return nil, err
			}
			width, places = w, 2 // U of the kernel
			break
		}
	}
	size := Addr(width * dt.Size())
	scale := number(dt, op.Scale())
	return &Kernel{Enqueue: func(c *Call) error {
		if tokens*n == 0 {
			return nil
		}
		f, width, places := packs, width, places
		if c.In[0]%size != 0 || c.Out[0]%size != 0 {
			f, width, places = single, 4, 1
		}
		parts := (n + width - 1) / width
		all, mul, shift := int64(tokens)*int64(parts), uint32(0), uint32(0)
		if all <= math.MaxInt32 {
			mul, shift = divisor(uint32(parts))
		}
		g := Over(all, featureThreads, places)
		g.Grid[0] = min(g.Grid[0], maxGrid)
		return c.Launch(f, g, c.Out[0], c.In[0], c.In[1], c.In[2], c.In[3], int64(tokens), int64(n), int64(parts), mul, shift, int32(b2i(all <= math.MaxInt32)), op.Site, op.Threshold(), scale)
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
