package onnx

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/autograd/gradcheck"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Result is what became of a case.
type Result struct {
	Case    *Case
	Ran     bool // false where -run leaves it out
	Passed  bool
	Tight   bool   // the outputs also agree within 1e-6 + 1e-5·|want|
	Checked bool   // the gradient was checked
	Reason  string // why the case cannot run; "" with Passed false: it ran and is wrong
}

// Run computes every case on a device, one subtest a case, and reports what passed. A wrong result or gradient fails its
// subtest; what cannot run is left to the report.
func Run(t *testing.T, dev device.Device) *Report {
	t.Helper()
	s, err := Load(filepath.Join(golden.Dir(t), "onnx-ops"))
	if err != nil {
		t.Fatal(err)
	}
	r := &Report{}
	for i := range s.Cases {
		res := Result{Case: &s.Cases[i]}
		t.Run(res.Case.Name, func(t *testing.T) {
			res.Ran = true
			s.one(t, dev, &res)
		})
		r.Results = append(r.Results, res)
	}
	return r
}

// errCannot marks what a handler does not support.
var errCannot = errors.New("cannot run")

func (s *Suite) one(t *testing.T, dev device.Device, res *Result) {
	op, ok := operators[key(res.Case.Domain, res.Case.Op)]
	if !ok {
		res.Reason = "the operator is not built"
		t.Log(res.Reason)
		return
	}
	fixed, err := s.forward(dev, op, res)
	switch {
	case errors.Is(err, errCannot):
		t.Log(res.Reason)
		return
	case err != nil:
		t.Error(err)
		return
	}
	if op.NoGrad == "" {
		if res.Checked, err = s.gradient(dev, op, res.Case, fixed); err != nil {
			t.Error(err)
			return
		}
	}
	res.Passed = true
}

// node prepares a case; in are the tensors in place of the stored ones.
func (s *Suite) node(c *Case, g *graph.Graph, in []*tensor.Tensor) *Node {
	n := &Node{Op: c.Op, Domain: c.Domain, Opset: c.Opset, graph: g, attrs: map[string]json.RawMessage{}}
	maps.Copy(n.attrs, c.Defaults)
	maps.Copy(n.attrs, c.Attributes)
	for i, t := range in {
		n.in = append(n.in, arg{host: t, typ: text(c.InputTypes[i])})
	}
	for i := range c.Outputs {
		n.outs = append(n.outs, text(c.OutputTypes[i]))
	}
	return n
}

func (s *Suite) inputs(c *Case) []*tensor.Tensor {
	var in []*tensor.Tensor
	for _, key := range c.Inputs {
		in = append(in, s.tensor(key))
	}
	return in
}

// forward computes the outputs and compares them. It returns which inputs the handler reads while building.
func (s *Suite) forward(dev device.Device, op Operator, res *Result) (fixed []bool, err error) {
	c := res.Case
	n := s.node(c, graph.New(c.Name), s.inputs(c))
	outs := op.Build(n)
	for i := range n.in {
		fixed = append(fixed, n.in[i].fixed)
	}
	if n.err != nil {
		res.Reason = n.err.Error()
		return nil, errCannot
	}
	if err := n.graph.Err(); err != nil {
		return nil, err
	}
	feed := plan.Feed{}
	for i := range n.in {
		if v := n.in[i].value; !v.Absent() {
			feed[v] = n.in[i].host
		}
	}
	var vals []graph.Value
	var want []*tensor.Tensor
	for i, key := range c.Outputs {
		if key == nil {
			continue
		}
		if i >= len(outs) || outs[i].Absent() {
			return nil, fmt.Errorf("output %d is missing", i)
		}
		vals, want = append(vals, outs[i]), append(want, s.tensor(key))
	}
	got, err := plan.Eval(dev, feed, vals...)
	if err != nil {
		return nil, err
	}
	res.Tight = true
	for i := range got {
		tight, err := compare(got[i], want[i])
		if err != nil {
			return nil, fmt.Errorf("output %d: %w", i, err)
		}
		res.Tight = res.Tight && tight
	}
	return fixed, nil
}

