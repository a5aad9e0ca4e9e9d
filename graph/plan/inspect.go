package plan

import (
	"context"
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// NonFiniteError names the first node whose output holds a NaN or an infinity although its inputs are finite or it is the
// first to be looked at.
type NonFiniteError struct {
	Node  *graph.Node
	Index int // flat index of the element
	Value float64
}

// Error names node, scope and line.
func (e *NonFiniteError) Error() string {
	return fmt.Sprintf("%s: %s gives %v at element %d", e.Node.Where(), e.Node, e.Value, e.Index)
}

// MismatchError names the first node whose kernel disagrees with the op's decomposition on the same inputs.
type MismatchError struct {
	Node      *graph.Node
	Output    int
	Index     int // flat index of the worst element
	Got, Want float64
	Limit     float64 // of |Got-Want|; 0 for integers, of which a small share may differ
}

// Error names node, scope and line.
func (e *MismatchError) Error() string {
	return fmt.Sprintf("%s: %s: the kernel gives %v at element %d of output %d, the op's decomposition %v (limit of the difference %.3g)",
		e.Node.Where(), e.Node, e.Got, e.Index, e.Output, e.Want, e.Limit)
}

// inspected launches a step and looks at what it computes: for Probe, and for Check. The inputs are fetched before the launch,
// since the kernel may work in place.
func (p *Plan) inspected(st *step, s device.Stream) error {
	if st.kernel == nil {
		return st.failed(p.start(st, s))
	}
	var before []*tensor.Tensor
	dec := p.oracle(st)
	if dec != nil {
		for i, v := range st.node.In {
			var t *tensor.Tensor
			if v.Valid() {
				var err error
				if t, err = fetch(s, st.inPtr[i], v.Type()); err != nil {
					return err
				}
			}
			before = append(before, t)
		}
	}
	err := p.start(st, s)
	if err == nil {
		err = s.Sync()
	}
	if err != nil {
		return st.failed(err)
	}
	outs, err := p.results(st, s)
	if err != nil {
		return err
	}
	if err := p.look(st.node, dec, before, outs); err != nil {
		return err
	}
	if !p.opts.Check {
		return nil
	}
	for _, t := range outs {
		if i, bad := firstNonFinite(t); bad {
			return &NonFiniteError{st.node, i, t.At(i)}
		}
	}
	return nil
}

// look shows what a node computed to Probe and compares it with the decomposition, which runs a plan of its own: others have their turn meanwhile.
func (p *Plan) look(n *graph.Node, dec graph.Decomposable, before, outs []*tensor.Tensor) error {
	p.store.give()
	defer p.store.take()
	if p.opts.Probe != nil {
		p.opts.Probe(n, outs)
	}
	if dec == nil {
		return nil
	}
	return p.checkDecomposition(n, dec, before, outs)
}

// oracle returns the decomposition to compare a step with, nil for none: a collective, an op without.
func (p *Plan) oracle(st *step) graph.Decomposable {
	if !p.opts.Check || st.lane != graph.Compute {
		return nil
	}
	d, _ := st.node.Op.(graph.Decomposable)
	return d
}

func (p *Plan) results(st *step, s device.Stream) ([]*tensor.Tensor, error) {
	var outs []*tensor.Tensor
	for i, t := range st.node.Out {
		if i >= len(st.outPtr) {
			break
		}
		h, err := fetch(s, st.outPtr[i], t)
		if err != nil {
			return nil, err
		}
		outs = append(outs, h)
	}
	return outs, nil
}

func (p *Plan) checkDecomposition(n *graph.Node, d graph.Decomposable, in, got []*tensor.Tensor) error {
	want, err := evalDecomposition(p.dev, n, d, in)
	if err != nil {
		return fmt.Errorf("%s: the decomposition of %s: %w", n.Where(), n.Op.Name(), err)
	}
	tol := tolerance(n)
	for i := range got {
		if e := differs(got[i], want[i], tol); e != nil {
			e.Node, e.Output = n, i
			return e
		}
	}
	return nil
}

func evalDecomposition(dev device.Device, n *graph.Node, d graph.Decomposable, in []*tensor.Tensor) ([]*tensor.Tensor, error) {
	g := graph.New("decomposition of " + n.Op.Name())
	vals := make([]graph.Value, len(in))
	feed := Feed{}
	for i, t := range in {
		if t != nil {
			vals[i] = g.Input(fmt.Sprint(i), t.Type())
			feed[vals[i]] = t
		}
	}
	outs := d.Decompose(vals)
	p, err := Compile(outs, Options{Device: dev, NoFuse: true})
	if err != nil {
		return nil, err
	}
	defer func() { _ = p.Close() }() // the plan's memory only
	res, err := p.Run(context.Background(), feed)
	if err != nil {
		return nil, err
	}
	want := make([]*tensor.Tensor, len(outs))
	for i, v := range outs {
		want[i] = res.Tensor(v)
	}
	return want, nil
}

// Limits of Check, as a share of the largest magnitude of an output (at least 1): that of the coarsest dtype an op touches,
// since its decomposition may round there where the kernel does not.
var checkLimits = map[tensor.DType]float64{tensor.F64: 1e-9, tensor.F32: 1e-4, tensor.F16: 1e-2, tensor.BF16: 5e-2}

// maxUnequal is the share of integers and bools that may differ: codes of values on a rounding border.
const maxUnequal = 0.01

func tolerance(n *graph.Node) float64 {
	tol := 0.0
	for _, t := range append(n.InTypes(), n.Out...) {
		tol = max(tol, checkLimits[t.DType])
	}
	return tol
}

// differs returns the worst element beyond the limit, nil when there is none.
func differs(got, want *tensor.Tensor, tol float64) *MismatchError {
	if got.Type() != want.Type() {
		return &MismatchError{Index: -1, Got: math.NaN(), Want: math.NaN()}
	}
	isFloat := got.DType().IsFloat()
	scale, n := 1.0, got.Type().Size()
	for i := range n {
		if w := math.Abs(want.At(i)); !math.IsInf(w, 0) {
			scale = max(scale, w)
		}
	}
	e := &MismatchError{Index: -1, Limit: tol * scale}
	worst, unequal := -1.0, 0
	for i := range n {
		g, w := got.At(i), want.At(i)
		if g == w || math.IsNaN(g) && math.IsNaN(w) {
			continue
		}
		d := math.Abs(g - w)
		if isFloat && d <= e.Limit {
			continue
		}
		unequal++
		if math.IsNaN(d) {
			d = math.Inf(1)
		}
		if d > worst {
			worst, e.Index, e.Got, e.Want = d, i, g, w
		}
	}
	if !isFloat {
		e.Limit = 0
		if float64(unequal) <= maxUnequal*float64(n) {
			return nil
		}
	}
	if unequal == 0 {
		return nil
	}
	return e
}

func fetch(s device.Stream, at device.Ptr, t tensor.Type) (*tensor.Tensor, error) {
	h := tensor.New(t)
	if len(h.Bytes()) == 0 {
		return h, nil
	}
	return h, s.Download(h.Bytes(), at)
}

func firstNonFinite(t *tensor.Tensor) (int, bool) {
	if !t.DType().IsFloat() {
		return 0, false
	}
	for i := range t.Type().Size() {
		if v := t.At(i); math.IsNaN(v) || math.IsInf(v, 0) {
			return i, true
		}
	}
	return 0, false
}
