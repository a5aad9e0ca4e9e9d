package linalg

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func random(seed uint64, rows, cols int) Matrix {
	r := rand.New(rand.NewPCG(seed, 1))
	m := New(rows, cols)
	for i := range m.Data {
		m.Data[i] = r.NormFloat64()
	}
	return m
}

// withValues is a matrix of known singular values.
func withValues(seed uint64, rows, cols int, s []float64) Matrix {
	u, v := orthonormal(random(seed, len(s), rows)), orthonormal(random(seed+1, len(s), cols))
	for i, f := range s {
		scale(v.Row(i), f)
	}
	return Mul(u.T(), v)
}

func orthogonal(t require.TestingT, rows Matrix, what string) {
	for i := range rows.Rows {
		for j := range rows.Rows {
			want := 0.0
			if i == j {
				want = 1
			}
			require.InDelta(t, want, dot(rows.Row(i), rows.Row(j)), 1e-10, "%s %d, %d", what, i, j)
		}
	}
}

// Triplets of any matrix satisfy a·v = s·u and aᵀ·u = s·v, are orthonormal, and leave a rest of the next singular value.
func TestTopSVD(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows, cols := rapid.IntRange(1, 24).Draw(t, "rows"), rapid.IntRange(1, 24).Draw(t, "cols")
		n := min(rows, cols)
		r := rapid.IntRange(1, n).Draw(t, "r")
		s := make([]float64, n)
		for i := range s {
			s[i] = rapid.SampledFrom([]float64{1, 1, 2, 3.5, 100, 0.01}).Draw(t, "s")
		}
		a := withValues(rapid.Uint64().Draw(t, "seed"), rows, cols, s)
		got, err := TopSVD(a, r)
		require.NoError(t, err)
		orthogonal(t, got.U.T(), "U")
		orthogonal(t, got.V, "V")
		av := MulT(a, got.V) // (rows, r)
		largest := 0.0
		for i := range r {
			largest = max(largest, got.S[i])
			if i > 0 {
				require.LessOrEqual(t, got.S[i], got.S[i-1]*(1+1e-9))
			}
			for k := range rows {
				require.InDelta(t, got.S[i]*got.U.Data[k*r+i], av.Data[k*r+i], 1e-9*largest)
			}
		}
	})
}

func TestTopSVDValues(t *testing.T) {
	s := []float64{9, 4, 4, 4, 1, 0.5, 1e-3}
	got, err := TopSVD(withValues(3, 30, 11, s), 7)
	require.NoError(t, err)
	require.InDeltaSlice(t, s, got.S, 1e-10)
}

// TestTopSVDIsOrthogonal: a case in which the Gram matrix alone left two vectors 1.05e-10 along each other.
func TestTopSVDIsOrthogonal(t *testing.T) {
	got, err := TopSVD(withValues(11, 4, 4, []float64{1, 100, 0.01, 1}), 4)
	require.NoError(t, err)
	orthogonal(t, got.U.T(), "U")
	for i := range 4 {
		for j := range i {
			require.InDelta(t, 0, dot(got.V.Row(i), got.V.Row(j)), 1e-13)
		}
	}
}

// Matrices that are diagonal, zero or of rank one have clusters and splits everywhere.
func TestTopSVDDegenerate(t *testing.T) {
	eye := New(6, 9)
	for i := range 6 {
		eye.Data[i*9+i] = 2
	}
	got, err := TopSVD(eye, 4)
	require.NoError(t, err)
	require.InDeltaSlice(t, []float64{2, 2, 2, 2}, got.S, 1e-12)
	orthogonal(t, got.V, "V")
	one := Mul(random(1, 8, 1), random(2, 1, 5))
	got, err = TopSVD(one, 2)
	require.NoError(t, err)
	require.InDelta(t, norm(one.Data), got.S[0], 1e-9)
	require.InDelta(t, 0, got.S[1], 1e-6)
	got, err = TopSVD(New(3, 3), 2)
	require.NoError(t, err)
	require.Equal(t, []float64{0, 0}, got.S)
	_, err = TopSVD(eye, 7)
	require.ErrorContains(t, err, "no 7 singular triplets")
}

func TestLowRank(t *testing.T) {
	s := []float64{50, 20, 10, 1, 0.9, 0.8, 0.1}
	r := rand.New(rand.NewPCG(7, 7))
	for _, dims := range [][2]int{{40, 12}, {12, 40}} {
		got, err := LowRank(withValues(5, dims[0], dims[1], s), 3, 8, r.NormFloat64)
		require.NoError(t, err)
		require.InDeltaSlice(t, s[:3], got.S, 1e-9)
		orthogonal(t, got.U.T(), "U")
		orthogonal(t, got.V, "V")
	}
}

func TestQR(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows, cols := rapid.IntRange(1, 12).Draw(t, "rows"), rapid.IntRange(1, 12).Draw(t, "cols")
		a := random(rapid.Uint64().Draw(t, "seed"), rows, cols)
		n := min(rows, cols)
		q, r, err := QR(a, n)
		require.NoError(t, err)
		orthogonal(t, q.T(), "Q")
		product := Mul(q, r)
		for i := range product.Data {
			if i%cols < n || n == rows {
				require.InDelta(t, a.Data[i], product.Data[i], 1e-12)
			}
		}
		k := rapid.IntRange(1, n).Draw(t, "k")
		first, top, err := QR(a, k)
		require.NoError(t, err)
		require.InDeltaSlice(t, r.Data[:k*cols], top.Data, 1e-12)
		for i := range rows {
			require.InDeltaSlice(t, q.Row(i)[:k], first.Row(i), 1e-12)
		}
	})
}

// The signs are LAPACK's: numpy.linalg.qr([[3, 1], [4, 2]]).
func TestQRSigns(t *testing.T) {
	q, r, err := QR(Matrix{2, 2, []float64{3, 1, 4, 2}}, 2)
	require.NoError(t, err)
	require.InDeltaSlice(t, []float64{-0.6, -0.8, -0.8, 0.6}, q.Data, 1e-12)
	require.InDeltaSlice(t, []float64{-5, -2.2, 0, 0.4}, r.Data, 1e-12)
}

func TestFromFloat32(t *testing.T) {
	_, err := FromFloat32(2, 2, []float32{1, 2, float32(math.NaN()), 4})
	require.ErrorContains(t, err, "(1, 0) is NaN")
	_, err = FromFloat32(2, 2, []float32{1})
	require.ErrorContains(t, err, "no matrix of 2 x 2")
}

func BenchmarkTopSVD(b *testing.B) {
	for _, dims := range [][2]int{{576, 576}, {576, 1536}} {
		a := random(1, dims[0], dims[1])
		b.Run(fmt.Sprintf("%dx%d", dims[0], dims[1]), func(b *testing.B) {
			for b.Loop() {
				if _, err := TopSVD(a, 16); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
