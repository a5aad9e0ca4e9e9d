package plan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"sort"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Feed gives the inputs of a run: a *tensor.Tensor, or a Go number for a scalar input, for each input value of the graph.
type Feed map[graph.Value]any

// Result holds the outputs of a run.
type Result struct {
	vals map[graph.Value]*tensor.Tensor
}

// Tensor returns an output, nil if v was not asked for at Compile.
func (r Result) Tensor(v graph.Value) *tensor.Tensor { return r.vals[v] }

// Float returns the first element of an output as a number. It is NaN if v was not among the outputs given to Compile, or is empty: a loss of 0
// would look like a result.
func (r Result) Float(v graph.Value) float64 {
	t := r.vals[v]
	if t == nil || t.Type().Size() == 0 {
		return math.NaN()
	}
	return t.At(0)
}

// Run executes the step once: feeds are uploaded, kernels launched in order, variables updated in place, outputs downloaded.
// A cancelled context stops before the step, never inside it: a step happens whole or not at all.
func (p *Plan) Run(ctx context.Context, feed Feed) (Result, error) {
	r, err := p.Start(ctx, feed)
	if err != nil {
		return Result{}, err
	}
	return r.Wait()
}

// ready returns the memory that the next run works in.
func (p *Plan) ready(ctx context.Context) (memory, error) {
	if ctx != nil { // nil: nothing ends the run before it begins
		if err := ctx.Err(); err != nil {
			return memory{}, err
		}
	}
	if p.closed {
		return memory{}, errors.New("plan: closed")
	}
	m, err := p.bind()
	if err == nil && p.opts.Verify {
		err = p.spoil(m)
	}
	return m, err
}

// spoil fills the memory of intermediates, also that of the host which they wait in, with NaN, which the integers of a step do not have either: what is
// read was written by the same run.
func (p *Plan) spoil(m memory) error {
	part := bytes.Repeat([]byte{0xff}, int(min(max(p.size, p.hostSize), 1<<20)))
	for _, of := range []struct {
		buf  device.Buffer
		size int64
	}{{m.device, p.size}, {m.host, p.hostSize}} {
		for at := int64(0); at < of.size; at += int64(len(part)) {
			if err := p.dev.Stream(0).Upload(device.Ptr{Buf: of.buf, Off: at}, part[:min(of.size-at, int64(len(part)))]); err != nil {
				return err
			}
		}
	}
	return nil
}

// bind computes addresses when the arena is new.
func (p *Plan) bind() (memory, error) {
	arena, gen, err := p.session.memoryFor()
	if err != nil {
		return memory{}, err
	}
	storeGen := p.store.generation()
	if gen == p.bound && storeGen == p.boundStore {
		return arena, nil
	}
	if err := p.supplied(); err != nil {
		return memory{}, err
	}
	if err := p.recording.drop(); err != nil {
		return memory{}, err
	}
	for i := range p.steps {
		st := &p.steps[i]
		if st.inPtr, err = p.addresses(st.in, arena); err != nil {
			return memory{}, err
		}
		if st.outPtr, err = p.addresses(st.out, arena); err != nil {
			return memory{}, err
		}
		if st.scratchPtr, err = p.address(st.scratch, arena); err != nil {
			return memory{}, err
		}
	}
	p.bound, p.boundStore = gen, storeGen
	p.store.written(p.g.Writes()) // by the run that begins
	return arena, nil
}

// supplied refuses a run that would read zeros where weights belong, which trains without a word and learns nothing.
func (p *Plan) supplied() error {
	var lacking []*graph.Var
	anyMoved := false
	for _, n := range p.g.Nodes() {
		r, ok := n.Op.(graph.Read)
		if !ok {
			continue
		}
		lacks, moved := p.store.lacks(r.Var)
		if lacks {
			lacking = append(lacking, r.Var)
		}
		anyMoved = anyMoved || moved
	}
	more := ""
	switch len(lacking) {
	case 0:
		return nil
	case 1:
	default:
		more = fmt.Sprintf(" (and %d more like it)", len(lacking)-1)
	}
	return fmt.Errorf("plan %q: variable %v has no value in the plan's store%s; %s", p.g.Name(), lacking[0], more, howSupplied(anyMoved))
}

