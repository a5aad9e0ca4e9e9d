package cpu

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
)

const (
	mountV2  = "31 23 0:27 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
	mountV1  = "24 20 0:20 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n25 20 0:21 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
	otherFS  = "22 1 0:3 / /proc rw,noexec - proc proc rw\nnonsense\n"
	dockerV1 = "24 20 0:20 /docker/abc /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
)

func TestCPULimit(t *testing.T) {
	for name, c := range map[string]struct {
		cgroup, mounts string
		files          map[string]string
		want           float64
	}{
		"nothing":        {"", "", nil, math.Inf(1)},
		"v2, no limit":   {"0::/a\n", otherFS + mountV2, map[string]string{"sys/fs/cgroup/a/cpu.max": "max 100000\n"}, math.Inf(1)},
		"v2, own":        {"0::/a/b\n", otherFS + mountV2, map[string]string{"sys/fs/cgroup/a/b/cpu.max": "150000 100000\n"}, 1.5},
		"v2, parent":     {"0::/a/b\n", mountV2, map[string]string{"sys/fs/cgroup/a/cpu.max": "50000 100000\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, 0.5},
		"v2, container":  {"0::/\n", mountV2, map[string]string{"sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3},
		"v1":             {"4:cpu,cpuacct:/x\n3:memory:/y\n", mountV1, map[string]string{"sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "250000\n", "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n"}, 2.5},
		"v1, no limit":   {"4:cpu:/x\n", mountV1, map[string]string{"sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n"}, math.Inf(1)},
		"v1, below root": {"4:cpu:/docker/abc/in\n", dockerV1, map[string]string{"sys/fs/cgroup/cpu/in/cpu.cfs_quota_us": "100000", "sys/fs/cgroup/cpu/in/cpu.cfs_period_us": "50000"}, 2},
		"v1, host names": {"4:cpu:/elsewhere\n", dockerV1, map[string]string{"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 1},
		"other controller": {"3:memory:/y\n", mountV1, map[string]string{"sys/fs/cgroup/memory/y/cpu.cfs_quota_us": "1000", "sys/fs/cgroup/memory/y/cpu.cfs_period_us": "100000"},
			math.Inf(1)},
		"damaged": {"0::/a\n:::\nx\n", mountV2, map[string]string{"sys/fs/cgroup/a/cpu.max": "-5 0\n"}, math.Inf(1)},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, cpuLimit(rootOf(t, c.cgroup, c.mounts, c.files)))
		})
	}
}

func TestThreadsUnderLimit(t *testing.T) {
	for _, c := range []struct {
		n     int
		limit float64
		want  int
	}{{8, math.Inf(1), 8}, {8, 4, 4}, {8, 0.2, 1}, {8, 1.25, 1}, {8, 1.5, 2}, {8, 2.4, 2}, {2, 100, 2}, {1, 3, 1}} {
		require.Equal(t, c.want, threadsUnder(c.n, c.limit), "%d processors, limit %v", c.n, c.limit)
	}
	t.Setenv("GOMAXPROCS", "anything") // read by Go at the start; here only whether it is set
	require.Positive(t, defaultThreads())
}

func TestThreadsInName(t *testing.T) {
	d, err := device.Open("cpu:threads=3")
	require.NoError(t, err)
	require.Equal(t, 3, d.Info().Threads)
	require.NoError(t, d.Close())
	for name, says := range map[string]string{
		"cpu:threads=0":  "threads=0: want a number from 1",
		"cpu:threads=x":  "threads=x: want a number from 1",
		"cpu:threads":    `"threads" is not a device number`,
		"cpu:colour=red": "colour is no setting of cpu; it has threads",
	} {
		_, err := device.Open(name)
		require.ErrorContains(t, err, says, name)
	}
}
