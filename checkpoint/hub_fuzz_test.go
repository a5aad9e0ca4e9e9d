package checkpoint

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs/faultfs"
)

// FuzzHub: whatever a name and a ref say, what is found is a snapshot in the cache, and the name can be written and read again.
func FuzzHub(f *testing.F) {
	const commit = "0123456789abcdef0123456789abcdef01234567"
	for _, name := range []string{"org/name", "name", "a/b@refs/pr/1", "a/b@" + commit, "../b", "a/..", "a--b/c", "a/b@../../x", "a/b@main/..", "a\\b", "C:/x", "a/b@x\x00y"} {
		f.Add(name, commit)
	}
	f.Add("a/b", "../../../x")
	f.Fuzz(func(t *testing.T, name, ref string) {
		h, ok := ParseHubName(name)
		if !ok {
			return
		}
		again, ok := ParseHubName(h.String())
		require.True(t, ok)
		require.Equal(t, h, again)
		m := faultfs.New()
		repo := "/cache/models--" + strings.ReplaceAll(h.Repo, "/", "--")
		for path, data := range map[string]string{"refs/" + h.Revision: ref, "snapshots/" + commit + "/config.json": "{}", "snapshots/" + commit + "/model.safetensors": ""} {
			path = filepath.Join(repo, path)
			require.True(t, strings.HasPrefix(path, repo+"/"), path)
			require.NoError(t, vfs.MkdirDurable(m, filepath.Dir(path)))
			require.NoError(t, vfs.WriteFile(m, path, []byte(data)))
		}
		dir, err := h.find(m, "/cache")
		if err == nil {
			require.Equal(t, repo+"/snapshots/"+commit, dir)
		}
	})
}
