package cuda

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() { Register(buildReduce) }

// Threads of a block of a reduction, and how it is cut: into about reduceBlocks blocks, of at least so many elements of a row or rows of
// a column. The cuts follow from the shape alone.
const (
	reduceThreads = 256
	reduceBlocks  = 1024
	minChunk      = 8192
	minChunkRows  = 64
)

// reduction is a Reduce as its kernels see it: (outer, red, inner) along the second axis, or axes that are apart.
type reduction struct {
	outer, red, inner    int
	apart                bool
	kept, reduced        axes // where they are apart
	keptStep, reduceStep steps
	chunks, each         int // how the reduced elements are cut
	wide                 int // packs of columns side by side
}

func buildReduce(d *Device, op ops.Reduce, s device.Spec) (*Kernel, error) {
	p, size := reduceProgram(op.Kind, s.In[0].DType, s.Out[0].DType)
	pack := min(16/s.In[0].DType.Size(), 8)
	r := newReduction(s.In[0], op.Axes)
	r.cut(pack)
	var fs [3]*Function // for packs, for single elements, to merge chunks
	for i, name := range r.kernels() {
		var err error
		if fs[i], err = d.Function(p, name); err != nil {
			return nil, err
		}
	}
	k := &Kernel{}
	if r.outer*r.inner == 0 {
		k.Enqueue = func(*Call) error { return nil }
		return k, nil
	}
	if r.chunks > 1 {
		k.ScratchBytes = int64(size) * int64(r.outer) * int64(r.chunks) * int64(r.inner)
	}
	k.Enqueue = r.enqueue(fs, pack, s.In[0].DType.Size())
	return k, nil
}

// reduceProgram is the program of a reduction and the size of its accumulators. Narrow floats are summed and compared in float32, products
// kept in float64, integers in 64 bits.
func reduceProgram(kind ops.Reduction, in, out tensor.DType) (p Program, size int) {
	acc := valueClass(in)
	if kind == ops.RedProd && in.IsFloat() {
		acc = tensor.F64
	}
	size = acc.Size()
	if kind == ops.RedArgMax || kind == ops.RedArgMin {
		size = 16
	}
	name := [...]string{"RedSum", "RedMax", "RedMin", "RedProd", "RedArgMax", "RedArgMin"}[kind]
	return Program{Files: []string{"walk.cuh", "reduce.cu"}, Define: []string{
		"T " + cType(in), "OUT " + cType(out), "A " + cType(acc), "RED " + name}}, size
}

// newReduction merges the axes that are reduced, and those that are kept, where they are neighbours.
func newReduction(t tensor.Type, mask uint16) *reduction {
	r := &reduction{outer: 1, red: 1, inner: 1}
	var dims []int
	var reduced []bool
	for i := range t.Rank() {
		n, is := t.Dim(i), mask>>i&1 == 1
		if is {
			r.red *= n
		} else {
			r.outer *= n
		}
		switch k := len(dims) - 1; {
		case n == 1:
		case k >= 0 && reduced[k] == is:
			dims[k] *= n
		default:
			dims, reduced = append(dims, n), append(reduced, is)
		}
	}
	switch k := len(dims); {
	case t.Size() == 0 || k == 0: // (outputs, 0), or one element
	case k == 1 && !reduced[0]: // only axes of one element are reduced
		r.outer, r.inner = 1, dims[0]
	case k == 1 || k == 2 && reduced[1]:
	case k == 2:
		r.outer, r.inner = 1, dims[1]
	case k == 3 && reduced[1]:
		r.outer, r.inner = dims[0], dims[2]
	default:
		r.split(dims, reduced)
	}
	return r
}

// split sets the walks over kept and reduced axes.
func (r *reduction) split(dims []int, reduced []bool) {
	var n, st [2][]int
	step := 1
	for i := len(dims) - 1; i >= 0; i-- {
		side := 0
		if reduced[i] {
			side = 1
		}
		n[side], st[side] = append([]int{dims[i]}, n[side]...), append([]int{step}, st[side]...)
		step *= dims[i]
	}
	r.apart = true
	r.kept, r.keptStep = newAxes(n[0]), newSteps(st[0])
	r.reduced, r.reduceStep = newAxes(n[1]), newSteps(st[1])
}

