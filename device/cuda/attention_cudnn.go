package cuda

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/cudnn"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/nvrtc"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() { describers = append(describers, describeCUDNN) }

// attnLibrary is cuDNN on a device, opened at the first use, and its plans.
type attnLibrary struct {
	mu      sync.Mutex
	off     bool // by the device's options
	tried   bool
	closed  bool
	err     error // why there is none
	lib     *cudnn.Library
	version string
	plans   map[cudnn.Attention]*attnPlan
	make    func(cudnn.Attention) (*cudnn.Plan, error) // what makes a plan; tests have others
	cache   *nvrtc.Cache
	handle  *cudnn.Handle   // that plans are executed with
	more    []*cudnn.Handle // on which plans are being made, or were whose engine has no text
	free    []*cudnn.Handle // of more
}

// attnPlan is a plan that is there, or why not, once done is closed.
type attnPlan struct {
	done chan struct{}
	plan *cudnn.Plan
	err  error
}

const (
	cudnnCapability = 80      // attention engines are for tensor cores with bf16
	cudnnWorkspace  = 1 << 30 // what a plan may ask for beyond the operands; more is left to own kernels
	cudnnTokens     = 128     // shorter attentions are not worth a plan
)

// openCUDNN opens cuDNN, once unless it lacked memory. l.mu is held.
func (d *Device) openCUDNN() (*attnLibrary, error) {
	l := &d.cudnn
	if l.tried {
		return l, l.err
	}
	defer d.spent.since(spentOpening, time.Now())
	defer func() { l.tried = !passing(l.err) }()
	if l.off {
		l.err = errors.New("it is turned off")
		return l, l.err
	}
	if d.capability < cudnnCapability {
		l.err = fmt.Errorf("its attention needs compute capability 8.0, this device has %s", nvrtc.Capability(d.capability))
		return l, l.err
	}
	if l.lib, l.err = cudnn.Open(); l.err != nil {
		return l, l.err
	}
	l.version, l.make = fmt.Sprint(l.lib.Version()), d.makePlan
	l.plans, l.cache = map[cudnn.Attention]*attnPlan{}, nvrtc.NewCache()
	l.err = d.enter(func() (err error) {
		l.handle, err = l.lib.NewHandle()
		return err
	})
	return l, l.err
}

// cudnnVersion is the version of the library, or why there is none.
func (d *Device) cudnnVersion() (string, error) {
	d.cudnn.mu.Lock()
	defer d.cudnn.mu.Unlock()
	l, err := d.openCUDNN()
	return l.version, err
}

// cudnnPlan makes or finds the plan of a graph, or waits for who makes it.
func (d *Device) cudnnPlan(g cudnn.Attention) (*cudnn.Plan, error) {
	began := time.Now()
	p, err := d.planned(g)
	if took := time.Since(began); took >= time.Millisecond {
		d.spent.since(spentPlans, began)
	}
	return p, err
}

// planned is cudnnPlan for those who need not count what it takes. A plan is made once, whoever asks first, and so is the library's answer that it has none;
// after a passing error who asks next tries again.
func (d *Device) planned(g cudnn.Attention) (*cudnn.Plan, error) {
	l := &d.cudnn
	l.mu.Lock()
	_, err := d.openCUDNN()
	if err == nil && l.closed {
		err = errClosed
	}
	if err != nil {
		l.mu.Unlock()
		return nil, err
	}
	p, ok := l.plans[g]
	if !ok {
		p = &attnPlan{done: make(chan struct{})}
		l.plans[g] = p
	}
	l.mu.Unlock()
	if !ok {
		d.fill(p, g)
		if passing(p.err) {
			l.forget(g, p)
		}
	}
	<-p.done
	return p.plan, p.err
}

// forget lets the plan of a graph be made again.
func (l *attnLibrary) forget(g cudnn.Attention, p *attnPlan) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.plans[g] == p {
		delete(l.plans, g)
	}
}

