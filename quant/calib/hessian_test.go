package calib

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHessianIsTheSumOfProducts(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	x := correlated(r, 131, 11)
	a, b := hessianOf(t, Matrix{70, 11, x.Data[:70*11]}), hessianOf(t, Matrix{61, 11, x.Data[70*11:]})
	require.NoError(t, a.Merge(b))
	got, err := a.Matrix()
	require.NoError(t, err)
	for i := range 11 {
		for j := range 11 {
			want := 0.0
			for row := range x.Rows {
				want += 2.0 / 131 * float64(x.Row(row)[i]) * float64(x.Row(row)[j])
			}
			require.InDelta(t, want, got[i*11+j], 1e-12*math.Abs(want)+1e-12)
		}
	}
}

func TestHessianAddProduct(t *testing.T) {
	r := rand.New(rand.NewPCG(19, 20))
	x := correlated(r, 40, 6)
	xx := NewMatrix(6, 6)
	for i := range 6 {
		for j := range 6 {
			s := 0.0
			for row := range 40 {
				s += float64(x.Row(row)[i]) * float64(x.Row(row)[j])
			}
			xx.Data[i*6+j] = float32(s)
		}
	}
	got, err := NewHessian(6)
	require.NoError(t, err)
	require.NoError(t, got.AddProduct(xx, 40, threads))
	a, err := got.Matrix()
	require.NoError(t, err)
	b, err := hessianOf(t, x).Matrix()
	require.NoError(t, err)
	require.InDeltaSlice(t, b, a, 1e-5)
	require.Equal(t, int64(40), got.Samples())
	require.ErrorContains(t, got.AddProduct(NewMatrix(5, 6), 1, nil), "of 6 columns")
	xx.Data[3] = float32(math.NaN())
	require.ErrorContains(t, got.AddProduct(xx, 1, nil), "(0, 3) is NaN")
}

func TestCholeskyFactorsAndInverts(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 14))
	for _, n := range []int{1, 2, 63, 64, 65, 150} {
		a := make([]float64, n*n)
		for range 2 * n {
			v := make([]float64, n)
			for i := range v {
				v[i] = r.NormFloat64()
			}
			for i := range n {
				for j := range n {
					a[i*n+j] += v[i] * v[j]
				}
			}
		}
		l := append([]float64(nil), a...)
		require.True(t, cholesky(l, n, threads))
		up := slices.Clone(l)
		slices.Reverse(up)
		inv := invertUpper(up, n, threads)
		for i := range n {
			for j := range n {
				llt, one := 0.0, 0.0
				for k := range min(i, j) + 1 {
					llt += l[i*n+k] * l[j*n+k]
				}
				for k := i; k <= j; k++ {
					one += up[i*n+k] * inv[k*n+j]
				}
				want := 0.0
				if i == j {
					want = 1
				}
				require.InDelta(t, a[i*n+j], llt, 1e-9*float64(n))
				require.InDelta(t, want, one, 1e-9)
			}
		}
	}
	require.False(t, cholesky([]float64{1, 0, 2, 1}, 2, nil))
}
