package llamacpp

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint/gguf"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs/faultfs"
	"github.com/bitsandbyes/bitsandbyes/quant/ggml"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// counted is a file system that counts the bytes that are read.
type counted struct {
	vfs.FS
	bytes atomic.Int64
}

func (c *counted) Open(name string) (vfs.Reader, error) {
	r, err := c.FS.Open(name)
	return countedReader{r, c}, err
}

type countedReader struct {
	vfs.Reader
	c *counted
}

func (r countedReader) ReadAt(p []byte, off int64) (int, error) {
	r.c.bytes.Add(int64(len(p)))
	return r.Reader.ReadAt(p, off)
}

// changedTensor is a tensor in a file, and what it stands for, from all of it at once.
func changedTensor(t *testing.T, m *Model, p part) []byte {
	t.Helper()
	all, err := m.f.Read(p.info.Name)
	require.NoError(t, err)
	switch p.change {
	case paired:
		all = rows(all, func(r int) int { return inHalves(r, p.head) })
	case transposed:
		all, err = all.Transpose()
	case plusOne:
		if all, err = all.Convert(tensor.F32); err == nil {
			for i := range tensor.Data[float32](all) {
				tensor.Data[float32](all)[i]--
			}
		}
	}
	require.NoError(t, err)
	return all.Bytes()
}

// TestPieces: pieces of tensors that are changed on their way are those of the whole, and what is read of the file does not grow with the number of pieces.
func TestPieces(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, c := range []struct {
		change change
		in     ggml.Type
		shape  tensor.Shape
		pieces int     // of equal sizes
		most   float64 // of the file's bytes are read
	}{
		{paired, ggml.F32, tensor.S(256, 96), 64, 1},
		{paired, ggml.Q8_0, tensor.S(256, 96), 64, 1},
		{paired, ggml.Q8_0, tensor.S(256, 96), 1000, 2.5}, // pieces are shorter than blocks
		{plusOne, ggml.F16, tensor.S(9000), 50, 1.01},
		{plusOne, ggml.Q8_0, tensor.S(50, 32), 50, 1},
		{transposed, ggml.F32, tensor.S(70, 256), 16, 1},
		{transposed, ggml.F16, tensor.S(70, 256), 300, 2.5},
		{transposed, ggml.Q8_0, tensor.S(70, 256), 8, 1},
		{transposed, ggml.BF16, tensor.S(someElements/2, 5), 2, 1.5}, // a row of what is asked for is most of what is held
	} {
		disk := &counted{FS: faultfs.New()}
		w, err := gguf.NewWriter(disk, "/m.gguf", nil, []gguf.Spec{{Name: "w", Type: c.in, Shape: c.shape}})
		require.NoError(t, err)
		values := make([]float32, c.shape.Size())
		for i := range values {
			values[i] = float32(rng.NormFloat64())
		}
		require.NoError(t, w.WriteFloats("w", values))
		require.NoError(t, w.Commit())
		f, err := gguf.Open(disk, "/m.gguf")
		require.NoError(t, err)
		info, ok := f.Tensor("w")
		require.True(t, ok)
		m := &Model{f: f, parts: map[string]part{}}
		p := part{info: info, typ: info.Decoded(), change: c.change, head: 16}
		switch c.change {
		case plusOne:
			p.typ.DType = tensor.F32
		case transposed:
			p.typ.Shape = tensor.S(c.shape.Dim(1), c.shape.Dim(0))
		}
		require.NoError(t, m.put("w", p))
		want := changedTensor(t, m, p)
		whole, err := m.Read("w")
		require.NoError(t, err)
		require.Equal(t, want, whole.Bytes())

		disk.bytes.Store(0)
		got := make([]byte, len(want))
		for i := range c.pieces {
			lo, hi := len(want)*i/c.pieces, len(want)*(i+1)/c.pieces
			require.NoError(t, m.ReadInto("w", int64(lo), got[lo:hi]))
		}
		require.Equal(t, want, got)
		require.LessOrEqual(t, float64(disk.bytes.Load()), c.most*float64(info.Bytes), "%v of %v %v in %d pieces", c.change, c.in, c.shape, c.pieces)
		for range 20 { // anywhere, in the middle of elements too
			lo := rng.IntN(len(want))
			hi := lo + rng.IntN(min(len(want)-lo, 5000)+1)
			require.NoError(t, m.ReadInto("w", int64(lo), got[lo:hi]))
			require.Equal(t, want[lo:hi], got[lo:hi])
		}
		require.NoError(t, m.Close())
	}
}
