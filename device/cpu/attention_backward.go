package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/flash"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() { Register(buildAttentionGrad) }

// attnGradTasks is how many tasks the backward kernel wants. With fewer key heads, the query tiles of each are dealt out to
// several tasks with sums of their own, which are added up at the end, in order.
const attnGradTasks = 8

// attnBackward recomputes the probabilities tile by tile from lse. A task owns the sums of dk and dv of one key head.
type attnBackward struct {
	*attention
	tiles int // of a key head
	parts int // tasks that share a key head

	partFn, addFn func(worker, task int)
}

func buildAttentionGrad(d *Device, op ops.AttentionGrad, s device.Spec) (*Kernel, error) {
	a, err := newAttention(d, ops.Attention(op), s.In[0], s.In[1], s.In[2])
	if err != nil {
		return nil, err
	}
	f := &attnBackward{attention: a, tiles: ceilDiv(a.rows, a.tiler.GradQueries())}
	f.parts = min(ceilDiv(attnGradTasks, a.heads), f.tiles)
	a.laneFloats = a.tiler.GradTileFloats() + 3*a.tiler.PanelFloats(a.Tk) + 2*a.tiler.GradQueries()
	shared := 0
	if f.parts == 1 {
		a.laneFloats += f.sumFloats()
	} else {
		shared = a.heads * f.parts * f.sumFloats()
	}
	f.partFn, f.addFn = f.part, f.add
	return &Kernel{Label: "attention_flash_grad", ScratchBytes: 4 * int64(a.lanes*a.laneFloats+shared), Run: f.run}, nil
}

// sumFloats is the extent of the sums of one task.
func (f *attnBackward) sumFloats() int { return 2 * f.tiler.SumFloats(f.Tk) }

func (f *attnBackward) sums(b []float32) flash.Sums {
	n := f.tiler.SumFloats(f.Tk)
	return flash.Sums{K: b[:n], V: b[n : 2*n]}
}

func (f *attnBackward) run(c *Call) error {
	f.begin(c, c.In[6:9])
	defer f.end()
	if err := f.each(f.heads*f.parts, f.partFn); err != nil || f.parts == 1 {
		return err
	}
	return f.each(f.heads, f.addFn)
}

// part goes over every parts-th tile of a key head.
func (f *attnBackward) part(worker, task int) {
	head, part := task/f.parts, task%f.parts
	rest := f.lane(worker)
	take := func(n int) []float32 {
		out := rest[:n]
		rest = rest[n:]
		return out
	}
	t, n := f.tiler.GradTile(take(f.tiler.GradTileFloats())), f.tiler.PanelFloats(f.Tk)
	in := flash.GradIn{K: take(n), V: take(n)}
	strips := take(n)
	lse, dlse := take(f.tiler.GradQueries()), take(f.tiler.GradQueries())
	if f.parts > 1 {
		rest = f.shared()[task*f.sumFloats():]
	}
	sums := f.sums(rest)
	clear(sums.K)
	clear(sums.V)
	seen := f.seen[head/f.Hkv]
	k, v := f.keys(f.call.In[1], head), f.keys(f.call.In[2], head)
	f.tiler.Columns(in.K, k, seen[0], seen[1], t.Temp)
	f.tiler.Columns(in.V, v, seen[0], seen[1], t.Temp)
	in.KPanel = f.tiler.Strips(strips, k, seen[0], seen[1], f.Tk, t.Temp)
	in.Q, in.O, in.DO = f.queries(f.call.In[0], head), f.queries(f.call.In[3], head), f.queries(f.call.In[5], head)
	dq := f.queries(f.call.Out[0], head)
	for i := part; i < f.tiles; i += f.parts {
		in.R0 = i * f.tiler.GradQueries()
		in.Rows = min(f.tiler.GradQueries(), f.rows-in.R0)
		in.LSE, in.DLSE = f.given(lse, 4, head, &in), f.given(dlse, 9, head, &in)
		for j := range in.Rows {
			lo, hi := f.mask.keys(head/f.Hkv, (in.R0+j)/f.Rep)
			t.See(j, lo, hi)
		}
		t.Backward(&in, dq, sums)
	}
	if f.parts == 1 {
		f.store(&t, head, sums)
	}
}

// given returns those of a tile from a (B, Hq, Tq) input, nil if it is absent.
func (f *attnBackward) given(dst []float32, input, head int, in *flash.GradIn) []float32 {
	if f.call.In[input] == nil {
		return nil
	}
	f.numbers(tensor.View[float32](f.call.In[input]), dst[:in.Rows], head, in.R0, false)
	return dst
}

// add adds up the parts of a key head.
func (f *attnBackward) add(worker, head int) {
	n := f.sumFloats()
	all := f.shared()[head*f.parts*n:]
	for p := 1; p < f.parts; p++ {
		vec.OpAdd.Run(all[:n], all[:n], all[p*n:(p+1)*n], nil)
	}
	t := f.tiler.GradTile(f.lane(worker))
	f.store(&t, head, f.sums(all))
}

// store rounds the sums of a key head to the outputs.
func (f *attnBackward) store(t *flash.GradTile, head int, sums flash.Sums) {
	t.StoreSums(f.keys(f.call.Out[1], head), f.keys(f.call.Out[2], head), sums, f.Tk)
}
