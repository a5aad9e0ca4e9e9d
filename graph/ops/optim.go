package ops

import (
	"errors"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Updates of whole slabs. Besides slabs they take four float32 scalars that are computed in the graph, so that neither a schedule,
// clipping nor a non-finite step needs the host: lr; step, the number of this update, from 1; gscale, a factor of the gradient (one
// over the tokens, the loss scale and clipping in one); and ok, where 0 (or NaN) changes nothing, bit for bit.

// Update is one step of a rule with 32-bit states, in float32 arithmetic. Parameters of 16 bits are rounded in place: after the step and
// after a decoupled decay. A coupled decay rounds gradient plus decay to the gradient's type, as bitsandbytes does.
//
// Inputs: p (the layout's type), g (p's dtype or float32), the states of States, lr, step, gscale, ok. Outputs: p and the states.
// All-zero states are a start.
type Update struct {
	Hyper
	Layout *Layout
}

// Update8bit is one step of a rule with blockwise 8-bit states (Dettmers et al. 2022, arXiv 2110.02861) as the CUDA kernels of
// bitsandbytes compute it: blocks of SlabAlign elements, moments in the signed dynamic code book, whose codes keep the sign of the
// moment, squares beside a first moment in the unsigned one. An element whose gradient is not finite gets moments of zero and keeps
// its parameter; one whose moments would not be finite gets moments of zero. Lion's rate is rounded to the parameters' type. Inputs and outputs are those of Update.
type Update8bit struct {
	Hyper
	Layout *Layout
}

// StateSpec is one state of an update: its name in bitsandbytes' state dicts, its type, and how it is divided among the tensors.
type StateSpec struct {
	Name string
	Type tensor.Type
	Each Each
}

// Each is what a state has one value for.
type Each uint8

// The kinds of division; see Layout.Span.
const (
	EachElement Each = iota // in the layout of the slab
	EachBlock               // of SlabAlign elements
	EachTensor
	EachRow    // of a matrix, and so on
	EachColumn // of a matrix
	EachLoose  // element of a tensor that is no matrix
)

var (
	_ graph.Aliaser      = Update{}
	_ graph.Decomposable = Update{}
	_ graph.Coster       = Update{}
	_ graph.Aliaser      = Update8bit{}
	_ graph.Decomposable = Update8bit{}
	_ graph.Coster       = Update8bit{}
)

// UpdateScalars are the scalar inputs of an update.
type UpdateScalars struct{ LR, Step, GScale, OK Value }

// Name implements graph.Op.
func (o Update) Name() string { return o.Rule.String() }

// Name implements graph.Op.
func (o Update8bit) Name() string { return o.Rule.String() + "8bit" }

// States lists the states: state1 and so on for the rule's moments in the order of its equations, and with MaxUnorm unorm_vec, the sum
// of the squares of each tensor's last step over lr, of which nothing is read, and with Kahan rounding comp.
func (o Update) States() []StateSpec {
	var out []StateSpec
	for i := range o.Moments() {
		out = append(out, StateSpec{fmt.Sprintf("state%d", i+1), o.Layout.TypeOf(tensor.F32), EachElement})
	}
	return append(out, o.others(o.Layout)...)
}

// States lists the states: the codes state1 and so on, their scales absmax1 and so on, and unorm_vec and comp as in
// Update.
func (o Update8bit) States() []StateSpec {
	var codes, scales []StateSpec
	for i := range o.Moments() {
		codes = append(codes, StateSpec{fmt.Sprintf("state%d", i+1), o.Layout.TypeOf(tensor.U8), EachElement})
		scales = append(scales, StateSpec{fmt.Sprintf("absmax%d", i+1), tensor.T(tensor.F32, o.Layout.Total/SlabAlign), EachBlock})
	}
	return append(append(codes, scales...), o.others(o.Layout)...)
}

// others are the states that do not belong to the rule's moments.
func (h Hyper) others(l *Layout) (out []StateSpec) {
	if h.MaxUnorm > 0 {
		out = append(out, StateSpec{"unorm_vec", tensor.T(tensor.F32, len(l.Sizes)), EachTensor})
	}
	return append(out, h.comp(l)...)
}

// NumOut is the number of outputs.
func (o Update) NumOut() int { return 1 + o.numStates(1, o.Layout) }

// NumOut is the number of outputs.
func (o Update8bit) NumOut() int { return 1 + o.numStates(2, o.Layout) }

// numStates counts the states at a number of slabs a moment.
func (h Hyper) numStates(each int, l *Layout) int {
	if h.Rule >= numRules {
		return 0
	}
	n := each * len(h.Moments())
	if h.MaxUnorm > 0 {
		n++
	}
	if h.Compensated(l) {
		n++
	}
	return n
}

// Apply emits the update and returns the new parameters and states.
func (o Update) Apply(p, g Value, states []Value, s UpdateScalars) []Value {
	return applyUpdate(o, p, g, states, s)
}

// Apply emits the update and returns the new parameters and states.
func (o Update8bit) Apply(p, g Value, states []Value, s UpdateScalars) []Value {
	return applyUpdate(o, p, g, states, s)
}

func applyUpdate(op graph.Op, p, g Value, states []Value, s UpdateScalars) []Value {
	return apply(op, append(append([]Value{p, g}, states...), s.LR, s.Step, s.GScale, s.OK)...)
}

// Infer implements graph.Op.
func (o Update) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := checkRule(o.Hyper, o.Layout); err != nil {
		return nil, err
	}
	return inferUpdate(in, o.Layout, o.States())
}

