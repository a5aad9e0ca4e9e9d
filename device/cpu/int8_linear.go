package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() { Register(buildInt8Linear) }

// linear8 is LLM.int8() for a frozen weight. Sums exist as int32 for one tile of rows at a time. Outlier columns are gathered at run
// time, so their product costs what there are of them, not a full one as in the decomposition.
type linear8 struct {
	m, n, k int
	dtype   tensor.DType
	tasks   int // that the product of outliers is cut into, over n

	rows  *rows8
	gemm  *gemm8
	out   *product8
	codes []int8    // (m, k)
	stats []float32 // (m)
	acc   []int32   // (tile, n)
	kept  []float32 // (tile, outliers)
	dots  []float32 // a task's column of the weight (outliers)
}

func buildInt8Linear(d *Device, o ops.Int8Linear, s device.Spec) (*Kernel, error) {
	x := s.In[0]
	l := &linear8{m: x.Size() / max(x.Dim(-1), 1), n: s.In[1].Dim(0), k: s.In[1].Dim(1), dtype: x.DType}
	if l.k == 0 {
		return nil, device.ErrNoKernel
	}
	l.tasks = min(max(l.n/16, 1), maxTasks)
	l.rows = newRows8(l.m, l.k, ops.QuantizeRows8{Threshold: o.Threshold, Strict: true}, x.DType, true)
	l.gemm = newGemm8(l.m, l.n, l.k, ops.Int8MatMul{TransB: true}, d.threads)
	l.out = newProduct8(min(l.m, int8Tile), l.n, x.DType)
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
	l.out.carve(c)
	tile := min(l.m, int8Tile)
	l.codes, l.stats, l.acc = cutScratch[int8](c, l.m*l.k), cutScratch[float32](c, l.m), cutScratch[int32](c, tile*l.n)
	if l.rows.threshold > 0 {
		l.kept, l.dots = cutScratch[float32](c, tile*l.k), cutScratch[float32](c, l.tasks*l.k)
	}
}

func (l *linear8) release() {
	l.rows.release()
	l.gemm.release()
	l.out.release()
	l.codes, l.stats, l.acc, l.kept, l.dots = nil, nil, nil, nil, nil
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
	for r := range rows {
		for j, col := range columns {
			l.kept[r*len(columns)+j] = load32(l.dtype, c.In[0], (first+r)*l.k+int(col))
		}
	}
	return d.parallel(l.tasks, func(t int) {
		dots := l.dots[t*l.k:][:len(columns)]
		for n := l.n * t / l.tasks; n < l.n*(t+1)/l.tasks; n++ {
			for j, col := range columns {
				dots[j] = rounded(l.dtype, float32(float32(w.codes[n*l.k+int(col)])*w.stats[n])*quant.Int8RowScale)
			}
			for r := range rows {
				at := (first+r)*l.n + n
				sum := float32(0)
				for j, v := range l.kept[r*len(columns):][:len(columns)] {
					sum += float32(v * dots[j])
				}
				store32(l.dtype, c.Out[0], at, load32(l.dtype, c.Out[0], at)+sum)
			}
		}
	})
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
