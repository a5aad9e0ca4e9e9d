// Package gradcheck compares the gradients a graph builds with central differences, in float64 along one random direction: a
// wrong factor, sign, transposition or broadcast shows, at the price of three runs whatever the number of inputs. The second
// order differentiates the gradient again and checks that in the same way.
package gradcheck

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Input is one argument of the function under test.
type Input struct {
	Value  *tensor.Tensor // f64 where it is differentiated; any dtype where NoGrad
	NoGrad bool           // held fixed: indices, masks, and values at which the function is not smooth
}

// Options of a check. Zero Order, Eps and Tol mean 1, 1e-5 and 1e-6.
type Options struct {
	Inputs []Input
	F      func(in []graph.Value) []graph.Value // outputs that are not floating point are ignored
	Order  int                                  // 1: gradients; 2: gradients of gradients too
	Eps    float64                              // step along the direction, whose entries are standard normal
	Tol    float64                              // limit of |analytic - numeric| / max(1, |analytic|, |numeric|)
	Seed   uint64                               // of the direction and of the outputs' weights
}

// Run fails the test when the gradient of Σ w·F(x) for random w disagrees with central differences.
func Run(t testing.TB, dev device.Device, o Options) {
	t.Helper()
	if err := Check(dev, o); err != nil {
		t.Fatal(err)
	}
}

// Check is Run for callers without a test.
func Check(dev device.Device, o Options) error {
	if o.Order == 0 {
		o.Order = 1
	}
	if o.Eps == 0 {
		o.Eps = 1e-5
	}
	if o.Tol == 0 {
		o.Tol = 1e-6
	}
	c := &check{o: o, g: graph.New("gradcheck"), rng: rand.New(rand.NewPCG(o.Seed, 0x9e3779b97f4a7c15)), feed: plan.Feed{}}
	c.inputs()
	loss, err := c.weigh(o.F(c.in))
	for order := 1; err == nil && order <= o.Order; order++ {
		var grads []graph.Value
		if grads, err = autograd.GradValues(loss, c.wrt...); err != nil {
			break
		}
		if err = c.compare(dev, loss, grads); err != nil {
			return fmt.Errorf("gradcheck: order %d: %w", order, err)
		}
		if order < o.Order {
			loss, err = c.weigh(grads)
		}
	}
	if err != nil {
		return fmt.Errorf("gradcheck: %w", err)
	}
	return nil
}

type check struct {
	o    Options
	g    *graph.Graph
	rng  *rand.Rand
	in   []graph.Value
	wrt  []graph.Value
	feed plan.Feed
}

func (c *check) inputs() {
	for i, in := range c.o.Inputs {
		v := c.g.Input(fmt.Sprintf("x%d", i), in.Value.Type())
		c.in = append(c.in, v)
		c.feed[v] = in.Value
		if !in.NoGrad {
			c.wrt = append(c.wrt, v)
		}
	}
}

// weigh adds up the outputs under random weights, so that no two of their errors cancel.
func (c *check) weigh(outs []graph.Value) (graph.Value, error) {
	if err := c.g.Err(); err != nil {
		return graph.Value{}, err
	}
	var loss graph.Value
	for _, y := range outs {
		if y.Absent() || !y.DType().IsFloat() {
			continue
		}
		w := c.normal(y.Type().With(tensor.F64))
		term := ops.Sum(ops.Mul(ops.Cast(y, tensor.F64), c.g.Const(w)))
		if loss.Absent() {
			loss = term
		} else {
			loss = ops.Add(loss, term)
		}
	}
	if loss.Absent() {
		return loss, fmt.Errorf("the function has no floating-point output")
	}
	return loss, c.g.Err()
}

func (c *check) normal(typ tensor.Type) *tensor.Tensor {
	w := tensor.New(typ)
	for i := range typ.Size() {
		w.Set(i, c.rng.NormFloat64())
	}
	return w
}

// compare sets the directional derivative by the gradient against that by central differences.
func (c *check) compare(dev device.Device, loss graph.Value, grads []graph.Value) error {
	p, err := plan.Compile(append([]graph.Value{loss}, grads...), plan.Options{Device: dev, Verify: true})
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }() // the plan's memory only
	res, err := p.Run(context.Background(), c.feed)
	if err != nil {
		return err
	}
	var analytic float64
	plus, minus := plan.Feed{}, plan.Feed{}
	for v, x := range c.feed {
		plus[v], minus[v] = x, x
	}
	for i, v := range c.wrt {
		u, gr := c.normal(v.Type()), res.Tensor(grads[i])
		if gr.Type() != v.Type() {
			return fmt.Errorf("the gradient of input %d is %v, the input %v", i, gr.Type(), v.Type())
		}
		for j := range u.Type().Size() {
			analytic += gr.At(j) * u.At(j)
		}
		x := c.feed[v].(*tensor.Tensor)
		plus[v], minus[v] = shifted(x, u, c.o.Eps), shifted(x, u, -c.o.Eps)
	}
	up, err := p.Run(context.Background(), plus)
	if err != nil {
		return err
	}
	down, err := p.Run(context.Background(), minus)
	if err != nil {
		return err
	}
	numeric := (up.Float(loss) - down.Float(loss)) / (2 * c.o.Eps)
	scale := max(1, math.Abs(analytic), math.Abs(numeric))
	if diff := math.Abs(analytic - numeric); !(diff <= c.o.Tol*scale) {
		return fmt.Errorf("the gradient gives %.10g along a random direction, central differences %.10g (difference %.3g, limit %.3g)",
			analytic, numeric, diff, c.o.Tol*scale)
	}
	return nil
}

func shifted(x, u *tensor.Tensor, eps float64) *tensor.Tensor {
	y := x.Clone()
	for i := range y.Type().Size() {
		y.Set(i, x.At(i)+eps*u.At(i))
	}
	return y
}
