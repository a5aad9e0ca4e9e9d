package cuda

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
)

func init() {
	Register(func(_ *Device, _ ops.AllReduce, s device.Spec) (*Kernel, error) { return alone(s, 1) })
	Register(func(_ *Device, o ops.Broadcast, s device.Spec) (*Kernel, error) { return alone(s, o.Root+1) })
	Register(func(_ *Device, o ops.AllGather, s device.Spec) (*Kernel, error) { return alone(s, o.Ranks) })
	Register(func(_ *Device, o ops.ReduceScatter, s device.Spec) (*Kernel, error) { return alone(s, o.Ranks) })
}

// alone is a collective of one rank: a copy. need is how many ranks the op speaks of.
func alone(s device.Spec, need int) (*Kernel, error) {
	ranks := 1
	if s.Comm != nil {
		ranks = s.Comm.Size()
	}
	if need > ranks {
		return nil, fmt.Errorf("cuda: %s was built for %d ranks, there are %d", s.Op.Name(), need, ranks)
	}
	if ranks > 1 {
		return nil, fmt.Errorf("cuda: %s over %d ranks: this device joins no communicator; train on one GPU, or on the CPU over several ranks", s.Op.Name(), ranks)
	}
	bytes := s.Out[0].Bytes()
	return &Kernel{Label: "single rank", Enqueue: func(c *Call) error { return c.Copy(c.Out[0], c.In[0], bytes) }}, nil
}
