package cpu

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() { Register(buildAdafactor) }

// factorTasks is the most tasks that add up the columns of a matrix, each in sums of its own.
const factorTasks = 16

// factored is the kernel of Adafactor. It reads a matrix' gradient three times: for its means, for the size of the step, and to make the
// step; nothing of a tensor's size is stored.
type factored struct {
	ops.Adafactor
	pType, gType tensor.DType
	at           [4]int // outputs of the row means, column means, second moments and first moments, 0 for none
	room         workPool
}

func buildAdafactor(d *Device, o ops.Adafactor, s device.Spec) (*Kernel, error) {
	f := &factored{Adafactor: o, pType: s.In[0].DType, gType: s.In[1].DType}
	for i, name := range []string{"exp_avg_sq_row", "exp_avg_sq_col", "exp_avg_sq", "exp_avg"} {
		f.at[i] = 1 + ops.StateAt(o.States(), name)
	}
	var room int64
	for i := range o.Layout.Sizes {
		rows, cols := o.Layout.Matrix(i)
		room = max(room, int64(8*(factorTasks*cols+2*chunks(o.Layout.Sizes[i]))+4*(rows+cols)))
	}
	return &Kernel{ScratchBytes: room, Run: func(c *Call) error { return f.run(d, c) }}, nil
}

// chunks is the number of element tasks of a tensor.
func chunks(n int) int { return (n + updateGrain - 1) / updateGrain }

func (f *factored) run(d *Device, c *Call) error {
	bringToOutputs(c)
	sc := readScalars(c.In[len(c.In)-4:])
	if !sc.ok {
		return nil
	}
	lr := sc.lr
	if f.Relative {
		lr = min(lr, 1/math.Sqrt(sc.step))
	}
	b := float32(1 - math.Pow(sc.step, -f.Decay))
	for i, n := range f.Layout.Sizes {
		if n == 0 {
			continue
		}
		t := f.tensor(c, i, sc, lr, b)
		if err := t.update(d); err != nil {
			return err
		}
	}
	return nil
}

// factoredTensor is the update of one tensor of n elements from offset on; a matrix has rows and cols.
type factoredTensor struct {
	*factored
	offset, n, rows, cols int
	store                 tensorStep // for its loading and rounding of parameters
	g                     []byte
	gscale, b, lr, wd     float32
	r, c, v, m            []float32 // row means, column means, second moments of a loose tensor, first moments
	sums                  []float64 // columns by task, then two a chunk
	rowScale, colScale    []float32
}

func (f *factored) tensor(c *Call, i int, sc scalars, lr float64, b float32) *factoredTensor {
	offset, n, wd := f.Layout.Tensor(i, f.WeightDecay)
	t := &factoredTensor{factored: f, offset: offset, n: n, g: c.In[1], gscale: sc.gscale, b: b, wd: float32(wd)}
	t.store = tensorStep{slabs: &slabs{p: c.Out[0], pType: f.pType, rounding: f.Rounding},
		random: roundKey{f.Seed, uint32(sc.step), f.Layout.Site(i), offset}}
	if f.Compensated(f.Layout) {
		t.store.comp = c.Out[len(c.Out)-1]
	}
	t.lr = float32(f.Layout.Rate(i, lr))
	t.rows, t.cols = f.Layout.Matrix(i)
	for k, state := range []struct {
		to   *[]float32
		each ops.Each
	}{{&t.r, ops.EachRow}, {&t.c, ops.EachColumn}, {&t.v, ops.EachLoose}, {&t.m, ops.EachElement}} {
		if f.at[k] > 0 {
			lo, size := f.Layout.Span(state.each, i)
			*state.to = tensor.View[float32](c.Out[f.at[k]])[lo : lo+size]
		}
	}
	wide := factorTasks*t.cols + 2*chunks(n)
	t.sums = tensor.View[float64](c.Scratch[:8*wide])
	scales := tensor.View[float32](c.Scratch[8*wide : 8*wide+4*(t.rows+t.cols)])
	t.rowScale, t.colScale = scales[:t.rows], scales[t.rows:]
	return t
}

// gradient writes elements [lo, hi) of the tensor's gradient, times gscale, to buf.
func (t *factoredTensor) gradient(buf []float32, lo, hi int) []float32 {
	size := t.gType.Size()
	g := buf[:hi-lo]
	vec.Widen(g, t.g[(t.offset+lo)*size:(t.offset+hi)*size], t.gType)
	scaleBy(g, t.gscale)
	return g
}

