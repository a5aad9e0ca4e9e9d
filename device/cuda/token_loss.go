package cuda

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildTokenLoss)
	Register(buildTokenLossGrad)
}

// lossProgram has the kernels of rows of logits of a dtype.
func lossProgram(dt tensor.DType) Program {
	return Program{Files: []string{"token_loss.cu"}, Define: []string{"T " + cType(dt), fmt.Sprint("V ", accessBytes/dt.Size())}}
}

// lossRows is a block for each row of n logits, of as many threads as have some accesses each.
func lossRows(dt tensor.DType, rows, n int) Geometry {
	threads := WarpSize
	for threads < 512 && threads*2*accessBytes/dt.Size() < n {
		threads *= 2
	}
	return Rows(rows, threads)
}

func buildTokenLoss(d *Device, _ ops.TokenLossOp, s device.Spec) (*Kernel, error) {
	dt, n, rows := s.In[0].DType, s.In[0].Dim(-1), s.In[1].Size()
	f, err := d.Function(lossProgram(dt), "token_loss")
	if err != nil {
		return nil, err
	}
	return &Kernel{Enqueue: func(c *Call) error {
		if rows == 0 {
			return nil
		}
		return c.Launch(f, lossRows(dt, rows, n), c.Out[0], c.Out[1], c.In[0], c.In[1], int32(n), int64(n), int32(0))
	}}, nil
}

func buildTokenLossGrad(d *Device, _ ops.TokenLossGradOp, s device.Spec) (*Kernel, error) {
	dt, n, rows := s.In[0].DType, s.In[0].Dim(-1), s.In[1].Size()
	f, err := d.Function(lossProgram(dt), "token_loss_grad")
	if err != nil {
		return nil, err
	}
	return &Kernel{Enqueue: func(c *Call) error {
		if rows == 0 {
			return nil
		}
		return c.Launch(f, lossRows(dt, rows, n), c.Out[0], c.In[0], c.In[1], c.In[2], c.In[3], c.In[4], int32(n), int64(n), int32(0), int32(n))
	}}, nil
}
