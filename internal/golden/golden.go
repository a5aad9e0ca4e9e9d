// Package golden finds the reference data that tests compare with: files made by other libraries, kept outside the module.
package golden

import (
	"os"
	"path/filepath"
	"testing"
)

// Dir returns the folder of reference data: $BYES_TESTDATA, else shared/data beside the module's root. When there is none the
// test is skipped and says where it looked.
func Dir(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("BYES_TESTDATA"); dir != "" {
		if _, err := os.Stat(dir); err != nil {
			t.Fatalf("BYES_TESTDATA: %v", err)
		}
		return dir
	}
	root := Root(t)
	dir := filepath.Join(filepath.Dir(root), "shared", "data")
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("no reference data: set BYES_TESTDATA or put it at %s", dir)
	}
	return dir
}

// Root returns the folder that holds go.mod, searching upwards from the working folder.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Skip("no go.mod above the working folder")
		}
		dir = parent
	}
}
