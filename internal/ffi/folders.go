package ffi

import (
	"cmp"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// folders lists the existing folders that may hold the library, in order, each once.
func (s Search) folders() []string {
	var patterns []string
	if runtime.GOOS == "linux" {
		patterns = append(patterns, "/usr/lib/wsl/lib", "/usr/local/nvidia/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64")
	}
	if !s.System {
		for _, home := range []string{os.Getenv("CUDA_HOME"), os.Getenv("CUDA_PATH")} {
			patterns = append(patterns, toolkit(home)...)
		}
		for _, site := range sitePackages() {
			patterns = append(patterns, filepath.Join(site, "nvidia", "*", "lib"), filepath.Join(site, "nvidia", "*", "bin"),
				filepath.Join(site, "nvidia", "*", "bin", "x86_64"), filepath.Join(site, "torch", "lib"))
		}
		if conda := os.Getenv("CONDA_PREFIX"); conda != "" {
			patterns = append(patterns, filepath.Join(conda, "lib"), filepath.Join(conda, "Library", "bin"))
		}
		if runtime.GOOS != "windows" {
			patterns = append(patterns, toolkit("/usr/local/cuda")...)
			patterns = append(patterns, toolkit("/usr/local/cuda-*")...)
			patterns = append(patterns, toolkit("/opt/cuda")...)
		}
	}
	return existing(patterns)
}

// toolkit is where a CUDA toolkit keeps its libraries.
func toolkit(home string) []string {
	if home == "" {
		return nil
	}
	if runtime.GOOS == "windows" {
		return []string{filepath.Join(home, "bin"), filepath.Join(home, "bin", "x64")}
	}
	return []string{filepath.Join(home, "lib64"), filepath.Join(home, "lib"), filepath.Join(home, "targets", "*", "lib")}
}

// sitePackages are patterns of the folders where Pythons keep packages: the active environment, those of the interpreters in PATH, the
// user's and the system's.
func sitePackages() []string {
	var roots []string
	for _, env := range []string{"VIRTUAL_ENV", "CONDA_PREFIX"} {
		if v := os.Getenv(env); v != "" {
			roots = append(roots, v)
		}
	}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if dir == "" || !hasPython(dir) {
			continue
		}
		roots = append(roots, dir, filepath.Dir(dir))
	}
	if home, err := os.UserHomeDir(); err == nil {
		roots = append(roots, filepath.Join(home, ".local"))
	}
	if runtime.GOOS != "windows" {
		roots = append(roots, "/usr/local", "/usr")
	}
	var out []string
	for _, r := range roots {
		if runtime.GOOS == "windows" {
			out = append(out, filepath.Join(r, "Lib", "site-packages"))
			continue
		}
		for _, kind := range []string{"site-packages", "dist-packages"} {
			out = append(out, filepath.Join(r, "lib", "python3*", kind))
		}
	}
	return out
}

func hasPython(dir string) bool {
	return slices.ContainsFunc([]string{"python3", "python", "python.exe"}, func(name string) bool {
		_, err := os.Stat(filepath.Join(dir, name))
		return err == nil
	})
}

// compareVersions orders names as text, with numbers in them by value: python3.9 comes before python3.12.
func compareVersions(a, b string) int {
	for a != "" && b != "" {
		x, y := digits(a), digits(b)
		if x == 0 || y == 0 {
			if a[0] != b[0] {
				return cmp.Compare(a[0], b[0])
			}
			a, b = a[1:], b[1:]
			continue
		}
		m, n := strings.TrimLeft(a[:x], "0"), strings.TrimLeft(b[:y], "0")
		if c := cmp.Or(cmp.Compare(len(m), len(n)), cmp.Compare(m, n)); c != 0 {
			return c
		}
		a, b = a[x:], b[y:]
	}
	return cmp.Compare(len(a), len(b))
}

// digits is how many digits a text begins with.
func digits(s string) int { return len(s) - len(strings.TrimLeft(s, "0123456789")) }

// existing resolves patterns to folders that are there, newest version first where a pattern has several, each once.
func existing(patterns []string) []string {
	var out []string
	for _, p := range patterns {
		found, err := filepath.Glob(p)
		if err != nil {
			continue // a home folder with a bracket in its name: nothing to find there by pattern
		}
		slices.SortFunc(found, func(a, b string) int { return compareVersions(b, a) })
		for _, f := range found {
			if info, err := os.Stat(f); err == nil && info.IsDir() && !slices.Contains(out, f) {
				out = append(out, f)
			}
		}
	}
	return out
}
