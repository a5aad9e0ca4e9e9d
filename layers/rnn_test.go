package layers_test

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// loopCell is one step of a cell as PyTorch's documentation writes it, in loops over units.
type loopCell struct {
	cell               ops.Cell
	wih, whh, bih, bhh []float64
	in, h              int
}

func (c *loopCell) pre(row int, w, x, b []float64) float64 {
	s := b[row]
	for i, v := range x {
		s += w[row*len(x)+i] * v
	}
	return s
}

func (c *loopCell) step(x, h, cell []float64) (nh, nc []float64) {
	sigma := func(v float64) float64 { return 1 / (1 + math.Exp(-v)) }
	nh, nc = make([]float64, c.h), make([]float64, c.h)
	for j := range c.h {
		ih := func(gate int) float64 { return c.pre(gate*c.h+j, c.wih, x, c.bih) }
		hh := func(gate int) float64 { return c.pre(gate*c.h+j, c.whh, h, c.bhh) }
		switch c.cell {
		case ops.CellTanh:
			nh[j] = math.Tanh(ih(0) + hh(0))
		case ops.CellReLU:
			nh[j] = max(ih(0)+hh(0), 0)
		case ops.CellGRU:
			r, z := sigma(ih(0)+hh(0)), sigma(ih(1)+hh(1))
			nh[j] = (1-z)*math.Tanh(ih(2)+r*hh(2)) + z*h[j]
		case ops.CellLSTM:
			i, f, g, o := sigma(ih(0)+hh(0)), sigma(ih(1)+hh(1)), math.Tanh(ih(2)+hh(2)), sigma(ih(3)+hh(3))
			nc[j] = f*cell[j] + i*g
			nh[j] = o * math.Tanh(nc[j])
		}
	}
	return nh, nc
}

// TestRecurrentByLoops: two layers in both directions over rows of different lengths, from given states, give what loops over rows,
// steps and units give.
func TestRecurrentByLoops(t *testing.T) {
	const b, steps, in, h = 3, 5, 2, 4
	lengths := []int32{5, 1, 3}
	for _, cell := range []ops.Cell{ops.CellTanh, ops.CellReLU, ops.CellGRU, ops.CellLSTM} {
		src := doubles()
		r := layers.NewRecurrent(src, cell, in, h, layers.RecurrentOptions{Layers: 2, Bidirectional: true, BatchFirst: true})
		store := newStore(t)
		require.NoError(t, src.Load(store))
		x, h0, c0 := noise(1, b, steps, in), noise(2, 4, b, h), noise(3, 4, b, h)
		g := graph.New("rnn")
		vx, vh, vc := g.Input("x", x.Type()), g.Input("h", h0.Type()), g.Input("c", c0.Type())
		lens, err := tensor.Of(lengths, b)
		require.NoError(t, err)
		vl := g.Input("l", lens.Type())
		state := layers.RecurrentState{H: vh}
		if cell == ops.CellLSTM {
			state.C = vc
		}
		y, last := r.Forward(vx, state, vl, layers.Random{})
		require.NoError(t, g.Err())
		feed := plan.Feed{vx: x, vh: h0, vl: lens}
		outs := []graph.Value{y, last.H}
		if cell == ops.CellLSTM {
			outs, feed[vc] = append(outs, last.C), c0
		}
		got := run(t, store, feed, outs...)
		var vars [][]float64
		for _, v := range r.NamedVars() {
			vars = append(vars, values(t, store, v.Var))
		}
		for row := range b {
			checkRow(t, cell, vars, row, int(lengths[row]), x, h0, c0, got)
		}
	}
}

// checkRow runs one row through both layers in loops.
func checkRow(t *testing.T, cell ops.Cell, vars [][]float64, row, n int, x, h0, c0 *tensor.Tensor, got []*tensor.Tensor) {
	t.Helper()
	b, steps, h := x.Shape().Dim(0), x.Shape().Dim(1), h0.Shape().Dim(2)
	vec := func(x *tensor.Tensor, at, n int) []float64 {
		out := make([]float64, n)
		for i := range out {
			out[i] = x.At(at*n + i)
		}
		return out
	}
	var seq [][]float64
	for s := range n {
		seq = append(seq, vec(x, row*steps+s, x.Shape().Dim(2)))
	}
	for part := 0; part < 4; part += 2 {
		next := make([][]float64, n)
		for d := range 2 {
			w := vars[4*(part+d):]
			c := loopCell{cell, w[0], w[1], w[2], w[3], len(seq[0]), h}
			hs, cs := vec(h0, (part+d)*b+row, h), vec(c0, (part+d)*b+row, h)
			for i := range n {
				at := i
				if d == 1 {
					at = n - 1 - i
				}
				hs, cs = c.step(seq[at], hs, cs)
				if d == 0 {
					next[at] = append(append([]float64{}, hs...), next[at]...)
				} else {
					next[at] = append(next[at], hs...)
				}
			}
			require.InDeltaSlice(t, hs, vec(got[1], (part+d)*b+row, h), 1e-12, "the state at the row's end")
			if cell == ops.CellLSTM {
				require.InDeltaSlice(t, cs, vec(got[2], (part+d)*b+row, h), 1e-12)
			}
		}
		seq = next
	}
	for s := range steps {
		want := make([]float64, 2*h)
		if s < n {
			want = seq[s]
		}
		require.InDeltaSlice(t, want, vec(got[0], row*steps+s, 2*h), 1e-12, "row %d step %d", row, s)
	}
}