// fill makes a plan and lets those go on who wait for it.
func (d *Device) fill(p *attnPlan, g cudnn.Attention) {
	defer close(p.done)
	// The compiler comes first: cuDNN uses the helper library that is loaded with it.
	d.compile.mu.Lock()
	p.err = d.compiler()
	d.compile.mu.Unlock()
	if p.err != nil {
		return
	}
	began := time.Now()
	p.err = d.enter(func() (err error) {
		if p.plan, err = d.cudnn.make(g); err == nil {
			return nil
		}
		lost := d.well(err, func() error {
			_, _, err := d.api.Memory()
			return err
		})
		return cmp.Or(lost, err)
	})
	d.spent.one(spentPlans, fmt.Sprintf("%d x %d, backward %v", g.Tq, g.Tk, g.Backward), time.Since(began))
	if p.err == nil && p.plan.Workspace() > cudnnWorkspace {
		p.err = fmt.Errorf("its plan needs %d bytes of workspace", p.plan.Workspace())
		p.err = errors.Join(p.err, d.enter(func() error {
			p.plan.Close()
			return nil
		}))
		p.plan = nil
	}
}

// makePlan finds a plan on disk, or makes it. cuDNN may be called from several threads at once, as long as no two use one handle (its documentation, "Thread
// Safety", which also asks that the first handle be made before threads make theirs): so plans that are made beside each other have handles of their
// own. As a handle takes memory of the device, a plan is then made again with the first one from its text, as later starts do with what they find on disk, and
// the other is closed. The device's context is current.
func (d *Device) makePlan(g cudnn.Attention) (*cudnn.Plan, error) {
	l := &d.cudnn
	name, cache := d.planner(), planCache{l.cache}
	if p, ok := l.handle.Kept(g, name, cache); ok {
		return p, nil
	}
	h := l.take()
	defer l.give(h)
	p, err := h.Plan(g, name, cache)
	if err != nil || h == l.handle {
		return p, err
	}
	if first, ok := p.On(l.handle, g); ok {
		p.Close()
		p = first
	}
	return p, nil
}

// planner names what plans are for.
func (d *Device) planner() string { return fmt.Sprintf("%s, driver CUDA %d", d.name, d.api.CUDA()) }

// take is a handle that no other thread makes a plan with. Where there can be no more, as they take memory of the device, it is the first one, whose
// lock has plans made one after the other.
func (l *attnLibrary) take() *cudnn.Handle {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.free); n > 0 {
		h := l.free[n-1]
		l.free = l.free[:n-1]
		return h
	}
	h, err := l.lib.NewHandle()
	if err != nil {
		return l.handle
	}
	l.more = append(l.more, h)
	return h
}

// give ends what take began: the handle is closed, unless a plan needs it.
func (l *attnLibrary) give(h *cudnn.Handle) {
	if h == l.handle {
		return
	}
	idle := h.Idle()
	l.mu.Lock()
	if idle {
		l.more = slices.DeleteFunc(l.more, func(m *cudnn.Handle) bool { return m == h })
	} else {
		l.free = append(l.free, h)
	}
	l.mu.Unlock()
	if idle {
		_ = h.Close() // a fault is told by the next call
	}
}

// end lets no plan begin, and waits for those that are being made, which are in the device's context until then.
func (l *attnLibrary) end() map[cudnn.Attention]*attnPlan {
	l.mu.Lock()
	l.closed = true
	plans := l.plans
	l.plans = nil
	l.mu.Unlock()
	for _, p := range plans {
		<-p.done
	}
	return plans
}

// close frees plans and handles; the device's context is current.
func (l *attnLibrary) close() error {
	for _, p := range l.end() {
		if p.plan != nil {
			p.plan.Close()
		}
	}
	if l.handle == nil {
		return nil
	}
	errs := []error{l.handle.Close()}
	for _, h := range l.more {
		errs = append(errs, h.Close())
	}
	return errors.Join(errs...)
}

// planCache keeps plans beside compiled kernels.
type planCache struct{ c *nvrtc.Cache }

// Load implements cudnn.Cache.
func (p planCache) Load(key string) ([]byte, bool) { return p.c.Get(sha256.Sum256([]byte(key))) }

// Store implements cudnn.Cache.
func (p planCache) Store(key string, data []byte) { p.c.Put(sha256.Sum256([]byte(key)), data) }