// compare applies the standard's rule: integers, bools and shapes equal, floats within 1e-7 + 1e-3·|want|, NaN equal to NaN.
// bfloat16 is given one unit in the last place. tight says that floats agree within 1e-6 + 1e-5·|want|.
func compare(got, want *tensor.Tensor) (tight bool, err error) {
	if got.Type() != want.Type() {
		return false, fmt.Errorf("the type is %v, want %v", got.Type(), want.Type())
	}
	d := want.DType()
	if !d.IsFloat() {
		if string(got.Bytes()) != string(want.Bytes()) {
			return false, fmt.Errorf("got\n%v\nwant\n%v", got, want)
		}
		return true, nil
	}
	rel := 1e-3
	if d == tensor.BF16 {
		rel = 1.0 / 128
	}
	tight = true
	for i := range want.Type().Size() {
		g, w := got.At(i), want.At(i)
		diff := math.Abs(g - w)
		switch {
		case g == w, math.IsNaN(g) && math.IsNaN(w):
		case diff <= 1e-7+rel*math.Abs(w) && !math.IsInf(w, 0):
			tight = tight && diff <= 1e-6+1e-5*math.Abs(w)
		default:
			return false, fmt.Errorf("element %d of %v is %v, want %v", i, want.Type(), g, w)
		}
	}
	return tight, nil
}

// gradient checks the operator's gradient and the gradient of that in float64 on the case's inputs; checked is false where
// nothing is differentiable.
func (s *Suite) gradient(dev device.Device, op Operator, c *Case, fixed []bool) (checked bool, err error) {
	o := gradcheck.Options{Order: 2}
	rng := rand.New(rand.NewPCG(7, uint64(len(c.Name))))
	in := s.inputs(c)
	at := map[int]int{} // input of the node -> input of the check
	promoted := false
	for i, t := range in {
		if t == nil {
			continue
		}
		hold := fixed[i] || slices.Contains(op.Fixed, i)
		data := slices.Contains(op.Promote, i)
		if data || isFloat(c.InputTypes[i]) {
			promoted = promoted || data
			if t, err = t.Convert(tensor.F64); err != nil {
				return false, err
			}
			smooth(t, op.Kinks && !hold, rng)
		} else {
			hold = true
		}
		in[i], at[i] = t, len(o.Inputs)
		o.Inputs = append(o.Inputs, gradcheck.Input{Value: t, NoGrad: hold})
		checked = checked || !hold && t.Type().Size() > 0
	}
	if !checked || !promoted && !slices.ContainsFunc(c.OutputTypes, isFloat) {
		return false, nil
	}
	var n *Node
	o.F = func(vals []graph.Value) []graph.Value {
		n = s.node(c, vals[0].Graph(), in)
		n.Double = true
		for i, j := range at {
			n.in[i].value = vals[j]
		}
		return op.Build(n)
	}
	for _, o.Eps = range []float64{1e-5, 1e-6} { // near a pole only the smaller step is short enough for the limit
		if err = gradcheck.Check(dev, o); err == nil {
			break
		}
	}
	if n != nil && n.err != nil {
		err = n.err
	}
	return true, err
}

// isFloat reports whether gradients are taken of a type: narrower floats are grids.
func isFloat(typ *string) bool {
	e, ok := elemNamed(text(typ))
	return ok && e.dtype.IsFloat() && e.bits >= 16
}

// smooth replaces what is not finite, and with kinks moves the elements off the points where a function is not smooth, by
// amounts that are far apart compared with the step of the central differences.
func smooth(t *tensor.Tensor, kinks bool, rng *rand.Rand) {
	for i := range t.Type().Size() {
		x := t.At(i)
		if math.IsNaN(x) || math.IsInf(x, 0) {
			x = rng.NormFloat64()
		}
		if kinks {
			x += 0.02*rng.Float64() + 0.01
		}
		t.Set(i, x)
	}
}
