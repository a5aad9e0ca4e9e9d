package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/gemm"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() { Register(buildAttentionGrad) }

// attnGradTasks is how many tasks the backward kernel wants. With fewer key heads, the query tiles of each are dealt out to
// several tasks with sums of their own, which are added up at the end, in order.
const attnGradTasks = 16

// attnBackward recomputes the probabilities tile by tile from lse. A task owns the sums of dk and dv of one key head.
type attnBackward struct {
	*attention
	parts  int  // tasks that share a key head
	direct bool // the sums are the outputs themselves
}

func buildAttentionGrad(d *Device, op ops.AttentionGrad, s device.Spec) (*Kernel, error) {
	a, err := newAttention(d, ops.Attention(op), s.In[0], s.In[1], s.In[2])
	if err != nil {
		return nil, err
	}
	heads := a.B * a.Hkv
	f := attnBackward{attention: a, parts: min((attnGradTasks+heads-1)/heads, a.tiles)}
	f.direct = f.parts == 1 && a.dtype == tensor.F32
	a.laneBytes = carved(int(a.mulScratch())) + 2*carved(a.gathered()) + 2*carved(4*a.rows*attnTileK) + carved(4*a.rows*a.D) + 3*carved(4*a.rows)
	sums := heads * f.parts
	switch {
	case f.direct:
		sums = 0
	case f.parts == 1: // one set a lane will do: each is stored as soon as it is complete
		a.laneBytes += f.sumBytes()
		sums = 0
	}
	k := &Kernel{Label: "attention_flash_grad", ScratchBytes: int64(a.lanes*a.laneBytes) + int64(sums)*int64(f.sumBytes())}
	k.Run = f.run
	return k, nil
}

// attnSums are the sums of dk and dv of one key head, with ld floats from key to key.
type attnSums struct {
	k, v []float32
	ld   int
}

func (f *attnBackward) sumBytes() int { return 2 * carved(4*f.Tk*f.D) }

func (f *attnBackward) sums(b []byte) attnSums {
	c := carver{b}
	return attnSums{c.floats(f.Tk * f.D), c.floats(f.Tk * f.D), f.D}
}

// outputs are the sums in place.
func (f *attnBackward) outputs(c *Call, b, h int) attnSums {
	at := b*f.keyBatch + h*f.keyHead
	return attnSums{tensor.View[float32](c.Out[1])[at:], tensor.View[float32](c.Out[2])[at:], f.keyRow}
}

func (f *attnBackward) run(c *Call) error {
	m := f.mask(c.In[6:9])
	shared := c.Scratch[f.lanes*f.laneBytes:]
	heads := f.B * f.Hkv
	err := f.each(c.Scratch, heads*f.parts, func(lane []byte, task int) error {
		w, rest := f.work(lane)
		head, part := task/f.parts, task%f.parts
		b, h := head/f.Hkv, head%f.Hkv
		var sums attnSums
		switch {
		case f.direct:
			sums = f.outputs(c, b, h)
		case f.parts == 1:
			sums = f.sums(rest)
		default:
			sums = f.sums(shared[task*f.sumBytes() : (task+1)*f.sumBytes()])
		}
		for k := range f.Tk {
			clear(sums.k[k*sums.ld : k*sums.ld+f.D])
			clear(sums.v[k*sums.ld : k*sums.ld+f.D])
		}
		for i := part; i < f.tiles; i += f.parts {
			t := f.tile(&m, b, h, i, w.lo, w.hi)
			if err := f.accumulate(c, &t, &w, sums); err != nil {
				return err
			}
		}
		if f.parts == 1 && !f.direct {
			f.store(c, b, h, sums)
		}
		return nil
	})
	if err != nil || f.parts == 1 {
		return err
	}
	return f.each(c.Scratch, heads, func(_ []byte, head int) error {
		first := shared[head*f.parts*f.sumBytes():]
		total := f.sums(first)
		for p := 1; p < f.parts; p++ {
			part := f.sums(first[p*f.sumBytes():])
			addRow(total.k, part.k)
			addRow(total.v, part.v)
		}
		f.store(c, head/f.Hkv, head%f.Hkv, total)
		return nil
	})
}

// store rounds the sums of a key head to the outputs.
func (f *attnBackward) store(c *Call, b, h int, sums attnSums) {
	unit := f.D * f.elem
	for k := range f.Tk {
		at := (b*f.keyBatch + h*f.keyHead + k*f.keyRow) * f.elem
		vec.Narrow(c.Out[1][at:at+unit], sums.k[k*f.D:(k+1)*f.D], f.dtype)
		vec.Narrow(c.Out[2][at:at+unit], sums.v[k*f.D:(k+1)*f.D], f.dtype)
	}
}

