package cuda

import (
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// tableSum adds rows to those of a fresh table that an index names, in one pass over the table: see kernels/scatter_table.cu.
type tableSum struct {
	m, n   int // positions, rows of the table
	row    int // bytes of a row
	shift  int // neighbouring rows of an owner, as a power of two
	shared int
	fns    choice
}

// Constants of kernels/scatter_table.cu.
const (
	tableOwners    = 256
	tableThreads   = 512
	tablePositions = 65536
	tableStatic    = 33 << 10 // bytes of shared memory beside the list, at most
)

// newTableSum returns nil where there are too many positions for the list in shared memory, too many rows for the words of the list, or no floats.
func (d *Device) newTableSum(out, index tensor.Type, inner int) (*tableSum, error) {
	elem := out.DType.Size()
	t := &tableSum{m: index.Size(), n: out.Dim(0), row: inner * elem}
	t.shared = 4 * t.m
	if !out.DType.IsFloat() || t.m == 0 || out.Size() == 0 || t.m > tablePositions || t.shared+tableStatic > d.shared || inner > 1<<30 {
		return nil, nil
	}
	for t.row<<t.shift < 1<<10 && t.n>>(t.shift+1) >= tableOwners {
		t.shift++
	}
	if ceilDiv(t.groups(), tableOwners)<<t.shift >= 1<<16-1 {
		return nil, nil
	}
	for _, u := range slices.Compact([]int{units(elem, t.row)[0], elem}) {
		p := scatter{kind: ops.ScatterSum, fresh: true}.program(out.DType, index.DType, u/elem)
		p.Files = append(p.Files, "packed.cuh", "scatter_table.cu")
		f, err := d.Function(p, "scatter_table")
		if err != nil {
			return nil, err
		}
		t.fns.units, t.fns.fns = append(t.fns.units, u), append(t.fns.fns, f)
	}
	return t, nil
}

func (t *tableSum) groups() int { return ceilDiv(t.n, 1<<t.shift) }

func (t *tableSum) kernel() *Kernel {
	if t == nil {
		return nil
	}
	return &Kernel{Label: "scatter_table", Enqueue: func(c *Call) error {
		f, unit := t.fns.at(c.Out[0], c.In[0])
		g := Geometry{Grid: [3]int{min(t.groups(), tableOwners)}, Block: [3]int{tableThreads}, Shared: t.shared}
		return c.Launch(f, g, c.Out[0], c.In[0], c.In[1], int32(t.m), int64(t.n), int32(t.row/unit), int32(t.shift))
	}}
}
