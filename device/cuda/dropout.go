package cuda

import (
	"fmt"

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
		return Program{Files: []string{"random.cuh", "dropout.cu"}, Define: []string{"T " + cType(dt), fmt.Sprint("V ", width)}}
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
		f, g := packs, overFeatures(tokens, n, width)
		if c.In[0]%size != 0 || c.Out[0]%size != 0 {
			f, g = single, overFeatures(tokens, n, 4)
		}
		return c.Launch(f, g, c.Out[0], c.In[0], c.In[1], c.In[2], c.In[3], int64(tokens), int64(n), op.Site, op.Threshold(), scale)
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
