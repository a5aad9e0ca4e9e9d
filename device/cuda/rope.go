package cuda

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildRoPE)
	Register(buildRoPEGroup)
}

const (
	ropeThreads = 256
	ropeHeads   = 4 // HEADS of kernels/rope.cu

	// ropeGroupTokens is up to how many tokens several tensors are turned in one launch. With many a launch is nothing, and tensors with fewer heads than the
	// first would have threads without work.
	ropeGroupTokens = 64
)

// ropeArgs is struct Parts of kernels/rope.cu.
type ropeArgs struct{ of [ops.GroupMost]ropePart }

type ropePart struct {
	y, x     Addr
	heads, _ int32
}

func buildRoPE(d *Device, op ops.RoPEOp, s device.Spec) (*Kernel, error) {
	return d.rope(op, s.In[1], s.In[:1], func(in []Addr) (cos, sin Addr, xs []Addr) { return in[1], in[2], in[:1] })
}

func buildRoPEGroup(d *Device, op ops.RoPEGroup, s device.Spec) (*Kernel, error) {
	if s.In[0].Size() > ropeGroupTokens*s.In[0].Dim(-1) {
		return nil, device.ErrNoKernel
	}
	return d.rope(op.RoPE, s.In[0], s.In[2:], func(in []Addr) (cos, sin Addr, xs []Addr) { return in[0], in[1], in[2:] })
}

// rope compiles two kernels: one with the widest accesses that divide the head, and one for views at odd addresses. split finds the operands of a launch.
func (d *Device) rope(op ops.RoPEOp, table tensor.Type, xs []tensor.Type, split func(in []Addr) (cos, sin Addr, xs []Addr)) (*Kernel, error) {
	half, size, dt := table.Dim(-1), xs[0].Dim(-1), xs[0].DType
	tokens := int64(tensor.S(xs[0].Shape.Dims()[:xs[0].Rank()-2]...).Size())
	a, most := &ropeArgs{}, 0
	for i, x := range xs {
		a.of[i].heads = int32(x.Dim(-2))
		most = max(most, x.Dim(-2))
	}
	if tokens == 0 || size == 0 || most == 0 {
		return &Kernel{Enqueue: func(*Call) error { return nil }}, nil
	}
	width := accessBytes / dt.Size()
	for half%width != 0 || size%width != 0 {
		width /= 2
	}
	wide, err := ropeFunction(d, op, dt, width)
	if err != nil {
		return nil, err
	}
	narrow, err := ropeFunction(d, op, dt, 1)
	if err != nil {
		return nil, err
	}
	sign := float32(1)
	if op.Inverse {
		sign = -1
	}
	return &Kernel{Enqueue: func(c *Call) error {
		cos, sin, in := split(c.In)
		at := Addr(0)
		for i := range in {
			a.of[i].x, a.of[i].y = in[i], c.Out[i]
			at |= in[i] | c.Out[i]
		}
		f, v := wide, width
		if at%Addr(width*dt.Size()) != 0 || (cos|sin)%Addr(4*min(width, 4)) != 0 {
			f, v = narrow, 1
		}
		g := ropeGeometry(tokens, half/v, most)
		g.Grid[1] = len(in)
		return c.Launch(f, g, a, cos, sin, tokens, int32(size), int32(half), sign)
	}}, nil
}

// ropeFunction compiles products that are contracted only where the kernel says so: which of two the compiler would take differs with the width, and bits must not.
func ropeFunction(d *Device, op ops.RoPEOp, dt tensor.DType, width int) (*Function, error) {
	pairs := "INTERLEAVED 0"
	if op.Interleaved {
		pairs = "INTERLEAVED 1"
	}
	return d.Function(Program{Exact: true, Files: []string{"packed.cuh", "rope.cu"}, Define: []string{"T " + cType(dt), fmt.Sprint("V ", width), pairs}}, "rope")
}

// ropeGeometry gives a token as many threads as it has work for, and a block as many tokens as it has threads left.
func ropeGeometry(tokens int64, places, heads int) Geometry {
	across := min(max(places*((heads+ropeHeads-1)/ropeHeads), 1), ropeThreads)
	down := ropeThreads / across
	return Geometry{Grid: [3]int{int((tokens + int64(down) - 1) / int64(down))}, Block: [3]int{across, down}}
}
