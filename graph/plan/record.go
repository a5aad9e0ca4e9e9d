package plan

import (
	"context"
	"errors"
	"time"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
)

// Recorder is told about every run of the plans that it is attached to. Package trainer/profile has one.
type Recorder interface {
	// Recorded is called on the goroutine of Run after a run without an error. t is valid until it returns.
	Recorded(p *Plan, t *Timing)
}

// Timing says when the parts of a run happened, in the clock of the device's stream.
type Timing struct {
	Began time.Time // Run was called
	// Marks are the readings of the clock: at the start, after the inputs are uploaded, before and after each launch, and after the
	// outputs are downloaded: 2*launches + 3.
	Marks []device.Mark
	// Exact is false where the device has no timer and each launch was waited for instead.
	Exact bool
}

// Fed is the mark after the inputs were uploaded.
func (t *Timing) Fed() device.Mark { return t.Marks[1] }

// Launch returns the marks before and after launch i.
func (t *Timing) Launch(i int) (from, to device.Mark) { return t.Marks[2+2*i], t.Marks[3+2*i] }

// Record attaches a recorder to the plan, or detaches it with nil. Without one a run does no more than look for it.
func (p *Plan) Record(r Recorder) { p.recorder = r }

// record is Run with marks between the launches, which run one after the other, those of other lanes too.
func (p *Plan) record(ctx context.Context, feed Feed) (Result, error) {
	t := Timing{Began: time.Now()}
	res, err := p.marked(ctx, feed, &t)
	if err == nil {
		p.recorder.Recorded(p, &t)
	}
	return res, err
}

// marked fills in the marks of t.
func (p *Plan) marked(ctx context.Context, feed Feed, t *Timing) (Result, error) {
	p.store.begin()
	defer p.store.end()
	s := p.dev.Stream(0)
	timer, ok := s.(device.Timer)
	if t.Exact = ok; !ok {
		timer = &hostTimer{stream: s}
	}
	if err := timer.Reserve(2*len(p.steps) + 3); err != nil {
		return Result{}, err
	}
	res, err := p.timed(ctx, s, feed, timer)
	var failed error
	if t.Marks, failed = timer.Marks(); err != nil || failed != nil { // ends the timing of a run that failed too
		return res, errors.Join(err, failed)
	}
	return res, nil
}

// timed is a run with marks between its parts and launches one by one.
func (p *Plan) timed(ctx context.Context, s device.Stream, feed Feed, timer device.Timer) (Result, error) {
	arena, err := p.ready(ctx)
	if err != nil {
		return Result{}, err
	}
	if err := timer.Mark(); err != nil {
		return Result{}, err
	}
	err = p.upload(s, feed, arena)
	if err = errors.Join(err, timer.Mark()); err != nil {
		return Result{}, err
	}
	for i := range p.steps {
		if err := timer.Mark(); err != nil {
			return Result{}, err
		}
		if err := p.launch(&p.steps[i], s, max(p.launching(), Plain)); err != nil {
			return Result{}, err
		}
		if err := timer.Mark(); err != nil {
			return Result{}, err
		}
	}
	res, err := p.collect(s, arena)
	return res, errors.Join(err, timer.Mark())
}

// hostTimer times a stream that cannot do it itself, by waiting for it.
type hostTimer struct {
	stream device.Stream
	began  time.Time
	marks  []device.Mark
}

// Reserve implements device.Timer.
func (h *hostTimer) Reserve(n int) error {
	h.began, h.marks = time.Now(), make([]device.Mark, 0, n)
	return nil
}

// Mark implements device.Timer.
func (h *hostTimer) Mark() error {
	if err := h.stream.Sync(); err != nil {
		return err
	}
	h.marks = append(h.marks, device.Mark{At: time.Since(h.began)})
	return nil
}

// Marks implements device.Timer.
func (h *hostTimer) Marks() ([]device.Mark, error) { return h.marks, nil }

// Launch describes one launch of a plan.
type Launch struct {
	Node   *graph.Node // whose op runs; of a copy that ends a write, the node whose value is copied
	Kernel string      // the name that the device gives it; "copy", "copy to host" or "copy from host" for a copy
	Phase  graph.Phase
	Flops  int64 // floating-point operations, 0 if unknown
	Bytes  int64 // read and written
	// Told says that the op tells its work itself. Otherwise Bytes are those of all operands, and Flops are unknown.
	Told bool
	Copy bool
	// Lane is the queue that it runs on where the device has several. Recorders see launches one after the other.
	Lane graph.Lane
}

// Launches describes what a run launches, in order.
func (p *Plan) Launches() []Launch {
	phases := p.phases()
	out := make([]Launch, len(p.steps))
	for i := range p.steps {
		st := &p.steps[i]
		l := Launch{Node: st.node, Kernel: kernelName(*st), Phase: phases[st.node.ID], Copy: st.kernel == nil, Lane: st.lane}
		if st.move == fromHost {
			l.Phase = graph.Backward // of what it is for
		}
		if l.Copy {
			l.Bytes, l.Told = 2*st.bytes, true
		} else {
			l.Flops, l.Bytes, l.Told = cost(st.node)
		}
		out[i] = l
	}
	return out
}

// phases are the phases of the plan's nodes by ID. What follows from gradients in the same graph, as the update of a hand-written
// optimizer, belongs to Update.
func (p *Plan) phases() []graph.Phase {
	out := make([]graph.Phase, len(p.g.Nodes()))
	for i, n := range p.g.Nodes() {
		if out[i] = n.Phase(); out[i] != graph.Forward {
			continue
		}
		for _, v := range n.In {
			if v.Valid() && out[v.Node().ID] != graph.Forward {
				out[i] = graph.Update
			}
		}
	}
	return out
}

// cost is the work of a node: what its op tells, or what follows from its types.
func cost(n *graph.Node) (flops, bytes int64, told bool) {
	in := n.InTypes()
	if c, ok := n.Op.(graph.Coster); ok {
		flops, bytes = c.Cost(in, n.Out)
		return flops, bytes, true
	}
	for i, v := range n.In {
		if v.Valid() && !repeats(n.In, i) {
			bytes += v.Type().Bytes()
		}
	}
	for _, t := range n.Out {
		bytes += t.Bytes()
	}
	return 0, bytes, false
}
