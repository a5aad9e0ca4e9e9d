package cuda

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildBatchNorm)
	Register(buildBatchNormGrad)
}

// channelRuns are the rows of x (N, C, S...), its channels, and the elements of one.
func channelRuns(x tensor.Type) (n, channels, size int64) {
	size = 1
	for _, v := range x.Shape.Dims()[2:] {
		size *= int64(v)
	}
	return int64(x.Dim(0)), int64(x.Dim(1)), size
}

func batchNormFunction(d *Device, dt tensor.DType, name string) (*Function, error) {
	return d.Function(Program{Files: []string{"batchnorm.cu"}, Define: []string{"T " + cType(dt)}}, name)
}

func buildBatchNorm(d *Device, op ops.BatchNormOp, s device.Spec) (*Kernel, error) {
	f, err := batchNormFunction(d, s.In[0].DType, "batchnorm")
	if err != nil {
		return nil, err
	}
	n, channels, size := channelRuns(s.In[0])
	return &Kernel{Label: "batchnorm", Enqueue: func(c *Call) error {
		if channels == 0 {
			return nil
		}
		return c.Launch(f, Rows(int(min(channels, maxGrid)), 512), c.Out[0], c.Out[1], c.Out[2], c.In[0], c.In[1], c.In[2], n, channels, size, op.Eps)
	}}, nil
}

func buildBatchNormGrad(d *Device, op ops.BatchNormGradOp, s device.Spec) (*Kernel, error) {
	f, err := batchNormFunction(d, s.In[0].DType, "batchnorm_grad")
	if err != nil {
		return nil, err
	}
	n, channels, size := channelRuns(s.In[0])
	return &Kernel{Label: "batchnorm_grad", Enqueue: func(c *Call) error {
		var out [3]Addr
		at := 0
		for i, need := range []bool{op.NeedX, op.NeedW, op.NeedB} {
			if need {
				out[i] = c.Out[at]
				at++
			}
		}
		if channels == 0 {
			return nil
		}
		return c.Launch(f, Rows(int(min(channels, maxGrid)), 512), out[0], out[1], out[2], c.In[0], c.In[1], c.In[2], c.In[3], c.In[4], n, channels, size,
			op.Eps)
	}}, nil
}
