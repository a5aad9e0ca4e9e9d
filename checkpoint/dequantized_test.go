package checkpoint

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// readCounter counts the tensors that are read.
type readCounter struct {
	Reader
	n int
}

func (r *readCounter) Read(name string) (*tensor.Tensor, error) {
	r.n++
	return r.Reader.Read(name)
}

// TestDequantized: a quantized file is served whole and in full precision, without the parts that its weight is stored in.
func TestDequantized(t *testing.T) {
	for _, format := range []string{"nf4", "fp4:double", "int8", "int3:group=8,asym"} {
		z, err := OpenQuantized(without(t, format), "x", &Quantization{Method: MethodBNB, Scheme: "nf4"})
		require.NoError(t, err)
		r, err := z.Dequantized()
		require.NoError(t, err)
		require.Equal(t, []string{"a.weight"}, r.Names())
		got, err := r.Read("a.weight")
		require.NoError(t, err)
		typ, ok := r.Type("a.weight")
		require.True(t, ok)
		require.Equal(t, typ, got.Type())
		s, err := z.State("a.weight")
		require.NoError(t, err)
		want, err := s.Dequantize(typ.DType)
		require.NoError(t, err)
		require.Equal(t, want.Bytes(), got.Bytes())
		part := make([]byte, 6)
		require.NoError(t, r.ReadInto("a.weight", 2, part))
		require.Equal(t, got.Bytes()[2:8], part)
		require.Error(t, r.ReadInto("a.weight", typ.Bytes(), part))

		reads := &readCounter{Reader: z.Reader}
		z.Reader = reads
		pieces := make([]byte, len(got.Bytes()))
		for i := range 7 { // in the middle of elements too
			lo, hi := len(pieces)*i/7, len(pieces)*(i+1)/7
			require.NoError(t, r.ReadInto("a.weight", int64(lo), pieces[lo:hi]))
		}
		require.Equal(t, got.Bytes(), pieces)
		require.Zero(t, reads.n, "the weight was read for the first piece, and stays")
		require.NoError(t, r.Close())
	}
	z, err := OpenQuantized(without(t, "nf4", "a.weight.absmax"), "x", &Quantization{Method: MethodBNB})
	require.NoError(t, err)
	_, err = z.Dequantized()
	require.Error(t, err)
}