// update makes the passes over a tensor.
func (t *factoredTensor) update(d *Device) error {
	if t.rows > 0 {
		if err := t.means(d); err != nil {
			return err
		}
	}
	parts := t.sums[factorTasks*t.cols:]
	err := d.parallel(chunks(t.n), func(k int) {
		w := t.room.get()
		defer t.room.put(w)
		var u2, p2 float64
		t.blocks(k, func(lo, hi int) {
			u2 += sumSquares(t.step(w, lo, hi, true))
			if !t.Absolute {
				p2 += sumSquares(t.store.loadP(w, t.offset+lo, t.offset+hi))
			}
		})
		parts[2*k], parts[2*k+1] = u2, p2
	})
	if err != nil {
		return err
	}
	var u2, p2 float64
	for k := 0; k < len(parts); k += 2 {
		u2, p2 = u2+parts[k], p2+parts[k+1]
	}
	shrink := float32(1 / max(1, math.Sqrt(u2/float64(t.n))/t.Clip))
	rate := t.lr
	if !t.Absolute {
		rate = float32(float64(t.lr) * max(math.Sqrt(p2/float64(t.n)), t.Eps2))
	}
	return d.parallel(chunks(t.n), func(k int) {
		w := t.room.get()
		defer t.room.put(w)
		t.blocks(k, func(lo, hi int) { t.apply(w, lo, hi, shrink, rate) })
	})
}

// blocks cuts chunk k.
func (t *factoredTensor) blocks(k int, f func(lo, hi int)) {
	slabPart{lo: k * updateGrain, hi: min((k+1)*updateGrain, t.n)}.blocks(f)
}

// means advances the means of rows and columns and sets the scales that turn a gradient into a step.
func (t *factoredTensor) means(d *Device) error {
	tasks := min(factorTasks, t.rows)
	clear(t.sums[:factorTasks*t.cols])
	err := d.parallel(tasks, func(k int) {
		w := t.room.get()
		defer t.room.put(w)
		columns := t.sums[k*t.cols : (k+1)*t.cols]
		for row := t.rows * k / tasks; row < t.rows*(k+1)/tasks; row++ {
			var sum float64
			for lo := 0; lo < t.cols; lo += ops.SlabAlign {
				g := t.gradient(w.g[:], row*t.cols+lo, row*t.cols+min(lo+ops.SlabAlign, t.cols))
				to := columns[lo : lo+len(g)]
				for j, x := range g {
					s := float64(x)*float64(x) + t.Eps1
					sum += s
					to[j] += s
				}
			}
			t.r[row] = t.keep(t.r[row], sum/float64(t.cols))
		}
	})
	var total float64
	for _, r := range t.r {
		total += float64(r)
	}
	for row, r := range t.r {
		t.rowScale[row] = float32(1 / math.Sqrt(float64(r)*float64(t.rows)/total))
	}
	for j := range t.c {
		var sum float64
		for k := range tasks {
			sum += t.sums[k*t.cols+j]
		}
		t.c[j] = t.keep(t.c[j], sum/float64(t.rows))
		t.colScale[j] = float32(1 / math.Sqrt(float64(t.c[j])))
	}
	return err
}

// keep moves a second moment towards a new value.
func (t *factoredTensor) keep(old float32, v float64) float32 {
	return float32(old*t.b) + float32(float32(v)*(1-t.b))
}

// step returns the gradient over the root of its second moment; advance moves the second moments of a loose tensor first.
func (t *factoredTensor) step(w *stepWork, lo, hi int, advance bool) []float32 {
	g := t.gradient(w.g[:], lo, hi)
	if t.rows == 0 {
		for j, x := range g {
			if advance {
				t.v[lo+j] = t.keep(t.v[lo+j], float64(x)*float64(x)+t.Eps1)
			}
			g[j] = x / sqrt32(t.v[lo+j])
		}
		return g
	}
	row, col := lo/t.cols, lo%t.cols
	for j := range g {
		g[j] *= t.rowScale[row] * t.colScale[col]
		if col++; col == t.cols {
			row, col = row+1, 0
		}
	}
	return g
}

func sqrt32(x float32) float32 { return float32(math.Sqrt(float64(x))) }

// apply moves the parameters of a block by the clipped step.
func (t *factoredTensor) apply(w *stepWork, lo, hi int, shrink, rate float32) {
	u := t.step(w, lo, hi, false)
	scaleBy(u, shrink)
	if b1 := float32(t.Beta1); b1 > 0 {
		m := t.m[lo:hi]
		for j, x := range u {
			m[j] = float32(b1*m[j]) + float32((1-b1)*x)
			u[j] = m[j]
		}
	}
	p, decay := t.store.loadP(w, t.offset+lo, t.offset+hi), 1-float32(t.lr*t.wd)
	for j, x := range u {
		p[j] = float32(p[j]*decay) - float32(rate*x)
	}
	if t.pType != tensor.F32 {
		t.store.storeP(w, p, hi-lo, t.offset+lo, t.offset+hi)
	}
}
