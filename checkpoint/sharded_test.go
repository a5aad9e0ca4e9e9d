package checkpoint

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestStreamModel: the shards hold every tensor once, no more than the limit together unless one alone is larger, and read back whole.
func TestStreamModel(t *testing.T) {
	sizes := map[string]int{"a": 10, "b": 10, "c": 30, "d": 1, "e": 19, "f": 1}
	var specs []Spec
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		specs = append(specs, Spec{name, tensor.T(tensor.F32, sizes[name])})
	}
	make1 := func(s Spec) (*tensor.Tensor, error) {
		x := tensor.New(s.Type)
		for i := range s.Type.Shape.Size() {
			x.Set(i, float64(s.Name[0])+float64(i)/64)
		}
		return x, nil
	}
	for _, c := range []struct {
		limit int64
		files int
	}{{0, 1}, {1000, 1}, {80, 4}, {4, 6}, {120, 3}} {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte("{}"), 0o644))
		require.NoError(t, StreamModel(vfs.OS{}, dir, specs, c.limit, map[string]string{"format": "pt"}, make1))
		files, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
		require.NoError(t, err)
		require.Len(t, files, c.files, "limit %d", c.limit)
		d, err := OpenDir(vfs.OS{}, dir)
		require.NoError(t, err)
		require.Len(t, d.Names(), len(specs))
		for _, s := range specs {
			want, _ := make1(s)
			got, err := d.Read(s.Name)
			require.NoError(t, err)
			require.Equal(t, want.Bytes(), got.Bytes())
		}
		require.NoError(t, d.Close())
		if c.files == 1 {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(dir, "model.safetensors.index.json"))
		require.NoError(t, err)
		var index struct {
			Metadata struct {
				Size int64 `json:"total_size"`
			}
			Map map[string]string `json:"weight_map"`
		}
		require.NoError(t, json.Unmarshal(raw, &index))
		require.Equal(t, int64(71*4), index.Metadata.Size)
		require.Len(t, index.Map, len(specs))
	}
}
