package cuda

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() { Register(buildMatMulGroup) }

const (
	thinRowsOfX = 8   // that kernels/thin_rows.cu has sums for
	thinRowsOfA = 256 // of all weights, a block each: with many more, tiles of a dense product share what they read
)

// thinRowsArgs is struct Parts of kernels/thin_rows.cu.
type thinRowsArgs struct {
	of       [ops.GroupMost]thinRowsPart
	parts, _ int32
}

type thinRowsPart struct {
	a, y           Addr
	alpha          float32
	rows, first, _ int32
}

// buildMatMulGroup is for few rows of x and of the weights, which are of one type; the others stay dense products.
func buildMatMulGroup(d *Device, o ops.MatMulGroup, s device.Spec) (*Kernel, error) {
	x := s.In[0]
	k, m := x.Dim(-1), tensor.S(x.Shape.Dims()[:x.Rank()-1]...).Size()
	a := &thinRowsArgs{parts: int32(o.N)}
	rows := 0
	for i, w := range s.In[1:] {
		if w.Dim(0) == 0 || w.DType != s.In[1].DType {
			return nil, device.ErrNoKernel
		}
		a.of[i] = thinRowsPart{alpha: o.Alpha[i], rows: int32(w.Dim(0)), first: int32(rows)}
		rows += w.Dim(0)
	}
	if x.DType.Size() > 4 || m == 0 || m > thinRowsOfX || k == 0 || k > thinMost || rows > thinRowsOfA {
		return nil, device.ErrNoKernel
	}
	threads := 256
	if k > 8*4*threads {
		threads = 512 // a row has few blocks, and those have all that they read in flight
	}
	f, err := d.Function(Program{Files: []string{"eight.cuh", "thin_rows.cu"}, Define: []string{"T " + cType(x.DType), "TA " + cType(s.In[1].DType), fmt.Sprint("ROWS ", m),
		fmt.Sprint("THREADS ", threads), fmt.Sprint("PACKS ", min(ceilDiv(k, 8*threads), 4))}}, "thin_rows")
	if err != nil {
		return nil, err
	}
	return &Kernel{Label: fmt.Sprint("thin_rows_", o.N), Enqueue: func(c *Call) error {
		for i := range a.of[:o.N] {
			a.of[i].a, a.of[i].y = c.In[1+i], c.Out[i]
		}
		return c.Launch(f, Rows(rows, threads), c.In[0], a, int32(k))
	}}, nil
}
