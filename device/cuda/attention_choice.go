package cuda

import (
	"errors"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/cudnn"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// attnPass is one direction of an attention: how own kernels and the library compute it, and what makes a kernel of either.
type attnPass struct {
	backward bool
	own      func(a *attention) (attnRun, error)
	rest     func(a *attention) (attnRun, error) // own kernels for operands at any address
	kernel   func(a *attention, run attnRun) *Kernel
	extra    int // where inputs doc_start, q_offset and kv_len begin
	list     int // where those of the list of documents do
}

var (
	attnForward  = attnPass{own: (*attention).ownForward, rest: (*attention).restForward, kernel: (*attention).forwardKernel, extra: 3, list: 6}
	attnBackward = attnPass{backward: true, own: (*attention).ownBackward, rest: (*attention).restBackward, kernel: (*attention).backwardKernel, extra: 6, list: 10}
)

// byLibrary is the pass by cuDNN, if it takes it. The error is that of a device that has ended.
func (p attnPass) byLibrary(a *attention, extra []tensor.Type) (attnRun, bool, error) {
	g, ok := a.graph(extra, p.backward)
	if !ok {
		return attnRun{}, false, nil
	}
	run, err := a.withCUDNN(g, p.own, p.rest)
	return run, err == nil, ended(err)
}

// byRule is the pass by the library where it takes it, else by own kernels.
func (p attnPass) byRule(a *attention, extra []tensor.Type) (attnRun, error) {
	if run, ok, err := p.byLibrary(a, extra); ok || err != nil {
		return run, err
	}
	return p.own(a)
}

// build chooses the kernel of a pass: the library where it takes it, else own kernels, and the faster of both where that is open. It is chosen once for a
// shape and what is promised of documents; forward and backward are chosen apart, since both leave lse as the op has it. A deterministic device times
// nothing: it takes own kernels for packed rows, whose sums have one order without the workspace that the library's need, and the library for others.
func (p attnPass) build(a *attention, s device.Spec) (*Kernel, error) {
	extra := s.In[p.extra:p.list]
	g, ok := a.graph(extra, p.backward)
	own := func() (*Kernel, error) { return p.kernelOf(a, p.own) }
	if !ok {
		return own()
	}
	version, err := a.dev.cudnnVersion()
	if err := ended(err); err != nil {
		return nil, err
	}
	if err != nil {
		return own() // doctor shows why there is no library
	}
	rule := func() (*Kernel, error) {
		return p.kernelOf(a, func(a *attention) (attnRun, error) { return p.byRule(a, extra) })
	}
	if a.dev.drafting() != nil {
		rule = func() (*Kernel, error) { return p.draftLibrary(a, g) }
	}
	open, err := p.contended(a)
	switch {
	case err != nil:
		return nil, err
	case open && a.dev.Deterministic():
		return own()
	case open:
		key := fmt.Sprintf("ways cudnn own, kernels %x, cudnn %s, %s, %d processors: %s %+v %v, %d documents", kernelsDigest(), version, a.dev.name, a.dev.sms,
			s.Op.Name(), a.op, s.In[:3], a.slots)
		return p.timed(a, s, key, rule, own)
	}
	return rule()
}

// contended tells whether own kernels by warpgroups can be faster than the library, by what was measured on an H200: for gradients of packed documents, where
// they took 470 µs instead of 516 for 16 x 512 tokens and 888 instead of 839 for documents of 64 to 2048. Dense rows (0.555 ms instead of 0.459 forward, 1.97
// instead of 1.45 backward) and packed ones forward (161 µs instead of 117, 276 instead of 217) were the library's each time, so there the seconds are
// saved that it takes to compile what would lose.
func (p attnPass) contended(a *attention) (bool, error) {
	if a.slots == 0 || !p.backward && !a.dev.Deterministic() {
		return false, nil
	}
	return a.groupPays()
}

func (p attnPass) kernelOf(a *attention, of func(*attention) (attnRun, error)) (*Kernel, error) {
	run, err := of(a)
	if err != nil {
		return nil, err
	}
	return p.kernel(a, run), nil
}

// draftLibrary names what the pass by the library needs, and leaves its plan to Settle.
func (p attnPass) draftLibrary(a *attention, g cudnn.Attention) (*Kernel, error) {
	left := a.dev.drafting()
	left.open, left.plans = true, append(left.plans, g)
	if g.Packed {
		if _, err := a.turn(); err != nil {
			return nil, err
		}
	}
	_, run, err := a.behind(g, p.own, p.rest)
	if err != nil {
		return nil, err
	}
	return p.kernel(a, run), nil
}

// timed picks one of two ways by time. The library may refuse an attention when it is asked for a plan.
func (p attnPass) timed(a *attention, s device.Spec, key string, rule, own func() (*Kernel, error)) (*Kernel, error) {
	ways := []way{{"cudnn", rule}, {"own", own}}
	if _, ok := a.dev.ways.remembered(key); ok || a.dev.drafting() != nil {
		return a.dev.pickBy(key, s, ways, nil)
	}
	run, ok, err := p.byLibrary(a, s.In[p.extra:p.list])
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return own()
	}
	ways[0].build = func() (*Kernel, error) { return p.kernel(a, run), nil }
	place, free, err := p.trialDocuments(a, s)
	switch {
	case outOfMemory(err):
		return ways[0].build() // not kept: next time there may be room to try in
	case err != nil:
		return nil, fmt.Errorf("making documents to time %s on: %w", s.Op.Name(), err)
	}
	k, err := a.dev.pickBy(key, s, ways, place)
	return k, errors.Join(err, free())
}

