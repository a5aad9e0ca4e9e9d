package checkpoint

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func TestParseHubName(t *testing.T) {
	for s, want := range map[string]HubName{
		"org/name": {"org/name", "main"}, "gpt2": {"gpt2", "main"}, "a/b.c-d_e@refs/pr/7": {"a/b.c-d_e", "refs/pr/7"}, "a/b@v1.0": {"a/b", "v1.0"},
	} {
		got, ok := ParseHubName(s)
		require.True(t, ok, s)
		require.Equal(t, want, got)
	}
	for _, s := range []string{"", "/a", "a/", "a/b/c", "../b", "a/..", "a/b@", "a/b@../x", "a/b@/x", "a/b@x/../../y", "a--b/c", "./a/b", "a b/c", "a/.b", "a\\b", "~/a", "C:/x",
		strings.Repeat("a", 97)} {
		_, ok := ParseHubName(s)
		require.False(t, ok, s)
	}
}

func TestHubCache(t *testing.T) {
	env := map[string]string{}
	get := func(k string) string { return env[k] }
	home := t.TempDir()
	t.Setenv("HOME", home) // which the environment may lack
	t.Setenv("USERPROFILE", home)
	for _, c := range []struct{ key, value, want string }{
		{"", "", filepath.Join(home, ".cache/huggingface/hub")}, {"XDG_CACHE_HOME", "/x", "/x/huggingface/hub"}, {"HF_HOME", "~/hf", filepath.Join(home, "hf/hub")},
		{"HUGGINGFACE_HUB_CACHE", "/old", "/old"}, {"HF_HUB_CACHE", "/new", "/new"},
	} {
		env[c.key] = c.value
		got, err := HubCache(get)
		require.NoError(t, err)
		require.Equal(t, filepath.FromSlash(c.want), got, c.key)
	}
}

const commit = "0123456789abcdef0123456789abcdef01234567"

// hub makes a cache with one repository in which a/b is complete, and returns its folder.
func hub(t *testing.T) (repo string) {
	t.Helper()
	cache := t.TempDir()
	t.Setenv("HF_HUB_CACHE", cache)
	repo = filepath.Join(cache, "models--a--b")
	for _, dir := range []string{"blobs", "refs", "snapshots/" + commit} {
		require.NoError(t, os.MkdirAll(filepath.Join(repo, dir), 0o700))
	}
	put := func(path string, data string) {
		require.NoError(t, os.WriteFile(filepath.Join(repo, path), []byte(data), 0o600))
	}
	put("refs/main", commit)
	put("blobs/c0", `{"model_type": "llama"}`)
	require.NoError(t, WriteSafetensors(vfs.OS{}, filepath.Join(repo, "blobs/w0"), []Named{{"x", tensor.Scalar(float32(1))}}, nil))
	link(t, repo, "config.json", "../../blobs/c0")
	link(t, repo, "model.safetensors", "../../blobs/w0")
	return repo
}

func link(t *testing.T, repo, name, to string) {
	t.Helper()
	require.NoError(t, os.Symlink(to, filepath.Join(repo, "snapshots", commit, name)))
}

func TestLocate(t *testing.T) {
	repo := hub(t)
	want := filepath.Join(repo, "snapshots", commit)
	for _, name := range []string{"a/b", "a/b@main", "a/b@" + commit} {
		dir, err := Locate(nil, name)
		require.NoError(t, err, name)
		require.Equal(t, want, dir)
	}
	d, err := OpenDir(vfs.OS{}, want)
	require.NoError(t, err)
	require.NoError(t, d.Close())
	dir, err := Locate(nil, repo)
	require.NoError(t, err)
	require.Equal(t, repo, dir, "what exists is taken as it is")
	t.Chdir(t.TempDir())
	require.NoError(t, os.MkdirAll("a/b", 0o700))
	dir, err = Locate(nil, "a/b")
	require.NoError(t, err)
	require.Equal(t, "a/b", dir, "a folder comes before the cache")
}

