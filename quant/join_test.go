package quant

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// parts quantizes the first axis of a random (n, rows, cols) weight one by one, and the weight as a whole.
func parts(t *testing.T, c Config, n, rows, cols int) (whole *State, each []*State) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	x := tensor.New(tensor.T(tensor.F16, n, rows, cols))
	for i := range x.Type().Size() {
		x.Set(i, r.NormFloat64())
	}
	whole, err := Quantize(x, c)
	require.NoError(t, err)
	size := 2 * rows * cols
	for i := range n {
		one, err := tensor.FromBytes(tensor.T(tensor.F16, rows, cols), x.Bytes()[i*size:(i+1)*size])
		require.NoError(t, err)
		st, err := Quantize(one, c)
		require.NoError(t, err)
		each = append(each, st)
	}
	return whole, each
}

func TestJoin(t *testing.T) {
	for _, c := range []Config{{Scheme: NF4}, {Scheme: FP4, Blocksize: 32}, {Scheme: Int8}} {
		whole, each := parts(t, c, 3, 16, 20)
		got, err := Join(whole.Shape, each...)
		require.NoError(t, err, "%v", c)
		require.Equal(t, whole, got)
		if c.Scheme == Int8 {
			require.ErrorContains(t, got.Nest(), "cannot be quantized")
			continue
		}
		c.Double = true
		nested, _ := parts(t, c, 3, 16, 20)
		require.NoError(t, got.Nest())
		require.Equal(t, nested, got)
		require.ErrorContains(t, got.Nest(), "already")
	}
}

func TestJoinKeepsValuesOfNestedParts(t *testing.T) {
	_, each := parts(t, Config{Scheme: NF4, Double: true}, 3, 16, 20)
	got, err := Join(tensor.S(48, 20), each...)
	require.NoError(t, err)
	x, err := got.Dequantize(tensor.F32)
	require.NoError(t, err)
	for i, p := range each {
		want, err := p.Dequantize(tensor.F32)
		require.NoError(t, err)
		n := len(want.Bytes())
		require.Equal(t, want.Bytes(), x.Bytes()[i*n:(i+1)*n])
	}
}

func TestJoinRefusals(t *testing.T) {
	_, a := parts(t, Config{Scheme: NF4}, 2, 16, 20)
	_, b := parts(t, Config{Scheme: FP4}, 2, 16, 20)
	_, odd := parts(t, Config{Scheme: NF4}, 2, 3, 5)
	for _, c := range []struct {
		parts []*State
		want  string
	}{
		{nil, "no weights"}, {[]*State{a[0], b[0]}, "stored alike"}, {odd, "multiple of the block size"}, {a[:1], "do not make a weight"},
	} {
		_, err := Join(tensor.S(2, 16, 20), c.parts...)
		require.ErrorContains(t, err, c.want)
	}
}
