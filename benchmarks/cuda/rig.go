package main

import (
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// rotate is the bytes that the operands of a row have together at least.
const rotate = 160 << 20

// maxTurns is how many sets of operands a row has at most.
const maxTurns = 64

// rig is the device with what rows need: memory that is freed after each row, and random numbers that are made once.
type rig struct {
	dev      device.Device
	stream   device.Stream
	buffers  []device.Buffer
	patterns map[pattern]device.Ptr
	kept     []device.Buffer
	rotate   int64
}

type pattern struct {
	d tensor.DType
	f fill
}

// patternBytes is the length of random numbers, which larger operands repeat.
const patternBytes = 4 << 20

// work is what a row times: launches that go through `turns` sets of operands.
type work struct {
	turns  int
	launch func(turn int) error
	kernel string // the implementation chosen
}

func newRig(dev device.Device) *rig {
	return &rig{dev: dev, stream: dev.Stream(0), patterns: map[pattern]device.Ptr{}, rotate: rotate}
}

// alloc reserves memory until the end of the row.
func (r *rig) alloc(bytes int64) (device.Ptr, error) {
	b, err := r.dev.Alloc(max(bytes, 1))
	if err != nil {
		return device.Ptr{}, err
	}
	r.buffers = append(r.buffers, b)
	return device.Ptr{Buf: b}, nil
}

// release ends a row.
func (r *rig) release() error {
	err := r.stream.Sync()
	for _, b := range r.buffers {
		err = errors.Join(err, b.Free())
	}
	r.buffers = nil
	return err
}

func (r *rig) close() error {
	var err error
	for _, b := range r.kept {
		err = errors.Join(err, b.Free())
	}
	return err
}

// operand allocates and fills an operand.
func (r *rig) operand(o operand) (device.Ptr, error) {
	if o.made.Buf != nil {
		return o.made, nil
	}
	p, err := r.alloc(o.t.Bytes())
	if err != nil || o.fill == zeros {
		return p, err
	}
	if o.ints != nil {
		return p, r.stream.Upload(p, tensor.AsBytes(o.ints))
	}
	if o.ramp > 0 {
		x := tensor.New(o.t)
		for i := range o.t.Size() {
			x.Set(i, float64(i*o.ramp))
		}
		return p, r.stream.Upload(p, x.Bytes())
	}
	from, err := r.pattern(pattern{o.t.DType, o.fill})
	if err != nil {
		return p, err
	}
	for at := int64(0); at < o.t.Bytes(); at += patternBytes {
		if err := r.stream.Copy(p.Add(at), from, min(patternBytes, o.t.Bytes()-at)); err != nil {
			return p, err
		}
	}
	return p, nil
}

// pattern makes random numbers on the host once for each dtype.
func (r *rig) pattern(k pattern) (device.Ptr, error) {
	if p, ok := r.patterns[k]; ok {
		return p, nil
	}
	rng := rand.New(rand.NewPCG(7, uint64(k.d)))
	x := tensor.New(tensor.T(k.d, patternBytes/k.d.Size()))
	switch raw := x.Bytes(); {
	case k.d.IsInt():
		for i := range raw {
			raw[i] = byte(rng.Uint32())
		}
	default:
		for i := range x.Type().Size() {
			x.Set(i, k.f.draw(rng, i))
		}
	}
	b, err := r.dev.Alloc(patternBytes)
	if err != nil {
		return device.Ptr{}, err
	}
	r.kept = append(r.kept, b)
	r.patterns[k] = device.Ptr{Buf: b}
	return r.patterns[k], r.stream.Upload(r.patterns[k], x.Bytes())
}

// draw is element i of a pattern.
func (f fill) draw(rng *rand.Rand, i int) float64 {
	switch f {
	case scales:
		return 0.5 + rng.Float64()
	case large:
		return 100 + rng.NormFloat64()
	case small:
		return 1e-3 * rng.NormFloat64()
	case planted:
		if i%4096%512 == 77 {
			return 20 + rng.NormFloat64()
		}
	}
	return rng.NormFloat64()
}

// op makes the work of one op: its kernel on as many sets of operands as rotate over the caches.
func (r *rig) op(op graph.Op, in ...operand) (*work, error) { return r.build(op, false, in) }

// inPlace is op with outputs where the op's inputs are, as it allows: updates of parameters and states.
func (r *rig) inPlace(op graph.Op, in ...operand) (*work, error) { return r.build(op, true, in) }

func (r *rig) build(op graph.Op, inPlace bool, in []operand) (*work, error) {
	types := make([]tensor.Type, len(in))
	for i, o := range in {
		types[i] = o.t
	}
	out, err := op.Infer(types)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op.Name(), err)
	}
	k, err := r.dev.Kernel(device.Spec{Op: op, In: types, Out: out})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op.Name(), err)
	}
	w := &work{kernel: op.Name()}
	if n, ok := k.(device.Named); ok {
		w.kernel = n.KernelName()
	}
	scratch, err := r.alloc(k.Scratch())
	if err != nil {
		return nil, err
	}
	each := int64(0)
	for _, t := range append(types, out...) {
		each += t.Bytes()
	}
	w.turns = int(min(max((r.rotate+each-1)/max(each, 1), 1), maxTurns))
	ins, outs := make([][]device.Ptr, w.turns), make([][]device.Ptr, w.turns)
	for i := range w.turns {
		if ins[i], outs[i], err = r.set(op, inPlace, in, out); err != nil {
			return nil, err
		}
	}
	w.launch = func(turn int) error { return k.Launch(r.stream, ins[turn], outs[turn], scratch) }
	return w, nil
}

// set allocates the operands of one turn.
func (r *rig) set(op graph.Op, inPlace bool, in []operand, out []tensor.Type) (ins, outs []device.Ptr, err error) {
	ins, outs = make([]device.Ptr, len(in)), make([]device.Ptr, len(out))
	for i, o := range in {
		if o.t.DType == tensor.Invalid {
			continue // an absent optional input
		}
		if ins[i], err = r.operand(o); err != nil {
			return nil, nil, err
		}
	}
	if a, ok := op.(graph.Aliaser); ok && inPlace {
		for _, p := range a.Alias() {
			outs[p.Out] = ins[p.In]
		}
	}
	for i, t := range out {
		if outs[i].Buf != nil {
			continue
		}
		if outs[i], err = r.alloc(t.Bytes()); err != nil {
			return nil, nil, err
		}
	}
	return ins, outs, nil
}
