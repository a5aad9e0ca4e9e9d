package cuda

import (
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// tableSum adds rows to those of a fresh table that an index names: see kernels/scatter_table.cu.
type tableSum struct {
	m, n                int // positions, rows of the table
	row, elem           int // bytes of a row and of an element
	order, pieces, rest choice
}

// Constants of kernels/scatter_table.cu.
const (
	tableOwners    = 256
	tableThreads   = 512
	tableFill      = 8
	tablePiece     = 32
	tableColumns   = 128 // packs of a warp
	tablePositions = 65536
	tableRows      = tableOwners << 16
	tableStatic    = 1 << 10 // bytes of shared memory beside the list, at most
)

// newTableSum returns nil where there are too many positions for the list in shared memory, too many rows for the words of the list, or no floats.
func (d *Device) newTableSum(out, index tensor.Type, inner int) (*tableSum, error) {
	elem := out.DType.Size()
	t := &tableSum{m: index.Size(), n: out.Dim(0), row: inner * elem, elem: elem}
	if !out.DType.IsFloat() || t.m == 0 || out.Size() == 0 || t.m > tablePositions || 4*t.m+tableStatic > d.shared || t.n > tableRows || inner > 1<<30 {
		return nil, nil
	}
	for _, u := range slices.Compact([]int{units(elem, t.row)[0], elem}) {
		p := scatter{kind: ops.ScatterSum, fresh: true}.program(out.DType, index.DType, u/elem)
		p.Files = append(p.Files, "packed.cuh", "scatter_table.cu")
		for _, f := range []struct {
			to   *choice
			name string
		}{{&t.order, "table_order"}, {&t.pieces, "table_pieces"}, {&t.rest, "table_rest"}} {
			fn, err := d.Function(p, f.name)
			if err != nil {
				return nil, err
			}
			f.to.units, f.to.fns = append(f.to.units, u), append(f.to.fns, fn)
		}
	}
	return t, nil
}

// scratch is the bytes of the order, of what begins at each of its places, and of the sums of pieces: two for PIECE places, in float32 at least.
func (t *tableSum) scratch() (words, sums int64) {
	words = aligned(4 * int64(t.m))
	return words, 2 * int64(ceilDiv(t.m, tablePiece)) * int64(t.row/t.elem) * int64(max(t.elem, 4))
}

func (t *tableSum) kernel() *Kernel {
	if t == nil {
		return nil
	}
	words, sums := t.scratch()
	return &Kernel{Label: "scatter_table", ScratchBytes: 2*words + sums, Enqueue: func(c *Call) error {
		y, u, index := c.Out[0], c.In[0], c.In[1]
		order, plan, sums := c.Scratch, c.Scratch+Addr(words), c.Scratch+Addr(2*words)
		f, unit := t.order.at(y, u)
		width := t.row / unit
		fill := min(ceilDiv(t.n*width, tableThreads*tableFill), 1<<16)
		if err := c.Launch(f, Geometry{Grid: [3]int{tableOwners + fill}, Block: [3]int{tableThreads}, Shared: 4 * t.m}, y, index, order, plan, int32(t.m), int64(t.n), int32(width)); err != nil {
			return err
		}
		f, _ = t.pieces.at(y, u)
		if err := c.Launch(f, Geometry{Grid: [3]int{ceilDiv(t.m, 8), min(ceilDiv(width, tableColumns), 65535)}, Block: [3]int{256}}, y, u, index, order, plan, sums, int32(t.m), int32(width)); err != nil {
			return err
		}
		if t.m <= tablePiece {
			return nil
		}
		f, _ = t.rest.at(y, u)
		return c.Launch(f, Geometry{Grid: [3]int{ceilDiv(t.m, tablePiece), min(ceilDiv(width, 128), 65535)}, Block: [3]int{128}}, y, index, order, plan, sums, int32(t.m), int32(width))
	}}
}
