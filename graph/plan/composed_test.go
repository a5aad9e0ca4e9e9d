package plan_test

import (
	"reflect"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/internal/optest/interp"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// composed is a CPU that also has kernels, by decomposition, for ops that only other devices have.
type composed struct {
	*cpu.Device
	has []reflect.Type
}

// withKernels is a CPU that has kernels for ops like these.
func withKernels(like ...graph.Op) composed {
	d := composed{Device: cpu.New(cpu.Options{Threads: 1})}
	for _, op := range like {
		d.has = append(d.has, reflect.TypeOf(op))
	}
	return d
}

func (d composed) Kernel(s device.Spec) (device.Kernel, error) {
	if slices.Contains(d.has, reflect.TypeOf(s.Op)) {
		return composedKernel{d, s}, nil
	}
	return d.Device.Kernel(s)
}

type composedKernel struct {
	dev  composed
	spec device.Spec
}

func (composedKernel) Scratch() int64 { return 0 }

func (k composedKernel) Launch(s device.Stream, in, out []device.Ptr, _ device.Ptr) error {
	g := graph.New("composed")
	feed, vals := map[graph.Value]*tensor.Tensor{}, make([]graph.Value, len(in))
	for i, p := range in {
		if p.Buf == nil {
			continue
		}
		x := tensor.New(k.spec.In[i])
		if err := s.Download(x.Bytes(), p); err != nil {
			return err
		}
		vals[i] = g.Input("x"+string(rune('0'+i)), x.Type())
		feed[vals[i]] = x
	}
	got, err := interp.Run(interp.Options{Device: k.dev.Device}, interp.Env{Feed: feed}, g.Apply(k.spec.Op.(graph.Op), vals...)...)
	if err != nil {
		return err
	}
	for i, p := range out {
		if err := s.Upload(p, got[i].Bytes()); err != nil {
			return err
		}
	}
	return nil
}