// Infer implements graph.Op.
func (o Update8bit) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := checkRule(o.Hyper, o.Layout); err != nil {
		return nil, err
	}
	if len(o.Moments()) == 0 {
		return nil, errors.New("without momentum there is no state to keep in 8 bits; set a momentum, such as 0.9, or use 32-bit states")
	}
	return inferUpdate(in, o.Layout, o.States())
}

func checkRule(h Hyper, l *Layout) error {
	if err := l.Check(); err != nil {
		return err
	}
	return h.Check()
}

// inferUpdate compares the inputs with the slabs wanted and the four scalars after them.
func inferUpdate(in []tensor.Type, l *Layout, states []StateSpec) ([]tensor.Type, error) {
	want := []tensor.Type{l.Type(), l.Type()}
	out := []tensor.Type{l.Type()}
	for _, s := range states {
		want, out = append(want, s.Type), append(out, s.Type)
	}
	scalar := tensor.T(tensor.F32)
	want = append(want, scalar, scalar, scalar, scalar)
	if len(in) != len(want) {
		return nil, fmt.Errorf("takes %d inputs, got %d", len(want), len(in))
	}
	for i := range want {
		if in[i] != want[i] && !(i == 1 && in[1] == l.TypeOf(tensor.F32)) {
			return nil, fmt.Errorf("input %d must be %v, got %v", i, want[i], in[i])
		}
	}
	return out, nil
}

// Alias implements graph.Aliaser: an element is read before it is written.
func (o Update) Alias() []graph.AliasPair { return aliasUpdate(o.NumOut()) }

// Alias implements graph.Aliaser.
func (o Update8bit) Alias() []graph.AliasPair { return aliasUpdate(o.NumOut()) }

// aliasUpdate pairs p with input 0 and the states, outputs from 1 on, with the inputs from 2 on.
func aliasUpdate(outs int) []graph.AliasPair {
	pairs := []graph.AliasPair{{Out: 0, In: 0}}
	for i := 1; i < outs; i++ {
		pairs = append(pairs, graph.AliasPair{Out: i, In: i + 1})
	}
	return pairs
}

// Cost implements graph.Coster.
func (o Update) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return int64(4+5*len(o.Moments())) * int64(o.Layout.Total), sumBytes(in) + sumBytes(out)
}

// Cost implements graph.Coster.
func (o Update8bit) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return int64(4+10*len(o.Moments())) * int64(o.Layout.Total), sumBytes(in) + sumBytes(out)
}
