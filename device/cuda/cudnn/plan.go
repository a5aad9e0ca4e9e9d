package cudnn

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"
)

// Alignment is what every operand's address must be a multiple of, in bytes. The library does not check it: results are wrong otherwise.
const Alignment = 16

// ErrNoEngine is returned (wrapped) where the library has no engine for a graph on this device.
var ErrNoEngine = errors.New("no engine")

// Cache keeps plans between processes. An entry that is absent or damaged is made again.
type Cache interface {
	Load(key string) ([]byte, bool)
	Store(key string, data []byte)
}

// Plan is an executable graph. It may be shared.
type Plan struct {
	handle    *Handle
	desc      uintptr
	roles     []Role
	ids       []int64
	scalars   []uint32 // their addresses are in variant packs
	workspace int64
}

// Workspace is how many bytes of temporary memory an execution needs.
func (p *Plan) Workspace() int64 { return p.workspace }

// Kept is the plan of an attention on the handle's device as an earlier process left it, in milliseconds. device names the device and its driver in the
// cache's keys.
func (h *Handle) Kept(a Attention, device string, cache Cache) (*Plan, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	text, ok := cache.Load(h.key(a, device))
	if !ok {
		return nil, false
	}
	return h.read(a, text)
}

// read makes a plan from its text; h.mu is held.
func (h *Handle) read(a Attention, text []byte) (*Plan, bool) {
	p, s := h.sketch(a)
	defer s.free()
	return p, s.err == nil && p.parse(text) == nil
}

