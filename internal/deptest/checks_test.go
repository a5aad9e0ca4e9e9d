package deptest

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

const testModule = "example.org/m"

// source is a file of a synthetic tree: its package is named after its folder and imports the given paths; a path without a dot
// in its first element that starts with "/" is inside the module.
func source(doc bool, pkg string, imports ...string) string {
	var b strings.Builder
	if doc {
		fmt.Fprintf(&b, "// Package %s is made up.\n", pkg)
	}
	fmt.Fprintf(&b, "package %s\n", pkg)
	for _, i := range imports {
		if strings.HasPrefix(i, "/") {
			i = testModule + i
		}
		fmt.Fprintf(&b, "import _ %q\n", i)
	}
	return b.String()
}

func problems(t *testing.T, files map[string]string) []Problem {
	t.Helper()
	root := fstest.MapFS{"go.mod": {Data: []byte("module " + testModule + "\n\ngo 1.26.0\n")}}
	for name, text := range files {
		root[name] = &fstest.MapFile{Data: []byte(text)}
	}
	tree, err := Load(root)
	require.NoError(t, err)
	return tree.Check()
}

// importCases are edges of a synthetic tree.
var importCases = []struct {
	from, to string
	reason   string // a part of it; "" = allowed
}{
	{"tensor", "/graph", "tensor is the leaf"},
	{"device", "/tensor", ""},
	{"device", "/graph", "seam"},
	{"graph", "/graph/ops", "it knows neither"},
	{"graph/ops", "/graph", ""},
	{"graph/ops", "/quant", ""},
	{"graph/ops", "/autograd", "never back"},
	{"graph/plan", "/device", ""},
	{"graph/plan", "/graph/ops", "no op by name"},
	{"graph/plan", "/device/cpu", "no backend"},
	{"autograd", "/layers", "layers stand on it"},
	{"autograd/gradcheck", "/device/cpu", ""},
	{"layers", "/autograd", ""},
	{"layers", "/models", "struct of Vars"},
	{"models", "/layers", ""},
	{"models", "/lora", "checkpoint's names"},
	{"lora", "/models", "names no model"},
	{"optim", "/lora", "whatever they belong to"},
	{"checkpoint", "/models", "names and bytes"},
	{"tokenizer", "/tensor", "text to ids"},
	{"chat", "/tokenizer", "hostile templates"},
	{"data", "/tokenizer", ""},
	{"data", "/layers", "rows of ids"},
	{"distributed", "/models", "whatever they train"},
	{"device/cpu", "/internal/ffi", ""},
	{"device/cpu", "/device/cpu/gemm", ""},
	{"device/cuda", "/layers", "a backend knows op types"},
	{"device/cuda", "/device/cpu", "do not know each other"},
	{"device/opencl", "/device/cuda/lt", "do not know each other"},
	{"trainer", "/device/cuda", "chosen by a blank import"},
	{"cmd/trainer", "/device/cuda", ""},
	{"examples/lora", "/device/cpu", ""},
	{"device/devicetest", "/device/cpu", ""},
	{"cmd/trainer", "/trainer", ""},
	{"examples/lora", "/trainer/config", ""},
	{"trainer/report", "/trainer/config", ""},
	{"models", "/trainer/config", "top of the library"},
	{"trainer", "/cmd/trainer", "programs are not libraries"},
	{"trainer", "/internal/golden", "users' binaries"},
	{"internal/ffi", "/tensor", "read whole"},
	{"internal/vfs", "/tensor", "file system"},
	{"graph", "fmt", ""},
	{"device/cuda", "github.com/ebitengine/purego", "internal/ffi only"},
	{"internal/ffi", "github.com/ebitengine/purego", ""},
	{"layers", "github.com/stretchr/testify/require", "test libraries"},
	{"trainer", "github.com/spf13/cobra", "option structs"},
	{"cmd/trainer", "github.com/spf13/cobra", ""},
	{"layers", "gonum.org/v1/plot/vg", "too heavy"},
	{"layers", "gorgonia.org/gorgonia", "own module"},
	{"benchmarks/peers", "gorgonia.org/gorgonia", ""},
	{"layers", "C", "no cgo"},
	{"checkpoint", "os/exec", "only the launcher"},
	{"layers", "unsafe", "each for a reason"},
	{"device/cpu/gemm", "unsafe", ""},
}

func TestImports(t *testing.T) {
	for _, c := range importCases {
		t.Run(c.from+" to "+c.to, func(t *testing.T) {
			name := c.from[strings.LastIndex(c.from, "/")+1:]
			got := problems(t, map[string]string{
				c.from + "/a.go":      source(true, name, c.to),
				c.from + "/a_test.go": source(false, name, c.to),
			})
			if c.reason == "" {
				require.Empty(t, got)
				return
			}
			require.NotEmpty(t, got)
			var reasons []string
			for _, p := range got {
				require.Equal(t, c.from+"/a.go", p.File, "tests may import what they need")
				require.Equal(t, 3, p.Line)
				reasons = append(reasons, p.Reason)
			}
			require.Contains(t, strings.Join(reasons, "\n"), c.reason)
		})
	}
}

