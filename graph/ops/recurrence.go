package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Cell is a recurrent cell. H is the size of its state h; a is the cell's input of a step, w its recurrent weight.
type Cell uint8

// The cells, with the gates in PyTorch's order:
//
//	CellTanh, CellReLU (Elman 1990)       h = f(a + w·h)
//	CellGRU  (Cho et al. 2014)            r, z = σ(a + w·h); n = tanh(a + r·(w·h + b)); h = (1-z)·n + z·h
//	CellLSTM (Hochreiter & Schmidhuber)   i, f, o = σ(a + w·h); g = tanh(a + w·h); c = f·c + i·g; h = o·tanh(c)
//
// In a GRU the gates lie as r, z, n, and b is the bias inside the reset gate; in an LSTM they lie as i, f, g, o.
const (
	CellTanh Cell = iota
	CellReLU
	CellGRU
	CellLSTM
	numCells
)

// Gates is how many gates the cell has: a is (..., Gates·H) and w (Gates·H, H).
func (c Cell) Gates() int { return [numCells]int{1, 1, 3, 4}[c%numCells] }

// RecurrenceOp runs a cell over the steps of sequences, in f32 or f64: a (T, B, G·H), w (G·H, H), h0 (B, H), the bias b (H) of a
// GRU and c0 (B, H) of an LSTM (each absent otherwise), and optionally lengths (B) i32. Reverse runs from the last step to the
// first. A step at or beyond a row's length leaves the row's state as it is.
//
// The outputs are the states after each step, hs (T, B, H), and what the gradient needs: of a GRU its gates r, z, n and
// w·h + b (T, B, 4H), of an LSTM its gates i, f, g, o (T, B, 4H) and cs (T, B, H). Gates of steps beyond the length are 0.
type RecurrenceOp struct {
	Cell    Cell
	Reverse bool
}

// Positions of the inputs of RecurrenceOp.
const (
	recA = iota
	recW
	recH0
	recBias
	recC0
	recLen
	recInputs
)

var (
	_ graph.Differentiable = RecurrenceOp{}
	_ graph.Decomposable   = RecurrenceOp{}
	_ graph.Coster         = RecurrenceOp{}
)

// Name implements graph.Op.
func (o RecurrenceOp) Name() string {
	return [numCells]string{"rnn_tanh", "rnn_relu", "gru", "lstm"}[o.Cell%numCells]
}

// NumOut is the number of outputs.
func (o RecurrenceOp) NumOut() int { return [numCells]int{1, 1, 2, 3}[o.Cell%numCells] }

// Infer implements graph.Op.
func (o RecurrenceOp) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if len(in) != recInputs {
		return nil, fmt.Errorf("takes %d inputs (optional ones may be absent), got %d", recInputs, len(in))
	}
	if err := arity(in[:recBias], recBias); err != nil {
		return nil, err
	}
	if o.Cell >= numCells {
		return nil, fmt.Errorf("cell %d is not known", o.Cell)
	}
	a, h := in[recA], in[recW].Dim(-1)
	t, b := a.Dim(0), a.Dim(1)
	state := tensor.T(a.DType, b, h)
	switch {
	case a.DType != tensor.F32 && a.DType != tensor.F64:
		return nil, fmt.Errorf("not defined on %v; cast to f32", a.DType)
	case a.Rank() != 3 || t < 1 || h < 1 || a.Dim(2) != o.Cell.Gates()*h:
		return nil, fmt.Errorf("the input must be (T, B, %d·H) with at least one step for a weight (.., H) %v, got %v", o.Cell.Gates(), in[recW], a)
	case in[recW] != tensor.T(a.DType, o.Cell.Gates()*h, h):
		return nil, fmt.Errorf("the recurrent weight is %v, must be %v", in[recW], tensor.T(a.DType, o.Cell.Gates()*h, h))
	case in[recH0] != state:
		return nil, fmt.Errorf("the initial state is %v, must be %v", in[recH0], state)
	}
	if err := o.extras(in, state); err != nil {
		return nil, err
	}
	hs, gates := tensor.T(a.DType, t, b, h), tensor.T(a.DType, t, b, 4*h)
	return []tensor.Type{hs, gates, hs}[:o.NumOut()], nil
}

