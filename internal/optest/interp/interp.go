// Package interp runs a graph node by node, each launch on freshly allocated buffers between guard words: the naive reading of
// what a graph means, with which plans are compared, and a trap for kernels that write outside their outputs or into their
// inputs.
package interp

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Options of a run.
type Options struct {
	Device    device.Device
	Decompose bool // decompose every op that can be, instead of only those without a kernel
	Seen      func(n *graph.Node, in, out []*tensor.Tensor)
}

// Env holds what a graph reads: the inputs fed and the variables' values at the start of the step.
type Env struct {
	Feed map[graph.Value]*tensor.Tensor
	Vars map[*graph.Var]*tensor.Tensor // a variable not listed is zero; slabs are not followed
}

// Run evaluates outs. The variables are not written; the new value of a variable is the output of its Write's Value.
func Run(o Options, env Env, outs ...graph.Value) ([]*tensor.Tensor, error) {
	r := &runner{o: o, env: env, vals: map[graph.Value]*tensor.Tensor{}}
	if len(outs) == 0 {
		return nil, nil
	}
	g := outs[0].Graph()
	if err := g.Err(); err != nil {
		return nil, err
	}
	for i, live := range reachable(g, outs) {
		if !live {
			continue
		}
		if err := r.node(g.Nodes()[i]); err != nil {
			n := g.Nodes()[i]
			return nil, fmt.Errorf("%s: %s: %w", n.Pos(), n, err)
		}
	}
	res := make([]*tensor.Tensor, len(outs))
	for i, v := range outs {
		res[i] = r.vals[v]
	}
	return res, nil
}

func reachable(g *graph.Graph, outs []graph.Value) []bool {
	live := make([]bool, len(g.Nodes()))
	for _, v := range outs {
		live[v.Node().ID] = true
	}
	for i := len(live) - 1; i >= 0; i-- {
		for _, v := range g.Nodes()[i].In {
			if live[i] && v.Valid() {
				live[v.Node().ID] = true
			}
		}
	}
	return live
}

type runner struct {
	o    Options
	env  Env
	vals map[graph.Value]*tensor.Tensor
}

func (r *runner) node(n *graph.Node) error {
	switch op := n.Op.(type) {
	case graph.Input:
		t := r.env.Feed[n.Output(0)]
		if t == nil || t.Type() != op.Type {
			return errors.New("not fed")
		}
		r.vals[n.Output(0)] = t
		return nil
	case graph.Read:
		t := r.env.Vars[op.Var]
		if t == nil {
			t = tensor.New(op.Var.Type)
		}
		r.vals[n.Output(0)] = t
		return nil
	case graph.Constant:
		r.vals[n.Output(0)] = op.Data
		return nil
	}
	in := make([]*tensor.Tensor, len(n.In))
	for i, v := range n.In {
		in[i] = r.vals[v]
	}
	out, err := r.apply(n, in)
	if err != nil {
		return err
	}
	for i, t := range out {
		r.vals[n.Output(i)] = t
	}
	if r.o.Seen != nil {
		r.o.Seen(n, in, out)
	}
	return nil
}

func (r *runner) apply(n *graph.Node, in []*tensor.Tensor) ([]*tensor.Tensor, error) {
	if v, ok := n.Op.(graph.Viewer); ok {
		if off, ok := v.View(n.InTypes()); ok {
			t := tensor.New(n.Out[0])
			copy(t.Bytes(), in[0].Bytes()[off:])
			return []*tensor.Tensor{t}, nil
		}
	}
	d, canDecompose := n.Op.(graph.Decomposable)
	if r.o.Decompose && canDecompose {
		return r.decomposed(n, d, in)
	}
	out, err := Launch(r.o.Device, n.Op, in, n.Out)
	if errors.Is(err, device.ErrNoKernel) && canDecompose {
		return r.decomposed(n, d, in)
	}
	return out, err
}

func (r *runner) decomposed(n *graph.Node, d graph.Decomposable, in []*tensor.Tensor) ([]*tensor.Tensor, error) {
	return Decomposed(r.o, n, d, in)
}

// Decomposed runs the decomposition of one node on given inputs; an absent input is nil.
func Decomposed(o Options, n *graph.Node, d graph.Decomposable, in []*tensor.Tensor) ([]*tensor.Tensor, error) {
	g := graph.New("decomposition of " + n.Op.Name())
	vals := make([]graph.Value, len(in))
	feed := map[graph.Value]*tensor.Tensor{}
	for i, t := range in {
		if t != nil {
			vals[i] = g.Input(fmt.Sprint(i), t.Type())
			feed[vals[i]] = t
		}
	}
	outs := d.Decompose(vals)
	if err := g.Err(); err != nil {
		return nil, fmt.Errorf("the decomposition is wrong: %w", err)
	}
	if len(outs) != len(n.Out) {
		return nil, fmt.Errorf("the decomposition gives %d values for %d outputs", len(outs), len(n.Out))
	}
	for i, v := range outs {
		if v.Type() != n.Out[i] {
			return nil, fmt.Errorf("the decomposition gives %v for output %d, which is %v", v.Type(), i, n.Out[i])
		}
	}
	return Run(o, Env{Feed: feed}, outs...)
}