// columns reports whether the reduced elements of an output lie apart, those of its neighbours between them.
func (r *reduction) columns() bool { return r.inner > 1 && !r.apart }

// cut decides on chunks. Those of rows are multiples of 8 elements, so that packs stay whole.
func (r *reduction) cut(pack int) {
	blocks, least := r.outer*r.inner, minChunk
	if r.columns() {
		packs := max(r.inner/pack, 1)
		if r.inner%pack != 0 {
			packs = r.inner
		}
		for r.wide = 1; r.wide < 32 && r.wide < packs; {
			r.wide *= 2
		}
		blocks, least = r.outer*((packs+r.wide-1)/r.wide), minChunkRows
	}
	r.chunks = max(min(r.red/least, reduceBlocks/max(blocks, 1)), 1)
	r.each = (((r.red+r.chunks-1)/r.chunks + 7) / 8) * 8
	r.chunks = max((r.red+r.each-1)/max(r.each, 1), 1)
}

// kernels are the names of the kernels for packs, for single elements, and to merge chunks.
func (r *reduction) kernels() []string {
	switch {
	case r.apart:
		return []string{"apart", "apart", "finish"}
	case r.columns() && r.inner >= WarpSize:
		return []string{"columns_packs", "columns_one", "finish_columns"}
	case r.columns():
		return []string{"columns_packs", "columns_one", "finish"}
	case r.red < 16:
		return []string{"rows_thread", "rows_thread", "finish"}
	case r.each <= 2048:
		return []string{"rows_warp_packs", "rows_warp", "finish"}
	}
	return []string{"rows_block_packs", "rows_block", "finish"}
}

// geometry is the launch of the kernel that reads.
func (r *reduction) geometry(pack int) Geometry {
	items := int64(r.outer) * int64(r.chunks)
	switch {
	case r.apart:
	case r.columns():
		packs := int64(r.inner / pack)
		items *= (packs + int64(r.wide) - 1) / int64(r.wide)
	case r.red < 16:
		items = (items + reduceThreads - 1) / reduceThreads
	case r.each <= 2048:
		items = (items + reduceThreads/32 - 1) / (reduceThreads / 32)
	}
	return Rows(int(min(items, maxGrid)), reduceThreads)
}

func (r *reduction) enqueue(fs [3]*Function, pack, elem int) func(*Call) error {
	outer, red, inner, chunks, each := int64(r.outer), int64(r.red), int64(r.inner), int64(r.chunks), int64(r.each)
	packed, single := r.geometry(pack), r.geometry(1)
	items := (outer*inner + reduceThreads/WarpSize - 1) / (reduceThreads / WarpSize) // blocks of finish
	if r.columns() && r.inner >= WarpSize {
		items = outer * ((inner + 7) / 8) // NEIGHBOURS of the kernel
	}
	merge := Rows(int(min(items, maxGrid)), reduceThreads)
	return func(c *Call) error {
		f, g := fs[1], single
		if red%int64(pack) == 0 && !r.columns() || r.columns() && inner%int64(pack) == 0 {
			if c.In[0]%Addr(pack*elem) == 0 {
				f, g = fs[0], packed
			}
		}
		part := Addr(0)
		if chunks > 1 {
			part = c.Scratch
		}
		var err error
		switch {
		case r.apart:
			err = c.Launch(f, g, c.Out[0], part, c.In[0], outer, red, chunks, each, &r.kept, &r.keptStep, &r.reduced, &r.reduceStep)
		case r.columns():
			err = c.Launch(f, g, c.Out[0], part, c.In[0], outer, red, inner, chunks, each, int32(r.wide))
		default:
			err = c.Launch(f, g, c.Out[0], part, c.In[0], outer, red, chunks, each)
		}
		if err != nil || chunks == 1 {
			return err
		}
		if err := c.Launch(fs[2], merge, c.Out[0], part, outer, chunks, inner); err != nil {
			return fmt.Errorf("merging chunks: %w", err)
		}
		return nil
	}
}
