package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() { Register(buildDocuments) }

// buildDocuments lists the documents of rows in one pass over their tokens. Attention here looks at doc_start alone.
func buildDocuments(_ *Device, op ops.Documents, s device.Spec) (*Kernel, error) {
	t, slots := s.In[0].Dim(1), int(op.Slots)
	return &Kernel{Run: func(c *Call) error {
		doc, lengths, offsets := tensor.View[int32](c.In[0]), tensor.View[int32](c.Out[0]), tensor.View[int64](c.Out[1])
		clear(lengths)
		found, ok := 0, true
		for i, d := range doc {
			switch at := i % t; {
			case int(d) == at:
				found++
				ok = found <= slots
			default:
				ok = at > 0 && d == doc[i-1]
			}
			if ok {
				lengths[found-1]++
				ok = lengths[found-1] <= op.Longest
			}
			if !ok {
				clear(lengths)
				lengths[slots] = 1
				break
			}
		}
		for k, step := range op.Steps() {
			at := int64(0)
			for i := range slots + 2 {
				offsets[k*(slots+2)+i] = at * step
				if i < slots {
					at += int64(lengths[i])
				}
			}
		}
		return nil
	}}, nil
}
