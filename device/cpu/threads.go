package cpu

import (
	"math"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// defaultThreads is how many workers a device has unasked: GOMAXPROCS, which counts the processors that this process may run on, but
// no more than its control groups allow. Go itself rounds their limit up and never below two, and two workers that share the time
// of one processor wait for each other. A GOMAXPROCS in the environment is taken at its word.
func defaultThreads() int {
	n := runtime.GOMAXPROCS(0)
	if os.Getenv("GOMAXPROCS") != "" {
		return n
	}
	return threadsUnder(n, cpuLimit("/"))
}

// threadsUnder is the number of workers for n processors and a limit on their time. It is rounded to the nearest: at 1.25 processors a
// second worker would mostly be held back, at 1.5 it pays.
func threadsUnder(n int, limit float64) int {
	return max(min(n, int(math.Round(min(limit, math.MaxInt32)))), 1)
}

// cpuLimit is how many processors' time the control groups of this process allow, version 1 and 2, +Inf without a limit. root is "/".
func cpuLimit(root string) float64 {
	groups, mounts := systemLines(root, "proc/self/cgroup"), systemLines(root, "proc/self/mountinfo")
	limit := math.Inf(1)
	for _, g := range groups { // hierarchy:controllers:path
		part := strings.SplitN(g, ":", 3)
		if len(part) != 3 {
			continue
		}
		v2 := part[0] == "0" && part[1] == ""
		if !v2 && !slices.Contains(strings.Split(part[1], ","), "cpu") {
			continue
		}
		for _, m := range mounts {
			if at, ok := parseMount(m); ok && at.v2 == v2 && (v2 || at.cpu) {
				limit = min(limit, at.limit(root, part[2]))
			}
		}
	}
	return limit
}

// cgroupMount is a control group file system: the group that is mounted, and where.
type cgroupMount struct {
	root, at string
	v2, cpu  bool // cpu: a hierarchy of version 1 that holds this controller
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
	m.cpu = slices.Contains(strings.Split(right[2], ","), "cpu")
	return m, m.v2 || right[0] == "cgroup"
}

// limit is the tightest limit of a group and those above it, as far as they are mounted.
func (m cgroupMount) limit(root, group string) float64 {
	rel, ok := strings.CutPrefix(path.Clean(group), strings.TrimSuffix(path.Clean(m.root), "/"))
	if !ok || rel != "" && rel[0] != '/' { // the group lies outside what is mounted, as in a container with the host's names
		rel = "/"
	}
	limit := math.Inf(1)
	for {
		dir := path.Join(m.at, rel)
		if m.v2 {
			if f := strings.Fields(firstLine(systemLines(root, path.Join(dir, "cpu.max")))); len(f) == 2 {
				limit = min(limit, share(f[0], f[1]))
			}
		} else {
			limit = min(limit, share(firstLine(systemLines(root, path.Join(dir, "cpu.cfs_quota_us"))), firstLine(systemLines(root, path.Join(dir, "cpu.cfs_period_us")))))
		}
		if rel == "/" || rel == "" {
			return limit
		}
		rel = path.Dir(rel)
	}
}

// share is a quota over its period; no limit where there is none ("max", -1, or no such file).
func share(quota, period string) float64 {
	q, err1 := strconv.ParseFloat(quota, 64)
	p, err2 := strconv.ParseFloat(period, 64)
	if err1 != nil || err2 != nil || !(q > 0) || !(p > 0) {
		return math.Inf(1)
	}
	return q / p
}

// systemLines reads a small file of the system; none if it cannot be read.
func systemLines(root, name string) []string {
	b, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

func firstLine(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}
