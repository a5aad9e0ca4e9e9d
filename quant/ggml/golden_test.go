package ggml

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestGoldenGGML compares with the Python package gguf: what blocks stand for bit by bit, and encoded blocks byte by byte.
func TestGoldenGGML(t *testing.T) {
	dir := filepath.Join(golden.Dir(t), "gguf")
	raw, err := os.ReadFile(filepath.Join(dir, "ggml_types.json"))
	if err != nil {
		t.Skipf("no reference blocks: %v", err)
	}
	var index struct {
		Types []struct {
			Type     string
			ID       Type
			Block    int
			Bytes    int
			Quantize bool
		}
	}
	require.NoError(t, json.Unmarshal(raw, &index))
	f, err := checkpoint.OpenSafetensors(vfs.OS{}, filepath.Join(dir, "ggml_types.safetensors"))
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	read := func(name string) *tensor.Tensor {
		x, err := f.Read(name)
		require.NoError(t, err)
		return x
	}
	for _, c := range index.Types {
		t.Run(c.Type, func(t *testing.T) {
			require.Equal(t, c.Type, c.ID.String())
			block, bytes := c.ID.Block()
			require.Equal(t, []int{c.Block, c.Bytes}, []int{block, bytes})
			want := tensor.Data[float32](read(c.Type + ".f32"))
			got := make([]float32, len(want))
			require.NoError(t, Decode(got, read(c.Type+".raw").Bytes(), c.ID))
			for i := range want {
				require.Equal(t, math.Float32bits(want[i]), math.Float32bits(got[i]), "element %d: %v, not %v", i, got[i], want[i])
			}
			if !c.Quantize {
				return
			}
			codes := read(c.Type + ".quantized").Bytes()
			out := make([]byte, len(codes))
			require.NoError(t, Encode(out, tensor.Data[float32](read(c.Type+".x")), c.ID))
			require.Equal(t, codes, out)
		})
	}
	t.Logf("%d formats", len(index.Types))
}