// On makes the plan of an attention again with another handle, in milliseconds; false where its engine cannot be kept.
func (p *Plan) On(h *Handle, a Attention) (*Plan, bool) {
	p.handle.mu.Lock()
	text := p.text()
	p.handle.mu.Unlock()
	if text == nil {
		return nil, false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.read(a, text)
}

// Plan makes the plan of an attention on the handle's device, which takes half a second or more, and keeps it; cache may be nil. It is not kept where an engine
// that the library prefers failed for a passing reason.
func (h *Handle) Plan(a Attention, device string, cache Cache) (*Plan, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, s := h.sketch(a)
	defer s.free()
	graph := s.finish(h.h)
	if s.err != nil {
		return nil, s.err
	}
	sure, err := p.choose(graph)
	if err != nil {
		return nil, err
	}
	if cache != nil && sure {
		if text := p.text(); text != nil {
			cache.Store(h.key(a, device), text)
		}
	}
	return p, nil
}

func (h *Handle) key(a Attention, device string) string {
	return fmt.Sprintf("cudnn %d, %s, %s", h.lib.version, device, a.Key())
}

// sketch is the graph of an attention, and its plan but for what the library makes of it.
func (h *Handle) sketch(a Attention) (*Plan, *sketch) {
	s := a.graph(h.lib)
	p := &Plan{handle: h, roles: s.roles, scalars: s.graph.scalars}
	for _, r := range s.roles {
		p.ids = append(p.ids, int64(r))
	}
	for i := range p.scalars {
		p.ids = append(p.ids, scalarIDs+int64(i)+1)
	}
	return p, s
}

func (a Attention) graph(l *Library) *sketch {
	if a.Backward {
		return a.backward(l)
	}
	return a.forward(l)
}

// choose takes the first engine whose plan can be made, and tells whether it would be so another time. Its error is that of a passing reason, if there was one,
// and else ErrNoEngine with the first.
func (p *Plan) choose(graph uintptr) (sure bool, err error) {
	var first, passing error
	note := func(err error) {
		if first == nil {
			first = err
		}
		var e *Error
		if passing == nil && errors.As(err, &e) && e.Passing() {
			passing = err
		}
	}
	for _, m := range []int32{heuristicA, heuristicFallback} {
		b := builder{lib: p.handle.lib}
		for _, config := range b.configs(graph, m) {
			t := builder{lib: p.handle.lib}
			d := t.make(kindPlan)
			set(&t, d, planHandle, typeHandle, p.handle.h)
			set(&t, d, planConfig, typeDescriptor, config)
			if p.take(&t, d) == nil {
				b.free()
				return passing == nil, nil
			}
			note(t.err)
		}
		note(b.err)
		b.free()
	}
	switch {
	case passing != nil:
		return false, passing
	case first != nil:
		return false, fmt.Errorf("%w: %w", ErrNoEngine, first)
	}
	return false, fmt.Errorf("%w for this graph", ErrNoEngine)
}

// take finalizes a plan and keeps it, or frees it.
func (p *Plan) take(b *builder, d uintptr) error {
	b.finalize(d, kindPlan)
	workspace := get[int64](b, d, planWorkspace, typeInt64)
	if b.err != nil {
		b.free()
		return b.err
	}
	p.desc, p.workspace = d, workspace
	p.handle.plans++
	return nil
}

// configs asks a heuristic for engines, best first.
func (b *builder) configs(graph uintptr, m int32) []uintptr {
	h := b.make(kindHeuristic)
	set(b, h, heurGraph, typeDescriptor, graph)
	set(b, h, heurMode, typeHeurMode, m)
	b.finalize(h, kindHeuristic)
	n := new(int64)
	if b.err == nil {
		b.status(b.lib.fn.GetAttribute.Call(h, uintptr(heurResults), uintptr(typeDescriptor), 0, uintptr(unsafe.Pointer(n)), 0), "counting", kindEngineConfig)
	}
	if b.err != nil || *n <= 0 {
		return nil
	}
	out := make([]uintptr, *n)
	for i := range out {
		out[i] = b.make(kindEngineConfig)
	}
	if b.err == nil {
		b.status(b.lib.fn.GetAttribute.Call(h, uintptr(heurResults), uintptr(typeDescriptor), uintptr(len(out)), uintptr(unsafe.Pointer(n)),
			uintptr(unsafe.Pointer(&out[0]))), "reading", kindEngineConfig)
	}
	if b.err != nil {
		return nil
	}
	return out[:min(int(*n), len(out))]
}

// parse makes the plan from what text returned.
func (p *Plan) parse(text []byte) error {
	b := builder{lib: p.handle.lib}
	d := b.make(kindPlan)
	set(&b, d, planHandle, typeHandle, p.handle.h)
	set(&b, d, planJSON, typeChar, text...)
	return p.take(&b, d)
}

// text is the plan as JSON, nil where the engine cannot be kept.
func (p *Plan) text() []byte {
	l, n := p.handle.lib, new(int64)
	if int32(l.fn.GetAttribute.Call(p.desc, uintptr(planJSON), uintptr(typeChar), 0, uintptr(unsafe.Pointer(n)), 0)) != 0 || *n <= 0 || *n > 1<<26 {
		return nil
	}
	out := make([]byte, *n)
	if int32(l.fn.GetAttribute.Call(p.desc, uintptr(planJSON), uintptr(typeChar), uintptr(len(out)), uintptr(unsafe.Pointer(n)),
		uintptr(unsafe.Pointer(&out[0])))) != 0 {
		return nil
	}
	return out[:min(*n, int64(len(out)))]
}

// Close frees the plan. The device's context is current.
func (p *Plan) Close() {
	if p.handle == nil {
		return
	}
	p.handle.mu.Lock() // another plan may be made with it, or executed
	defer p.handle.mu.Unlock()
	if p.desc != 0 {
		p.handle.lib.fn.Free.Call(p.desc)
		p.desc = 0
		p.handle.plans--
	}
}

// Operands are the device addresses of a call.
type Operands [Roles]uint64

// Call executes a plan at addresses that rarely change: the library's description of them is kept from call to call.
type Call struct {
	plan      *Plan
	at        Operands
	workspace uint64
	pack      uintptr
}

// NewCall makes a call of the plan.
func (p *Plan) NewCall() *Call { return &Call{plan: p} }

// Aligned tells whether all operands of the plan are where the library can work on them.
func (p *Plan) Aligned(at *Operands) bool {
	for _, r := range p.roles {
		if at[r]%Alignment != 0 {
			return false
		}
	}
	return true
}

// Enqueue puts the execution on a stream. Every operand of the plan must be set.
func (c *Call) Enqueue(stream uintptr, at *Operands, workspace uint64) error {
	h := c.plan.handle
	h.mu.Lock()
	defer h.mu.Unlock()
	if c.pack == 0 || c.at != *at || c.workspace != workspace {
		if err := c.describe(at, workspace); err != nil {
			return err
		}
	}
	if err := h.on(stream); err != nil {
		return err
	}
	err := h.lib.check(h.lib.fn.Execute.Call(h.h, c.plan.desc, c.pack), "attention")
	runtime.KeepAlive(c.plan)
	return err
}

// describe makes the variant pack.
func (c *Call) describe(at *Operands, workspace uint64) error {
	p := c.plan
	pointers := make([]uintptr, len(p.ids))
	for i, r := range p.roles {
		if at[r] == 0 || at[r]%Alignment != 0 {
			return fmt.Errorf("cuDNN: operand %v of an attention is at %#x: it must be a multiple of %d and not 0", r, at[r], Alignment)
		}
		pointers[i] = uintptr(at[r])
	}
	for i := range p.scalars {
		pointers[len(p.roles)+i] = uintptr(unsafe.Pointer(&p.scalars[i])) // on the heap, and kept by the plan
	}
	if c.pack != 0 {
		delete(p.handle.packs, c.pack)
		p.handle.lib.fn.Free.Call(c.pack)
		c.pack = 0
	}
	b := builder{lib: p.handle.lib}
	d := b.make(kindVariantPack)
	set(&b, d, packIDs, typeInt64, p.ids...)
	set(&b, d, packPointers, typePointer, pointers...)
	set(&b, d, packWorkspace, typePointer, uintptr(workspace))
	b.finalize(d, kindVariantPack)
	if b.err != nil {
		b.free()
		return b.err
	}
	c.pack, c.at, c.workspace = d, *at, workspace
	p.handle.packs[d] = struct{}{}
	return nil
}
