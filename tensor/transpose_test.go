package tensor_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestTranspose: in every size of element, and across the borders of its tiles.
func TestTranspose(t *testing.T) {
	for _, d := range []tensor.DType{tensor.U8, tensor.F16, tensor.F32, tensor.I64} {
		x := tensor.New(tensor.T(d, 35, 67))
		for i := range x.Type().Size() {
			x.Set(i, float64(i%251))
		}
		y, err := x.Transpose()
		require.NoError(t, err)
		require.Equal(t, tensor.T(d, 67, 35), y.Type())
		for i := range 35 {
			for j := range 67 {
				require.Equal(t, x.At(i*67+j), y.At(j*35+i))
			}
		}
	}
	_, err := tensor.New(tensor.T(tensor.F32, 3)).Transpose()
	require.ErrorContains(t, err, "matrix")
}
