package cuda

import (
	"errors"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph/ops"
)

// slabSlot is Slot of optim.cu, slabChunk its Chunk.
type slabSlot struct {
	Scale, Fixed float64
	Offset, Size int64
	Decay        float32
	Site         uint32
}

type slabChunk struct {
	Start          int64
	Tensor, Blocks int32
}

// slabTable is a layout on the device.
type slabTable struct {
	tensors, chunks    int
	slots, list, first Addr // first: the first chunk of each tensor, and the number of chunks
}

// chunkBlocks is the most blocks of ops.SlabAlign elements that a chunk has.
const chunkBlocks = 32

// slabTable cuts a layout into chunks and brings it to the device.
func (d *Device) slabTable(l *ops.Layout, decay float64) (*slabTable, error) {
	t := &slabTable{tensors: len(l.Sizes)}
	var slots []slabSlot
	var chunks []slabChunk
	var first []int32
	for i := range l.Sizes {
		at, n, wd := l.Tensor(i, decay)
		fixed := l.Rate(i, 0)
		s := slabSlot{Fixed: fixed, Offset: int64(at), Size: int64(n), Decay: float32(wd), Site: l.Site(i)}
		if fixed == 0 {
			s.Scale = l.Rate(i, 1)
		}
		slots = append(slots, s)
		first = append(first, int32(len(chunks)))
		for blocks := (n + ops.SlabAlign - 1) / ops.SlabAlign; blocks > 0; blocks -= chunkBlocks {
			chunks = append(chunks, slabChunk{Start: int64(at), Tensor: int32(i), Blocks: int32(min(blocks, chunkBlocks))})
			at += chunkBlocks * ops.SlabAlign
		}
	}
	t.chunks = len(chunks)
	var err error
	if t.slots, err = constants(d, slots); err != nil {
		return nil, err
	}
	if t.list, err = constants(d, chunks); err != nil {
		return nil, err
	}
	t.first, err = constants(d, append(first, int32(len(chunks))))
	return t, err
}

// bringToOutputs copies parameters and states that are not updated in place: input 0 to output 0, and inputs from 2 on to the others.
func bringToOutputs(c *Call, bytes []int64) error {
	var errs []error
	for i, out := range c.Out {
		in := c.In[0]
		if i > 0 {
			in = c.In[i+1]
		}
		if out%16 != 0 {
			return fmt.Errorf("cuda: output %d of an update is at an odd address", i)
		}
		errs = append(errs, c.Copy(out, in, bytes[i]))
	}
	return errors.Join(errs...)
}
