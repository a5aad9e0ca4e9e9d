package cpu

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strings"
)

// memory returns total and available bytes, zeros where the system does not tell, and no more than the control groups of this process
// allow: a container that takes more is killed.
func memory() (total, free int64) {
	total, free = systemMemory()
	if limit, left := memoryLimit("/"); limit < total {
		total, free = limit, min(free, left)
	}
	return total, free
}

func systemMemory() (total, free int64) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, 0
	}
	defer f.Close() //nolint:errcheck // read only
	for sc := bufio.NewScanner(f); sc.Scan(); {
		var kb int64
		if _, err := fmt.Sscanf(sc.Text(), "MemTotal: %d kB", &kb); err == nil {
			total = kb << 10
		}
		if _, err := fmt.Sscanf(sc.Text(), "MemAvailable: %d kB", &kb); err == nil {
			free = kb << 10
		}
	}
	return total, free
}

func modelName() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	defer f.Close() //nolint:errcheck // read only
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if k, v, ok := strings.Cut(sc.Text(), ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return runtime.GOARCH
}
