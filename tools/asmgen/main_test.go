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

// TestFunctionsKeepToTheirLevel looks for what only AVX-512 has in functions for AVX2: registers, which the assembler takes without a word, and
// instructions, which avo lists in a comment.
func TestFunctionsKeepToTheirLevel(t *testing.T) {
	high := regexp.MustCompile(`\b(Z\d+|[XY](1[6-9]|2\d|3\d)|K[0-7])\b|Requires:.*AVX512\w*`)
	seen := 0
	for _, o := range outputs {
		file := filepath.Join("..", "..", filepath.FromSlash(o.file)+"_amd64.s")
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, function := range strings.Split(string(content), "\n// func ")[1:] {
			name := function[:strings.IndexByte(function, '(')]
			if !strings.HasSuffix(name, "AVX2") {
				continue
			}
			seen++
			if m := high.FindString(function); m != "" {
				t.Errorf("%s: %s has %s", file, name, m)
			}
		}
	}
	if seen == 0 {
		t.Error("no function for AVX2 found")
	}
}

// TestNoCodeIsDead looks for instructions behind a jump or a return that no other jump leads to.
func TestNoCodeIsDead(t *testing.T) {
	jump := regexp.MustCompile(`(?m)^\tJ[A-Z]+ +(\w+)$`)
	for _, o := range outputs {
		file := filepath.Join("..", "..", filepath.FromSlash(o.file)+"_amd64.s")
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, function := range strings.Split(string(content), "\nTEXT ")[1:] {
			targets := map[string]bool{}
			for _, m := range jump.FindAllStringSubmatch(function, -1) {
				targets[m[1]] = true
			}
			name, body, _ := strings.Cut(function, "\n")
			dead := false
			for line := range strings.Lines(body) {
				label, isLabel := strings.CutSuffix(strings.TrimSpace(line), ":")
				switch {
				case isLabel:
					dead = dead && !targets[label]
				case !strings.HasPrefix(line, "\t") || strings.HasPrefix(line, "\t//"):
				case dead:
					t.Errorf("%s: %s: nothing leads to %q", file, name, strings.TrimSpace(line))
					dead = false
				default:
					dead = strings.HasPrefix(line, "\tJMP ") || strings.HasPrefix(line, "\tRET")
				}
			}
		}
	}
}
