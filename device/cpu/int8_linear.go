package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() { Register(buildInt8Linear) }

// int8Tile is the rows of a product whose sums exist at a time.
const int8Tile = 256

// linear8 is LLM.int8() for a frozen weight. Sums exist as int32 for one tile of rows at a time. Outlier columns are gathered at run
// time, so their product costs what there are of them, not a full one as in the decomposition.
type linear8 struct {
	m, n, k int
	dtype   tensor.DType
	lanes   int // tasks that the product of outliers is cut into, over strips of n

	rows  *rows8
	gemm  *gemm8
	out   *product8
	codes []int8    // (m, k)
	stats []float32 // (m)
	acc   []int32   // (tile, n)
	kept  []float32 // (tile, outliers): the elements that are outliers
	strip []float32 // a lane's part of the outlier columns of the weight (quant.AddOutliers)
}

func buildInt8Linear(d *Device, o ops.Int8Linear, s device.Spec) (*Kernel, error) {
	x := s.In[0]
	l := &linear8{m: x.Size() / max(x.Dim(-1), 1), n: s.In[1].Dim(0), k: s.In[1].Dim(1), dtype: x.DType}
	if l.k == 0 {
		return nil, device.ErrNoKernel
	}
	l.lanes = min(max(l.n/quant.OutlierStrip, 1), d.threads, maxTasks)
	l.rows = newRows8(l.m, l.k, ops.QuantizeRows8{Threshold: o.Threshold, Strict: true}, x.DType, true)
	l.gemm = newGemm8(min(l.m, int8Tile), l.n, l.k, ops.Int8MatMul{TransB: true}, d.threads)
	l.out = &product8{to: x.DType, cols: l.n}
	var need scratchCut
	l.carve(&need)
	return &Kernel{ScratchBytes: need.used, Run: func(c *Call) error {
		l.carve(&scratchCut{b: c.Scratch})
		defer l.release()
		return l.run(d, c)
	}}, nil
}

func (l *linear8) carve(c *scratchCut) {
	l.rows.carve(c)
	l.gemm.carve(c)
	tile := min(l.m, int8Tile)
	l.codes, l.stats, l.acc = cutScratch[int8](c, l.m*l.k), cutScratch[float32](c, l.m), cutScratch[int32](c, tile*l.n)
	if l.rows.threshold > 0 {
		l.kept, l.strip = cutScratch[float32](c, tile*l.k), cutScratch[float32](c, l.lanes*l.stripFloats())
	}
}

func (l *linear8) release() {
	l.rows.release()
	l.gemm.release()
	l.out.release()
	l.codes, l.stats, l.acc, l.kept, l.strip = nil, nil, nil, nil, nil
}

func (l *linear8) run(d *Device, c *Call) error {
	if l.m == 0 || l.n == 0 {
		return nil
	}
	if err := l.rows.run(d, l.codes, l.stats, c.In[0]); err != nil {
		return err
	}
	weight := weight8{codes: tensor.View[int8](c.In[1]), stats: tensor.View[float32](c.In[2]), cols: l.k}
	l.gemm.a, l.gemm.b = l.codes, weight.codes
	l.out.bind(l.stats, weight.stats, c.In[3])
	for first := 0; first < l.m; first += int8Tile {
		rows := min(int8Tile, l.m-first)
		if err := l.gemm.tile(d, l.acc, first, rows); err != nil {
			return err
		}
		if err := l.out.run(d, c.Out[0], l.acc, first, rows); err != nil {
			return err
		}
		if l.rows.found > 0 {
			if err := l.addOutliers(d, c, &weight, first, rows); err != nil {
				return err
			}
		}
	}
	return nil
}

// addOutliers adds x[:, outliers]·W[:, outliers]ᵀ to rows of the result.
func (l *linear8) addOutliers(d *Device, c *Call, w *weight8, first, rows int) error {
	columns := l.rows.columns[:l.rows.found]
	kept := l.kept[:rows*len(columns)]
	err := d.ranges(rows, max(quantGrain/8/len(columns), 1), func(lo, hi int) {
		for r := lo; r < hi; r++ {
			for j, col := range columns {
				kept[r*len(columns)+j] = load32(l.dtype, c.In[0], (first+r)*l.k+int(col))
			}
		}
	})
	if err != nil {
		return err
	}
	strips := (l.n + quant.OutlierStrip - 1) / quant.OutlierStrip
	each := min(l.stripFloats()/(quant.OutlierStrip*len(columns)), strips) // at a time
	return d.firstError(l.lanes, 1, func(lane, _ int) error {
		mem, end := l.strip[lane*l.stripFloats():][:l.stripFloats()], strips*(lane+1)/l.lanes
		for s := strips * lane / l.lanes; s < end; s += each {
			lo, hi := s*quant.OutlierStrip, min((s+each)*quant.OutlierStrip, end*quant.OutlierStrip, l.n)
			l.fillStrips(mem, w, columns, lo, hi)
			for r := range rows {
				if err := l.addRow(c.Out[0], (first+r)*l.n+lo, hi-lo, kept[r*len(columns):][:len(columns)], mem); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// stripFloats is a lane's room for outlier columns: one strip of all columns, or what fits in the second cache.
func (l *linear8) stripFloats() int { return quant.OutlierStrip * max(l.k, 4<<10) }

// fillStrips decodes the outlier columns of rows lo to hi-1 of the weight.
func (l *linear8) fillStrips(mem []float32, w *weight8, columns []int32, lo, hi int) {
	for n := lo; n < hi; n++ {
		codes, stat := w.codes[n*l.k:][:l.k], w.stats[n]
		strip := mem[(n-lo)/quant.OutlierStrip*len(columns)*quant.OutlierStrip+(n-lo)%quant.OutlierStrip:]
		for j, col := range columns {
			strip[j*quant.OutlierStrip] = rounded(l.dtype, float32(float32(codes[col])*stat)*quant.Int8RowScale)
		}
	}
}

// addRow adds to n elements of the result from element `at` on.
func (l *linear8) addRow(out []byte, at, n int, kept, mem []float32) error {
	dst := out[at*l.dtype.Size() : (at+n)*l.dtype.Size()]
	switch l.dtype {
	case tensor.BF16:
		return quant.AddOutliers(tensor.View[tensor.BFloat16](dst), kept, mem)
	case tensor.F16:
		return quant.AddOutliers(tensor.View[tensor.Float16](dst), kept, mem)
	}
	return quant.AddOutliers(tensor.View[float32](dst), kept, mem)
}

// rounded is x as dtype d holds it.
func rounded(d tensor.DType, x float32) float32 {
	switch d {
	case tensor.BF16:
		return tensor.ToBF16(x).Float32()
	case tensor.F16:
		return tensor.ToF16(x).Float32()
	}
	return x
}
