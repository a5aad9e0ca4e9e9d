package main

import (
	"os"
	"path/filepath"
	"regexp"
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

// TestRegistersOfAVX2 looks for registers that only AVX-512 has in functions for AVX2: the assembler takes them without a word.
func TestRegistersOfAVX2(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "..", "internal", "fourbit", "*_amd64.s"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	high := regexp.MustCompile(`\b(Z\d+|[XY](1[6-9]|2\d|3\d))\b`)
	for _, f := range files {
		content, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, function := range strings.Split(string(content), "\nTEXT ·")[1:] {
			name := function[:strings.IndexByte(function, '(')]
			if m := high.FindString(function); strings.HasSuffix(name, "AVX2") && m != "" {
				t.Errorf("%s: %s uses %s", f, name, m)
			}
		}
	}
}
