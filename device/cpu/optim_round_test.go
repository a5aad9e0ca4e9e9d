package cpu

import (
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
