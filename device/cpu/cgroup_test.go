package cpu

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMemoryLimit(t *testing.T) {
	const none = math.MaxInt64
	for name, c := range map[string]struct {
		cgroup, mounts string
		files          map[string]string
		limit, left    int64
	}{
		"nothing":      {"", "", nil, none, none},
		"v2, no limit": {"0::/a\n", mountV2, map[string]string{"sys/fs/cgroup/a/memory.max": "max\n"}, none, none},
		"v2, own": {"0::/a\n", mountV2, map[string]string{"sys/fs/cgroup/a/memory.max": "1000\n", "sys/fs/cgroup/a/memory.current": "700\n",
			"sys/fs/cgroup/a/memory.stat": "anon 500\ninactive_file 150\nactive_file 50\n"}, 1000, 450},
		"v2, parent has less left": {"0::/a/b\n", mountV2, map[string]string{"sys/fs/cgroup/a/b/memory.max": "1000\n", "sys/fs/cgroup/a/b/memory.current": "100\n",
			"sys/fs/cgroup/a/memory.max": "2000\n", "sys/fs/cgroup/a/memory.current": "1900\n"}, 1000, 100},
		"v1": {"3:memory:/y\n", mountV1, map[string]string{"sys/fs/cgroup/memory/y/memory.limit_in_bytes": "4096\n", "sys/fs/cgroup/memory/y/memory.usage_in_bytes": "5000\n"},
			4096, 0},
		"v1, no limit": {"3:memory:/y\n", mountV1, map[string]string{"sys/fs/cgroup/memory/y/memory.limit_in_bytes": "9223372036854771712\n"}, none, none},
		"usage absent": {"0::/\n", mountV2, map[string]string{"sys/fs/cgroup/memory.max": "77\n"}, 77, 77},
		"damaged":      {"0::/\n", mountV2, map[string]string{"sys/fs/cgroup/memory.max": "-1x\n"}, none, none},
	} {
		t.Run(name, func(t *testing.T) {
			root := rootOf(t, c.cgroup, c.mounts, c.files)
			limit, left := memoryLimit(root)
			require.Equal(t, []int64{c.limit, c.left}, []int64{limit, left})
		})
	}
}

// rootOf is a folder that looks as the root of a system in which the process is in that control group.
func rootOf(t *testing.T, cgroup, mounts string, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	put := func(name, text string) {
		at := filepath.Join(root, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(at), 0o755))
		require.NoError(t, os.WriteFile(at, []byte(text), 0o644))
	}
	put("proc/self/cgroup", cgroup)
	put("proc/self/mountinfo", mounts)
	for name, text := range files {
		put(name, text)
	}
	return root
}
