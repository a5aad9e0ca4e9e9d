package cpu

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() { Register(buildAttention) }

// Few queries over many keys (decoding) are cut along the keys too: each part gives an unnormalised result, and the parts are
// merged by their maxima. The cut depends on the shapes only.
const (
	attnPartKeys  = 512 // the fewest keys of a part, in capacity
	attnPartTasks = 32  // tasks wanted
)

// attnForward computes tile by tile with running maxima and sums (Milakov & Gimelshein 2018, Dao et al. 2022).
type attnForward struct {
	*attention
	parts    int // along the keys
	partKeys int // keys of a part
}

func buildAttention(d *Device, op ops.Attention, s device.Spec) (*Kernel, error) {
	a, err := newAttention(d, op, s.In[0], s.In[1], s.In[2])
	if err != nil {
		return nil, err
	}
	f := attnForward{attention: a}
	tasks := a.B * a.Hkv * a.tiles
	f.parts = max(min(a.Tk/attnPartKeys, (attnPartTasks+tasks-1)/tasks), 1)
	f.partKeys = (a.Tk + f.parts - 1) / f.parts
	a.laneBytes = carved(int(a.mulScratch())) + carved(a.gathered()) + carved(4*a.rows*attnTileK) + carved(4*a.rows*a.D) + 4*carved(4*a.rows)
	k := &Kernel{Label: "attention_flash", ScratchBytes: int64(a.lanes * a.laneBytes)}
	if f.parts > 1 {
		k.ScratchBytes += int64(tasks*f.parts) * int64(f.partBytes())
	}
	k.Run = f.run
	return k, nil
}

func (f *attnForward) run(c *Call) error {
	m := f.mask(c.In[3:6])
	tasks := f.B * f.Hkv * f.tiles
	parts := c.Scratch[f.lanes*f.laneBytes:]
	err := f.each(c.Scratch, tasks*f.parts, func(lane []byte, task int) error {
		w := f.work(lane)
		i, part := task/f.parts, task%f.parts
		t := f.locate(&m, &w, i)
		if err := f.attend(c, &t, &w, part*f.partKeys, min((part+1)*f.partKeys, f.Tk)); err != nil {
			return err
		}
		if f.parts > 1 {
			p := f.part(parts, task)
			copy(p.acc, w.acc[:t.rows*f.D])
			copy(p.top, w.top[:t.rows])
			copy(p.sum, w.sum[:t.rows])
			return nil
		}
		f.finish(c, &t, &w)
		return nil
	})
	if err != nil || f.parts == 1 {
		return err
	}
	return f.each(c.Scratch, tasks, func(lane []byte, task int) error {
		w := f.work(lane)
		t := f.locate(&m, &w, task)
		f.merge(parts, task, &t, &w)
		f.finish(c, &t, &w)
		return nil
	})
}

// locate turns a task number into a tile. The last tiles, which see the most keys when causal, come first.
func (f *attnForward) locate(m *attnMask, w *attnWork, task int) attnTile {
	heads := f.B * f.Hkv
	i := f.tiles - 1 - task/heads
	return f.tile(m, task%heads/f.Hkv, task%f.Hkv, i, w.lo, w.hi)
}

// attnWork is the scratch of a lane.
type attnWork struct {
	mul      []byte
	gather   []byte
	s        []float32 // scores, then probabilities (rows, attnTileK)
	acc      []float32 // their sum of values (rows, D), relative to e^top
	top, sum []float32 // the largest score and the sum of the exponentials so far
	lo, hi   []int32
}

func (f *attnForward) work(lane []byte) attnWork {
	c := carver{lane}
	return attnWork{mul: c.bytes(int(f.mulScratch())), gather: c.bytes(f.gathered()), s: c.floats(f.rows * attnTileK),
		acc: c.floats(f.rows * f.D), top: c.floats(f.rows), sum: c.floats(f.rows), lo: c.ints(f.rows), hi: c.ints(f.rows)}
}

// lowest stands for "no score yet": finite, so that the difference of two is no NaN.
const lowest = -math.MaxFloat32

