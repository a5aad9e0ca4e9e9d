package cpu

import (
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// cpuLimit is how many processors' time the control groups of this process allow, version 1 and 2, +Inf without a limit. root is "/".
func cpuLimit(root string) float64 {
	limit := math.Inf(1)
	groups(root, "cpu", func(read func(name string) string, v2 bool) {
		quota, period := read("cpu.cfs_quota_us"), read("cpu.cfs_period_us")
		if v2 {
			quota, period, _ = strings.Cut(read("cpu.max"), " ")
		}
		limit = min(limit, share(quota, period))
	})
	return limit
}

// share is a quota over its period; no limit where there is none ("max", -1, or no such file).
func share(quota, period string) float64 {
	q, err1 := strconv.ParseFloat(quota, 64)
	p, err2 := strconv.ParseFloat(strings.TrimSpace(period), 64)
	if err1 != nil || err2 != nil || !(q > 0) || !(p > 0) {
		return math.Inf(1)
	}
	return q / p
}

// memoryLimit is the least memory that a control group of this process allows, and what is left of it in the group that leaves least: page
// cache that can be dropped counts as free. Both are math.MaxInt64 without a limit. root is "/".
func memoryLimit(root string) (limit, left int64) {
	limit, left = math.MaxInt64, math.MaxInt64
	groups(root, "memory", func(read func(name string) string, v2 bool) {
		most, used, cache := "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
		if v2 {
			most, used, cache = "memory.max", "memory.current", "inactive_file"
		}
		m, err := strconv.ParseInt(read(most), 10, 64)
		if err != nil || m <= 0 || m >= 1<<60 { // version 1 writes the largest number of whole pages for no limit
			return
		}
		limit = min(limit, m)
		if u, err := strconv.ParseInt(read(used), 10, 64); err == nil {
			left = min(left, max(m-u+statOf(read("memory.stat"), cache), 0))
		}
	})
	return limit, min(limit, left)
}

// statOf is a field of memory.stat, 0 if it has none.
func statOf(stat, field string) int64 {
	for line := range strings.SplitSeq(stat, "\n") {
		if value, ok := strings.CutPrefix(line, field+" "); ok {
			n, _ := strconv.ParseInt(value, 10, 64) // 0 if damaged
			return n
		}
	}
	return 0
}

// groups calls f for every control group that binds this process in a controller: its own and those above it, as far as they are mounted.
// read gives the trimmed contents of a file of the group, "" where it has none.
func groups(root, controller string, f func(read func(name string) string, v2 bool)) {
	own, mounts := systemLines(root, "proc/self/cgroup"), systemLines(root, "proc/self/mountinfo")
	for _, g := range own { // hierarchy:controllers:path
		part := strings.SplitN(g, ":", 3)
		if len(part) != 3 {
			continue
		}
		v2 := part[0] == "0" && part[1] == ""
		if !v2 && !slices.Contains(strings.Split(part[1], ","), controller) {
			continue
		}
		for _, m := range mounts {
			if at, ok := parseMount(m); ok && at.v2 == v2 && (v2 || slices.Contains(at.controllers, controller)) {
				at.walk(root, part[2], func(read func(string) string) { f(read, v2) })
			}
		}
	}
}

// cgroupMount is a control group file system: the group that is mounted, and where.
type cgroupMount struct {
	root, at    string
	v2          bool
	controllers []string // of a hierarchy of version 1
}

// parseMount reads a line of mountinfo: ID, parent, device, root, mount point, options, ..., "-", type, source, options of the file system.
func parseMount(line string) (m cgroupMount, ok bool) {
	before, after, ok := strings.Cut(line, " - ")
	left, right := strings.Fields(before), strings.Fields(after)
	if !ok || len(left) < 5 || len(right) < 3 {
		return m, false
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	m = cgroupMount{root: unescape.Replace(left[3]), at: unescape.Replace(left[4]), v2: right[0] == "cgroup2"}
	m.controllers = strings.Split(right[2], ",")
	return m, m.v2 || right[0] == "cgroup"
}

// walk visits a group and those above it, as far as they are mounted.
func (m cgroupMount) walk(root, group string, visit func(read func(name string) string)) {
	rel, ok := strings.CutPrefix(path.Clean(group), strings.TrimSuffix(path.Clean(m.root), "/"))
	if !ok || rel != "" && rel[0] != '/' { // the group lies outside what is mounted, as in a container with the host's names
		rel = "/"
	}
	for {
		dir := path.Join(m.at, rel)
		visit(func(name string) string { return strings.Join(systemLines(root, path.Join(dir, name)), "\n") })
		if rel == "/" || rel == "" {
			return
		}
		rel = path.Dir(rel)
	}
}

// systemLines reads a small file of the system; none if it cannot be read.
func systemLines(root, name string) []string {
	b, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}
