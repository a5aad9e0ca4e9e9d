package profile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
)

// The files of a profile.
const (
	ReportFile     = "report.txt"   // the whole text
	ProfileFile    = "profile.json" // Result
	TraceFile      = "trace.json"   // for chrome://tracing and Perfetto; not of a dry profile
	MemoryFile     = "memory.json"  // Memory
	MemoryPlotFile = "memory.png"
)

// Write puts the files of the result into a folder, which is made if need be. Each file is replaced whole. A nil fsys is the
// operating system's.
func (r *Result) Write(fsys vfs.FS, dir string) error {
	fsys = vfs.Or(fsys)
	files := map[string]func() ([]byte, error){
		ReportFile: func() ([]byte, error) {
			var b bytes.Buffer
			err := r.WriteText(&b, TextOptions{})
			return b.Bytes(), err
		},
		ProfileFile:    func() ([]byte, error) { return indented(r) },
		MemoryFile:     func() ([]byte, error) { return indented(r.Memory) },
		MemoryPlotFile: r.Memory.PNG,
	}
	if r.Steps.Count > 0 {
		files[TraceFile] = r.Trace
	}
	if err := vfs.MkdirDurable(fsys, dir); err != nil {
		return fmt.Errorf("profile: folder %s: %w; name another", dir, err)
	}
	for name, content := range files {
		raw, err := content()
		if err != nil {
			return fmt.Errorf("profile: %s: %w", name, err)
		}
		if err := vfs.WriteAtomic(fsys, filepath.Join(dir, name), raw); err != nil {
			return fmt.Errorf("profile: %s: %w; name another folder", filepath.Join(dir, name), err)
		}
	}
	return nil
}

func indented(v any) ([]byte, error) {
	raw, err := json.MarshalIndent(v, "", " ")
	return append(raw, '\n'), err
}