// Guard words: guardBytes before and after every buffer hold guardByte. What a kernel is to write holds freshByte, which makes NaN of every
// floating-point number: a sum with one that was not written shows.
const (
	guardBytes = 256
	guardByte  = 0xa5
	freshByte  = 0xff
)

// Launch runs the kernel of one op once on guarded buffers. It returns device.ErrNoKernel when there is none, and an error when
// the kernel writes outside its outputs and scratch or into its inputs. Outputs and scratch start as a pattern, so that a kernel
// that relies on zeroed memory shows.
func Launch(dev device.Device, op graph.Op, in []*tensor.Tensor, out []tensor.Type) ([]*tensor.Tensor, error) {
	spec := device.Spec{Op: op, Out: out}
	for _, t := range in {
		var typ tensor.Type
		if t != nil {
			typ = t.Type()
		}
		spec.In = append(spec.In, typ)
	}
	k, err := dev.Kernel(spec)
	if err != nil {
		return nil, err
	}
	l := &launch{dev: dev, s: dev.Stream(0)}
	defer l.free()
	ins, outs, scratch := l.operands(in, out, k.Scratch())
	if l.err == nil {
		l.err = k.Launch(l.s, ins, outs, scratch)
	}
	if l.err == nil {
		l.err = l.s.Sync()
	}
	if l.err != nil {
		return nil, l.err
	}
	for i, t := range in {
		if t != nil && len(t.Bytes()) > 0 && !bytes.Equal(l.read(ins[i], t.Type().Bytes()), t.Bytes()) {
			return nil, fmt.Errorf("the kernel wrote into input %d", i)
		}
	}
	l.checkGuards()
	res := make([]*tensor.Tensor, len(out))
	for i, typ := range out {
		res[i] = tensor.New(typ)
		copy(res[i].Bytes(), l.read(outs[i], typ.Bytes()))
	}
	return res, l.err
}

type launch struct {
	dev  device.Device
	s    device.Stream
	bufs []guarded
	err  error
}

type guarded struct {
	buf   device.Buffer
	bytes int64
	what  string
}

func (l *launch) operands(in []*tensor.Tensor, out []tensor.Type, scratchBytes int64) (ins, outs []device.Ptr, scratch device.Ptr) {
	for i, t := range in {
		var p device.Ptr
		if t != nil {
			p = l.alloc(fmt.Sprintf("input %d", i), t.Bytes(), t.Type().Bytes())
		}
		ins = append(ins, p)
	}
	for i, t := range out {
		outs = append(outs, l.alloc(fmt.Sprintf("output %d", i), nil, t.Bytes()))
	}
	if scratchBytes > 0 {
		scratch = l.alloc("scratch", nil, scratchBytes)
	}
	return ins, outs, scratch
}

// alloc makes a buffer of n bytes between guards.
func (l *launch) alloc(what string, data []byte, n int64) device.Ptr {
	if l.err != nil {
		return device.Ptr{}
	}
	all := bytes.Repeat([]byte{guardByte}, int(n)+2*guardBytes)
	for i := range n {
		all[guardBytes+i] = freshByte
	}
	copy(all[guardBytes:], data)
	b, err := l.dev.Alloc(int64(len(all)))
	if err == nil {
		err = l.s.Upload(device.Ptr{Buf: b}, all)
	}
	l.err = err
	l.bufs = append(l.bufs, guarded{b, n, what})
	return device.Ptr{Buf: b, Off: guardBytes}
}

func (l *launch) read(p device.Ptr, n int64) []byte {
	b := make([]byte, n)
	if n > 0 && l.err == nil {
		l.err = l.s.Download(b, p)
	}
	return b
}

func (l *launch) checkGuards() {
	guard := bytes.Repeat([]byte{guardByte}, guardBytes)
	for _, b := range l.bufs {
		before := l.read(device.Ptr{Buf: b.buf}, guardBytes)
		after := l.read(device.Ptr{Buf: b.buf, Off: guardBytes + b.bytes}, guardBytes)
		if l.err == nil && (!bytes.Equal(before, guard) || !bytes.Equal(after, guard)) {
			l.err = fmt.Errorf("the kernel wrote outside %s", b.what)
		}
	}
}

func (l *launch) free() {
	for _, b := range l.bufs {
		if b.buf != nil {
			l.err = errors.Join(l.err, b.buf.Free())
		}
	}
}