// trialDocuments makes the documents of a trial, and returns what gives their places to calls, and what frees them.
func (p attnPass) trialDocuments(a *attention, s device.Spec) (place func(*Call), free func() error, err error) {
	if a.slots == 0 {
		return nil, func() error { return nil }, nil
	}
	d, doc := a.dev, s.In[p.extra]
	lengths, offsets := s.In[p.list], s.In[p.list+1]
	at := []int64{0, aligned(doc.Bytes()), aligned(doc.Bytes()) + aligned(lengths.Bytes())}
	b, err := d.Alloc(at[2] + offsets.Bytes())
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Free())
		}
	}()
	ptr := func(i int) device.Ptr { return device.Ptr{Buf: b, Off: at[i]} }
	stream, err := d.stream(tuneStream)
	if err != nil {
		return nil, nil, err
	}
	list, err := d.inner(device.Spec{In: []tensor.Type{doc}, Out: []tensor.Type{lengths, offsets},
		Op: ops.Documents{Slots: a.slots, Longest: a.op.Longest, Heads: int32(a.Hq), KeyHeads: int32(a.Hkv), HeadDim: int32(a.D)}})
	if err != nil {
		return nil, nil, err
	}
	if err := stream.Upload(ptr(0), tensor.AsBytes(typicalDocuments(a.B, a.Tq, int(a.slots), int(a.op.Longest)))); err != nil {
		return nil, nil, err
	}
	if err := list.Launch(stream, []device.Ptr{ptr(0)}, []device.Ptr{ptr(1), ptr(2)}, device.Ptr{}); err != nil {
		return nil, nil, err
	}
	first, err := d.address(ptr(0), at[2]+offsets.Bytes())
	return func(c *Call) {
		c.In[p.extra], c.In[p.list], c.In[p.list+1] = first, first+Addr(at[1]), first+Addr(at[2])
	}, b.Free, err
}

// typicalDocuments is doc_start of rows of t tokens as those are for which a list of `slots` documents, none longer than `longest`, is made: a list has room
// for a quarter more than are expected. In each row the first is as long as is allowed, half a row at most, and the others share the rest.
func typicalDocuments(rows, t, slots, longest int) []int32 {
	each := max((slots*4+4)/5/rows, 1)
	first := min(longest, t)
	if each > 1 {
		first = min(first, (t+1)/2)
	}
	others := min(longest, max((t-first+each-2)/max(each-1, 1), 1))
	out := make([]int32, 0, rows*t)
	for range rows {
		for at, n := 0, first; at < t; at, n = at+n, others {
			for range min(n, t-at) {
				out = append(out, int32(at))
			}
		}
	}
	return out
}
