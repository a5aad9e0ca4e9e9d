package onnx

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Node is a case under construction, as a handler sees it: inputs as graph values or as host tensors, attributes merged with
// the standard's defaults. The first complaint (Fail) is kept; handlers may go on after it.
type Node struct {
	Op     string
	Domain string
	Opset  int

	// Double is set while gradients are checked: every floating-point input is float64, and DType gives F64 for each of
	// ONNX's floating-point types, so that handlers that take dtypes from In or DType need not care.
	Double bool

	graph *graph.Graph
	attrs map[string]json.RawMessage
	in    []arg
	outs  []string // ONNX types of the outputs; "" = not asked for
	err   error
}

type arg struct {
	host  *tensor.Tensor // nil: left out
	typ   string
	value graph.Value
	fixed bool // read on the host, so it is no variable of the function
}

// Graph returns the graph being built.
func (n *Node) Graph() *graph.Graph { return n.graph }

// NumIn is the number of inputs, trailing ones left out not counted.
func (n *Node) NumIn() int { return len(n.in) }

// NumOut is the number of outputs that the case has.
func (n *Node) NumOut() int { return len(n.outs) }

// Has reports whether input i is given.
func (n *Node) Has(i int) bool { return i < len(n.in) && n.in[i].host != nil }

// Wants reports whether output i is asked for.
func (n *Node) Wants(i int) bool { return i < len(n.outs) && n.outs[i] != "" }

// In returns input i as a value fed at each run, the absent Value if it is left out.
func (n *Node) In(i int) graph.Value {
	if !n.Has(i) {
		return graph.Value{}
	}
	a := &n.in[i]
	if a.value.Absent() {
		a.value = n.graph.Input(fmt.Sprintf("x%d", i), a.host.Type())
	}
	return a.value
}

// Ins returns all inputs.
func (n *Node) Ins() []graph.Value {
	out := make([]graph.Value, len(n.in))
	for i := range out {
		out[i] = n.In(i)
	}
	return out
}

// InType returns the ONNX element type of input i ("FLOAT"), "" if it is left out.
func (n *Node) InType(i int) string {
	if !n.Has(i) {
		return ""
	}
	return n.in[i].typ
}

// OutType returns the ONNX element type of output i, "" if it is not asked for.
func (n *Node) OutType(i int) string {
	if !n.Wants(i) {
		return ""
	}
	return n.outs[i]
}

// Host returns input i as a tensor known while building (axes, shapes, pads), nil if it is left out. The input is then held
// fixed when gradients are checked.
func (n *Node) Host(i int) *tensor.Tensor {
	if !n.Has(i) {
		return nil
	}
	n.in[i].fixed = true
	return n.in[i].host
}

// HostInts returns the elements of an integer input known while building; ok is false if it is left out.
func (n *Node) HostInts(i int) (vals []int, ok bool) {
	t := n.Host(i)
	if t == nil {
		return nil, false
	}
	vals = make([]int, t.Type().Size())
	for j := range vals {
		vals[j] = int(t.At(j))
	}
	return vals, true
}

// HostFloat returns the first element of an input known while building, def if it is left out or empty.
func (n *Node) HostFloat(i int, def float64) float64 {
	if t := n.Host(i); t != nil && t.Type().Size() > 0 {
		return t.At(0)
	}
	return def
}

// DType returns the element type that carries an ONNX type ("FLOAT16"). See Double.
func (n *Node) DType(name string) tensor.DType {
	e, ok := elemNamed(name)
	if !ok {
		n.Fail("element type %q is not known", name)
		return tensor.F32
	}
	if n.Double && e.dtype.IsFloat() {
		return tensor.F64
	}
	return e.dtype
}

// Fail records why the node cannot be built and returns nil, to be returned by the handler.
func (n *Node) Fail(format string, args ...any) []graph.Value {
	if n.err == nil {
		n.err = fmt.Errorf(format, args...)
	}
	return nil
}

// HasAttr reports whether an attribute is set or has a default.
func (n *Node) HasAttr(name string) bool { return n.attrs[name] != nil }

// Int returns an int attribute, 0 when there is none.
func (n *Node) Int(name string) int { return attr[int](n, name) }

// Bool returns whether an int attribute is set and not 0.
func (n *Node) Bool(name string) bool { return n.Int(name) != 0 }

// Ints returns a list attribute, nil when there is none.
func (n *Node) Ints(name string) []int { return attr[[]int](n, name) }

// Float returns a float attribute, 0 when there is none.
func (n *Node) Float(name string) float64 { return float64(attr[number](n, name)) }

// Floats returns a list attribute, nil when there is none.
func (n *Node) Floats(name string) []float64 {
	var out []float64
	for _, x := range attr[[]number](n, name) {
		out = append(out, float64(x))
	}
	return out
}

// String returns a string attribute, "" when there is none.
func (n *Node) String(name string) string { return attr[string](n, name) }

// Strings returns a list attribute, nil when there is none.
func (n *Node) Strings(name string) []string { return attr[[]string](n, name) }

// Tensor returns a tensor attribute with its ONNX type, nil when there is none.
func (n *Node) Tensor(name string) (t *tensor.Tensor, typ string) {
	if !n.HasAttr(name) {
		return nil, ""
	}
	raw := attr[struct {
		Type  string   `json:"type"`
		Shape []int    `json:"shape"`
		Data  []number `json:"data"`
	}](n, name)
	t = tensor.New(tensor.T(n.DType(raw.Type), raw.Shape...))
	if t.Type().Size() != len(raw.Data) {
		n.Fail("attribute %s: %d elements do not fill shape %v", name, len(raw.Data), raw.Shape)
		return t, raw.Type
	}
	for i, x := range raw.Data {
		t.Set(i, float64(x))
	}
	return t, raw.Type
}

func attr[T any](n *Node, name string) (v T) {
	raw := n.attrs[name]
	if raw == nil {
		return v
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		n.Fail("attribute %s: %w", name, err)
	}
	return v
}

// number is a JSON number or one of "inf", "-inf", "nan", or a JSON bool.
type number float64

// UnmarshalJSON implements json.Unmarshaler.
func (x *number) UnmarshalJSON(b []byte) error {
	switch string(b) {
	case `"inf"`:
		*x = number(math.Inf(1))
	case `"-inf"`:
		*x = number(math.Inf(-1))
	case `"nan"`:
		*x = number(math.NaN())
	case "true":
		*x = 1
	case "false":
		*x = 0
	default:
		var f float64
		if err := json.Unmarshal(b, &f); err != nil {
			return err
		}
		*x = number(f)
	}
	return nil
}
