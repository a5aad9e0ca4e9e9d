package checkpoint

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func one(name string) string { return raw(`{"`+name+`":`+ten("U8", "1", "0,1")+`}`, 1) }

const (
	shard1 = "model-00001-of-00002.safetensors"
	shard2 = "model-00002-of-00002.safetensors"
)

func index(pairs ...string) string {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	b, err := json.Marshal(map[string]any{"metadata": map[string]any{"total_size": 2.5, "x": []any{nil, true}}, "weight_map": m})
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func TestOpenDirSharded(t *testing.T) {
	m := memory(t, map[string]string{shard1: one("a"), shard2: raw(`{"b":`+ten("U8", "1", "0,1")+`,"extra":`+ten("U8", "1", "1,2")+`}`, 2),
		indexFile: index("a", shard1, "b", shard2), configFile: `{"model_type":"llama"}`})
	d, err := OpenDir(m, "/d")
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b", "extra"}, d.Names())
	require.Equal(t, "/d", d.Path())
	typ, ok := d.Type("b")
	require.True(t, ok)
	require.Equal(t, tensor.T(tensor.U8, 1), typ)
	_, ok = d.Type("none")
	require.False(t, ok)
	x, err := d.Read("b")
	require.NoError(t, err)
	require.Equal(t, 1.0, x.At(0))
	require.NoError(t, d.ReadInto("b", 0, make([]byte, 1)))
	_, err = d.Read("none")
	require.ErrorContains(t, err, "no tensor")
	require.Error(t, d.ReadInto("none", 0, nil))
	config, err := d.Config()
	require.NoError(t, err)
	require.Equal(t, `{"model_type":"llama"}`, string(config))
	_, err = d.File("../etc/passwd", 10)
	require.ErrorContains(t, err, "plain file name")
	_, err = d.File(configFile, 10)
	require.ErrorIs(t, err, ErrFormat)
	require.NoError(t, d.Close())
}

func TestOpenDirRefuses(t *testing.T) {
	two := map[string]string{shard1: one("a"), shard2: one("b")}
	for _, c := range []struct {
		name, index, want string
		files             map[string]string
	}{
		{"parent", index("a", "../x.safetensors"), "plain file name", two},
		{"absolute", index("a", "/x.safetensors"), "plain file name", two},
		{"subfolder", index("a", "sub/x.safetensors"), "plain file name", two},
		{"windows", index("a", `..\x.safetensors`), "plain file name", two},
		{"drive", index("a", `c:x.safetensors`), "plain file name", two},
		{"NUL", index("a", "a\x00.safetensors"), "plain file name", two},
		{"hidden", index("a", ".x.safetensors"), "plain file name", two},
		{"empty name", index("a", ""), "plain file name", two},
		{"not safetensors", index("a", "passwd"), "not a .safetensors file", two},
		{"missing shard", index("a", shard1, "b", "z.safetensors"), "does not exist", two},
		{"missing tensor", index("a", shard1, "c", shard2), `tensor "c": the index places it in ` + shard2 + ", which does not hold it", two},
		{"wrong shard", index("a", shard2, "b", shard1), "it is in model-0000", two},
		{"in two shards", index("a", shard1, "b", shard2), "it is also in " + shard1, map[string]string{
			shard1: one("a"), shard2: raw(`{"a":`+ten("U8", "1", "0,1")+`,"b":`+ten("U8", "1", "1,2")+`}`, 2)}},
		{"bad shard", index("a", shard1), "too few", map[string]string{shard1: "x"}},
		{"duplicate", `{"weight_map":{"a":"` + shard1 + `","a":"` + shard1 + `"}}`, "occurs twice", two},
		{"two maps", `{"weight_map":{},"weight_map":{}}`, "occurs twice", two},
		{"no map", `{}`, "no weight_map", two},
		{"not text", `{"weight_map":{"a":1}}`, "expected '\"'", two},
		{"array", `[]`, "expected '{'", two},
		{"long file name", index("a", strings.Repeat("n", 300)+".safetensors"), "longer than 255", two},
		{"bad UTF-8", "{\"weight_map\":{\"\xff\":\"a\"}}", "UTF-8", two},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := memory(t, c.files)
			require.NoError(t, vfs.WriteFile(m, "/d/"+indexFile, []byte(c.index)))
			_, err := OpenDir(m, "/d")
			require.ErrorIs(t, err, ErrFormat)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestOpenDirWithoutModel(t *testing.T) {
	for file, want := range map[string]string{
		"pytorch_model.bin": "pickle can run code", "consolidated.pth": "pickle can run code", "m.gguf": "GGUF file itself",
		"adapter_model.safetensors": "holds an adapter", "readme": "neither", "config.json": "random weights takes the file /d/config.json",
		"model/" + modelFile: "give its model, " + filepath.Join("/d", "model"), "adapter/adapter_model.safetensors": filepath.Join("/d", "adapter") + " as the adapter",
	} {
		_, err := OpenDir(memory(t, map[string]string{file: "x"}), "/d")
		require.ErrorIs(t, err, ErrFormat)
		require.ErrorContains(t, err, want)
	}
	_, err := OpenDir(memory(t, nil), "/none")
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = OpenDir(memory(t, map[string]string{modelFile: "PK\x03\x04...."}), "/d")
	require.ErrorContains(t, err, "zip archive")
}

func TestOpenDirLinks(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("symbolic links need a privilege on windows")
	}
	cache := filepath.Join(t.TempDir(), "models--a--b")
	snap, blobs := filepath.Join(cache, "snapshots", "rev"), filepath.Join(cache, "blobs")
	require.NoError(t, os.MkdirAll(snap, 0o777))
	require.NoError(t, os.MkdirAll(blobs, 0o777))
	outside := filepath.Join(t.TempDir(), "outside.safetensors")
	for path, data := range map[string]string{filepath.Join(blobs, "1"): one("a"), outside: one("a"), filepath.Join(snap, indexFile): index("a", shard1)} {
		require.NoError(t, os.WriteFile(path, []byte(data), 0o666))
	}
	link := filepath.Join(snap, shard1)
	require.NoError(t, os.Symlink("../../blobs/1", link))
	d, err := OpenDir(vfs.OS{}, snap)
	require.NoError(t, err)
	require.NoError(t, d.Close())
	require.NoError(t, os.Remove(link))
	require.NoError(t, os.Symlink(outside, link))
	_, err = OpenDir(vfs.OS{}, snap)
	require.ErrorIs(t, err, ErrFormat)
	require.ErrorContains(t, err, "a link out of the model folder")
	require.NoError(t, os.Remove(link))
	require.NoError(t, os.Symlink("/dev/zero", link))
	_, err = OpenDir(vfs.OS{}, snap)
	require.ErrorContains(t, err, "not a regular file")
}
