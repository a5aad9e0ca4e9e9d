// Package optest is the table of op cases: one row says how to build an op, on what inputs, and how exact it must be. Every
// test of ops reads the rows: shape errors, gradients, devices against a reference in each dtype, decompositions against
// kernels, invariants of plans, benchmarks and the support matrix. A new op needs one row and gets all of them.
package optest

import (
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Arg is one input of a case.
type Arg struct {
	Dims   []int
	DType  tensor.DType // Invalid: the dtype the case is run in
	Lo, Hi float64      // uniform in [Lo, Hi); both zero: standard normal for floats, [-8, 8) for integers, either for bool
	Values []float64    // cycled through instead of random ones
	NoGrad bool         // not differentiated although floating point
}

// Case is one row.
type Case struct {
	Name   string
	In     []Arg
	Build  func(g *graph.Graph, in []graph.Value) []graph.Value
	DTypes []tensor.DType // run in these; nil: Floats

	// Tol overrides the limit of a dtype, as a share of the largest magnitude of the output (at least 1). See Limits.
	Tol map[tensor.DType]float64
	// Exclude says why a dtype is not run.
	Exclude map[tensor.DType]string

	Order   int     // gradient orders checked: 0 means 2
	NoGrad  string  // why there is nothing to differentiate
	GradTol float64 // 0: the default of gradcheck

	// Bad lists inputs that must be refused with an error that names the op.
	Bad [][]Arg
	// Bench are the dims of every input in the benchmark; nil: the case is not benchmarked.
	Bench []int
}

// Floats and Ints are the usual dtype lists.
var (
	Floats  = []tensor.DType{tensor.F64, tensor.F32, tensor.BF16, tensor.F16}
	Ints    = []tensor.DType{tensor.I64, tensor.I32, tensor.I16, tensor.I8, tensor.U8, tensor.U16, tensor.U32, tensor.U64}
	Numbers = slices.Concat(Floats, Ints)
	Bools   = []tensor.DType{tensor.Bool}
	Any     = slices.Concat(Numbers, Bools)
)

// Limits are the default tolerances by dtype: the largest |got - want| / max(1, max|want|) against the same case computed in
// float64 on the same (rounded) inputs. Integers and bools must agree exactly.
var Limits = map[tensor.DType]float64{
	tensor.F64: 1e-12, tensor.F32: 2e-6, tensor.F16: 2e-3, tensor.BF16: 1.6e-2,
}

// Limit returns the tolerance of the case in a dtype.
func (c *Case) Limit(d tensor.DType) float64 {
	if t, ok := c.Tol[d]; ok {
		return t
	}
	return Limits[d]
}

// Types returns the dtypes the case is run in.
func (c *Case) Types() []tensor.DType {
	list := c.DTypes
	if list == nil {
		list = Floats
	}
	var out []tensor.DType
	for _, d := range list {
		if c.Exclude[d] == "" {
			out = append(out, d)
		}
	}
	return out
}

// Type returns the type of an argument when the case is run in dtype d.
func (a Arg) Type(d tensor.DType) tensor.Type {
	if a.DType != tensor.Invalid {
		d = a.DType
	}
	return tensor.T(d, a.Dims...)
}

// Tensor fills an argument with the values that the random source gives, rounded to the dtype.
func (a Arg) Tensor(d tensor.DType, rng *rand.Rand) *tensor.Tensor {
	t := tensor.New(a.Type(d))
	for i := range t.Type().Size() {
		t.Set(i, a.draw(t.DType(), i, rng))
	}
	return t
}

func (a Arg) draw(d tensor.DType, i int, rng *rand.Rand) float64 {
	switch {
	case len(a.Values) > 0:
		return a.Values[i%len(a.Values)]
	case d == tensor.Bool:
		return float64(rng.IntN(2))
	case a.Lo == 0 && a.Hi == 0 && d.IsFloat():
		return rng.NormFloat64()
	}
	lo, hi := a.Lo, a.Hi
	if lo == 0 && hi == 0 {
		lo, hi = -8, 8
		if !d.IsSigned() {
			lo = 0
		}
	}
	x := lo + (hi-lo)*rng.Float64()
	if d.IsInt() {
		x = math.Floor(x)
	}
	return x
}

// Rand returns the random source of the case: the same at every run.
func (c *Case) Rand() *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(c.Name)) // never fails
	return rand.New(rand.NewPCG(h.Sum64(), 1))
}

// Built is a case in one dtype, as a graph with its inputs' values.
type Built struct {
	Graph *graph.Graph
	In    []graph.Value
	Out   []graph.Value
	Feed  map[graph.Value]*tensor.Tensor
}

// New builds the case in dtype d.
func (c *Case) New(d tensor.DType) *Built {
	rng := c.Rand()
	var vals []*tensor.Tensor
	for _, a := range c.In {
		vals = append(vals, a.Tensor(d, rng))
	}
	return c.With(vals)
}

// With builds the case on given inputs.
func (c *Case) With(vals []*tensor.Tensor) *Built {
	b := &Built{Graph: graph.New(c.Name), Feed: map[graph.Value]*tensor.Tensor{}}
	for i, t := range vals {
		v := b.Graph.Input("x"+string(rune('0'+i)), t.Type())
		b.In = append(b.In, v)
		b.Feed[v] = t
	}
	b.Out = c.Build(b.Graph, b.In)
	return b
}

// Reference builds the case on the same inputs as New(d), carried in the widest dtype of d's kind: float64, or int64 for
// integers. Bools stay.
func (c *Case) Reference(d tensor.DType) *Built {
	rng := c.Rand()
	var vals []*tensor.Tensor
	for _, a := range c.In {
		t := a.Tensor(d, rng)
		if a.DType == tensor.Invalid {
			if w, err := t.Convert(Widest(d)); err == nil {
				t = w
			}
		}
		vals = append(vals, t)
	}
	return c.With(vals)
}

// Widest is the dtype a case is computed in for reference.
func Widest(d tensor.DType) tensor.DType {
	switch {
	case d.IsFloat():
		return tensor.F64
	case d == tensor.U64 || d == tensor.Bool:
		return d
	case d.IsInt():
		return tensor.I64
	}
	return d
}

// All returns the table.
func All() []Case {
	return slices.Concat(pointwiseCases(), matmulCases(), reduceCases(), shapeCases(), indexCases(), normCases(), lossCases(),
		attentionCases(), quantCases(), groupCases(), foldedCases(), expertCases(), optimCases(), collectiveCases(), convCases(), poolCases(), channelCases(), elementLossCases(), maskedCases(), recurrenceCases(), linearAttendCases(), documentCases())
}