func describeCUDNN(d *Device) []device.Fact {
	d.cudnn.mu.Lock()
	defer d.cudnn.mu.Unlock()
	l, err := d.openCUDNN()
	text := ""
	if err != nil {
		text = fmt.Sprintf("own kernels, without cuDNN: %v", err)
	} else {
		text = fmt.Sprintf("cuDNN %s, %s; own kernels for caches, short rows and what it has no engine for", l.lib.Version(), l.lib.Path())
	}
	return []device.Fact{{Topic: "attention", Text: text}}
}

// graph is the attention as the library sees it; ok is false where the library is not to be asked. extra are the types of doc_start,
// q_offset, kv_len, and of dlse in a backward pass.
func (a *attention) graph(extra []tensor.Type, backward bool) (g cudnn.Attention, ok bool) {
	packed := a.slots > 0
	if !packed && extra[0].DType != tensor.Invalid {
		return g, false
	}
	for _, t := range extra[1:] {
		if t.DType != tensor.Invalid {
			return g, false
		}
	}
	g = cudnn.Attention{DType: cudnn.BF16, B: int64(a.B), Tq: int64(a.Tq), Tk: int64(a.Tk), Hq: int64(a.Hq), Hkv: int64(a.Hkv), D: int64(a.D),
		KeyBatch: a.args.batchStride, KeyHead: a.args.headStride, KeyStep: a.args.keyStride, Scale: a.op.Scale, SoftCap: a.op.SoftCap,
		Causal: a.op.Causal, Window: int64(a.op.Window), Packed: packed, Deterministic: backward && a.dev.Deterministic(), Backward: backward}
	if a.dtype == tensor.F16 {
		g.DType = cudnn.F16
	}
	if packed {
		g.B, g.Tq, g.Tk = int64(a.slots), int64(a.op.Longest), int64(a.op.Longest)
	}
	if a.Tq == a.Tk && g.Window >= g.Tk {
		g.Window = 0 // hides nothing
	}
	return g, a.flashFits() && g.Tq >= cudnnTokens && g.Tk >= cudnnTokens && (g.Window == 0 || a.Tq <= a.Tk) &&
		(!packed || a.packs()) && (!g.Deterministic || 2*g.B*g.Hq*g.Tq*g.Tk <= cudnnWorkspace)
}

// packs tells whether the library takes rows of documents by a list: on devices whose engines do, with scratch by tokens.
func (a *attention) packs() bool {
	major := a.dev.Capability() / 10
	return a.op.Causal && a.Tq == a.Tk && !a.op.HeadMajor && a.D%16 == 0 && (major == 9 || major == 10)
}

// parts hands out pieces of scratch memory.
type parts struct{ used int64 }

func (p *parts) take(bytes int64) int64 {
	at := p.used
	p.used += aligned(bytes)
	return at
}

// cudnnPass is one direction of an attention by the library.
type cudnnPass struct {
	*attention
	g    cudnn.Attention
	plan *cudnn.Plan
	call *cudnn.Call

	at        map[cudnn.Role]int64 // operands in scratch memory
	workspace int64
	turn      *Function // packed only: lse to the library's Stats
	total     int64
}

// turn is the kernel that brings lse into the library's layout of packed documents.
func (a *attention) turn() (*Function, error) {
	return a.dev.Function(a.program("attention_turn.cu"), "attend_turn")
}

const turnThreads = 256 // of attend_turn

// cudnnOddKeys is the first version whose backward pass takes a number of keys that is no multiple of 128 without lengths.
const cudnnOddKeys = 91501

