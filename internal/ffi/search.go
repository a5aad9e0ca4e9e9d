package ffi

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// PathVariable names the environment variable that lists folders searched before all others. An element "-" ends the search: nothing
// else is looked at.
const PathVariable = "BYES_CUDA_PATH"

// Search says what library is wanted.
type Search struct {
	What    string   // for messages: "the CUDA driver (libcuda)"
	Unix    []string // file names in order of preference
	Windows []string
	// Before are patterns of files in the library's own folder that are opened first, with their symbols visible to all: libraries
	// that it opens itself by bare name.
	Before []string
	// System leaves CUDA_HOME and Python's folders out: a driver belongs to the machine.
	System bool
	Remedy string // what to do where it is absent
}

// Open opens the first library that is found: every place is tried for the first name, then for the second. The places are the folders of
// $BYES_CUDA_PATH, the system's own search by bare name, $CUDA_HOME and $CUDA_PATH, the folders nvidia/*/lib of Python's
// packages (found by looking at the active environment, PATH and the usual places, not by running Python), conda, /usr/local/cuda*.
// The error lists what was tried.
func Open(s Search) (*Library, error) {
	names := s.Unix
	if runtime.GOOS == "windows" {
		names = s.Windows
	}
	first, only := override(os.Getenv(PathVariable))
	var rest []string
	if !only {
		rest = s.folders()
	}
	if !Supported {
		names = names[:0]
	}
	var failed []string
	for _, name := range names {
		for _, place := range slices.Concat(first, bare(only), rest) {
			l, err := s.try(place, name)
			switch {
			case err == nil:
				return l, nil
			case !errors.Is(err, fs.ErrNotExist):
				failed = append(failed, err.Error())
			}
		}
	}
	return nil, s.absent(names, slices.Concat(first, rest), failed, only)
}

// override splits the variable's value.
func override(value string) (folders []string, only bool) {
	for _, f := range filepath.SplitList(value) {
		if f == "-" {
			return folders, true
		}
		if f != "" {
			folders = append(folders, f)
		}
	}
	return folders, false
}

// bare is the place that stands for the system's own search.
func bare(only bool) []string {
	if only {
		return nil
	}
	return []string{""}
}

// try opens a name in a folder, or by the system's search where the folder is empty. It returns fs.ErrNotExist where it is not there.
func (s Search) try(folder, name string) (*Library, error) {
	if folder == "" {
		h, err := open(name, false)
		if err != nil {
			return nil, fs.ErrNotExist // the usual case; the system's words say no more than that
		}
		return &Library{path: mapped(name), handle: h}, nil
	}
	file, err := filepath.Abs(filepath.Join(folder, name)) // a name without a slash would be searched for elsewhere
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(file); err != nil {
		return nil, fs.ErrNotExist
	}
	for _, pattern := range s.Before {
		helpers, err := filepath.Glob(filepath.Join(filepath.Dir(file), pattern))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", pattern, err)
		}
		for _, h := range helpers {
			if _, err := open(h, true); err != nil {
				return nil, fmt.Errorf("%s: %w", h, err)
			}
		}
	}
	h, err := open(file, false)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return &Library{path: file, handle: h}, nil
}

func (s Search) absent(names, folders, failed []string, only bool) error {
	if !Supported {
		return fmt.Errorf("%s is not used: %w", s.What, errBuild)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s was not found (%s)", s.What, strings.Join(names, ", "))
	if s.Remedy != "" {
		fmt.Fprintf(&b, "; %s", s.Remedy)
	}
	b.WriteString(". Tried: ")
	if !only {
		b.WriteString("the system's library path")
		if len(folders) > 0 {
			b.WriteString(", ")
		}
	}
	b.WriteString(strings.Join(folders, ", "))
	if len(failed) > 0 {
		fmt.Fprintf(&b, ". Could not be opened: %s", strings.Join(failed, "; "))
	}
	if !only {
		fmt.Fprintf(&b, ". $%s can name more folders", PathVariable)
	}
	return errors.New(b.String())
}

// errBuild is the answer of builds without foreign libraries.
var errBuild = errors.New("this program was built without foreign libraries (tag nogpu, or a system that has none)")

// mapped finds the file behind a library that was opened by bare name, where the system lists what a process has mapped.
func mapped(name string) string {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return name
	}
	for line := range strings.Lines(string(maps)) {
		at := strings.IndexByte(line, '/')
		if at < 0 {
			continue
		}
		file := strings.TrimSpace(line[at:])
		base := filepath.Base(file)
		if base == name || strings.HasPrefix(base, name+".") {
			return file
		}
		if real, err := filepath.EvalSymlinks(filepath.Join(filepath.Dir(file), name)); err == nil && real == file {
			return file
		}
	}
	return name
}
