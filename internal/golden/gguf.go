package golden

import (
	"os"
	"path/filepath"
	"testing"
)

// Real is a real model that is too large to be kept with the reference data: a folder of it that says where to get it, and the file.
type Real struct {
	Folder   string // of the reference data, with README.md and expected.json
	Variable string // of the environment, which gives the file's path
}

// The real models.
var (
	SmolLM2 = Real{"smollm2", "BYES_SMOLLM2"}
	Gemma3  = Real{"gemma3-270m", "BYES_GEMMA3"}
)

// Path returns the GGUF file: the one that the environment names, else one that lies in the folder of the reference data or in one of that
// name beside the module's root. The test is skipped where there is none, and in short runs.
func (r Real) Path(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("runs a real model; left out of short runs")
	}
	if path := os.Getenv(r.Variable); path != "" {
		if _, err := os.Stat(path); err != nil {
			t.Fatalf("%s: %v", r.Variable, err)
		}
		return path
	}
	data := filepath.Join(Dir(t), r.Folder)
	for _, dir := range []string{data, filepath.Join(filepath.Dir(Root(t)), r.Folder)} {
		if found, err := filepath.Glob(filepath.Join(dir, "*.gguf")); err == nil && len(found) > 0 {
			return found[0]
		}
	}
	t.Skipf("the model is not here: %s says how to get it; set %s to its path", filepath.Join(data, "README.md"), r.Variable)
	return ""
}