// howSupplied says where values of variables come from that must be supplied.
func howSupplied(moved bool) string {
	if moved {
		return "it was set before the variable became part of a slab: make optim.NewGroup first, and load the weights after it"
	}
	return "load the weights into it (layers.Source.Load), and those of an adapter (lora.Adapter.Init), or set them"
}

func (p *Plan) addresses(places []place, arena memory) ([]device.Ptr, error) {
	out := make([]device.Ptr, len(places))
	for i, at := range places {
		var err error
		if out[i], err = p.address(at, arena); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (p *Plan) upload(s device.Stream, feed Feed, arena memory) error {
	for i := range p.inputs {
		p.inputs[i].fed, p.inputs[i].given = nil, false
	}
	for v, x := range feed {
		op, ok := inputOp(v)
		if !ok {
			return fmt.Errorf("plan: the feed names %v, which is not an input of the graph", v)
		}
		for i := range p.inputs { // few
			if in := &p.inputs[i]; in.op == op {
				in.fed, in.given = x, true
			}
		}
	}
	for i := range p.inputs {
		in := &p.inputs[i]
		if !in.given {
			return fmt.Errorf("plan: input %q %v is not fed; the graph needs: %s", in.op.Label, in.op.Type, p.inputNames())
		}
		t, err := in.tensor()
		if err != nil {
			return fmt.Errorf("plan: input %q: %w", in.op.Label, err)
		}
		at, err := p.address(in.where, arena)
		if err != nil {
			return err
		}
		if err := s.Upload(at, t.Bytes()); err != nil {
			return fmt.Errorf("plan: input %q: %w", in.op.Label, err)
		}
		in.fed = nil
	}
	return nil
}

func inputOp(v graph.Value) (graph.Input, bool) {
	if v.Node() == nil {
		return graph.Input{}, false
	}
	op, ok := v.Node().Op.(graph.Input)
	return op, ok
}

func (p *Plan) inputNames() string {
	var names []string
	for _, in := range p.inputs {
		names = append(names, in.op.Label)
	}
	sort.Strings(names)
	return strings.Join(names, ", ")
}

// tensor returns what was fed: a tensor of the exact type, or a number for an input of one element.
func (in *inputSlot) tensor() (*tensor.Tensor, error) {
	want := in.op.Type
	var f float64
	switch x := in.fed.(type) {
	case *tensor.Tensor:
		if x == nil || x.Type() != want {
			return nil, fmt.Errorf("fed %v, the graph declares %v", typeOf(x), want)
		}
		return x, nil
	case float64:
		f = x
	case float32:
		f = float64(x)
	case int:
		f = float64(x)
	case int32:
		f = float64(x)
	case int64:
		f = float64(x)
	default:
		return nil, fmt.Errorf("fed a %T; feed a *tensor.Tensor or a number", x)
	}
	if want.Size() != 1 {
		return nil, fmt.Errorf("fed one number, the graph declares %v", want)
	}
	if in.number == nil {
		in.number = tensor.New(want)
	}
	in.number.Set(0, f)
	return in.number, nil
}

func typeOf(t *tensor.Tensor) any {
	if t == nil {
		return "nil"
	}
	return t.Type()
}

func (p *Plan) collect(s device.Stream, arena memory) (Result, error) {
	res := Result{vals: make(map[graph.Value]*tensor.Tensor, len(p.outs))}
	for i, v := range p.outs {
		t := tensor.New(v.Type())
		at, err := p.address(p.outAt[i], arena)
		if err != nil {
			return res, err
		}
		if len(t.Bytes()) > 0 {
			if err := s.Download(t.Bytes(), at); err != nil {
				return res, p.fault(fmt.Errorf("output %d: %w", i, err))
			}
		}
		res.vals[p.asked[i]] = t
	}
	return res, p.fault(s.Sync())
}
