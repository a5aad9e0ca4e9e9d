package checkpoint

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs/faultfs"
)

// FuzzHubRef: whatever a file of refs says, what is found is a snapshot in the cache.
func FuzzHubRef(f *testing.F) {
	const commit, repo = "0123456789abcdef0123456789abcdef01234567", "/cache/models--a--b"
	for _, ref := range []string{commit, commit + "\n", "../../../x", "main", "", commit + "/.."} {
		f.Add(ref)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		m := faultfs.New()
		for path, data := range map[string]string{"refs/main": ref, "snapshots/" + commit + "/config.json": "{}", "snapshots/" + commit + "/model.safetensors": ""} {
			path = filepath.Join(repo, path)
			require.NoError(t, vfs.MkdirDurable(m, filepath.Dir(path)))
			require.NoError(t, vfs.WriteFile(m, path, []byte(data)))
		}
		h, ok := ParseHubName("a/b")
		require.True(t, ok)
		dir, err := h.find(m, "/cache")
		if err == nil {
			require.Equal(t, filepath.Join(repo, "snapshots", commit), dir)
		}
	})
}
