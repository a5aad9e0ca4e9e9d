package prune

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func random(r *rand.Rand, n int) []float32 {
	w := make([]float32, n)
	for i := range w {
		w[i] = float32(r.NormFloat64())
	}
	return w
}

func TestUnstructuredKeepsTheLargest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.SliceOfN(rapid.Float32Range(0, 4), 1, 60).Draw(t, "scores")
		for i := range s { // many ties
			s[i] = float32(math.Round(float64(s[i])))
		}
		sparsity := rapid.Float64Range(0, 1).Draw(t, "sparsity")
		m, err := Unstructured(s, sparsity)
		require.NoError(t, err)
		order := make([]int, len(s))
		for i := range order {
			order[i] = i
		}
		slices.SortStableFunc(order, func(a, b int) int { return int(s[b] - s[a]) })
		want := make(Mask, len(s))
		for _, i := range order[:len(s)-int(math.Round(sparsity*float64(len(s))))] {
			want[i] = true
		}
		require.Equal(t, want, m)
	})
}

func TestGlobalSharesOneThreshold(t *testing.T) {
	masks, err := Global([][]float32{{1, 2, 3, 4}, {10, 20, 0, 30}}, 0.5)
	require.NoError(t, err)
	require.Equal(t, []Mask{{false, false, false, true}, {true, true, false, true}}, masks)
	rows, err := ByRow([]float32{1, 2, 3, 4, 40, 30, 20, 10}, 4, 0.5)
	require.NoError(t, err)
	require.Equal(t, Mask{false, false, true, true, true, true, false, false}, rows)
	require.Equal(t, 0.5, rows.Sparsity())
}

func TestWandaWeighsInputs(t *testing.T) {
	s, err := Wanda([]float32{1, -2, 3, -4}, []float32{10, 1})
	require.NoError(t, err)
	require.Equal(t, []float32{10, 2, 30, 4}, s)
}

func TestNM(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, c := range [][3]int{{2, 4, 12}, {1, 2, 5}, {2, 4, 7}, {3, 8, 8}, {4, 8, 1}} {
		n, m, cols := c[0], c[1], c[2]
		w := random(r, 6*cols)
		mask, err := NM(Magnitudes(w), cols, n, m)
		require.NoError(t, err)
		require.NoError(t, mask.Apply(w))
		require.NoError(t, CheckNM(w, cols, n, m))
		eachGroup(len(w), cols, m, func(lo, hi int) {
			require.Equal(t, min(n, hi-lo), mask[lo:hi].Kept())
		})
	}
	mask, err := NM([]float32{1, 1, 1, 1}, 4, 2, 4)
	require.NoError(t, err)
	require.Equal(t, Mask{true, true, false, false}, mask)
}

func TestCompressRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, d := range []tensor.DType{tensor.F32, tensor.F16, tensor.BF16} {
		for _, c := range [][4]int{{2, 4, 3, 16}, {1, 2, 5, 7}, {2, 4, 2, 6}, {4, 16, 3, 33}, {2, 3, 1, 1}} {
			n, m, rows, cols := c[0], c[1], c[2], c[3]
			w := random(r, rows*cols)
			w[0] = 0
			mask, err := NM(Magnitudes(w), cols, n, m)
			require.NoError(t, err)
			require.NoError(t, mask.Apply(w))
			dense, err := tensor.Of(w, rows, cols)
			require.NoError(t, err)
			dense, err = dense.Convert(d)
			require.NoError(t, err)
			packed, err := Compress(dense, n, m)
			require.NoError(t, err)
			back, err := packed.Dense()
			require.NoError(t, err)
			require.Equal(t, dense.Type(), back.Type())
			require.Equal(t, dense.Bytes(), back.Bytes())
		}
	}
}

func TestCompressedBits(t *testing.T) {
	for d, want := range map[tensor.DType]float64{tensor.F32: 17, tensor.BF16: 9} {
		c, err := Compress(tensor.New(tensor.T(d, 8, 64)), 2, 4)
		require.NoError(t, err)
		require.Equal(t, want, c.BitsPerWeight(), fmt.Sprint(d))
	}
}

func TestRefuses(t *testing.T) {
	nan := float32(math.NaN())
	full := tensor.New(tensor.T(tensor.F32, 1, 4))
	for i := range 4 {
		full.Set(i, 1)
	}
	broken, err := Compress(tensor.New(tensor.T(tensor.F32, 1, 6)), 2, 4)
	require.NoError(t, err)
	broken.Values.Set(3, 1) // in the short group of two
	broken.setPlace(3, 3)
	twice, err := Compress(tensor.New(tensor.T(tensor.F32, 1, 4)), 2, 4)
	require.NoError(t, err)
	twice.Values.Set(0, 1) // both at place 0
	twice.Values.Set(1, 2)
	tiny := tensor.New(tensor.T(tensor.F64, 1, 4))
	for i := range 4 {
		tiny.Set(i, 1e-60) // 0 in float32
	}
	short := *broken
	short.Places = nil
	for want, err := range map[string]error{
		"sparsity 1.5":                      second(Unstructured([]float32{1}, 1.5)),
		"score 1 is NaN":                    second(Unstructured([]float32{1, nan}, 0.5)),
		"do not fill rows of 3":             second(ByRow(make([]float32, 4), 3, 0.5)),
		"4 of 4":                            second(NM(make([]float32, 4), 4, 4, 4)),
		"do not fill rows of 5":             second(NM(make([]float32, 4), 5, 2, 4)),
		"the norm of input 1 is NaN":        second(Wanda(make([]float32, 4), []float32{1, nan})),
		"2 input norms do not fit 3":        second(Wanda(make([]float32, 3), []float32{1, 1})),
		"row 0 has 4 elements":              second(Compress(full, 2, 4)),
		"only a matrix of f32, f16":         second(Compress(nil, 2, 4)),
		"place 3 in a group of 2":           second(broken.Dense()),
		"place 0, which another has":        second(twice.Dense()),
		"only a matrix of f32":              second(Compress(tiny, 2, 4)),
		"needs 4 floats a row and 1 bytes":  second(short.Dense()),
		"a mask of 2 elements for 1 weight": Mask{true, true}.Apply(make([]float32, 1)),
	} {
		require.ErrorContains(t, err, want)
	}
}

func second[T any](_ T, err error) error { return err }
