package cpu

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(func(d *Device, op ops.RMSNormOp, s device.Spec) (*Kernel, error) {
		return buildNorm(d, norm{eps: op.Eps, typ: s.In[0]}), nil
	})
	Register(func(d *Device, op ops.LayerNormOp, s device.Spec) (*Kernel, error) {
		return buildNorm(d, norm{eps: op.Eps, typ: s.In[0], centre: true}), nil
	})
	Register(func(d *Device, op ops.RMSNormGradOp, s device.Spec) (*Kernel, error) {
		return buildNormGrad(d, norm{eps: op.Eps, typ: s.In[0]}, op.NeedX, op.NeedW, false), nil
	})
	Register(func(d *Device, op ops.LayerNormGradOp, s device.Spec) (*Kernel, error) {
		return buildNormGrad(d, norm{eps: op.Eps, typ: s.In[0], centre: true}, op.NeedX, op.NeedW, op.NeedB), nil
	})
}

// norm is what RMSNorm and LayerNorm share: the first is the second without subtracting the mean.
type norm struct {
	eps    float64
	typ    tensor.Type
	centre bool
}

func buildNorm(d *Device, o norm) *Kernel {
	if o.typ.DType == tensor.F64 {
		return normKernel[float64](d, o)
	}
	return normKernel[float32](d, o)
}

func normKernel[T floats](d *Device, o norm) *Kernel {
	rows, n := lastAxis(o.typ)
	dt := o.typ.DType
	return rowKernel(d, dt, rows, n, 4, func(c *Call, lo, hi int, b buffers[T]) {
		var w, bias []T
		if c.In[1] != nil {
			w = readRow(dt, c.In[1], 0, n, b.row(0))
		}
		if len(c.In) > 2 && c.In[2] != nil {
			bias = readRow(dt, c.In[2], 0, n, b.row(1))
		}
		for r := lo; r < hi; r++ {
			x := readRow(dt, c.In[0], r*n, n, b.row(2))
			y := b.target(dt, c.Out[0], r*n, n, 3)
			mean, rstd := normStats(o, x)
			normRow(y, x, w, bias, mean, rstd)
			b.write(dt, c.Out[0], r*n, y)
		}
	})
}

// normStats returns the row's mean (0 for RMSNorm) and 1/sqrt(mean((x-mean)²) + eps).
func normStats[T floats](o norm, x []T) (mean, rstd T) {
	n := float64(len(x))
	if !o.centre {
		return 0, T(1 / math.Sqrt(sumProducts(x, x)/n+o.eps))
	}
	m := sumRow(x) / n
	return T(m), T(1 / math.Sqrt(spreadRow(x, m)/n+o.eps))
}

// spreadRow is Σ (x-m)².
func spreadRow[T floats](x []T, m float64) float64 {
	if x := f32s(x); x != nil { // around the mean in float32, less what that adds
		near := float32(m)
		d := m - float64(near)
		return max(vec.SumSquares(x, near)-float64(len(x))*d*d, 0)
	}
	var sum float64
	for _, v := range x {
		u := float64(v) - m
		sum += u * u
	}
	return sum
}

func normRow[T floats](y, x, w, bias []T, mean, rstd T) {
	y = y[:len(x)]
	if y := f32s(y); y != nil {
		normRow32(y, f32s(x), f32s(w), f32s(bias), [4]float32{float32(mean), float32(rstd)})
		return
	}
	if w == nil {
		for i, v := range x {
			y[i] = (v - mean) * rstd
		}
	} else {
		w = w[:len(x)]
		for i, v := range x {
			y[i] = (v - mean) * rstd * w[i]
		}
	}
	if bias != nil {
		for i, v := range bias[:len(y)] {
			y[i] += v
		}
	}
}

func normRow32(y, x, w, bias []float32, k [4]float32) {
	switch {
	case w != nil && bias != nil:
		vec.RowNormalAffine.Run(y, x, w, bias, k)
	case w != nil:
		vec.RowNormalWeighted.Run(y, x, w, nil, k)
	default:
		vec.RowNormal.Run(y, x, nil, nil, k)
		if bias != nil {
			vec.OpAdd.Run(y, y, bias, nil)
		}
	}
}

func buildNormGrad(d *Device, o norm, needX, needW, needB bool) *Kernel {
	g := normGrad{norm: o, dx: -1, dw: -1, db: -1}
	for _, out := range []struct {
		need bool
		at   *int
	}{{needX, &g.dx}, {needW, &g.dw}, {needB, &g.db}} {
		if out.need {
			*out.at = g.outs
			g.outs++
		}
	}
	if o.typ.DType == tensor.F64 {
		return normGradKernel[float64](d, g)
	}
	return normGradKernel[float32](d, g)
}

// normGrad says which output each gradient is, -1 for none.
type normGrad struct {
	norm
	dx, dw, db, outs int
}

// maxNormTasks bounds the partial sums of dw and db.
const maxNormTasks = 32