// extras checks the inputs that only some cells have.
func (o RecurrenceOp) extras(in []tensor.Type, state tensor.Type) error {
	want := map[int]tensor.Type{recBias: {}, recC0: {}}
	if o.Cell == CellGRU {
		want[recBias] = tensor.T(state.DType, state.Dim(1))
	}
	if o.Cell == CellLSTM {
		want[recC0] = state
	}
	for _, i := range []int{recBias, recC0} {
		if in[i] != want[i] {
			return fmt.Errorf("the bias inside the reset gate and the initial cell state are %v and %v, must be %v and %v", in[recBias], in[recC0],
				want[recBias], want[recC0])
		}
	}
	if l := in[recLen]; l.DType != tensor.Invalid && l != tensor.T(tensor.I32, state.Dim(0)) {
		return fmt.Errorf("the lengths are %v, must be %v", l, tensor.T(tensor.I32, state.Dim(0)))
	}
	return nil
}

// VJP implements graph.Differentiable: the recurrence backwards gives the cotangent of a; w's is one product over all steps.
func (o RecurrenceOp) VJP(n *graph.Node, gy []Value, need []bool) []Value {
	var gates, cs, ggates, gcs Value
	if o.NumOut() > 1 {
		gates, ggates = n.Output(1), gy[1]
	}
	if o.NumOut() > 2 {
		cs, gcs = n.Output(2), gy[2]
	}
	hs, h0 := n.Output(0), n.In[recH0]
	g := apply(RecurrenceGradOp(o), n.In[recW], h0, hs, gates, n.In[recC0], cs, n.In[recLen], gy[0], ggates, gcs)
	out := make([]Value, recInputs)
	out[recA], out[recH0] = g[0], g[1]
	dw := g[0] // cotangent of w·h
	switch o.Cell {
	case CellGRU:
		h := hs.Dim(-1)
		dw = Concat(-1, Slice(g[0], -1, 0, 2*h), g[2])
		out[recBias] = Sum(g[2], 0, 1)
	case CellLSTM:
		out[recC0] = g[2]
	}
	if need[recW] {
		out[recW] = one(MatMul{TransA: true}, Reshape(dw, -1, dw.Dim(2)), Reshape(o.before(hs, h0), -1, hs.Dim(2)))
	}
	return out
}

// before is the state that each step starts from: the states shifted by a step.
func (o RecurrenceOp) before(hs, h0 Value) Value {
	first := Reshape(h0, append([]int{1}, h0.Shape().Dims()...)...)
	t := hs.Dim(0)
	if o.Reverse {
		return Concat(0, Slice(hs, 0, 1, t), first)
	}
	return Concat(0, first, Slice(hs, 0, 0, t-1))
}

// step returns entry t of x (T, B, ...), absent for an absent x.
func step(x Value, t int) Value {
	if x.Absent() {
		return x
	}
	return Reshape(Slice(x, 0, t, t+1), x.Shape().Dims()[1:]...)
}

// stack is the inverse of step for all steps.
func stack(xs []Value) Value {
	out := make([]Value, len(xs))
	for i, x := range xs {
		out[i] = Reshape(x, append([]int{1}, x.Shape().Dims()...)...)
	}
	return Concat(0, out...)
}

// at is the step that is computed i-th of t.
func (o RecurrenceOp) at(i, t int) int {
	if o.Reverse {
		return t - 1 - i
	}
	return i
}

// running is the bool (B, 1) of the rows that are longer than t, absent without lengths.
func running(lengths Value, t int) Value {
	if lengths.Absent() {
		return lengths
	}
	return keepLast(Greater(lengths, Scalar(lengths, float64(t))))
}

// choose is x in running rows, else y.
func choose(run, x, y Value) Value {
	if run.Absent() {
		return x
	}
	return Where(run, x, y)
}

// Decompose implements graph.Decomposable: step by step.
func (o RecurrenceOp) Decompose(in []Value) []Value {
	a, w, h, c := in[recA], in[recW], in[recH0], in[recC0]
	t, size := a.Dim(0), h.Dim(1)
	outs := [3][]Value{make([]Value, t), make([]Value, t), make([]Value, t)}
	for i := range t {
		at := o.at(i, t)
		run := running(in[recLen], at)
		nh, gates, nc := o.Cell.step(step(a, at), Linear(h, w), h, c, in[recBias], size)
		h = choose(run, nh, h)
		outs[0][at] = h
		if o.NumOut() > 1 {
			outs[1][at] = choose(run, gates, Scalar(gates, 0))
		}
		if o.NumOut() > 2 {
			c = choose(run, nc, c)
			outs[2][at] = c
		}
	}
	var res []Value
	for i := range o.NumOut() {
		res = append(res, stack(outs[i]))
	}
	return res
}

