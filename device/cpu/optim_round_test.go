package cpu

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestStochasticRoundTakesTheWordsOfTheElement compares the vector loops with the definition, element by element.
func TestStochasticRoundTakesTheWordsOfTheElement(t *testing.T) {
	dev := New(Options{Threads: 2})
	defer func() { require.NoError(t, dev.Close()) }()
	r := nnRand(6)
	for _, d := range []tensor.DType{tensor.BF16, tensor.F16} {
		l := ops.NewLayout(1000, 7, 256)
		l.DType = d
		g := graph.New("round")
		x, step := g.Input("x", l.TypeOf(tensor.F32)), g.Input("step", tensor.T(tensor.F32))
		vals := nnRandom(r, tensor.F32, l.Total)
		five, err := tensor.Of([]float32{5})
		require.NoError(t, err)
		five, err = tensor.FromBytes(tensor.T(tensor.F32), five.Bytes())
		require.NoError(t, err)
		const seed = 1<<40 + 3
		out, err := plan.Eval(dev, plan.Feed{x: vals, step: five}, ops.RoundStep(ops.StochasticRound{Seed: seed, Layout: l}, x, step))
		require.NoError(t, err)
		got, in := tensor.View[uint16](out[0].Bytes()), tensor.Data[float32](vals)
		for i, at := range l.Offsets {
			for e := range l.Sizes[i] {
				word := ops.RoundingWords(seed, 5, l.Site(i), uint32(e/8))[e%8/2]
				random := uint16(word >> (16 * (e % 2)))
				want := ops.RoundToF16(in[at+e], random)
				if d == tensor.BF16 {
					want = ops.RoundToBF16(in[at+e], random)
				}
				require.Equal(t, want, got[at+e], "%v tensor %d element %d", d, i, e)
			}
		}
	}
}

// TestUpdate8bitLeavesWhatIsNotFinite: in every rule, type and rounding an element whose gradient is not finite keeps its parameter and what
// was lost of it, and the others move.
func TestUpdate8bitLeavesWhatIsNotFinite(t *testing.T) {
	d := New(Options{Threads: 2})
	defer func() { require.NoError(t, d.Close()) }()
	for _, dt := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16} {
		l := ops.NewLayout(255, 1, 256, 257, 600)
		l.DType = dt
		for name, op := range updateOps(l) {
			o, eight := op.(ops.Update8bit)
			if !eight {
				continue
			}
			for _, o.Rounding = range []ops.Rounding{ops.Nearest, ops.Stochastic, ops.Kahan} {
				leavesWhatIsNotFinite(t, d, o, name)
			}
		}
	}
}

func leavesWhatIsNotFinite(t *testing.T, d *Device, o ops.Update8bit, name string) {
	in := updateInputs(nnRand(7), o, o.Layout, 7, 1)
	gone := map[int]float64{0: math.NaN(), 5: math.Inf(1), 6: math.Inf(-1), 300: math.NaN(), 1300: math.Inf(1)}
	for i, x := range gone {
		in[1].Set(i, x)
	}
	comp := in[len(in)-5]
	if o.Compensated(o.Layout) {
		for i := range comp.Type().Size() {
			comp.Set(i, 1e-3*math.Sin(float64(i)))
		}
	}
	g := graph.New("update")
	vals, feed := nnFeed(g, in)
	outs := g.Apply(o, vals...)
	require.NoError(t, g.Err())
	out, err := plan.Eval(d, feed, outs...)
	require.NoError(t, err)
	moved := 0
	for i := range in[0].Type().Size() {
		same := in[0].At(i) == out[0].At(i)
		if o.Compensated(o.Layout) {
			same = same && comp.At(i) == out[len(out)-1].At(i)
		}
		if _, is := gone[i]; is {
			require.True(t, same, "%s of %v, rounding %v: element %d", name, o.Layout.DType, o.Rounding, i)
		} else if !same {
			moved++
		}
	}
	require.Greater(t, moved, 200, "%s of %v, rounding %v", name, o.Layout.DType, o.Rounding)
}
