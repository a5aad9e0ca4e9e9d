package plan

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
)

// Launching is how the launches of a plan reach the device.
type Launching uint8

// The ways. A plan is launched in the slowest way that its options, its session and its device ask for.
const (
	// Captured records the launches of the second run, where the device can, and replays them from then on: one call a run. What an
	// asynchronous fault belongs to is not known.
	Captured Launching = iota
	// Plain enqueues each launch by itself.
	Plain
	// Synced also waits after each launch, so that a fault on the device is reported with the node, scope and line of its op.
	Synced
)

// Launchings are the names by which configurations call the ways.
var Launchings = []string{"captured", "plain", "synced"}

// ParseLaunching finds the way of a name; the empty name is Captured.
func ParseLaunching(name string) (Launching, error) {
	i := slices.Index(Launchings, name)
	if name != "" && i < 0 {
		return Captured, fmt.Errorf("%q is not known; %s are", name, strings.Join(Launchings, ", "))
	}
	return Launching(max(i, 0)), nil
}

// recording is a plan's captured launches.
type recording struct {
	graph device.Graph // nil until the second run
	ran   bool         // one run has shown that the launches are accepted, and built what kernels build at their first launch
}

// drop frees the graph: addresses have changed, or the plan is closed.
func (r *recording) drop() error {
	if r.graph == nil {
		return nil
	}
	g := r.graph
	r.graph = nil
	return g.Free()
}

// launching is how this plan is run now.
func (p *Plan) launching() Launching {
	way := max(p.opts.Launch, p.session.launch)
	if _, ok := p.dev.(device.Capturer); !ok || p.opts.Check || p.opts.Probe != nil {
		way = max(way, Plain)
	}
	return way
}

// settle has the device make the drafts that are launched final, all at once: their scratch is part of the layout.
func (p *Plan) settle(order []*graph.Node) error {
	dev, ok := p.dev.(device.Drafter)
	if !ok {
		return nil
	}
	kernels, of, err := p.distinct(order)
	if err != nil {
		return err
	}
	return failures(of, dev.Settle(p.opts.Context, kernels))
}

// prepare has the device compile the kernels that are launched, at once: those that passes chose and gave up again are not among them.
func (p *Plan) prepare() error {
	dev, ok := p.dev.(device.Preparer)
	if !ok {
		return nil
	}
	var nodes []*graph.Node
	for i := range p.steps {
		if st := &p.steps[i]; st.kernel != nil {
			nodes = append(nodes, st.node)
		}
	}
	kernels, of, err := p.distinct(nodes)
	if err != nil {
		return err
	}
	return failures(of, dev.Prepare(p.opts.Context, kernels))
}

// distinct are the kernels of nodes, each once, and the first node that launches each. A device's kernels need not be comparable.
func (p *Plan) distinct(nodes []*graph.Node) (kernels []device.Kernel, of []*graph.Node, err error) {
	seen := map[kernelKey]bool{}
	for _, n := range nodes {
		k, err := p.kernelFor(n)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %s: %w", n.Where(), n, err)
		}
		if key := keyOf(n); k != nil && !seen[key] {
			seen[key] = true
			kernels, of = append(kernels, k), append(of, n)
		}
	}
	return kernels, of, nil
}

// maxFailures is how many errors of kernels are told at once.
const maxFailures = 10

// failures joins the errors of kernels, each with its node. What several kernels fail with, such as a program, is told once.
func failures(of []*graph.Node, errs []error) error {
	var all []error
	told := map[string]bool{}
	for i, err := range errs {
		if err == nil || told[err.Error()] || len(all) == maxFailures {
			continue
		}
		told[err.Error()] = true
		all = append(all, fmt.Errorf("%s: %s: %w", of[i].Where(), of[i], err))
	}
	return errors.Join(all...)
}

// execute enqueues the launches of one run.
func (p *Plan) execute(s device.Stream) error {
	way := p.launching()
	if way != Captured || !p.recording.ran || len(p.steps) == 0 {
		err := p.launchAll(s, way)
		p.recording.ran = p.recording.ran || err == nil
		return err
	}
	if p.recording.graph == nil {
		g, err := p.dev.(device.Capturer).Capture(s, func() error { return p.launchAll(s, Captured) })
		if err != nil {
			return fmt.Errorf("plan %q: its %d launches cannot be recorded (launch them one by one to do without, %s): %w", p.g.Name(), len(p.steps),
				howPlain, err)
		}
		p.recording.graph = g
	}
	return p.recording.graph.Launch(s)
}

func (p *Plan) launchAll(s device.Stream, way Launching) error {
	q, err := p.fork(s, way)
	if err != nil {
		return err
	}
	for i := range p.steps {
		s, err := q.enter(i)
		if err == nil {
			err = p.launch(&p.steps[i], s, way)
		}
		if err != nil {
			return errors.Join(err, q.join(true))
		}
		q.leave(i)
	}
	return q.join(false)
}

func (p *Plan) launch(st *step, s device.Stream, way Launching) error {
	if p.opts.Check || p.opts.Probe != nil {
		return p.inspected(st, s)
	}
	err := p.start(st, s)
	if err == nil && way == Synced {
		err = s.Sync()
	}
	return st.failed(err)
}

// failed says where an error belongs to, if it is one.
func (st *step) failed(err error) error {
	if err == nil {
		return nil
	}
	what := st.node.Op.Name()
	if st.kernel == nil {
		what = kernelName(*st) + " of the value of " + what
	}
	return fmt.Errorf("%s: %s: %w", st.node.Where(), what, err)
}

func (p *Plan) start(st *step, s device.Stream) error {
	if st.kernel == nil {
		return s.Copy(st.outPtr[0], st.inPtr[0], st.bytes)
	}
	return st.kernel.Launch(s, st.inPtr, st.outPtr, st.scratchPtr)
}

// FaultError is work of a run that failed on the device after it was enqueued.
type FaultError struct {
	Plan     string
	Launches int
	Err      error
}

const (
	howPlain  = "--launch plain, in a file train.launch: plain, in Go plan.Plain"
	howSynced = "--launch synced, in a file train.launch: synced, in Go plan.Synced"
)

// Error says how the launch is found.
func (e *FaultError) Error() string {
	return fmt.Sprintf("plan %q: one of its %d launches failed, or one of an earlier plan (run again with every launch waited for to learn which op, %s): %v",
		e.Plan, e.Launches, howSynced, e.Err)
}

// Unwrap returns the device's error.
func (e *FaultError) Unwrap() error { return e.Err }

// fault wraps an error of waiting for the device.
func (p *Plan) fault(err error) error {
	var known *FaultError
	if err == nil || errors.As(err, &known) {
		return err
	}
	return &FaultError{p.g.Name(), len(p.steps), err}
}