func addRow(dst, x []float32) {
	x = x[:len(dst)]
	for i := range dst {
		dst[i] += x[i]
	}
}

// attnGradWork is the scratch of a lane.
type attnGradWork struct {
	mul              []byte
	gatherQ, gatherO []byte
	s, ds            []float32 // scores, then probabilities; and their gradient (rows, attnTileK)
	dq               []float32 // (rows, D)
	shift            []float32 // what is subtracted from dp in each row
	lo, hi           []int32
}

func (f *attnBackward) work(lane []byte) (w attnGradWork, rest []byte) {
	c := carver{lane}
	w = attnGradWork{mul: c.bytes(int(f.mulScratch())), gatherQ: c.bytes(f.gathered()), gatherO: c.bytes(f.gathered()),
		s: c.floats(f.rows * attnTileK), ds: c.floats(f.rows * attnTileK), dq: c.floats(f.rows * f.D),
		shift: c.floats(f.rows),
		lo:    c.ints(f.rows), hi: c.ints(f.rows)}
	return w, c.b
}

// accumulate computes dq of a tile and adds its share of dk and dv to sums.
func (f *attnBackward) accumulate(c *Call, t *attnTile, w *attnGradWork, sums attnSums) error {
	clear(w.dq[:t.rows*f.D])
	f.shifts(c, t, w.shift)
	q, do := f.queries(t, c.In[0], w.gatherQ), f.queries(t, c.In[5], w.gatherO)
	for at := t.first; at < t.last; at += attnTileK {
		r0, r1, k0, k1 := t.meet(at, min(at+attnTileK, t.last))
		if r0 == r1 {
			continue
		}
		if err := f.block(c, t, w, sums, from(q, r0), from(do, r0), r0, r1, k0, k1); err != nil {
			return err
		}
	}
	unit := f.D * f.elem
	for i := range t.rows {
		at := f.row(t, i) * unit
		vec.Narrow(c.Out[0][at:at+unit], w.dq[i*f.D:(i+1)*f.D], f.dtype)
	}
	return nil
}

// shifts computes rowsum(do∘o) - dlse for the rows of a tile.
func (f *attnBackward) shifts(c *Call, t *attnTile, shift []float32) {
	unit := f.D * f.elem
	dlse := tensor.View[float32](c.In[9])
	for i := range t.rows {
		at := f.row(t, i) * unit
		shift[i] = dotBytes(f.dtype, c.In[3][at:at+unit], c.In[5][at:at+unit])
		if dlse != nil {
			shift[i] -= dlse[f.number(t, i)]
		}
	}
}

// block works on rows [r0, r1) and keys [k0, k1); q and do begin at r0.
func (f *attnBackward) block(c *Call, t *attnTile, w *attnGradWork, sums attnSums, q, do gemm.Mat, r0, r1, k0, k1 int) error {
	rows, keys, scale := r1-r0, k1-k0, float64(f.op.Scale)
	k, v := f.keys(t, c.In[1], k0), f.keys(t, c.In[2], k0)
	if err := mul(w.mul, rows, keys, f.D, scale, q, transposed(k), w.s, keys, false); err != nil {
		return err
	}
	if err := mul(w.mul, rows, keys, f.D, 1, do, transposed(v), w.ds, keys, false); err != nil {
		return err
	}
	lse := tensor.View[float32](c.In[4])
	for i := r0; i < r1; i++ {
		at := (i - r0) * keys
		f.scoreGrad(t, i, k0, w.s[at:at+keys], w.ds[at:at+keys], lse[f.number(t, i)], w.shift[i])
	}
	p, ds := dense(w.s, keys), dense(w.ds, keys)
	if err := mul(w.mul, keys, f.D, rows, 1, transposed(p), do, sums.v[k0*sums.ld:], sums.ld, true); err != nil {
		return err
	}
	if err := mul(w.mul, keys, f.D, rows, scale, transposed(ds), q, sums.k[k0*sums.ld:], sums.ld, true); err != nil {
		return err
	}
	return mul(w.mul, rows, f.D, keys, scale, ds, k, w.dq[r0*f.D:], f.D, true)
}

// scoreGrad turns the scores of a row into probabilities and dp, the gradient of these, into that of the scores.
func (f *attnBackward) scoreGrad(t *attnTile, i, k0 int, s, dp []float32, lse, shift float32) {
	lo, hi := t.span(i, k0, s)
	t.span(i, k0, dp)
	s, dp = s[lo:hi], dp[lo:hi]
	if len(s) == 0 {
		return
	}
	for j := range dp {
		dp[j] -= shift
	}
	if f.op.SoftCap > 0 {
		capScoresGrad(s, dp, f.op.SoftCap)
	}
	vec.ExpSum(s, s, lse)
	for j, p := range s {
		dp[j] *= p
	}
}
