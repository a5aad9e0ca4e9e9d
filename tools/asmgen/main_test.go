package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCheckedInFilesAreCurrent regenerates in memory and compares byte for byte.
func TestCheckedInFilesAreCurrent(t *testing.T) {
	if err := run(filepath.Join("..", ".."), true); err != nil {
		t.Fatal(err)
	}
}

func TestCheckNoticesAChange(t *testing.T) {
	dir := t.TempDir()
	if err := run(dir, true); err == nil {
		t.Fatal("missing files were accepted")
	}
	if err := run(dir, false); err != nil {
		t.Fatal(err)
	}
	if err := run(dir, true); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "device", "cpu", "gemm", "tile_amd64.s")
	if err := os.WriteFile(path, []byte("// changed\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run(dir, true); err == nil || !strings.Contains(err.Error(), "go run ./asmgen") {
		t.Fatalf("a changed file gave %v", err)
	}
}
