package cuda

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(func(d *Device, op ops.SortOp, s device.Spec) (*Kernel, error) { return buildSort(d, op, s, sortRoom) })
}

// sortItems is how many items a block sorts in shared memory: 12 bytes each.
const sortItems = 2048

// sortRoom bounds the scratch memory of long lanes: they are sorted in batches, of at least one lane.
const sortRoom = 64 << 20

// sorter launches kernels/sort.cu.
type sorter struct {
	from, lanes, n, inner, k     int64 // from: the first lane
	padded                       int64 // items of a lane, a power of two
	batch                        int64 // lanes sorted at once
	begin, step, finish, end, in *Function
}

func buildSort(d *Device, op ops.SortOp, s device.Spec, room int64) (*Kernel, error) {
	outer, n, inner := aroundAxis(s.In[0].Shape, int(op.Axis))
	o := &sorter{lanes: int64(outer * inner), n: int64(n), inner: int64(inner), k: op.K, padded: 2}
	if o.lanes == 0 || o.k == 0 {
		return nothing(), nil
	}
	for o.padded < o.n {
		o.padded *= 2
	}
	if err := o.compile(d, s.In[0].DType, op.Descending); err != nil {
		return nil, err
	}
	if o.padded <= sortItems {
		return &Kernel{Label: "sort", Enqueue: o.short}, nil
	}
	o.batch = max(min(o.lanes, room/(12*o.padded)), 1)
	return &Kernel{Label: "sort", ScratchBytes: 12 * o.padded * o.batch, Enqueue: o.long}, nil
}

// compile finds the kernels for elements of a dtype.
func (o *sorter) compile(d *Device, dt tensor.DType, down bool) error {
	descending := 0
	if down {
		descending = 1
	}
	p := Program{Files: []string{"sort.cu"}, Define: []string{"T " + cType(dt), fmt.Sprint("ITEMS ", sortItems), fmt.Sprint("DESCENDING ", descending)}}
	for _, f := range []struct {
		at   **Function
		name string
	}{{&o.in, "sort_short"}, {&o.begin, "sort_begin"}, {&o.step, "sort_step"}, {&o.finish, "sort_finish"}, {&o.end, "sort_end"}} {
		var err error
		if *f.at, err = d.Function(p, f.name); err != nil {
			return err
		}
	}
	return nil
}

// short sorts each lane in a block.
func (o *sorter) short(c *Call) error {
	threads := int(max(min(o.padded/2, 512), 32))
	return c.Launch(o.in, Rows(int(min(o.lanes, maxGrid)), threads), c.Out[0], c.Out[1], c.In[0], o.lanes, o.n, o.inner, o.k, int32(o.padded))
}

// long sorts lanes in scratch memory, a batch at a time.
func (o *sorter) long(c *Call) error {
	for from := int64(0); from < o.lanes; from += o.batch {
		b := *o
		b.from, b.lanes = from, min(o.batch, o.lanes-from)
		pos, err := b.positions(c, c.In[0])
		if err != nil {
			return err
		}
		if err := c.Launch(b.end, b.over((b.k+511)/512), c.Out[0], c.Out[1], c.In[0], pos, b.from, b.lanes, b.n, b.inner, b.k, b.padded); err != nil {
			return err
		}
	}
	return nil
}

// over is a grid of so many blocks for each lane.
func (o *sorter) over(blocks int64) Geometry {
	return Geometry{Grid: [3]int{int(blocks), int(min(o.lanes, 65535))}, Block: [3]int{512}}
}

// positions sorts items in scratch memory and returns where their positions are, u32 (lanes, padded).
func (o *sorter) positions(c *Call, x Addr) (Addr, error) {
	keys, pos := c.Scratch, c.Scratch+Addr(8*o.padded*o.lanes)
	stretches := o.over(o.padded / sortItems)
	if err := c.Launch(o.begin, stretches, keys, pos, x, o.from, o.lanes, o.n, o.inner, o.padded); err != nil {
		return 0, err
	}
	for size := int64(2 * sortItems); size <= o.padded; size *= 2 {
		up := size
		if size == o.padded {
			up = 0 // all of the last merge goes upwards
		}
		for d := size / 2; d >= sortItems; d /= 2 {
			if err := c.Launch(o.step, o.over(o.padded/1024), keys, pos, o.lanes, o.padded, up, d); err != nil {
				return 0, err
			}
		}
		if err := c.Launch(o.finish, stretches, keys, pos, o.lanes, o.padded, up); err != nil {
			return 0, err
		}
	}
	return pos, nil
}

// newOrder is a sorter of n indices by their value, equal ones in their own order.
func newOrder(d *Device, dt tensor.DType, n int64) (*sorter, error) {
	o := &sorter{lanes: 1, n: n, inner: 1, padded: sortItems}
	for o.padded < n {
		o.padded *= 2
	}
	return o, o.compile(d, dt, false)
}

// scratch is the bytes that positions needs.
func (o *sorter) scratch() int64 { return 12 * o.padded * o.lanes }
