package cuda

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildAttention)
	Register(buildAttentionGrad)
}

// attention is what the kernels of one attention share: its extents and the arguments of its launches.
type attention struct {
	ops.AttentionDims
	op    ops.Attention
	dev   *Device
	dtype tensor.DType
	args  attnArgs
	slots int32 // of the list of documents; 0: there is none
	gated bool  // launches look at args.gate, which is seldom open
}

// attnArgs is struct Attention of kernels/attention.cuh, field by field.
type attnArgs struct {
	doc, offset, length                Addr // 0 where absent
	gate                               Addr // 0, or where an i32 lies that must not be 0 for the launch to do anything, but see stats
	stats                              Addr // 0, or lse as (B, Tq, Hq), which a forward launch behind a closed gate transposes to lse
	b, tq, tk, hq, hkv, rep, d         int32
	causal, window                     int32
	scale, softCap                     float32
	parts                              int32
	keyStride, headStride, batchStride int64
}

// attnIO are the operands of a launch.
type attnIO struct {
	q, k, v, o, lse, dout, dlse, dq, dk, dv Addr
	lengths, offsets                        Addr // of documents
}

// attnRun enqueues one pass; scratch is its own.
type attnRun struct {
	label   string
	scratch int64
	enqueue func(c *Call, io *attnIO, scratch Addr) error
}

func newAttention(d *Device, op ops.Attention, s device.Spec) (*attention, error) {
	dims, err := op.Dims(s.In[0], s.In[1], s.In[2])
	if err != nil {
		return nil, err
	}
	a := &attention{AttentionDims: dims, op: op, dev: d, dtype: s.In[0].DType}
	a.args = attnArgs{b: int32(dims.B), tq: int32(dims.Tq), tk: int32(dims.Tk), hq: int32(dims.Hq), hkv: int32(dims.Hkv), rep: int32(dims.Rep),
		d: int32(dims.D), window: op.Window, scale: op.Scale, softCap: op.SoftCap}
	if op.Causal {
		a.args.causal = 1
	}
	row, head := dims.Hkv*dims.D, dims.D
	if op.HeadMajor {
		row, head = dims.D, dims.Tk*dims.D
	}
	a.args.keyStride, a.args.headStride, a.args.batchStride = int64(row), int64(head), int64(dims.Tk)*int64(dims.Hkv)*int64(dims.D)
	return a, nil
}

// listed notes how many documents the list has room for, by the type of its lengths.
func (a *attention) listed(lengths tensor.Type) {
	if lengths.DType != tensor.Invalid {
		a.slots = int32(lengths.Dim(0)) - 1
	}
}

// see sets the operands that say which keys are seen.
func (a *attention) see(extra []Addr) {
	a.args.doc, a.args.offset, a.args.length = extra[0], extra[1], extra[2]
}

func buildAttention(d *Device, op ops.Attention, s device.Spec) (*Kernel, error) {
	a, err := newAttention(d, op, s)
	if err != nil {
		return nil, err
	}
	a.listed(s.In[6])
	k, err := attnForward.build(a, s)
	if err != nil {
		return nil, fmt.Errorf("attention: %w", err)
	}
	return k, nil
}

func (a *attention) forwardKernel(run attnRun) *Kernel {
	return &Kernel{Label: run.label, ScratchBytes: run.scratch, Enqueue: func(c *Call) error {
		a.see(c.In[3:6])
		return run.enqueue(c, &attnIO{q: c.In[0], k: c.In[1], v: c.In[2], o: c.Out[0], lse: c.Out[1], lengths: c.In[6], offsets: c.In[7]}, c.Scratch)
	}}
}

func buildAttentionGrad(d *Device, op ops.AttentionGrad, s device.Spec) (*Kernel, error) {
	a, err := newAttention(d, ops.Attention(op), s)
	if err != nil {
		return nil, err
	}
	a.listed(s.In[10])
	k, err := attnBackward.build(a, s)
	if err != nil {
		return nil, fmt.Errorf("attention_grad: %w", err)
	}
	return k, nil
}

func (a *attention) backwardKernel(run attnRun) *Kernel {
	return &Kernel{Label: run.label, ScratchBytes: run.scratch, Enqueue: func(c *Call) error {
		a.see(c.In[6:9])
		return run.enqueue(c, &attnIO{q: c.In[0], k: c.In[1], v: c.In[2], o: c.In[3], lse: c.In[4], dout: c.In[5], dlse: c.In[9],
			dq: c.Out[0], dk: c.Out[1], dv: c.Out[2], lengths: c.In[10], offsets: c.In[11]}, c.Scratch)
	}}
}

// ownForward is the fastest kernel of our own.
func (a *attention) ownForward() (attnRun, error) {
	if a.fewFits() {
		return a.whereAligned((*attention).fewForward, (*attention).restForward)
	}
	group, err := a.groupPays()
	switch {
	case err != nil:
		return attnRun{}, err
	case group:
		return a.whereAligned((*attention).groupForward, (*attention).restForward)
	case a.flashFits():
		return a.whereAligned((*attention).flashForward, (*attention).restForward)
	}
	return a.restForward()
}

// restForward takes operands at any address.
func (a *attention) restForward() (attnRun, error) {
	if a.simtFits() {
		return a.simtForward()
	}
	return a.plainForward()
}

// ownBackward is the gradient by own kernels.
func (a *attention) ownBackward() (attnRun, error) {
	group, err := a.groupPays()
	switch {
	case err != nil:
		return attnRun{}, err
	case group:
		return a.whereAligned((*attention).groupBackward, (*attention).restBackward)
	case a.flashFits():
		return a.whereAligned((*attention).flashBackward, (*attention).restBackward)
	}
	return a.restBackward()
}

// restBackward takes operands at any address.
func (a *attention) restBackward() (attnRun, error) {
	if a.simtFits() {
		return a.simtBackward()
	}
	return a.plainBackward()
}

// attnAlignment is what the addresses of operands must be a multiple of for 16-byte accesses.
const attnAlignment = 16

func attnAligned(io *attnIO) bool {
	return (io.q|io.k|io.v|io.o|io.dout|io.dq|io.dk|io.dv|io.lengths|io.offsets)%attnAlignment == 0
}

// whereAligned is fast where all operands are aligned, and slow for views that are not.
func (a *attention) whereAligned(fast, slow func(*attention) (attnRun, error)) (attnRun, error) {
	f, err := fast(a)
	if err != nil {
		return attnRun{}, err
	}
	s, err := seldom(a.dev, func() (attnRun, error) { return slow(a) })
	if err != nil {
		return attnRun{}, err
	}
	return attnRun{label: f.label, scratch: max(f.scratch, s.scratch), enqueue: func(c *Call, io *attnIO, scratch Addr) error {
		if !attnAligned(io) {
			return s.enqueue(c, io, scratch)
		}
		return f.enqueue(c, io, scratch)
	}}, nil
}

// program is a translation unit of attention kernels for this dtype.
func (a *attention) program(file string, define ...string) Program {
	return Program{Files: []string{"attention.cuh", file}, Define: append(define, "T "+cType(a.dtype))}
}

// numbers is the size of a (B, Hq, Tq) tensor of accumulators.
func (a *attention) numbers() int64 {
	n := int64(a.B) * int64(a.Hq) * int64(a.Tq) * 4
	if a.dtype == tensor.F64 {
		n *= 2
	}
	return aligned(n)
}
