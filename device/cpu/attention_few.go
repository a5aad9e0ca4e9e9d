package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device/cpu/flash"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Few queries over many keys, as in generation, read keys and values once where they lie. With few key heads the keys that are
// seen are cut too, by shapes and masks only: each part gives an unnormalised result, and the parts are merged by their maxima.
const (
	attnFewTasks = 16  // tasks wanted
	attnFewKeys  = 128 // keys of a part, at least
	attnFewSolo  = 1 << 16
)

type attnFew struct {
	*attention
	parts          int // of a key head, at most
	used           int // in the present call
	partFn, joinFn func(worker, task int)
}

func buildAttentionFew(a *attention) *Kernel {
	f := &attnFew{attention: a}
	f.parts = max(min(ceilDiv(attnFewTasks, a.heads), a.Tk/attnFewKeys), 1)
	f.partFn, f.joinFn = f.part, f.join
	a.laneFloats = a.tiler.FewFloats()
	return &Kernel{Label: "attention_few", ScratchBytes: 4 * int64(a.lanes*a.laneFloats+a.heads*f.parts*a.tiler.PartFloats()), Run: f.run}
}

func (f *attnFew) run(c *Call) error {
	f.begin(c, c.In[3:6])
	defer f.end()
	work, most := 0, 0
	for _, s := range f.seen {
		work += (s[1] - s[0]) * f.Hkv * f.rows * f.D
		most = max(most, s[1]-s[0])
	}
	f.used = min(max(most/attnFewKeys, 1), f.parts)
	each := f.each
	if work < attnFewSolo {
		each = f.alone
	}
	if err := each(f.heads*f.used, f.partFn); err != nil || f.used == 1 {
		return err
	}
	return f.alone(f.heads, f.joinFn)
}

func (f *attnFew) result(task int) flash.Part {
	return f.tiler.Part(f.shared()[task*f.tiler.PartFloats():])
}

func (f *attnFew) part(worker, task int) {
	head, part := task/f.used, task%f.used
	t, p := f.tiler.Few(f.lane(worker)), f.result(task)
	for r := range f.rows {
		lo, hi := f.mask.keys(head/f.Hkv, r/f.Rep)
		t.Lo[r], t.Hi[r] = int32(lo), int32(hi)
	}
	seen := f.seen[head/f.Hkv]
	from, to := seen[0]+(seen[1]-seen[0])*part/f.used, seen[0]+(seen[1]-seen[0])*(part+1)/f.used
	t.Attend(p, f.queries(f.call.In[0], head), f.rows, f.keys(f.call.In[1], head), f.keys(f.call.In[2], head), from, to)
	if f.used == 1 {
		f.store(&t, head, p)
	}
}

func (f *attnFew) join(worker, head int) {
	t, p := f.tiler.Few(f.lane(worker)), f.result(head*f.used)
	for i := 1; i < f.used; i++ {
		t.Merge(p, f.result(head*f.used+i), f.rows)
	}
	f.store(&t, head, p)
}

func (f *attnFew) store(t *flash.Few, head int, p flash.Part) {
	t.Store(f.queries(f.call.Out[0], head), p, f.rows)
	lse := tensor.View[float32](f.call.Out[1])
	for r := range f.rows {
		lse[f.number(head, r)] = p.LSE(r, ops.NoKeys)
	}
}