// attend accumulates the keys [first, to) into w.
func (f *attnForward) attend(c *Call, t *attnTile, w *attnWork, first, to int) error {
	clear(w.acc[:t.rows*f.D])
	clear(w.sum[:t.rows])
	for i := range t.rows {
		w.top[i] = lowest
	}
	first, to = max(first, t.first), min(to, t.last)
	if first >= to {
		return nil
	}
	q := f.queries(t, c.In[0], w.gather)
	for at := first; at < to; at += attnTileK {
		r0, r1, k0, k1 := t.meet(at, min(at+attnTileK, to))
		if r0 == r1 {
			continue
		}
		keys := k1 - k0
		err := mul(w.mul, r1-r0, keys, f.D, float64(f.op.Scale), from(q, r0), transposed(f.keys(t, c.In[1], k0)), w.s, keys, false)
		if err != nil {
			return err
		}
		for i := r0; i < r1; i++ {
			f.softmax(t, w, i, k0, w.s[(i-r0)*keys:(i-r0+1)*keys])
		}
		err = mul(w.mul, r1-r0, f.D, keys, 1, dense(w.s, keys), f.keys(t, c.In[2], k0), w.acc[r0*f.D:], f.D, true)
		if err != nil {
			return err
		}
	}
	return nil
}

// softmax turns the scores of one row into probabilities relative to the largest score so far.
func (f *attnForward) softmax(t *attnTile, w *attnWork, i, k0 int, row []float32) {
	lo, hi := t.span(i, k0, row)
	if lo == hi {
		return
	}
	row = row[lo:hi]
	if f.op.SoftCap > 0 {
		capScores(row, f.op.SoftCap)
	}
	top := w.top[i]
	if m := maxOf(row); m > top {
		if top != lowest {
			shrink := ops.Exp32(top - m)
			w.sum[i] *= shrink
			scaleRow(w.acc[i*f.D:(i+1)*f.D], shrink)
		}
		top, w.top[i] = m, m
	}
	w.sum[i] += vec.ExpSum(row, row, top)
}

// finish divides by the sums and stores the tile.
func (f *attnForward) finish(c *Call, t *attnTile, w *attnWork) {
	lse := tensor.View[float32](c.Out[1])
	unit := f.D * f.elem
	for i := range t.rows {
		acc := w.acc[i*f.D : (i+1)*f.D]
		at := f.row(t, i) * unit
		if w.sum[i] == 0 {
			clear(c.Out[0][at : at+unit])
			lse[f.number(t, i)] = ops.NoKeys
			continue
		}
		scaleRow(acc, 1/w.sum[i])
		vec.Narrow(c.Out[0][at:at+unit], acc, f.dtype)
		lse[f.number(t, i)] = w.top[i] + float32(math.Log(float64(w.sum[i])))
	}
}

// attnPart is the result over a part of the keys.
type attnPart struct{ acc, top, sum []float32 }

func (f *attnForward) partBytes() int { return carved(4*f.rows*f.D) + 2*carved(4*f.rows) }

func (f *attnForward) part(parts []byte, i int) attnPart {
	c := carver{parts[i*f.partBytes() : (i+1)*f.partBytes()]}
	return attnPart{acc: c.floats(f.rows * f.D), top: c.floats(f.rows), sum: c.floats(f.rows)}
}

// merge combines the parts of a tile into w.
func (f *attnForward) merge(parts []byte, task int, t *attnTile, w *attnWork) {
	clear(w.acc[:t.rows*f.D])
	for i := range t.rows {
		top, sum := float32(lowest), float32(0)
		for p := range f.parts {
			top = max(top, f.part(parts, task*f.parts+p).top[i])
		}
		for p := range f.parts {
			part := f.part(parts, task*f.parts+p)
			if part.sum[i] == 0 {
				continue
			}
			weight := ops.Exp32(part.top[i] - top)
			sum += weight * part.sum[i]
			acc := w.acc[i*f.D : (i+1)*f.D]
			for j, x := range part.acc[i*f.D : (i+1)*f.D] {
				acc[j] += weight * x
			}
		}
		w.top[i], w.sum[i] = top, sum
	}
}