// normGradKernel cuts the rows by shape alone: dw and db are summed within a task in row order and then over tasks in task
// order.
func normGradKernel[T floats](d *Device, g normGrad) *Kernel {
	rows, n := lastAxis(g.typ)
	tasks := max(min(rows*n/rowGrain, maxNormTasks, rows), 1)
	bufs := 0
	if isHalf(g.typ.DType) {
		bufs = 4
	}
	per := (2 + bufs) * n // partial dw and db, and the buffers
	return &Kernel{ScratchBytes: sizeOf[T](tasks * per), Run: func(c *Call) error {
		all := tensor.View[T](c.Scratch)
		err := d.parallel(tasks, func(t int) {
			part := all[t*per : (t+1)*per]
			normGradRows(g, c, rows*t/tasks, rows*(t+1)/tasks, part[:n], part[n:2*n], buffers[T]{rows: part[2*n:], width: n})
		})
		if err != nil {
			return err
		}
		return d.ranges(n, max(rowGrain/tasks, 16), func(lo, hi int) {
			addParts(g.typ.DType, c, g.dw, all, per, 0, lo, hi)
			addParts(g.typ.DType, c, g.db, all, per, n, lo, hi)
		})
	}}
}

func normGradRows[T floats](g normGrad, c *Call, lo, hi int, dw, db []T, b buffers[T]) {
	dt, n := g.typ.DType, len(dw)
	clear(dw)
	clear(db)
	var w []T
	if c.In[1] != nil {
		w = readRow(dt, c.In[1], 0, n, b.row(0))
	}
	for r := lo; r < hi; r++ {
		x := readRow(dt, c.In[0], r*n, n, b.row(1))
		gy := readRow(dt, c.In[2], r*n, n, b.row(2))
		mean, rstd := normStats(g.norm, x)
		if g.dw >= 0 {
			addNormal(dw, x, gy, mean, rstd)
		}
		if g.db >= 0 {
			addInto(db, gy)
		}
		if g.dx >= 0 {
			dx := targetRow(dt, c.Out[g.dx], r*n, n, b.row(3))
			normGradRow(g.centre, dx, x, gy, w, mean, rstd)
			writeRow(dt, c.Out[g.dx], r*n, dx)
		}
	}
}

// addNormal adds gy·x̂ to dw.
func addNormal[T floats](dw, x, gy []T, mean, rstd T) {
	if dw := f32s(dw); dw != nil {
		vec.RowAddNormal.Run(dw, f32s(x), f32s(gy), dw, [4]float32{float32(mean), float32(rstd)})
		return
	}
	for i, v := range x {
		dw[i] += gy[i] * ((v - mean) * rstd)
	}
}

// normGradRow is dx = rstd·(u - mean(u) - x̂·mean(u·x̂)) with u = gy·w; RMSNorm has no mean(u). dx may be x or gy.
func normGradRow[T floats](centre bool, dx, x, gy, w []T, mean, rstd T) {
	gy, dx = gy[:len(x)], dx[:len(x)]
	if dx := f32s(dx); dx != nil {
		normGradRow32(centre, dx, f32s(x), f32s(gy), f32s(w), float32(mean), float32(rstd))
		return
	}
	var su, sux float64
	if w == nil {
		for i, v := range x {
			su += float64(gy[i])
			sux += float64(gy[i] * ((v - mean) * rstd))
		}
	} else {
		w = w[:len(x)]
		for i, v := range x {
			u := gy[i] * w[i]
			su += float64(u)
			sux += float64(u * ((v - mean) * rstd))
		}
	}
	n := float64(len(x))
	shift, tilt := T(su/n), T(sux/n)
	if !centre {
		shift = 0
	}
	if w == nil {
		for i, v := range x {
			dx[i] = rstd * (gy[i] - shift - (v-mean)*rstd*tilt)
		}
		return
	}
	for i, v := range x {
		dx[i] = rstd * (gy[i]*w[i] - shift - (v-mean)*rstd*tilt)
	}
}

func normGradRow32(centre bool, dx, x, gy, w []float32, mean, rstd float32) {
	n := float64(len(x))
	k := [4]float32{mean, rstd, 0, float32(vec.SumNormal(x, gy, w, mean, rstd) / n)}
	if w == nil {
		if centre {
			k[2] = float32(vec.Sum(gy) / n)
		}
		vec.RowNormalGrad.Run(dx, x, gy, nil, k)
		return
	}
	if centre {
		k[2] = float32(vec.SumRounded(gy, w) / n)
	}
	vec.RowNormalGradWeighted.Run(dx, x, gy, w, k)
}

// addParts sums columns [lo, hi) of the tasks' partial sums, which start at offset at of each, into an output.
func addParts[T floats](dt tensor.DType, c *Call, out int, all []T, per, at, lo, hi int) {
	if out < 0 {
		return
	}
	var sums [partColumns]float64
	for ; lo < hi; lo += partColumns {
		n := min(partColumns, hi-lo)
		clear(sums[:n])
		for p := at + lo; p < len(all); p += per {
			for i, v := range all[p : p+n] {
				sums[i] += float64(v)
			}
		}
		for i, v := range sums[:n] {
			if dt == tensor.F64 {
				tensor.View[float64](c.Out[out])[lo+i] = v
			} else {
				store32(dt, c.Out[out], lo+i, float32(v))
			}
		}
	}
}

// partColumns is how many columns are added side by side.
const partColumns = 128
