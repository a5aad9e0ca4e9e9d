package cpu

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Known answers of the Random123 library for Philox4x32-10.
func TestPhiloxKnownAnswers(t *testing.T) {
	for _, c := range [][10]uint32{
		{0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
		{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
		{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1},
	} {
		a, b, cc, d := ops.Philox4x32(c[0], c[1], c[2], c[3], c[4], c[5])
		require.Equal(t, c[6:], []uint32{a, b, cc, d})
	}
}

// nnTokens are a key, and sample and position ids of a (b, t) batch.
func nnTokens(b, n int) (key, sample, pos *tensor.Tensor) {
	key = tensor.New(tensor.T(tensor.U32, 2))
	key.Set(0, 4e9)
	key.Set(1, 17)
	sample, pos = tensor.New(tensor.T(tensor.I32, b, n)), tensor.New(tensor.T(tensor.I32, b, n))
	for i := range b * n {
		sample.Set(i, float64(1000+i/n))
		pos.Set(i, float64(i%n))
	}
	return key, sample, pos
}

func TestDropoutKernels(t *testing.T) {
	for _, typ := range nnTypes {
		for _, s := range [][3]int{{0, 3, 5}, {1, 1, 1}, {2, 3, 7}, {2, 3, 0}, {3, 37, 331}} {
			t.Run(fmt.Sprintf("%v/%v", typ.d, s), func(t *testing.T) {
				x := nnRandom(nnRand(8), typ.d, s[0], s[1], s[2])
				key, sample, pos := nnTokens(s[0], s[1])
				nnKernel(t, ops.DropoutOp{Rate: 0.3, Site: 5}, 1e-7, x, key, sample, pos)
				nnKernel(t, ops.PhiloxOp{Site: 2, N: int64(s[2])}, 0, key, sample, pos)
			})
		}
	}
}

func TestDropoutGradient(t *testing.T) {
	key, sample, pos := nnTokens(2, 3)
	in := []*tensor.Tensor{nnRandom(nnRand(9), tensor.F64, 2, 3, 2, 5), key, sample, pos}
	nnGrad(t, []int{0}, in, func(v []graph.Value) []graph.Value {
		return []graph.Value{ops.Dropout(v[0], v[1], v[2], v[3], 0.4, 1)}
	})
}

func TestDropoutStatistics(t *testing.T) {
	const b, n, c = 4, 64, 512
	x := tensor.New(tensor.T(tensor.F32, b, n, c))
	for i := range b * n * c {
		x.Set(i, 1)
	}
	key, sample, pos := nnTokens(b, n)
	for _, rate := range []float32{0.05, 0.5, 0.9} {
		y := nnLaunch(t, 2, ops.DropoutOp{Rate: rate}, -1, []*tensor.Tensor{x, key, sample, pos})[0]
		z := nnLaunch(t, 2, ops.DropoutOp{Rate: rate, Site: 1}, -1, []*tensor.Tensor{x, key, sample, pos})[0]
		var kept, both, beside float64
		for i := range b * n * c {
			if y.At(i) == 0 {
				continue
			}
			require.InDelta(t, 1/(1-float64(rate)), y.At(i), 1e-5)
			kept++
			if z.At(i) != 0 {
				both++
			}
			if i > 0 && y.At(i-1) != 0 {
				beside++
			}
		}
		p, total := 1-float64(rate), float64(b*n*c)
		within := func(q, got float64) { require.InDelta(t, q*total, got, 5*math.Sqrt(total*q*(1-q)), "rate %v", rate) }
		within(p, kept)
		within(p*p, both)
		within(p*p, beside)
	}
}

// A token is masked alike wherever it lies in the batch, and differently at another step.
func TestDropoutFollowsTheToken(t *testing.T) {
	const n, c = 6, 33
	x := tensor.New(tensor.T(tensor.F32, 2, n, c))
	for i := range 2 * n * c {
		x.Set(i, float64(1+i%(n*c)))
	}
	key, sample, pos := nnTokens(2, n)
	op := ops.DropoutOp{Rate: 0.5, Site: 9}
	y := nnLaunch(t, 1, op, -1, []*tensor.Tensor{x, key, sample, pos})[0]
	row := n * c * 4
	require.NotEqual(t, y.Bytes()[:row], y.Bytes()[row:], "samples share a mask")

	for i := range n { // the second sample alone, packed into one row of tokens in reverse order
		sample.Set(i, 1001)
		pos.Set(i, float64(n-1-i))
	}
	xs, ss, ps := tensor.New(tensor.T(tensor.F32, n, c)), tensor.New(tensor.T(tensor.I32, n)), tensor.New(tensor.T(tensor.I32, n))
	for i := range n {
		copy(xs.Bytes()[i*c*4:(i+1)*c*4], x.Bytes()[(n-1-i)*c*4:])
	}
	copy(ss.Bytes(), sample.Bytes())
	copy(ps.Bytes(), pos.Bytes())
	ys := nnLaunch(t, 1, op, -1, []*tensor.Tensor{xs, key, ss, ps})[0]
	for i := range n {
		require.Equal(t, y.Bytes()[row+i*c*4:row+(i+1)*c*4], ys.Bytes()[(n-1-i)*c*4:(n-i)*c*4], "token %d", i)
	}
	key.Set(1, 18)
	other := nnLaunch(t, 1, op, -1, []*tensor.Tensor{xs, key, ss, ps})[0]
	require.NotEqual(t, ys.Bytes(), other.Bytes(), "steps share a mask")
}

func TestDropoutRates(t *testing.T) {
	g := graph.New("dropout")
	x := g.Input("x", tensor.T(tensor.F32, 2, 3, 4))
	key, id := g.Input("key", tensor.T(tensor.I32, 2)), g.Input("id", tensor.T(tensor.I32, 2, 3))
	require.Equal(t, x, ops.Dropout(x, key, id, id, 0, 1))
	require.True(t, ops.Dropout(x, key, id, id, 0.1, 1).Valid())
	for _, rate := range []float32{1, -0.5, float32(math.NaN())} {
		require.False(t, ops.Dropout(x, key, id, id, rate, 1).Valid())
	}
	require.False(t, ops.Dropout(x, id, id, id, 0.5, 1).Valid())
	require.ErrorContains(t, g.Err(), "the rate must be in [0, 1)")
}
