// Package plan compiles a graph for a device: passes rewrite it, a scheduler orders it, and an arena gives every intermediate
// a fixed address, so that a step's exact memory is known before it runs and running it allocates nothing.
//
// The package knows no backend and no op by name: what it needs to know of an op it asks through the ability interfaces of
// package graph.
package plan

import (
	"context"
	"errors"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Options chooses how a graph is compiled. A device is required, of its own or a store's; the zero value of everything else works.
type Options struct {
	Device  device.Device   // nil: that of the session's store, or of the store
	Comm    device.Comm     // nil: one rank
	Store   *Store          // values of the variables; nil: a store of the plan's own
	Session *Session        // shares one store and one arena among plans; overrides Store
	Context context.Context // ends compiling where a device takes long to choose kernels; nil: nothing does
	Budget  int64           // bytes the plan may take, variables included; 0: no limit
	NoFuse  bool            // leave the ops of the graph as single kernels
	Exact   bool            // round every value as the graph says: products are not added in place
	Fold    bool            // add what adapters add to a frozen weight to the weight as it is decoded, where the device can: one rounding of their sum
	Verify  bool            // verify the graph after every pass, and fill the memory of intermediates with NaN before each run
	Check   bool            // after each kernel: find the first non-finite value, compare with the op's decomposition
	Dump    func(pass string, g *graph.Graph)
	Probe   func(n *graph.Node, out []*tensor.Tensor) // called after each kernel with its outputs; slow. It may read the store, not run plans of it
	Launch  Launching                                 // how launches reach the device; a session may ask for a slower way
	// Move chooses which of the intermediates that wait for the backward phase do so in host memory, on devices that have their own; one answer for
	// each. MoveInputs and MoveSaved are such choices. Results are the same bits; the plan is as much smaller as Report tells.
	Move func(saved []Saved) []bool

	rank func(id int) int // tests: the order of equals in the schedule
}

// Plan is a compiled step. Runs may be started and waited for on several goroutines; nothing else of it is safe for concurrent use.
type Plan struct {
	opts    Options
	dev     device.Device
	store   *Store
	session *Session
	own     bool // the session is this plan's own
	lent    bool // the store of the plan's own session is the caller's
	closed  bool

	g        *graph.Graph
	outs     []graph.Value // as compiled
	asked    []graph.Value // as the caller knows them
	outAt    []place
	inputs   []inputSlot
	steps    []step
	roots    []root
	consts   device.Buffer
	size     int64 // arena bytes
	hostSize int64 // bytes of host memory that intermediates wait in
	recorder Recorder

	bound int // generation of the session's arena that addresses were computed for

	boundStore int // generation of the store that they were computed for
	kernels    map[kernelKey]device.Kernel

	folded int // products that an adapter is folded into

	apart      bool  // some steps are of another lane than Compute
	last       []int // the last steps of other lanes, as far as none of Compute waits for them
	movedBytes int64 // copied to and from host memory in a run

	recording recording
	slots     hostSlots
}

// inputSlot is an input, where it is uploaded to, and what the present run feeds it.
type inputSlot struct {
	op     graph.Input
	value  graph.Value
	where  place
	fed    any
	given  bool
	number *tensor.Tensor // holds numbers that are fed
}

// step is one launch: a kernel, or a copy when kernel is nil.
type step struct {
	node    *graph.Node
	kernel  device.Kernel
	in, out []place
	scratch place
	lane    graph.Lane
	bytes   int64    // of a copy
	move    moveKind // of a copy to or from host memory
	hold    int      // of a copy to host memory: its source is kept until this step
	waits   []int    // steps of other lanes that come before it
	awaited bool     // a step of another lane waits for it

	inPtr, outPtr []device.Ptr
	scratchPtr    device.Ptr
}

// Compile plans the step that computes outs and the graph's writes. Errors recorded while building the graph are returned
// here.
func Compile(outs []graph.Value, o Options) (*Plan, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	g, err := graphOf(outs)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(o.Context) // ends what the device has begun for a plan that is refused, and for kernels that it does without
	defer cancel()
	o.Context = ctx
	p := &Plan{opts: o, dev: o.Device, store: o.Store, session: o.Session, asked: outs, kernels: map[kernelKey]device.Kernel{}}
	if p.session == nil {
		if o.Store == nil {
			p.store = NewStore(o.Device)
		}
		p.session, p.own, p.lent = NewSession(p.store), true, o.Store != nil
	}
	p.store = p.session.store
	if err := p.runPasses(g, outs); err != nil {
		return nil, err
	}
	if err := p.layout(); err != nil {
		return nil, err
	}
	if err := p.checkBudget(); err != nil {
		return nil, err
	}
	if err := p.prepare(); err != nil {
		return nil, err
	}
	if err := p.materialise(); err != nil {
		if p.consts != nil {
			err = errors.Join(err, p.consts.Free())
		}
		return nil, err
	}
	p.session.join(p)
	return p, nil
}

// complete takes the store of the session and the device of the store, and a context that does not end.
func (o *Options) complete() error {
	if o.Context == nil {
		o.Context = context.Background()
	}
	if o.Session != nil {
		if o.Store = o.Session.store; o.Store.Device() == nil {
			return errors.New("plan: Options.Session has no store; make it with NewSession(NewStore(device))")
		}
	}
	if o.Device == nil && o.Store != nil {
		o.Device = o.Store.dev
	}
	if o.Device == nil {
		return errors.New("plan: Options.Device is not set; open one with device.Open")
	}
	return nil
}

func graphOf(outs []graph.Value) (*graph.Graph, error) {
	var g *graph.Graph
	for i, v := range outs {
		switch {
		case v.Absent():
			return nil, fmt.Errorf("plan: output %d is absent: its op had no input to take a graph from", i)
		case g == nil:
			g = v.Graph()
		case g != v.Graph():
			if err := errors.Join(g.Err(), v.Graph().Err()); err != nil { // they may be why
				return nil, err
			}
			return nil, fmt.Errorf("plan: output %d belongs to graph %q, output 0 to another, %q", i, v.Graph().Name(), g.Name())
		}
	}
	if g == nil {
		return nil, errors.New("plan: nothing to compute; pass at least one output (a graph with writes alone: any written value)")
	}
	return g, g.Err()
}

// Close frees what the plan owns. A store or session that Options brought stays.
func (p *Plan) Close() error {
	if p.closed {
		return nil
	}
	p.closed = true
	p.store.take()
	err := errors.Join(p.slots.close(p), p.recording.drop())
	p.store.give()
	if p.consts != nil {
		err = errors.Join(err, p.consts.Free())
		p.consts = nil
	}
	p.session.leave(p)
	p.kernels, p.steps = nil, nil
	switch {
	case p.own && p.lent:
		err = errors.Join(err, p.session.closeArena())
	case p.own:
		err = errors.Join(err, p.session.Close())
	}
	return err
}
