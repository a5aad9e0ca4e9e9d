package gguf

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs/faultfs"
	"github.com/bitsandbyes/bitsandbyes/quant/ggml"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestSplit: a model in several files is one, and parts that do not belong together are refused.
func TestSplit(t *testing.T) {
	m := faultfs.New()
	values := map[string][]float32{}
	name := func(no, count int) string { return fmt.Sprintf("/m-%05d-of-%05d.gguf", no, count) }
	part := func(path string, no, count, total int, names ...string) {
		var specs []Spec
		for _, n := range names {
			specs = append(specs, Spec{n, ggml.F32, tensor.S(3)})
		}
		kvs := []KV{{"split.no", uint16(no)}, {"split.count", uint16(count)}, {"split.tensors.count", int32(total)}}
		if no == 0 {
			kvs = append(kvs, KV{"general.architecture", "llama"})
		}
		for k, v := range write(t, m, path, kvs, specs) {
			values[k] = v
		}
	}
	part(name(1, 3), 0, 3, 4, "a", "b")
	part(name(2, 3), 1, 3, 4)
	part(name(3, 3), 2, 3, 4, "c", "d")
	f, err := Open(m, name(1, 3))
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b", "c", "d"}, f.Names())
	for n, want := range values {
		x, err := f.Read(n)
		require.NoError(t, err)
		require.Equal(t, want, append([]float32(nil), tensor.Data[float32](x)...))
	}
	require.NoError(t, f.Close())
	in, err := Inspect(m, name(1, 3))
	require.NoError(t, err)
	require.Len(t, in.Files, 3)
	require.Len(t, in.Tensors, 4)

	refused := func(path, want string) {
		t.Helper()
		_, err := Open(m, path)
		require.ErrorIs(t, err, checkpoint.ErrFormat)
		require.ErrorContains(t, err, want)
	}
	refused(name(2, 3), "it is part 2 of a model")
	part("/odd.gguf", 0, 3, 4)
	refused("/odd.gguf", "which its name does not say")
	part(name(1, 2), 0, 2, 1, "a")
	refused(name(1, 2), `part "m-00002-of-00002.gguf" is missing`)
	part(name(2, 2), 1, 2, 1, "a")
	refused(name(1, 2), "the name occurs twice")
	part(name(2, 2), 1, 2, 1, "b")
	refused(name(1, 2), "hold 2 tensors, it says 1")
	part(name(2, 2), 0, 2, 2, "b")
	refused(name(1, 2), "says that it is part 1 of 2")
	part("/m-00001-of-60000.gguf", 0, 60000, 1)
	refused("/m-00001-of-60000.gguf", "more than 1000")
}

// TestFind: a folder stands for the one model in it.
func TestFind(t *testing.T) {
	m := faultfs.New()
	require.NoError(t, vfs.MkdirDurable(m, "/d"))
	_, err := Find(m, "/d")
	require.ErrorIs(t, err, fs.ErrNotExist)
	for _, name := range []string{"README.md", "m-00001-of-00002.gguf", "m-00002-of-00002.gguf"} {
		require.NoError(t, vfs.WriteFile(m, "/d/"+name, nil))
	}
	path, err := Find(m, "/d")
	require.NoError(t, err)
	require.Equal(t, "m-00001-of-00002.gguf", filepath.Base(path))
	require.NoError(t, vfs.WriteFile(m, "/d/m.q8_0.gguf", nil))
	_, err = Find(m, "/d")
	require.ErrorIs(t, err, checkpoint.ErrFormat)
	require.ErrorContains(t, err, "2 GGUF models: m-00001-of-00002.gguf, m.q8_0.gguf")
}
