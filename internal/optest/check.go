package optest

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/autograd/gradcheck"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/optest/interp"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Compare reports the first way in which got differs from want by more than limit times the largest finite magnitude in want
// (at least 1). want may have a wider dtype: it is rounded to got's first, integers by dropping high bits. NaN equals NaN.
func Compare(got, want *tensor.Tensor, limit float64) error {
	if got == nil || want == nil {
		return errors.New("a result is missing")
	}
	if got.Shape() != want.Shape() {
		return fmt.Errorf("the shape is %v, want %v", got.Shape(), want.Shape())
	}
	d := got.DType()
	scale := 1.0
	for i := range want.Type().Size() {
		if w := math.Abs(want.At(i)); w > scale && !math.IsInf(w, 0) && d.IsFloat() {
			scale = w
		}
	}
	for i := range want.Type().Size() {
		g, w := got.At(i), narrowed(want, i, d)
		switch {
		case math.IsNaN(w) && math.IsNaN(g), g == w:
		case d.IsFloat() && math.Abs(g-w) <= limit*scale:
		default:
			return fmt.Errorf("element %d of %v is %v, want %v (difference %.3g, limit %.3g)", i, got.Type(), g, w, math.Abs(g-w), limit*scale)
		}
	}
	return nil
}

// narrowed returns element i of t as dtype d would hold it.
func narrowed(t *tensor.Tensor, i int, d tensor.DType) float64 {
	one := tensor.New(tensor.T(d, 1))
	switch {
	case d.IsInt() && t.DType() == tensor.I64 && d != tensor.I64:
		copy(one.Bytes(), t.Bytes()[8*i:]) // little-endian: the low bytes
	default:
		one.Set(0, t.At(i))
	}
	return one.At(0)
}

// OnDevice compares the case on dev, each kernel between guard words and then as a compiled plan, with the reference.
func (c *Case) OnDevice(dev, ref device.Device, d tensor.DType) error {
	want, err := c.want(ref, d)
	if err != nil {
		return err
	}
	b := c.New(d)
	if err := b.Graph.Err(); err != nil {
		return err
	}
	got, err := interp.Run(interp.Options{Device: dev}, interp.Env{Feed: b.Feed}, b.Out...)
	if err != nil {
		return err
	}
	for i := range got {
		if err := Compare(got[i], want[i], c.Limit(d)); err != nil {
			return fmt.Errorf("kernels: output %d: %w", i, err)
		}
	}
	planned, err := b.Plan(plan.Options{Device: dev, Verify: true})
	if err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	for i := range planned {
		if err := Compare(planned[i], want[i], c.Limit(d)); err != nil {
			return fmt.Errorf("plan: output %d: %w", i, err)
		}
	}
	return nil
}

func (c *Case) want(ref device.Device, d tensor.DType) ([]*tensor.Tensor, error) {
	r := c.Reference(d)
	if err := r.Graph.Err(); err != nil {
		return nil, fmt.Errorf("reference: %w", err)
	}
	want, err := interp.Run(interp.Options{Device: ref}, interp.Env{Feed: r.Feed}, r.Out...)
	if err != nil {
		return nil, fmt.Errorf("reference: %w", err)
	}
	return want, nil
}

// Plan compiles the case and runs it twice, which must give the same.
func (b *Built) Plan(o plan.Options) ([]*tensor.Tensor, error) {
	p, err := plan.Compile(b.Out, o)
	if err != nil {
		return nil, err
	}
	defer func() { _ = p.Close() }() // the plan's memory only
	feed := plan.Feed{}
	for v, t := range b.Feed {
		feed[v] = t
	}
	var first []*tensor.Tensor
	for run := range 2 {
		res, err := p.Run(context.Background(), feed)
		if err != nil {
			return nil, err
		}
		for i, v := range b.Out {
			t := res.Tensor(v)
			if run == 0 {
				first = append(first, t)
			} else if string(first[i].Bytes()) != string(t.Bytes()) {
				return nil, fmt.Errorf("output %d differs between two runs of one plan", i)
			}
		}
	}
	return first, nil
}

// Decomposed compares every op of the case that has both a kernel and a decomposition: the one against the other, on the same
// inputs. It returns how many ops it compared.
func (c *Case) Decomposed(dev device.Device, d tensor.DType) (int, error) {
	b := c.New(d)
	var first error
	count := 0
	seen := func(n *graph.Node, in, out []*tensor.Tensor) {
		dec, ok := n.Op.(graph.Decomposable)
		if !ok || first != nil {
			return
		}
		if _, err := dev.Kernel(device.Spec{Op: n.Op, In: n.InTypes(), Out: n.Out}); err != nil {
			return
		}
		count++
		want, err := interp.Decomposed(interp.Options{Device: dev}, n, dec, in)
		for i := range want {
			if err == nil {
				// both round: each may be off by the limit
				err = Compare(out[i], want[i], 2*c.Limit(outType(n, i, d)))
			}
		}
		if err != nil {
			first = fmt.Errorf("%s: %w", n, err)
		}
	}
	_, err := interp.Run(interp.Options{Device: dev, Seen: seen}, interp.Env{Feed: b.Feed}, b.Out...)
	return count, errors.Join(err, first)
}

// outType is the dtype whose limit applies to an output: a wider output of a narrow computation is no more exact.
func outType(n *graph.Node, i int, d tensor.DType) tensor.DType {
	if out := n.Out[i].DType; Limits[out] > Limits[d] {
		return out
	}
	return d
}

// Gradients checks the case's gradients in float64.
func (c *Case) Gradients(dev device.Device) error {
	if c.NoGrad != "" {
		return nil
	}
	rng := c.Rand()
	o := gradcheck.Options{Order: c.Order, Tol: c.GradTol}
	if o.Order == 0 {
		o.Order = 2
	}
	for _, a := range c.In {
		t := a.Tensor(tensor.F64, rng)
		o.Inputs = append(o.Inputs, gradcheck.Input{Value: t, NoGrad: a.NoGrad || t.DType() != tensor.F64})
	}
	o.F = func(in []graph.Value) []graph.Value { return c.Build(in[0].Graph(), in) }
	return gradcheck.Check(dev, o)
}

// Backward returns the graph of the case with its gradients, for what only arises there; nil when there are none.
func (c *Case) Backward(d tensor.DType) (*Built, []graph.Value, error) {
	b := c.New(d)
	if c.NoGrad != "" {
		return b, nil, b.Graph.Err()
	}
	var wrt []graph.Value
	for i, v := range b.In {
		if v.DType().IsFloat() && !c.In[i].NoGrad {
			wrt = append(wrt, v)
		}
	}
	grads, err := gradients(b.Out, wrt)
	return b, grads, err
}
