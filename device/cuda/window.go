package cuda

import (
	"errors"
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildMaxPool)
	Register(func(d *Device, op ops.SumPoolOp, s device.Spec) (*Kernel, error) {
		return buildSumPool(d, op, s.In[0], s.Out[0], "sum_pool")
	})
	Register(func(d *Device, op ops.SumUnpoolOp, s device.Spec) (*Kernel, error) {
		return buildSumPool(d, op.SumPoolOp, s.Out[0], s.In[0], "sum_unpool")
	})
	Register(buildPoolPick)
	Register(buildPoolPlace)
	Register(func(d *Device, op ops.ConvOp, s device.Spec) (*Kernel, error) {
		return buildConv(d, "conv", op.Window, op.Groups, s, [3]tensor.Type{s.In[0], s.In[1], s.Out[0]})
	})
	Register(func(d *Device, op ops.ConvTransposeOp, s device.Spec) (*Kernel, error) {
		return buildConv(d, "conv_transpose", op.Window, op.Groups, s, [3]tensor.Type{s.Out[0], s.In[1], s.In[0]})
	})
	Register(func(d *Device, op ops.ConvWeightOp, s device.Spec) (*Kernel, error) {
		return buildConv(d, "conv_weight", op.Window, op.Groups, s, [3]tensor.Type{s.In[0], s.Out[0], s.In[1]})
	})
}

// window is kernels/window.cuh's Window.
type window struct {
	in, out, kernel, stride, dilation, lo, hi [ops.MaxWindow]int32
	ins, outs, taps                           int32
}

// newWindow is a window from x (N, C, S...) to y (N, C, P...). Kernels count the positions of a channel in 32 bits; more are refused.
func newWindow(w ops.Window, x, y tensor.Type) (*window, error) {
	if err := windowFits(w, x, y); err != nil {
		return nil, err
	}
	o := &window{ins: 1, outs: 1, taps: 1}
	lead := ops.MaxWindow - int(w.Rank)
	for i := range ops.MaxWindow {
		o.in[i], o.out[i], o.kernel[i], o.stride[i], o.dilation[i] = 1, 1, 1, 1, 1
		if j := i - lead; j >= 0 {
			o.in[i], o.out[i], o.kernel[i] = int32(x.Dim(2+j)), int32(y.Dim(2+j)), w.Kernel[j]
			o.stride[i], o.dilation[i], o.lo[i], o.hi[i] = w.Stride[j], w.Dilation[j], w.Lo[j], w.Hi[j]
		}
		o.ins, o.outs, o.taps = o.ins*o.in[i], o.outs*o.out[i], o.taps*o.kernel[i]
	}
	return o, nil
}

// windowFits tells what of a window from x to y kernels cannot count.
func windowFits(w ops.Window, x, y tensor.Type) error {
	most := func(what string, n int64) error {
		if n <= math.MaxInt32 {
			return nil
		}
		return fmt.Errorf("%s of a window from %v to %v: kernels on a GPU count %d at most; cut the input into smaller ones", what, x.Shape, y.Shape, math.MaxInt32)
	}
	channel := func(dims []int) int64 {
		n := int64(1)
		for _, d := range dims {
			if n *= int64(d); n > math.MaxInt32 {
				break // it might pass 2^63
			}
		}
		return n
	}
	kernel, err := make([]int, w.Rank), errors.Join(most("the positions", channel(x.Shape.Dims()[2:])), most("the results", channel(y.Shape.Dims()[2:])))
	for i := range kernel {
		kernel[i] = int(w.Kernel[i])
		reach := int64(y.Dim(2+i)-1)*int64(w.Stride[i]) + int64(w.Kernel[i]-1)*int64(w.Dilation[i])
		err = errors.Join(err, most("the reach", max(reach, int64(x.Dim(2+i))+int64(w.Lo[i]))), most("the reach", int64(x.Dim(2+i))+int64(w.Hi[i])))
	}
	return errors.Join(err, most("the taps", channel(kernel)))
}

// poolProgram compiles kernels/pool.cu, with what sums are divided by.
func poolProgram(dt tensor.DType, count ops.PoolCount) Program {
	return Program{Files: []string{"window.cuh", "pool.cu"}, Define: []string{"T " + cType(dt), fmt.Sprint("COUNT ", int(count))}}
}

func buildMaxPool(d *Device, op ops.MaxPoolOp, s device.Spec) (*Kernel, error) {
	f, err := d.Function(poolProgram(s.In[0].DType, ops.PoolSum), "max_pool")
	if err != nil {
		return nil, err
	}
	w, err := newWindow(op.Window, s.In[0], s.Out[0])
	if err != nil {
		return nil, fmt.Errorf("max_pool: %w", err)
	}
	n := int64(s.Out[0].Size())
	channels := int64(s.In[0].Dim(0) * s.In[0].Dim(1))
	return &Kernel{Label: "max_pool", Enqueue: func(c *Call) error {
		if n == 0 {
			return nil
		}
		return c.Launch(f, spread(n, 128), c.Out[0], c.Out[1], c.In[0], channels, w)
	}}, nil
}

