package layers_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestMultiheadByLoops: self- and cross-attention under every kind of mask give what loops over rows, heads and keys give.
func TestMultiheadByLoops(t *testing.T) {
	const b, tq, tk, dim, heads = 2, 3, 4, 8, 2 // the scale 1/2 is exact
	for _, kw := range []int{dim, 5} {
		src := doubles()
		m := layers.NewMultiheadAttention(src, dim, heads, layers.MultiheadOptions{KeyWidth: kw})
		store := newStore(t)
		require.NoError(t, src.Load(store))
		require.NoError(t, store.Set(m.Bias, noise(4, 3*dim)))
		q, k, v := noise(1, b, tq, dim), noise(2, b, tk, kw), noise(3, b, tk, dim)
		pad, hide := tensor.New(tensor.T(tensor.Bool, b, tk)), tensor.New(tensor.T(tensor.Bool, tq, tk))
		pad.Set(1, 1)
		pad.Set(7, 1)
		hide.Set(2, 1)
		hide.Set(5, 1)
		extra := noise(6, b, tq, tk)
		for name, use := range map[string][4]bool{"plain": {}, "causal": {true}, "padding": {false, true}, "bool": {false, false, true},
			"added": {false, false, false, true}, "all": {true, true, false, true}} {
			g := graph.New(name)
			feed := plan.Feed{}
			in := func(name string, x *tensor.Tensor) graph.Value {
				y := g.Input(name, x.Type())
				feed[y] = x
				return y
			}
			masks := layers.AttentionMasks{Causal: use[0]}
			if use[1] {
				masks.KeyPadding = in("pad", pad)
			}
			if use[2] {
				masks.Mask = in("hide", hide)
			}
			if use[3] {
				masks.Mask = in("extra", extra)
			}
			y := m.Forward(in("q", q), in("k", k), in("v", v), masks, layers.Random{})
			require.NoError(t, g.Err(), name)
			got := run(t, store, feed, y)[0]
			want := attendLoops(t, store, m, q, k, v, func(row, i, j int) float64 {
				switch {
				case use[0] && j > i, use[1] && pad.At(row*tk+j) != 0, use[2] && hide.At(i*tk+j) != 0:
					return math.Inf(-1)
				case use[3]:
					return extra.At((row*tq+i)*tk + j)
				}
				return 0
			})
			require.InDeltaSlice(t, want, tensor.Data[float64](got), 1e-10, name)
		}
	}
}

// attendLoops is the layer in loops; bias says what is added to a score.
func attendLoops(t *testing.T, store *plan.Store, m *layers.MultiheadAttention, q, k, v *tensor.Tensor, bias func(row, i, j int) float64) []float64 {
	b, tq, tk, dim := q.Shape().Dim(0), q.Shape().Dim(1), k.Shape().Dim(1), m.Dim
	d := dim / m.Heads
	in := values(t, store, m.Bias)
	project := func(x *tensor.Tensor, part, at, o int) float64 {
		cols := x.Shape().Dim(2)
		var w []float64
		if m.In != nil {
			w = values(t, store, m.In)[part*dim*dim:]
		} else {
			w = values(t, store, []*graph.Var{m.Q, m.K, m.V}[part])
		}
		s := in[part*dim+o]
		for c := range cols {
			s += w[o*cols+c] * x.At(at*cols+c)
		}
		return s
	}
	out := m.Out.(*layers.Linear)
	ow, ob := values(t, store, out.Weight), values(t, store, out.Bias)
	var res []float64
	for at := range b * tq {
		row, i := at/tq, at%tq
		mixed := make([]float64, dim)
		for h := range m.Heads {
			w, total := make([]float64, tk), 0.0
			for j := range tk {
				s := 0.0
				for c := range d {
					s += project(q, 0, at, h*d+c) * project(k, 1, row*tk+j, h*d+c)
				}
				w[j] = math.Exp(s/math.Sqrt(float64(d)) + bias(row, i, j))
				total += w[j]
			}
			for c := range d {
				for j := range tk {
					if total > 0 {
						mixed[h*d+c] += w[j] / total * project(v, 2, row*tk+j, h*d+c)
					}
				}
			}
		}
		for o := range dim {
			s := ob[o]
			for c := range dim {
				s += ow[o*dim+c] * mixed[c]
			}
			res = append(res, s)
		}
	}
	return res
}

// TestMultiheadDropout: weights are dropped in training only, and the same ones whatever the batch.
func TestMultiheadDropout(t *testing.T) {
	src := doubles()
	m := layers.NewMultiheadAttention(src, 6, 2, layers.MultiheadOptions{Dropout: layers.Dropout{Rate: 0.5, Site: 3}})
	store := newStore(t)
	require.NoError(t, src.Load(store))
	x := noise(1, 2, 5, 6)
	forward := func(train bool) []float64 {
		g := graph.New("mha")
		in := g.Input("x", x.Type())
		var r layers.Random
		if train {
			key, err := tensor.Of([]uint32{1, 2}, 2)
			require.NoError(t, err)
			ids, err := tensor.Of([]int32{0, 0, 0, 0, 0, 1, 1, 1, 1, 1}, 2, 5)
			require.NoError(t, err)
			pos, err := tensor.Of([]int32{0, 1, 2, 3, 4, 0, 1, 2, 3, 4}, 2, 5)
			require.NoError(t, err)
			r = layers.Random{Key: g.Const(key), Sample: g.Const(ids), Pos: g.Const(pos)}
		}
		return tensor.Data[float64](run(t, store, plan.Feed{in: x}, m.Forward(in, in, in, layers.AttentionMasks{}, r))[0])
	}
	require.NotEqual(t, forward(false), forward(true))
	require.Equal(t, forward(true), forward(true))
}