// TestLongSequence: 512 steps are as few nodes as 5, compile at once and train.
func TestLongSequence(t *testing.T) {
	const b, steps, h = 4, 512, 16
	src := layers.NewSource(layers.Options{Seed: 1})
	r := layers.NewLSTM(src.Sub("r"), 2, h, layers.RecurrentOptions{BatchFirst: true})
	head := src.Linear("head", h, 1, true)
	model := struct {
		R *layers.Recurrent `name:"r"`
		H layers.Projection `name:"head"`
	}{r, head}
	layers.SetTrainable(&model, true)
	store := newStore(t)
	require.NoError(t, src.Load(store))
	g := graph.New("step")
	x, want := g.Input("x", tensor.T(tensor.F32, b, steps, 2)), g.Input("y", tensor.T(tensor.F32, b, steps, 1))
	y, _ := r.Forward(x, layers.RecurrentState{}, graph.Value{}, layers.Random{})
	loss := ops.MSELoss(head.Forward(y), want, ops.LossMean)
	sgd(t, g, loss, layers.Trainable(&model), 0.5)
	require.Less(t, len(g.Nodes()), 200)
	xs := noise(5, b, steps, 2)
	ys := tensor.New(want.Type())
	for i := range b * steps { // the mean of the last two values of the first feature
		ys.Set(i, xs.At(2*i)/2)
		if i%steps > 0 {
			ys.Set(i, (xs.At(2*i)+xs.At(2*i-2))/2)
		}
	}
	xf, err := xs.Convert(tensor.F32)
	require.NoError(t, err)
	began := time.Now()
	first, last := trained(t, store, loss, plan.Feed{x: xf, want: ys}, 40)
	t.Logf("compiling and 40 steps of %d×%d took %v; loss %.4f -> %.4f", b, steps, time.Since(began), first, last)
	require.Less(t, last, 0.7*first)
}

// TestRecurrentDropout: what is dropped lies between layers only, in training only, and belongs to a token, not to a place in the batch.
func TestRecurrentDropout(t *testing.T) {
	const b, steps, h = 2, 3, 8
	src := doubles()
	o := layers.RecurrentOptions{Layers: 2, BatchFirst: true, Dropout: layers.Dropout{Rate: 0.5, Site: 9}}
	r := layers.NewGRU(src, 4, h, o)
	store := newStore(t)
	require.NoError(t, src.Load(store))
	x := noise(1, b, steps, 4)
	swapped := tensor.New(x.Type())
	for i := range x.Type().Size() {
		swapped.Set(i, x.At((i+steps*4)%(b*steps*4)))
	}
	forward := func(x *tensor.Tensor, samples ...int32) []float64 {
		g := graph.New("gru")
		in := g.Input("x", x.Type())
		var random layers.Random
		if samples != nil {
			ids, pos := tensor.New(tensor.T(tensor.I32, b, steps)), tensor.New(tensor.T(tensor.I32, b, steps))
			for i := range b * steps {
				ids.Set(i, float64(samples[i/steps]))
				pos.Set(i, float64(i%steps))
			}
			key, err := tensor.Of([]uint32{1, 2}, 2)
			require.NoError(t, err)
			random = layers.Random{Key: g.Const(key), Sample: g.Const(ids), Pos: g.Const(pos)}
		}
		y, _ := r.Forward(in, layers.RecurrentState{}, graph.Value{}, random)
		return tensor.Data[float64](run(t, store, plan.Feed{in: x}, y)[0])
	}
	plain, dropped := forward(x), forward(x, 5, 6)
	require.NotEqual(t, plain, dropped)
	turned := forward(swapped, 6, 5)
	require.InDeltaSlice(t, dropped[:steps*h], turned[steps*h:], 1e-12)
	require.InDeltaSlice(t, dropped[steps*h:], turned[:steps*h], 1e-12)
}
