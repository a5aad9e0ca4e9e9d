package cuda

import (
	"fmt"
	"slices"
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() { Register(buildAdafactor) }

// factorRecord is Factor of adafactor.cu, factorTile its Tile.
type factorRecord struct {
	Scale, Fixed                   float64
	Offset, Size                   int64
	RowPart, ColPart               int64
	RowAt, ColAt, LooseAt          int64
	Rows, Cols, RowTiles, ColTiles int32
	Decay                          float32
	Site                           uint32
}

type factorTile struct{ Tensor, Row, Col, Pad int32 }

// factorArgs is Args of adafactor.cu.
type factorArgs struct {
	P, G, R, C, V, M, Comp     Addr
	LR, Step, GScale, OK       Addr
	Factors, Chunks, Tiles     Addr
	First                      Addr
	Parts, Sums, Scales, Rates Addr
	Rows                       int64
	Decay, Eps1, Eps2, Clip    float64
	Beta1                      float32
	Relative                   int32
	Seed                       uint64
}

// Rows and columns of a tile of adafactor.cu.
const (
	factorTileRows = 64
	factorTileCols = 256
)

// factored launches kernels/adafactor.cu.
type factored struct {
	slab                        *slabTable
	fixed                       factorArgs // what does not change between launches
	at                          [4]int     // outputs of the row means, column means, second and first moments, 0 for none
	comp                        bool
	bytes                       []int64
	tiles, columns              int // tiles of all matrices; blocks of mean_columns
	sums, scales                int64
	tileSums, meanRows, meanCol *Function
	stepSums, rates, apply      *Function
}

func buildAdafactor(d *Device, o ops.Adafactor, s device.Spec) (*Kernel, error) {
	f := &factored{comp: o.Compensated(o.Layout), bytes: sizes(s.Out)}
	f.fixed = factorArgs{Decay: o.Decay, Eps1: o.Eps1, Eps2: o.Eps2, Clip: o.Clip, Beta1: float32(o.Beta1), Seed: o.Seed}
	if o.Relative {
		f.fixed.Relative = 1
	}
	for i, name := range []string{"exp_avg_sq_row", "exp_avg_sq_col", "exp_avg_sq", "exp_avg"} {
		f.at[i] = 1 + ops.StateAt(o.States(), name)
	}
	p := Program{Files: []string{"random.cuh", "adafactor.cu"}, Exact: true, Define: []string{"P " + cType(s.In[0].DType), "G " + cType(s.In[1].DType)}}
	for name, v := range map[string]bool{"HALF": s.In[0].DType != tensor.F32, "FIRST": o.Beta1 > 0, "ABSOLUTE": o.Absolute} {
		bit := 0
		if v {
			bit = 1
		}
		p.Define = append(p.Define, fmt.Sprintf("%s %d", name, bit))
	}
	p.Define = append(p.Define, fmt.Sprintf("ROUNDING %d", o.Rounding))
	slices.Sort(p.Define)
	for _, fn := range []struct {
		name string
		to   **Function
	}{{"tile_sums", &f.tileSums}, {"mean_rows", &f.meanRows}, {"mean_columns", &f.meanCol}, {"step_sums", &f.stepSums}, {"step_rates", &f.rates},
		{"apply_step", &f.apply}} {
		var err error
		if *fn.to, err = d.Function(p, fn.name); err != nil {
			return nil, err
		}
	}
	if err := f.tables(d, o); err != nil {
		return nil, err
	}
	scratch := f.scales + 4*f.fixed.Rows // columns follow
	for i := range o.Layout.Sizes {
		_, cols := o.Layout.Matrix(i)
		scratch += 4 * int64(cols)
	}
	f.fixed.Rates = Addr(aligned(scratch))
	return &Kernel{Label: "adafactor.cu", ScratchBytes: aligned(scratch) + int64(12*len(o.Layout.Sizes)), Enqueue: f.enqueue}, nil
}

// tables describes the layout to the device and cuts the scratch.
func (f *factored) tables(d *Device, o ops.Adafactor) error {
	l := o.Layout
	var err error
	if f.slab, err = d.slabTable(l, o.WeightDecay); err != nil {
		return err
	}
	var records []factorRecord
	var tiles []factorTile
	part := int64(0)
	for i, n := range l.Sizes {
		at, _, wd := l.Tensor(i, o.WeightDecay)
		rows, cols := l.Matrix(i)
		r := factorRecord{Fixed: l.Rate(i, 0), Offset: int64(at), Size: int64(n), Rows: int32(rows), Cols: int32(cols), Decay: float32(wd), Site: l.Site(i),
			RowTiles: int32((rows + factorTileRows - 1) / factorTileRows), ColTiles: int32((cols + factorTileCols - 1) / factorTileCols)}
		if r.Fixed == 0 {
			r.Scale = l.Rate(i, 1)
		}
		for _, e := range []struct {
			to   *int64
			each ops.Each
		}{{&r.RowAt, ops.EachRow}, {&r.ColAt, ops.EachColumn}, {&r.LooseAt, ops.EachLoose}} {
			lo, _ := l.Span(e.each, i)
			*e.to = int64(lo)
		}
		r.RowPart = part
		r.ColPart = part + int64(rows)*int64(r.ColTiles)
		part = r.ColPart + int64(cols)*int64(r.RowTiles)
		for row := range r.RowTiles {
			for col := range r.ColTiles {
				tiles = append(tiles, factorTile{Tensor: int32(i), Row: row, Col: col})
			}
		}
		f.fixed.Rows += int64(rows)
		f.columns = max(f.columns, (cols+255)/256)
		records = append(records, r)
	}
	f.tiles = len(tiles)
	f.sums = aligned(8 * part)
	f.scales = aligned(f.sums + int64(16*f.slab.chunks))
	if f.fixed.Factors, err = constants(d, records); err != nil {
		return err
	}
	f.fixed.Tiles, err = constants(d, tiles)
	return err
}

func (f *factored) enqueue(c *Call) error {
	if err := bringToOutputs(c, f.bytes); err != nil || f.slab.chunks == 0 {
		return err
	}
	n, a := len(c.In), f.fixed
	a.P, a.G, a.LR, a.Step, a.GScale, a.OK = c.Out[0], c.In[1], c.In[n-4], c.In[n-3], c.In[n-2], c.In[n-1]
	for i, to := range []*Addr{&a.R, &a.C, &a.V, &a.M} {
		if f.at[i] > 0 {
			*to = c.Out[f.at[i]]
		}
	}
	if f.comp {
		a.Comp = c.Out[len(c.Out)-1]
	}
	a.Chunks, a.First = f.slab.list, f.slab.first
	a.Parts, a.Sums, a.Scales, a.Rates = c.Scratch, c.Scratch+Addr(f.sums), c.Scratch+Addr(f.scales), c.Scratch+f.fixed.Rates
	if f.tiles > 0 {
		if err := c.Launch(f.tileSums, Rows(f.tiles, factorTileCols), &a); err != nil {
			return err
		}
		if err := c.Launch(f.meanRows, Rows(f.slab.tensors, 256), &a); err != nil {
			return err
		}
		for lo := 0; lo < f.slab.tensors; lo += maxGridY {
			part := a
			part.Factors += Addr(lo * factorRecordBytes)
			if err := c.Launch(f.meanCol, Geometry{Grid: [3]int{f.columns, min(f.slab.tensors-lo, maxGridY)}, Block: [3]int{256}}, &part); err != nil {
				return err
			}
		}
	}
	if err := c.Launch(f.stepSums, Rows(f.slab.chunks, 256), &a); err != nil {
		return err
	}
	if err := c.Launch(f.rates, Over(int64(f.slab.tensors)*WarpSize, 128, 1), &a, int32(f.slab.tensors)); err != nil {
		return err
	}
	return c.Launch(f.apply, Rows(f.slab.chunks, 256), &a)
}

// maxGridY is the most blocks of a launch along y.
const maxGridY = 65535

const factorRecordBytes = int(unsafe.Sizeof(factorRecord{}))