// buildSumPool is the pooling from x to y, or by the name its transpose.
func buildSumPool(d *Device, op ops.SumPoolOp, x, y tensor.Type, name string) (*Kernel, error) {
	f, err := d.Function(poolProgram(x.DType, op.Count), name)
	if err != nil {
		return nil, err
	}
	w, err := newWindow(op.Window, x, y)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	channels := int64(x.Dim(0)) * int64(x.Dim(1))
	for i := range int(op.Rank) {
		w.hi[ops.MaxWindow-int(op.Rank)+i] -= op.Beyond[i]
	}
	n := int64(y.Size())
	if name == "sum_unpool" {
		n = int64(x.Size())
	}
	return &Kernel{Label: name, Enqueue: func(c *Call) error {
		if n == 0 {
			return nil
		}
		return c.Launch(f, spread(n, 128), c.Out[0], c.In[0], channels, w)
	}}, nil
}

// channelSizes are how many channels a pair of tensors (N, C, ...) has, and the elements of a channel of each. Those of x are counted by
// the positions, of 32 bits, that a pooling gave.
func channelSizes(x, y tensor.Type) (channels int64, ins, outs int32, err error) {
	in, out := int64(1), int64(1)
	for _, n := range x.Shape.Dims()[2:] {
		in *= int64(n)
	}
	for _, n := range y.Shape.Dims()[2:] {
		out *= int64(n)
	}
	if in > math.MaxInt32 || out > math.MaxInt32 {
		return 0, 0, 0, fmt.Errorf("channels of %v and %v: positions are of 32 bits, so a channel has %d elements at most; cut it into smaller ones", x.Shape, y.Shape, math.MaxInt32)
	}
	return int64(x.Dim(0)) * int64(x.Dim(1)), int32(in), int32(out), nil
}

func buildPoolPick(d *Device, _ ops.PoolPickOp, s device.Spec) (*Kernel, error) {
	f, err := d.Function(poolProgram(s.In[0].DType, ops.PoolSum), "pool_pick")
	if err != nil {
		return nil, err
	}
	channels, ins, outs, err := channelSizes(s.In[0], s.In[1])
	if err != nil {
		return nil, fmt.Errorf("pool_pick: %w", err)
	}
	return &Kernel{Label: "pool_pick", Enqueue: func(c *Call) error {
		if channels*int64(outs) == 0 {
			return nil
		}
		return c.Launch(f, spread(channels*int64(outs), 256), c.Out[0], c.In[0], c.In[1], channels, ins, outs)
	}}, nil
}

// buildPoolPlace sums in the accumulator's type: half types in scratch memory, rounded at the end.
func buildPoolPlace(d *Device, _ ops.PoolPlaceOp, s device.Spec) (*Kernel, error) {
	dt := s.Out[0].DType
	add, err := d.Function(poolProgram(dt, ops.PoolSum), "pool_place")
	if err != nil {
		return nil, err
	}
	round, err := d.Function(poolProgram(dt, ops.PoolSum), "pool_round")
	if err != nil {
		return nil, err
	}
	channels, ins, outs, err := channelSizes(s.Out[0], s.In[0])
	if err != nil {
		return nil, fmt.Errorf("pool_place: %w", err)
	}
	k := &Kernel{Label: "pool_place"}
	n := channels * int64(ins)
	half := dt.Size() == 2
	if half {
		k.ScratchBytes = 4 * n
	}
	k.Enqueue = func(c *Call) error {
		if n == 0 {
			return nil
		}
		sums := c.Out[0]
		if half {
			sums = c.Scratch
		}
		if err := c.Launch(add, spread(channels*WarpSize, 128), sums, c.In[0], c.In[1], channels, ins, outs); err != nil || !half {
			return err
		}
		return c.Launch(round, spread(n, 256), c.Out[0], sums, n)
	}
	return k, nil
}

// convSizes is kernels/conv.cu's Conv.
type convSizes struct{ n, channels, outputs, groups int32 }

// buildConv takes the types of x, the filters and y; the result is that of them which is the output.
func buildConv(d *Device, name string, w ops.Window, groups int32, s device.Spec, xfy [3]tensor.Type) (*Kernel, error) {
	dims, err := w.Dims(int(groups), xfy[0], xfy[1], xfy[2])
	if err != nil {
		return nil, err
	}
	f, err := d.Function(Program{Files: []string{"window.cuh", "conv.cu"}, Define: []string{"T " + cType(s.Out[0].DType)}}, name)
	if err != nil {
		return nil, err
	}
	if max(dims.N, dims.C, dims.O) > math.MaxInt32 {
		return nil, fmt.Errorf("%s: %d rows, %d channels to %d: kernels on a GPU count %d at most", name, dims.N, dims.C, dims.O, math.MaxInt32)
	}
	sizes := convSizes{int32(dims.N), int32(dims.C), int32(dims.O), groups}
	win, err := newWindow(w, xfy[0], xfy[2])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	n := int64(s.Out[0].Size())
	g := spread(n, 128)
	if name == "conv_weight" {
		g = Rows(int(min(n, maxGrid)), 256)
	}
	return &Kernel{Label: name, Enqueue: func(c *Call) error {
		if n == 0 {
			return nil
		}
		return c.Launch(f, g, c.Out[0], c.In[0], c.In[1], &sizes, win)
	}}, nil
}
