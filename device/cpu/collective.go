package cpu

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
)

func init() {
	Register(buildAllReduce)
	Register(buildAllGather)
	Register(buildReduceScatter)
	Register(buildBroadcast)
}

// HostBytes returns n bytes at an address of a CPU device, for communicators that work on memory directly.
func HostBytes(p device.Ptr, n int64) ([]byte, error) { return bytesAt(p, n) }

// reduces maps the ops' combinations to the communicator's.
var reduces = map[ops.Combine]device.Reduce{ops.CombineSum: device.Sum, ops.CombineMean: device.Mean, ops.CombineMax: device.Max}

// collective is a kernel that calls the communicator with the addresses of its operands.
type collective struct {
	comm device.Comm
	in   buffer
	out  buffer
}

// newCollective returns nil on a single rank, where a collective copies.
func newCollective(d *Device, s device.Spec) *collective {
	if s.Comm == nil || s.Comm.Size() == 1 {
		return nil
	}
	return &collective{comm: s.Comm, in: buffer{dev: d}, out: buffer{dev: d}}
}

// ptrs wraps the operands of a call, so that a communicator sees memory of this device.
func (k *collective) ptrs(c *Call) (dst, src device.Ptr) {
	k.in.data, k.out.data = c.In[0], c.Out[0]
	return device.Ptr{Buf: &k.out}, device.Ptr{Buf: &k.in}
}

// passOn copies the input unless the output is in its place.
func passOn(c *Call) {
	if len(c.Out[0]) > 0 && &c.Out[0][0] != &c.In[0][0] {
		copy(c.Out[0], c.In[0])
	}
}

func passKernel() *Kernel {
	return &Kernel{Label: "single rank", Run: func(c *Call) error {
		passOn(c)
		return nil
	}}
}

// checkRanks compares the ranks an op was built for with those there are.
func checkRanks(s device.Spec, ranks int) error {
	size := 1
	if s.Comm != nil {
		size = s.Comm.Size()
	}
	if ranks != size {
		return fmt.Errorf("cpu: %s was built for %d ranks, the communicator has %d", s.Op.Name(), ranks, size)
	}
	return nil
}

func buildAllReduce(d *Device, o ops.AllReduce, s device.Spec) (*Kernel, error) {
	k := newCollective(d, s)
	if k == nil {
		return passKernel(), nil
	}
	return &Kernel{Run: func(c *Call) error {
		passOn(c)
		dst, _ := k.ptrs(c)
		return k.comm.AllReduce(d.Stream(0), dst, s.Out[0], reduces[o.Combine])
	}}, nil
}

func buildBroadcast(d *Device, o ops.Broadcast, s device.Spec) (*Kernel, error) {
	k := newCollective(d, s)
	if k == nil {
		return passKernel(), checkRoot(o.Root, 1)
	}
	return &Kernel{Run: func(c *Call) error {
		passOn(c)
		dst, _ := k.ptrs(c)
		return k.comm.Broadcast(d.Stream(0), dst, s.Out[0], o.Root)
	}}, checkRoot(o.Root, k.comm.Size())
}

func checkRoot(root, size int) error {
	if root >= size {
		return fmt.Errorf("cpu: broadcast from rank %d of %d", root, size)
	}
	return nil
}

func buildAllGather(d *Device, o ops.AllGather, s device.Spec) (*Kernel, error) {
	if err := checkRanks(s, o.Ranks); err != nil {
		return nil, err
	}
	return moving(d, s, func(k *collective, dst, src device.Ptr) error {
		return k.comm.AllGather(d.Stream(0), dst, src, s.In[0])
	}), nil
}

func buildReduceScatter(d *Device, o ops.ReduceScatter, s device.Spec) (*Kernel, error) {
	if err := checkRanks(s, o.Ranks); err != nil {
		return nil, err
	}
	return moving(d, s, func(k *collective, dst, src device.Ptr) error {
		return k.comm.ReduceScatter(d.Stream(0), dst, src, s.Out[0], reduces[o.Combine])
	}), nil
}

// moving is a collective from one buffer to another. An empty one moves nothing, on every rank alike.
func moving(d *Device, s device.Spec, run func(k *collective, dst, src device.Ptr) error) *Kernel {
	k := newCollective(d, s)
	if k == nil {
		return passKernel()
	}
	return &Kernel{Run: func(c *Call) error {
		if s.In[0].Size() == 0 {
			return nil
		}
		dst, src := k.ptrs(c)
		return run(k, dst, src)
	}}
}