func TestLocateRefuses(t *testing.T) {
	at := func(repo, name string) string { return filepath.Join(repo, "snapshots", commit, name) }
	for _, c := range []struct {
		name, model string
		change      func(repo string) error
		want        []string
	}{
		{"no such model", "a/c", nil, []string{"no such model in the cache", "hf download a/c"}},
		{"revision", "a/b@v2", nil, []string{`no revision "v2"`, "hf download a/b --revision v2", "a/b@" + commit}},
		{"snapshot gone", "a/b", func(r string) error { return os.RemoveAll(filepath.Join(r, "snapshots", commit)) }, []string{"is not there"}},
		{"ref is a path", "a/b", func(r string) error {
			return os.WriteFile(filepath.Join(r, "refs/main"), []byte("../../../etc"), 0o600)
		}, []string{"is no commit"}},
		{"blob missing", "a/b", func(r string) error { return os.Remove(filepath.Join(r, "blobs/w0")) }, []string{"model.safetensors", "not complete", "hf download a/b"}},
		{"weights not fetched", "a/b", func(r string) error {
			_ = os.WriteFile(filepath.Join(r, "blobs/w1.incomplete"), nil, 0o600)
			return os.Remove(at(r, "model.safetensors"))
		}, []string{"model.safetensors is missing", "w1.incomplete"}},
		{"configuration not fetched", "a/b", func(r string) error { return os.Remove(at(r, "config.json")) }, []string{"config.json is missing", "not complete"}},
		{"shard not fetched", "a/b", func(r string) error {
			_ = os.Remove(at(r, "model.safetensors"))
			return os.WriteFile(at(r, "model.safetensors.index.json"), []byte(`{"weight_map": {"x": "model-00001-of-00002.safetensors"}}`), 0o600)
		}, []string{`shard "model-00001-of-00002.safetensors" is missing`, "not complete"}},
		{"link out of the cache", "a/b", func(r string) error {
			secret := filepath.Join(r, "..", "secret")
			_ = os.WriteFile(secret, []byte("x"), 0o600)
			return os.Symlink(secret, at(r, "tokenizer.json"))
		}, []string{"tokenizer.json", "link out of"}},
		{"link into another repository", "a/b", func(r string) error {
			other := filepath.Join(r, "..", "models--x--y", "blobs")
			_ = os.MkdirAll(other, 0o700)
			_ = os.WriteFile(filepath.Join(other, "t"), []byte("x"), 0o600)
			return os.Symlink(filepath.Join(other, "t"), at(r, "tokenizer.json"))
		}, []string{"link out of"}},
		{"folder out of the cache", "a/b", func(r string) error { return os.Symlink(os.TempDir(), at(r, "onnx")) }, []string{"link out of"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			repo := hub(t)
			if c.change != nil {
				require.NoError(t, c.change(repo))
			}
			_, err := Locate(nil, c.model)
			for _, w := range c.want {
				require.ErrorContains(t, err, w)
			}
		})
	}
	_, err := Locate(nil, "../no/where")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// FuzzHubName looks for names that are taken and would lead out of the cache.
func FuzzHubName(f *testing.F) {
	for _, s := range []string{"org/name", "gpt2", "a/b@refs/pr/1", "../x", "a--b/c", "a/b@..", "a/b@x\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, ok := ParseHubName(s)
		if !ok {
			return
		}
		folder := "models--" + strings.ReplaceAll(h.Repo, "/", "--")
		require.True(t, filepath.IsLocal(folder) && filepath.Base(folder) == folder, "%q", s)
		ref := filepath.Join("refs", filepath.FromSlash(h.Revision))
		require.True(t, filepath.IsLocal(ref) && strings.HasPrefix(ref, "refs"+string(filepath.Separator)), "%q", s)
		again, ok := ParseHubName(h.String())
		require.True(t, ok)
		require.Equal(t, h, again)
	})
}
