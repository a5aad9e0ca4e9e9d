package layers

import (
	"errors"
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// RecurrentOptions are the settings of a Recurrent layer; the zero value is PyTorch's default.
type RecurrentOptions struct {
	Layers        int // 0: 1
	Bidirectional bool
	BatchFirst    bool    // (B, T, features) in and out instead of (T, B, features)
	NoBias        bool    // leave the biases out
	Dropout       Dropout // between layers; layer i draws at Site+i
}

// Recurrent is a stack of recurrent layers, PyTorch's RNN, GRU and LSTM: layer l of each direction has weight_ih_l (G·H, in),
// weight_hh_l (G·H, H), bias_ih_l and bias_hh_l (G·H), with "_reverse" for the second direction and the gates in PyTorch's order.
// Layers after the first read both directions side by side.
type Recurrent struct {
	Cell    ops.Cell
	Hidden  int
	Options RecurrentOptions
	parts   []recurrentPart // layer by layer, the directions of a layer together
}

// recurrentPart is one direction of one layer. The biases may be nil.
type recurrentPart struct {
	suffix             string
	wih, whh, bih, bhh *graph.Var
}

// RecurrentState is what a recurrent layer carries from step to step: (layers·directions, B, H). Absent means zeros.
type RecurrentState struct {
	H graph.Value
	C graph.Value // of LSTM only
}

// NewRecurrent takes the weights of a stack from src, with PyTorch's initialisation: uniform within 1/sqrt(hidden).
func NewRecurrent(src Source, cell ops.Cell, in, hidden int, o RecurrentOptions) *Recurrent {
	r := &Recurrent{Cell: cell, Hidden: hidden, Options: o}
	init := Uniform(1 / math.Sqrt(float64(max(hidden, 1))))
	rows := cell.Gates() * hidden
	for layer := range max(o.Layers, 1) {
		for d := range r.directions() {
			p := recurrentPart{suffix: fmt.Sprintf("_l%d%s", layer, []string{"", "_reverse"}[d])}
			p.wih, p.whh = src.Var("weight_ih"+p.suffix, init, rows, in), src.Var("weight_hh"+p.suffix, init, rows, hidden)
			if !o.NoBias {
				p.bih, p.bhh = src.Var("bias_ih"+p.suffix, init, rows), src.Var("bias_hh"+p.suffix, init, rows)
			}
			r.parts = append(r.parts, p)
		}
		in = hidden * r.directions()
	}
	return r
}

// NewLSTM is NewRecurrent of an LSTM.
func NewLSTM(src Source, in, hidden int, o RecurrentOptions) *Recurrent {
	return NewRecurrent(src, ops.CellLSTM, in, hidden, o)
}

// NewGRU is NewRecurrent of a GRU.
func NewGRU(src Source, in, hidden int, o RecurrentOptions) *Recurrent {
	return NewRecurrent(src, ops.CellGRU, in, hidden, o)
}

// NamedVars implements Namer.
func (r *Recurrent) NamedVars() []NamedVar {
	var out []NamedVar
	for _, p := range r.parts {
		out = append(out, NamedVar{"weight_ih" + p.suffix, p.wih}, NamedVar{"weight_hh" + p.suffix, p.whh})
		if p.bih != nil {
			out = append(out, NamedVar{"bias_ih" + p.suffix, p.bih}, NamedVar{"bias_hh" + p.suffix, p.bhh})
		}
	}
	return out
}

func (r *Recurrent) directions() int {
	if r.Options.Bidirectional {
		return 2
	}
	return 1
}

// Forward runs the stack over x (T, B, in), or (B, T, in) with BatchFirst, from a state, the zero RecurrentState for zeros. It
// returns the last layer's states after each step, (T, B, directions·H) in the layout and dtype of x, and every layer's state
// after its last step. lengths i32 (B), which may be absent, holds the steps of each row: a row's state stays at its last step,
// its outputs beyond are 0. random is for dropout; its zero value means inference.
func (r *Recurrent) Forward(x graph.Value, state RecurrentState, lengths graph.Value, random Random) (graph.Value, RecurrentState) {
	if !x.Valid() {
		return x, RecurrentState{}
	}
	if len(r.parts) == 0 {
		err := errors.New("the layer has no weights; make it with NewRecurrent")
		return x.Graph().Fail(ops.RecurrenceOp{Cell: r.Cell}.Name(), []graph.Value{x}, err), RecurrentState{}
	}
	if in := r.parts[0].wih.Type.Dim(1); x.Rank() != 3 || x.Dim(2) != in || !x.DType().IsFloat() {
		err := fmt.Errorf("the input must have three axes, the last of %d features, and a float dtype", in)
		return x.Graph().Fail(ops.RecurrenceOp{Cell: r.Cell}.Name(), []graph.Value{x}, err), RecurrentState{}
	}
	if r.Options.BatchFirst {
		x = ops.Transpose(x, 1, 0, 2)
	}
	if err := r.checkState(x, state); err != nil {
		bad := x.Graph().Fail(ops.RecurrenceOp{Cell: r.Cell}.Name(), []graph.Value{x, state.H, state.C}, err)
		return bad, RecurrentState{}
	}
	var last RecurrentState
	var hs, cs []graph.Value
	n := r.directions()
	for layer := 0; layer < len(r.parts); layer += n {
		if layer > 0 {
			x = r.drop(x, layer/n-1, random)
		}
		outs := make([]graph.Value, n)
		for d := range n {
			h, c := r.parts[layer+d].run(r.Cell, x, layer+d, state, ops.RecurrenceOptions{Reverse: d == 1, Lengths: lengths})
			outs[d] = h
			hs, cs = append(hs, final(h, d == 1)), append(cs, final(c, d == 1))
		}
		x = masked(ops.Concat(-1, outs...), lengths)
	}
	last.H = ops.Concat(0, hs...)
	if r.Cell == ops.CellLSTM {
		last.C = ops.Concat(0, cs...)
	}
	if r.Options.BatchFirst {
		x = ops.Transpose(x, 1, 0, 2)
	}
	return x, last
}

// checkState checks the states that a caller gives for x (T, B, in).
func (r *Recurrent) checkState(x graph.Value, state RecurrentState) error {
	if r.Cell != ops.CellLSTM && !state.C.Absent() {
		return errors.New("a cell state is given, which only an LSTM has")
	}
	want := tensor.S(len(r.parts), x.Dim(1), r.Hidden)
	for _, s := range []graph.Value{state.H, state.C} {
		if s.Valid() && (s.Shape() != want || !s.DType().IsFloat()) {
			return fmt.Errorf("a state is %v, must be floats of shape %v", s.Type(), want)
		}
	}
	return nil
}

// drop is the dropout after a layer, on (T, B, features).
func (r *Recurrent) drop(x graph.Value, layer int, random Random) graph.Value {
	d := r.Options.Dropout
	d.Site += uint32(layer)
	if !random.Key.Absent() {
		random.Sample, random.Pos = ops.Transpose(random.Sample), ops.Transpose(random.Pos)
	}
	return d.Forward(x, random)
}

// final is the state (1, B, H) after the last step.
func final(s graph.Value, reverse bool) graph.Value {
	switch {
	case s.Absent():
		return s
	case reverse:
		return ops.Slice(s, 0, 0, 1)
	}
	return ops.Slice(s, 0, s.Dim(0)-1, s.Dim(0))
}

// masked is x (T, B, ...) with zeros from each row's length on.
func masked(x, lengths graph.Value) graph.Value {
	if lengths.Absent() || !x.Valid() {
		return x
	}
	step := ops.Iota(x.Graph(), tensor.T(tensor.I32, x.Dim(0), 1, 1), 0)
	return ops.Where(ops.Less(step, ops.Reshape(lengths, 1, -1, 1)), x, ops.Scalar(x, 0))
}

// run computes the part with the given index over x (T, B, in).
func (p *recurrentPart) run(cell ops.Cell, x graph.Value, index int, state RecurrentState, o ops.RecurrenceOptions) (hs, cs graph.Value) {
	if !x.Valid() {
		return x, x
	}
	g := x.Graph()
	h := p.whh.Type.Dim(1)
	read := func(v *graph.Var) graph.Value { return ops.Cast(g.Read(v), x.DType()) }
	begin := func(s graph.Value) graph.Value {
		if s.Absent() {
			return ops.BroadcastTo(ops.Scalar(x, 0), x.Dim(1), h)
		}
		return ops.Cast(ops.Reshape(ops.Slice(s, 0, index, index+1), x.Dim(1), h), x.DType())
	}
	a := addBias(ops.Linear(x, read(p.wih)), p.bih)
	w, h0 := read(p.whh), begin(state.H)
	if cell != ops.CellGRU {
		a = addBias(a, p.bhh)
		if cell == ops.CellLSTM {
			return ops.LSTM(a, w, h0, begin(state.C), o)
		}
		return ops.RNN(a, w, h0, cell == ops.CellReLU, o), graph.Value{}
	}
	inner := ops.BroadcastTo(ops.Scalar(x, 0), h)
	if p.bhh != nil {
		b := read(p.bhh)
		inner = ops.Slice(b, 0, 2*h, 3*h)
		a = ops.Add(a, ops.PadAxis(ops.Slice(b, 0, 0, 2*h), 0, 0, h, 0))
	}
	return ops.GRU(a, w, inner, h0, o), graph.Value{}
}
