package cuda

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() { Register(buildRoPE) }

const (
	ropeThreads = 256
	ropeHeads   = 4 // HEADS of kernels/rope.cu
)

// buildRoPE compiles two kernels: one with the widest accesses that divide the head, and one for views at odd addresses.
func buildRoPE(d *Device, op ops.RoPEOp, s device.Spec) (*Kernel, error) {
	x, half := s.In[0], s.In[1].Dim(-1)
	heads, size := x.Dim(-2), x.Dim(-1)
	if x.Size() == 0 {
		return &Kernel{Enqueue: func(*Call) error { return nil }}, nil
	}
	tokens := int64(x.Size() / (heads * size))
	width := accessBytes / x.DType.Size()
	for half%width != 0 || size%width != 0 {
		width /= 2
	}
	wide, err := ropeFunction(d, op, x.DType, width)
	if err != nil {
		return nil, err
	}
	narrow, err := ropeFunction(d, op, x.DType, 1)
	if err != nil {
		return nil, err
	}
	sign := float32(1)
	if op.Inverse {
		sign = -1
	}
	return &Kernel{Enqueue: func(c *Call) error {
		f, v := wide, width
		if (c.In[0]|c.Out[0])%Addr(width*x.DType.Size()) != 0 || (c.In[1]|c.In[2])%Addr(4*min(width, 4)) != 0 {
			f, v = narrow, 1
		}
		return c.Launch(f, ropeGeometry(tokens, half/v, heads), c.Out[0], c.In[0], c.In[1], c.In[2], tokens, int32(heads), int32(size), int32(half), sign)
	}}, nil
}

func ropeFunction(d *Device, op ops.RoPEOp, dt tensor.DType, width int) (*Function, error) {
	pairs := "INTERLEAVED 0"
	if op.Interleaved {
		pairs = "INTERLEAVED 1"
	}
	return d.Function(Program{Files: []string{"packed.cuh", "rope.cu"}, Define: []string{"T " + cType(dt), fmt.Sprint("V ", width), pairs}}, "rope")
}

// ropeGeometry gives a token as many threads as it has work for, and a block as many tokens as it has threads left.
func ropeGeometry(tokens int64, places, heads int) Geometry {
	across := min(max(places*((heads+ropeHeads-1)/ropeHeads), 1), ropeThreads)
	down := ropeThreads / across
	return Geometry{Grid: [3]int{int((tokens + int64(down) - 1) / int64(down))}, Block: [3]int{across, down}}
}