func TestContents(t *testing.T) {
	long := func(n int) string { return "func f() {\n" + strings.Repeat("\t_ = 0\n", n-2) + "}\n" }
	head := "// Package a is made up.\npackage a\n\n" // 3 lines
	note := "TO" + "DO"
	for _, c := range []struct {
		name, file, text string
		line             int
		reason           string // "" = allowed
	}{
		{"dot import", "a/a.go", head + "import . \"fmt\"\n", 4, "dot import"},
		{"dot import in a test", "a/a_test.go", head + "import . \"fmt\"\n", 4, "dot import"},
		{"Must function", "a/a.go", head + "// MustOpen is.\nfunc MustOpen() {}\n", 5, "return an error"},
		{"Must method", "a/a.go", head + "type t int\n\nfunc (t) Must() {}\n", 6, "return an error"},
		{"Mustard", "a/a.go", head + "// Mustard is.\nfunc Mustard() {}\n", 0, ""},
		{"function at the limit", "a/a.go", head + long(80), 0, ""},
		{"function too long", "a/a.go", head + long(81), 4, "function f has 81 lines"},
		{"test function too long", "a/a_test.go", head + long(81), 4, "function f has 81 lines"},
		{"literal too long", "a/a.go", head + "var v =" + strings.Replace(long(90), " f()", "()", 1), 4, "function literal has 90"},
		{"generated function", "a/a_gen.go", head + long(200), 0, ""},
		{"file at the limit", "a/a.go", head + strings.Repeat("\n", 697), 0, ""},
		{"file too long", "a/a.go", head + strings.Repeat("\n", 698), 701, "file has 701 lines"},
		{"generated file", "a/a_gen.go", head + strings.Repeat("\n", 900), 0, ""},
		{"testdata", "a/testdata/a.go", "no Go at all", 0, ""},
		{"no package comment", "a/a.go", "package a\n", 1, "no package comment"},
		{"other comment", "a/a.go", "// Copyright.\npackage a\n", 2, "no package comment"},
		{"program", "a/a.go", "// Command a does nothing.\npackage main\n", 0, ""},
		{"program without", "a/a.go", "package main\n", 1, "no package comment"},
		{"tests only", "a/a_test.go", "package a\n", 0, ""},
		{"function without comment", "a/a.go", head + "func F() {}\n", 4, "exported F has no comment"},
		{"type without comment", "a/a.go", head + "type T int\n", 4, "exported T has no comment"},
		{"method without comment", "a/a.go", head + "// T is.\ntype T[K any] int\n\nfunc (*T[K]) F() {}\n", 7, "exported F has no comment"},
		{"standard method", "a/a.go", head + "// T is.\ntype T int\n\nfunc (T) Error() string { return \"\" }\n", 0, ""},
		{"method of unexported", "a/a.go", head + "type t int\n\nfunc (t) F() {}\n", 0, ""},
		{"marker", "a/a.go", head + "// " + note + ": more.\nvar x int\n", 4, "comment says"},
		{"marker in a string", "a/a.go", head + "var x = \"" + note + "\"\n", 0, ""},
		{"broken", "a/a.go", head + "func {\n", 4, "does not parse"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := problems(t, map[string]string{c.file: c.text})
			if c.reason == "" {
				require.Empty(t, got)
				return
			}
			require.Len(t, got, 1)
			require.Equal(t, fmt.Sprintf("%s:%d", c.file, c.line), fmt.Sprintf("%s:%d", got[0].File, got[0].Line))
			require.Contains(t, got[0].String(), c.reason)
		})
	}
}

func TestOneDocumentedFileIsEnough(t *testing.T) {
	require.Empty(t, problems(t, map[string]string{"a/a.go": source(false, "a"), "a/doc.go": source(true, "a")}))
}

func TestShares(t *testing.T) {
	root := fstest.MapFS{
		"go.mod": {Data: []byte("module m\n")},
		"a.go":   {Data: []byte("package m\n\nfunc a() {}\n")},
		"b.go":   {Data: []byte("package m\n\nfunc b() {\n" + strings.Repeat("\n", 500) + "}\n")},
	}
	tree, err := Load(root)
	require.NoError(t, err)
	files, functions := tree.Shares()
	require.Equal(t, []float64{0.5, 0.5}, []float64{files, functions})
}

func TestLoadNeedsModule(t *testing.T) {
	_, err := Load(fstest.MapFS{})
	require.ErrorContains(t, err, "go.mod")
	_, err = Load(fstest.MapFS{"go.mod": {Data: []byte("go 1.26\n")}})
	require.ErrorContains(t, err, "module line")
}

// TestRulesAreWritten catches a row that can never fire or has no reason.
func TestRulesAreWritten(t *testing.T) {
	for i, e := range edges {
		require.NotEmpty(t, e.From, "edge %d", i)
		require.NotEmpty(t, e.To, "edge %d", i)
		require.NotEmpty(t, e.Reason, "edge %d", i)
	}
	for _, e := range externals {
		require.NotEmpty(t, e.Reason, "%v", e.Import)
	}
	for _, u := range unsafeAllowed {
		require.NotEmpty(t, u.Reason, u.Package)
	}
}