// step computes the cell once: a and wh (B, G·H), h and c (B, H).
func (c Cell) step(a, wh, h, cell, bias Value, size int) (next, gates, nextCell Value) {
	gate := func(x Value, i int) Value { return Slice(x, -1, i*size, (i+1)*size) }
	switch c {
	case CellTanh:
		return Tanh(Add(a, wh)), Value{}, Value{}
	case CellReLU:
		return ReLU(Add(a, wh)), Value{}, Value{}
	case CellGRU:
		r := Sigmoid(Add(gate(a, 0), gate(wh, 0)))
		z := Sigmoid(Add(gate(a, 1), gate(wh, 1)))
		hn := Add(gate(wh, 2), bias)
		n := Tanh(Add(gate(a, 2), Mul(r, hn)))
		return Add(Mul(Sub(Scalar(z, 1), z), n), Mul(z, h)), Concat(-1, r, z, n, hn), Value{}
	}
	s := Add(a, wh)
	i, f, g, out := Sigmoid(gate(s, 0)), Sigmoid(gate(s, 1)), Tanh(gate(s, 2)), Sigmoid(gate(s, 3))
	nextCell = Add(Mul(f, cell), Mul(i, g))
	return Mul(out, Tanh(nextCell)), Concat(-1, i, f, g, out), nextCell
}

// Cost implements graph.Coster.
func (o RecurrenceOp) Cost(in, out []tensor.Type) (flops, bytes int64) {
	steps := int64(in[recA].Dim(0)) * int64(in[recA].Dim(1))
	return steps * (2*int64(in[recW].Size()) + 10*int64(in[recW].Dim(0))), sumBytes(in) + sumBytes(out)
}

// RecurrenceOptions are the settings of RNN, GRU and LSTM.
type RecurrenceOptions struct {
	Reverse bool  // from the last step to the first
	Lengths Value // (B) i32: steps of each row; absent: all
}

// LSTM runs an LSTM over a (T, B, 4H), the input's share of the gates i, f, g, o with all biases, from the states h0 and c0
// (B, H), with the recurrent weight w (4H, H). It returns the states after each step, (T, B, H) each. Arithmetic and states are
// f32 (f64 for f64); the results have a's dtype. See RecurrenceOp.
func LSTM(a, w, h0, c0 Value, o RecurrenceOptions) (hs, cs Value) {
	out := recurrence(RecurrenceOp{CellLSTM, o.Reverse}, a, w, h0, Value{}, c0, o.Lengths)
	return castLike(out[0], a), castLike(out[2], a)
}

// GRU runs a GRU over a (T, B, 3H), the input's share of the gates r, z, n with the biases of r and z and the input's bias of n;
// bias (H) is that inside the reset gate. See LSTM.
func GRU(a, w, bias, h0 Value, o RecurrenceOptions) Value {
	return castLike(recurrence(RecurrenceOp{CellGRU, o.Reverse}, a, w, h0, bias, Value{}, o.Lengths)[0], a)
}

// RNN runs h = tanh(a + w·h), or with relu in place of tanh, over a (T, B, H). See LSTM.
func RNN(a, w, h0 Value, relu bool, o RecurrenceOptions) Value {
	cell := CellTanh
	if relu {
		cell = CellReLU
	}
	return castLike(recurrence(RecurrenceOp{cell, o.Reverse}, a, w, h0, Value{}, Value{}, o.Lengths)[0], a)
}

// recurrence widens half types.
func recurrence(o RecurrenceOp, in ...Value) []Value {
	for i, v := range in[:recLen] {
		if v.Valid() && isHalfType(v.DType()) {
			in[i] = Cast(v, tensor.F32)
		}
	}
	return apply(o, in...)
}

func isHalfType(d tensor.DType) bool { return d == tensor.F16 || d == tensor.BF16 }
