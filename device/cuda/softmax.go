package cuda

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(func(d *Device, op ops.SoftmaxOp, s device.Spec) (*Kernel, error) {
		return buildSoftmax(d, newSoftmaxRows(s.In[0], op.Log), "softmax")
	})
	Register(func(d *Device, op ops.SoftmaxGradOp, s device.Spec) (*Kernel, error) {
		return buildSoftmax(d, newSoftmaxRows(s.In[0], op.Log), "softmax_grad")
	})
}

// softmaxRows are the rows of kernels/softmax.cu: of n values, read `width` at a time by `group` threads, 0 for rows that registers do not
// hold.
type softmaxRows struct {
	dtype        tensor.DType
	log          bool
	rows, n      int
	width, group int
	accesses     int // of a thread: more than a row needs would take registers that other blocks want
}

// softmaxAccesses are the most that registers hold.
const softmaxAccesses = 4

func newSoftmaxRows(t tensor.Type, log bool) softmaxRows {
	o := softmaxRows{dtype: t.DType, log: log, n: t.Dim(-1), width: accessBytes / t.DType.Size()}
	o.rows = t.Size() / max(o.n, 1)
	if o.n%o.width != 0 {
		o.width = 1
	}
	for _, g := range []int{4, 8, WarpSize, 256, 512} {
		if o.n <= g*o.width*softmaxAccesses {
			o.group, o.accesses = g, ceilDiv(o.n, g*o.width)
			break
		}
	}
	return o
}

func (o softmaxRows) program() Program {
	log := 0
	if o.log {
		log = 1
	}
	return Program{Files: []string{"softmax.cu"}, Define: []string{"T " + cType(o.dtype), fmt.Sprint("V ", o.width),
		fmt.Sprint("G ", max(o.group, 1)), fmt.Sprint("K ", max(o.accesses, 1)), fmt.Sprint("LOG ", log)}}
}

// buildSoftmax launches name_rows or name_long on the output and the inputs.
func buildSoftmax(d *Device, o softmaxRows, name string) (*Kernel, error) {
	if o.n > math.MaxInt32 {
		return nil, device.ErrNoKernel
	}
	short, err := d.Function(o.program(), name+"_rows")
	if err != nil {
		return nil, err
	}
	long, err := d.Function(o.program(), name+"_long")
	if err != nil {
		return nil, err
	}
	threads := max(o.group, 256)
	blocks := min((o.rows*max(o.group, 1)+threads-1)/threads, maxGrid)
	return &Kernel{Enqueue: func(c *Call) error {
		if o.rows*o.n == 0 {
			return nil
		}
		f, g := short, Rows(blocks, threads)
		at := append([]Addr{c.Out[0]}, c.In...)
		args := make([]any, 0, 5)
		for _, a := range at {
			args = append(args, a)
			if o.group == 0 || a%Addr(o.width*o.dtype.Size()) != 0 {
				f, g = long, Rows(min(o.rows, maxGrid), longRowThreads)
			}
		}
		return c.Launch(f, g, append(args, int64(o.rows), int32(o.n))...)
	}}, nil
}
