package cuda

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
)

func init() { Register(buildDocuments) }

const documentThreads = 1024 // as many as there may be slots

// documentRows is struct Rows of kernels/documents.cu, field by field.
type documentRows struct {
	doc                     Addr
	rows, t, slots, longest int32
	step                    [3]int64
}

// buildDocuments lists documents with one block: attention waits for one number of all rows, and the launch is one of a step.
func buildDocuments(d *Device, op ops.Documents, s device.Spec) (*Kernel, error) {
	f, err := d.Function(Program{Files: []string{"documents.cu"}}, "documents")
	if err != nil {
		return nil, err
	}
	rows := documentRows{rows: int32(s.In[0].Dim(0)), t: int32(s.In[0].Dim(1)), slots: op.Slots, longest: op.Longest, step: op.Steps()}
	return &Kernel{Label: "documents", Enqueue: func(c *Call) error {
		rows.doc = c.In[0]
		return c.Launch(f, Rows(1, documentThreads), &rows, c.Out[0], c.Out[1])
	}}, nil
}