// newCUDNN makes a pass, or says why the library cannot do it.
func (a *attention) newCUDNN(g cudnn.Attention) (*cudnnPass, error) {
	plan, err := a.dev.cudnnPlan(g)
	if err != nil {
		return nil, err
	}
	if lib := a.dev.cudnn.lib; g.Backward && !g.Packed && g.Tk%128 != 0 && lib.Number() < cudnnOddKeys {
		return nil, fmt.Errorf("cuDNN %s is not right for %d keys", lib.Version(), g.Tk)
	}
	p := &cudnnPass{attention: a, g: g, plan: plan, call: plan.NewCall(), at: map[cudnn.Role]int64{}}
	var mem parts
	rows := int64(a.B) * int64(a.Tq) * int64(a.Hq) // of q and of numbers
	if g.Packed {
		if p.turn, err = a.turn(); err != nil {
			return nil, err
		}
		p.at[cudnn.Stats] = mem.take(4 * rows)
	}
	if g.Backward {
		p.at[cudnn.SoftmaxSum] = mem.take(4 * rows)
		if !g.Deterministic {
			p.at[cudnn.Accum] = mem.take(4 * rows * int64(a.D))
		}
		if g.Packed && a.Rep > 1 {
			p.at[cudnn.DKFull] = mem.take(2 * rows * int64(a.D))
			p.at[cudnn.DVFull] = mem.take(2 * rows * int64(a.D))
		}
	}
	p.workspace = mem.take(plan.Workspace())
	p.total = mem.used
	return p, nil
}

// enqueue runs the pass. Forward, the lse of packed documents is left as the library lays it, in scratch memory.
func (p *cudnnPass) enqueue(c *Call, io *attnIO, scratch Addr) error {
	at := cudnn.Operands{cudnn.Q: uint64(io.q), cudnn.K: uint64(io.k), cudnn.V: uint64(io.v), cudnn.O: uint64(io.o), cudnn.Stats: uint64(io.lse),
		cudnn.DO: uint64(io.dout), cudnn.DQ: uint64(io.dq), cudnn.DK: uint64(io.dk), cudnn.DV: uint64(io.dv)}
	for r, off := range p.at {
		at[r] = uint64(scratch) + uint64(off)
	}
	if p.g.Packed {
		ends := Addr(8 * int64(p.slots+2))
		at[cudnn.LenQ], at[cudnn.LenK] = uint64(io.lengths), uint64(io.lengths)
		at[cudnn.OffsetQ], at[cudnn.OffsetK], at[cudnn.OffsetStats] = uint64(io.offsets), uint64(io.offsets+ends), uint64(io.offsets+2*ends)
		if p.g.Backward {
			if err := c.Launch(p.turn, Rows(2*c.Dev.Multiprocessors(), turnThreads), &p.args, io.lse, Addr(at[cudnn.Stats])); err != nil {
				return err
			}
		}
	}
	return p.call.Enqueue(uintptr(c.Stream.Handle()), &at, uint64(scratch)+uint64(p.workspace))
}

// withCUDNN is the library's pass where it takes the graph, with own kernels behind it: for rows that have no list of documents, which only the
// device knows, and, from rest, for operands that are not aligned.
func (a *attention) withCUDNN(g cudnn.Attention, own, rest func(a *attention) (attnRun, error)) (attnRun, error) {
	p, err := a.newCUDNN(g)
	if err != nil {
		return attnRun{}, err
	}
	behind, o, err := a.behind(g, own, rest)
	if err != nil {
		return attnRun{}, err
	}
	label := "attention_cudnn"
	if g.Backward {
		label = "attention_cudnn_grad"
	}
	return attnRun{label: label, scratch: max(p.total, o.scratch), enqueue: func(c *Call, io *attnIO, scratch Addr) error {
		behind.args = a.args
		behind.args.gate, behind.args.stats = 0, 0
		if !attnAligned(io) || io.lse%attnAlignment != 0 {
			return o.enqueue(c, io, scratch)
		}
		if err := p.enqueue(c, io, scratch); err != nil || !g.Packed {
			return err
		}
		behind.args.gate = io.lengths + 4*Addr(a.slots)
		if !g.Backward {
			behind.args.stats = scratch + Addr(p.at[cudnn.Stats])
		}
		return o.enqueue(c, io, scratch) // whose scratch lies over the library's
	}}, nil
}

// behind is the attention, and its run, for what the library does not take of a graph that it takes.
func (a *attention) behind(g cudnn.Attention, own, rest func(a *attention) (attnRun, error)) (*attention, attnRun, error) {
	b := *a
	b.gated = g.Packed
	if g.Packed {
		run, err := own(&b)
		return &b, run, err
	}
	run, err := seldom(a.dev, func() (attnRun, error) { return rest(&b) })
	return &b, run, err
}
