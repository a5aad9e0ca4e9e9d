package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// RecurrenceGradOp runs RecurrenceOp backwards. Inputs: w, h0 and the outputs hs, gates and cs of the forward op with its c0 and
// lengths (absent where the cell has none), then the cotangents ghs, ggates and gcs of those outputs, each of which may be absent.
//
// Outputs: the cotangents of a (T, B, G·H) and of h0 (B, H); of a GRU also that of w·h + b of the gate n (T, B, H), of an LSTM
// that of c0 (B, H). The cotangent of w·h is that of a but for a GRU's gate n.
type RecurrenceGradOp struct {
	Cell    Cell
	Reverse bool
}

// Positions of the inputs of RecurrenceGradOp.
const (
	recgW = iota
	recgH0
	recgHs
	recgGates
	recgC0
	recgCs
	recgLen
	recgGHs
	recgGGates
	recgGCs
	recgInputs
)

var (
	_ graph.Decomposable = RecurrenceGradOp{}
	_ graph.Coster       = RecurrenceGradOp{}
)

// Name implements graph.Op.
func (o RecurrenceGradOp) Name() string { return RecurrenceOp(o).Name() + "_grad" }

// NumOut is the number of outputs.
func (o RecurrenceGradOp) NumOut() int { return [numCells]int{2, 2, 3, 3}[o.Cell%numCells] }

// Infer implements graph.Op.
func (o RecurrenceGradOp) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if len(in) != recgInputs {
		return nil, fmt.Errorf("takes %d inputs (optional ones may be absent), got %d", recgInputs, len(in))
	}
	if o.Cell >= numCells {
		return nil, fmt.Errorf("cell %d is not known", o.Cell)
	}
	hs := in[recgHs]
	a := tensor.T(hs.DType, hs.Dim(0), hs.Dim(1), o.Cell.Gates()*hs.Dim(-1))
	fwd := make([]tensor.Type, recInputs)
	fwd[recA], fwd[recW], fwd[recH0], fwd[recC0], fwd[recLen] = a, in[recgW], in[recgH0], in[recgC0], in[recgLen]
	if o.Cell == CellGRU {
		fwd[recBias] = tensor.T(hs.DType, hs.Dim(-1))
	}
	out, err := RecurrenceOp(o).Infer(fwd)
	if err != nil {
		return nil, err
	}
	for i, t := range append(out, make([]tensor.Type, 3-len(out))...) {
		given, cotangent := in[[]int{recgHs, recgGates, recgCs}[i]], in[recgGHs+i]
		if given != t || (cotangent.DType != tensor.Invalid && cotangent != t) {
			return nil, fmt.Errorf("output %d and its cotangent are %v and %v, must be %v", i, given, cotangent, t)
		}
	}
	return []tensor.Type{a, in[recgH0], [numCells]tensor.Type{CellGRU: hs, CellLSTM: in[recgH0]}[o.Cell]}[:o.NumOut()], nil
}

// Decompose implements graph.Decomposable: step by step, the last computed first.
func (o RecurrenceGradOp) Decompose(in []Value) []Value {
	hs, w, fwd := in[recgHs], in[recgW], RecurrenceOp(o)
	t := hs.Dim(0)
	before := fwd.before(hs, in[recgH0])
	var cells Value
	if o.Cell == CellLSTM {
		cells = fwd.before(in[recgCs], in[recgC0])
	}
	zero := ZerosLike(in[recgH0])
	dh, dc := zero, zero
	da, dn := make([]Value, t), make([]Value, t)
	for i := range t {
		at := fwd.at(t-1-i, t)
		s := cellStep{h: step(hs, at), before: step(before, at), gates: step(in[recgGates], at), c: step(in[recgCs], at), cBefore: step(cells, at)}
		s.ggates = step(in[recgGGates], at)
		s.dh, s.dc = plus(dh, step(in[recgGHs], at)), plus(dc, step(in[recgGCs], at))
		run := running(in[recgLen], at)
		s.back(o.Cell)
		halt := func(x Value) Value { return choose(run, x, Scalar(x, 0)) }
		da[at], dn[at] = halt(s.da), s.dn
		dwh := da[at]
		if o.Cell == CellGRU {
			dn[at] = halt(s.dn)
			dwh = Concat(-1, Slice(dwh, -1, 0, 2*hs.Dim(2)), dn[at])
		}
		dh, dc = Add(Dot(dwh, w), choose(run, s.direct, s.dh)), choose(run, s.dcBefore, s.dc)
	}
	switch o.Cell {
	case CellGRU:
		return []Value{stack(da), dh, stack(dn)}
	case CellLSTM:
		return []Value{stack(da), dh, dc}
	}
	return []Value{stack(da), dh}
}

// plus adds a value that may be absent.
func plus(x, y Value) Value {
	if y.Absent() {
		return x
	}
	return Add(x, y)
}

// cellStep is one step of a cell backwards.
type cellStep struct {
	h, before, gates, ggates, c, cBefore Value // of the forward step
	dh, dc                               Value // cotangents of the new states
	da, dn                               Value // of a, and of a GRU's w·h + b of the gate n
	direct, dcBefore                     Value // of the old states, but for what goes through w
}

func (s *cellStep) back(cell Cell) {
	zero := Scalar(s.dh, 0)
	s.direct, s.dcBefore = BroadcastTo(zero, s.dh.Shape().Dims()...), s.dc
	size := s.h.Dim(-1)
	gate := func(i int) Value { return Slice(s.gates, -1, i*size, (i+1)*size) }
	extra := func(x Value, i int) Value { // the gate's own cotangent comes on top
		if s.ggates.Absent() {
			return x
		}
		return Add(x, Slice(s.ggates, -1, i*size, (i+1)*size))
	}
	flat := func(y Value) Value { return Sub(Scalar(y, 1), Square(y)) }  // slope of tanh
	steep := func(y Value) Value { return Mul(y, Sub(Scalar(y, 1), y)) } // slope of σ
	switch cell {
	case CellTanh:
		s.da = Mul(s.dh, flat(s.h))
	case CellReLU:
		s.da = Where(Greater(s.h, zero), s.dh, zero)
	case CellGRU:
		r, z, n, hn := gate(0), gate(1), gate(2), gate(3)
		dn := Mul(extra(Mul(s.dh, Sub(Scalar(z, 1), z)), 2), flat(n))
		dz := Mul(extra(Mul(s.dh, Sub(s.before, n)), 1), steep(z))
		dr := Mul(extra(Mul(dn, hn), 0), steep(r))
		s.da, s.dn, s.direct = Concat(-1, dr, dz, dn), extra(Mul(dn, r), 3), Mul(s.dh, z)
	case CellLSTM:
		i, f, g, o := gate(0), gate(1), gate(2), gate(3)
		tc := Tanh(s.c)
		do := Mul(extra(Mul(s.dh, tc), 3), steep(o))
		dc := Add(s.dc, Mul(Mul(s.dh, o), flat(tc)))
		di, df, dg := Mul(extra(Mul(dc, g), 0), steep(i)), Mul(extra(Mul(dc, s.cBefore), 1), steep(f)), Mul(extra(Mul(dc, i), 2), flat(g))
		s.da, s.dcBefore = Concat(-1, di, df, dg, do), Mul(dc, f)
	}
}

// Cost implements graph.Coster.
func (o RecurrenceGradOp) Cost(in, out []tensor.Type) (flops, bytes int64) {
	steps := int64(out[0].Dim(0)) * int64(out[0].Dim(1))
	return steps * (2*int64(in[recgW].Size()) + 20*int64(in[recgW].Dim(0))), sumBytes(in) + sumBytes(out)
}
