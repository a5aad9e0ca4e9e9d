package checkpoint

import (
	"bytes"
	"compress/gzip"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// walk calls f for every file of the reference data whose name ends so.
func walk(t *testing.T, f func(path string, data []byte), ends ...string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(golden.Dir(t), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		for _, end := range ends {
			if strings.HasSuffix(path, end) {
				data, err := os.ReadFile(path)
				require.NoError(t, err)
				f(path, data)
			}
		}
		return nil
	}))
}

// Files written by the reference library must come out byte for byte the same.
func TestGoldenSafetensorsRoundTrip(t *testing.T) {
	files, tensors := 0, 0
	walk(t, func(path string, data []byte) {
		if strings.HasSuffix(path, ".gz") {
			z, err := gzip.NewReader(bytes.NewReader(data))
			require.NoError(t, err)
			data, err = io.ReadAll(z)
			require.NoError(t, err)
		}
		m := memory(t, map[string]string{"in": string(data)})
		f, err := OpenSafetensors(m, "/d/in")
		require.NoError(t, err, path)
		for _, name := range f.Names() {
			if typ, _ := f.Type(name); typ.DType == tensor.Invalid {
				t.Logf("%s: opened, not written: tensor %s has type %s", path, name, f.DTypeName(name))
				return
			}
		}
		var specs []Spec
		for _, name := range f.Names() {
			typ, ok := f.Type(name)
			require.True(t, ok)
			specs = append(specs, Spec{name, typ})
		}
		require.NoError(t, StreamSafetensors(m, "/d/out", specs, f.Metadata(), func(s Spec) (*tensor.Tensor, error) { return f.Read(s.Name) }))
		got, err := vfs.ReadFile(m, "/d/out", 1<<30)
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, got), path)
		files, tensors = files+1, tensors+len(specs)
	}, ".safetensors", ".safetensors.gz")
	t.Logf("%d files with %d tensors are byte-identical after reading and writing", files, tensors)
	require.Positive(t, files)
}

// Every model folder opens; sharded ones hold what the single file of the same model holds.
func TestGoldenHFDirs(t *testing.T) {
	dirs, compared := 0, 0
	walk(t, func(path string, _ []byte) {
		dir := filepath.Dir(path)
		d, err := OpenDir(vfs.OS{}, dir)
		require.NoError(t, err)
		config, err := d.Config()
		require.NoError(t, err)
		require.NotEmpty(t, config)
		require.NotEmpty(t, d.Names())
		in, err := Inspect(vfs.OS{}, dir)
		require.NoError(t, err)
		require.Equal(t, KindModel, in.Kind)
		require.Len(t, in.Tensors, len(d.Names()))
		if whole, err := OpenSafetensors(vfs.OS{}, filepath.Join(filepath.Dir(dir), modelFile)); err == nil && len(d.Shards()) > 1 {
			require.ElementsMatch(t, whole.Names(), d.Names())
			for _, name := range d.Names() {
				a, err := whole.Read(name)
				require.NoError(t, err)
				b, err := d.Read(name)
				require.NoError(t, err)
				require.Equal(t, a.Bytes(), b.Bytes(), name)
				compared++
			}
			require.NoError(t, whole.Close())
		}
		require.NoError(t, d.Close())
		dirs++
	}, string(filepath.Separator)+modelFile, string(filepath.Separator)+indexFile)
	t.Logf("%d model folders opened, %d tensors of shards equal to those of the whole file", dirs, compared)
}

func TestGoldenAdapters(t *testing.T) {
	ran := 0
	walk(t, func(path string, _ []byte) {
		in, err := Inspect(vfs.OS{}, filepath.Dir(path))
		require.NoError(t, err)
		require.Equal(t, KindAdapter, in.Kind)
		require.NotEmpty(t, in.Config)
		require.NotEmpty(t, in.Tensors)
		ran++
	}, "adapter_model.safetensors")
	t.Logf("%d adapter folders", ran)
}

// A file of the reference data that is a llama2.c model by its size must give tensors that fill it.
func TestGoldenLlama2C(t *testing.T) {
	ran := 0
	walk(t, func(path string, data []byte) {
		m, err := OpenLlama2C(vfs.OS{}, path)
		if err != nil {
			require.ErrorIs(t, err, ErrFormat)
			t.Logf("not a llama2.c model: %v", err)
			return
		}
		h := m.Header()
		total := int64(llama2cHeaderBytes) + int64(h.SeqLen)*int64(h.HeadDim())*4
		for _, name := range m.Names() {
			x, err := m.Read(name)
			require.NoError(t, err)
			total += x.Type().Bytes()
			for i, v := range x.Float32s() {
				require.InDelta(t, 0, v, 100, "%s %s[%d]", path, name, i)
			}
		}
		require.EqualValues(t, len(data), total)
		in, err := Inspect(vfs.OS{}, path)
		require.NoError(t, err)
		require.Equal(t, KindLlama2C, in.Kind)
		found, err := FindLlama2C(vfs.OS{}, filepath.Dir(path))
		require.NoError(t, err)
		require.Equal(t, path, found)
		require.NoError(t, m.Close())
		t.Logf("%s: %+v", filepath.Base(path), h)
		ran++
	}, ".bin")
	t.Logf("%d llama2.c models", ran)
	require.Positive(t, ran)
}
