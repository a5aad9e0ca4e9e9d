// Package deptest reads the Go files of the module and reports where they break its rules of construction: which package may
// import which (rules.go), how long files and functions may be, and what no file may contain.
//
// The rules live in a test because nothing else keeps them: the compiler stops import cycles, but not the edge that makes the
// next cycle inevitable. Files are parsed and not type-checked, so every build tag and operating system is covered in one run.
package deptest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// Problem is one broken rule.
type Problem struct {
	File   string // slash-separated, relative to the root
	Line   int
	Reason string
}

// String is "file:line: reason".
func (p Problem) String() string { return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Reason) }

// Tree is the parsed source of a module and of the modules nested in it.
type Tree struct {
	Module string // module path of the root's go.mod

	files  []*file
	broken []Problem // files that do not parse
}

type file struct {
	path  string // relative to the root
	pkg   string // folder relative to the root, "." for the root itself
	test  bool
	lines int
	fset  *token.FileSet
	ast   *ast.File
}

// Load parses every .go file under root except testdata, vendor and folders whose name starts with "." or "_". A file that does
// not parse is reported by Check; an error means that the tree could not be read or has no go.mod.
func Load(root fs.FS) (*Tree, error) {
	mod, err := fs.ReadFile(root, "go.mod")
	if err != nil {
		return nil, fmt.Errorf("deptest: %w", err)
	}
	t := &Tree{}
	for line := range strings.SplitSeq(string(mod), "\n") {
		if name, ok := strings.CutPrefix(line, "module "); ok {
			t.Module = strings.TrimSpace(name)
		}
	}
	if t.Module == "" {
		return nil, fmt.Errorf("deptest: go.mod has no module line")
	}
	err = fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && skipDir(name):
			return fs.SkipDir
		case d.IsDir() || path.Ext(name) != ".go":
			return nil
		}
		return t.add(root, name)
	})
	if err != nil {
		return nil, fmt.Errorf("deptest: %w", err)
	}
	return t, nil
}

// Files is the number of files that parsed.
func (t *Tree) Files() int { return len(t.files) }

// Check runs every rule and returns what is broken, in the order of the walk within each rule.
func (t *Tree) Check() []Problem {
	out := append([]Problem(nil), t.broken...)
	for _, rule := range []func(*Tree) []Problem{
		checkEdges, checkExternals, checkUnsafe, checkDots, checkMust, checkLengths, checkPackageDocs, checkDocs, checkMarkers,
	} {
		out = append(out, rule(t)...)
	}
	return out
}

func (t *Tree) add(root fs.FS, name string) error {
	src, err := fs.ReadFile(root, name)
	if err != nil {
		return err
	}
	fset := token.NewFileSet()
	parsed, err := parser.ParseFile(fset, name, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		p := Problem{File: name, Line: 1, Reason: err.Error()}
		if list, ok := err.(scanner.ErrorList); ok && len(list) > 0 {
			p.Line, p.Reason = list[0].Pos.Line, "does not parse: "+list[0].Msg
		}
		t.broken = append(t.broken, p)
		return nil
	}
	lines := strings.Count(string(src), "\n")
	if len(src) > 0 && src[len(src)-1] != '\n' {
		lines++
	}
	t.files = append(t.files, &file{
		path: name, pkg: path.Dir(name), test: strings.HasSuffix(name, "_test.go"), lines: lines, fset: fset, ast: parsed,
	})
	return nil
}

func skipDir(name string) bool {
	base := path.Base(name)
	return name != "." && (base[0] == '.' || base[0] == '_' || base == "testdata" || base == "vendor")
}

// generated says whether the file's length is a generator's choice.
func (f *file) generated() bool { return strings.HasSuffix(f.path, "_gen.go") }

func (f *file) problem(pos token.Pos, format string, args ...any) Problem {
	return Problem{File: f.path, Line: f.fset.Position(pos).Line, Reason: fmt.Sprintf(format, args...)}
}

// imports calls yield for each import: inside the module as a folder ("graph/ops", "." for the root), elsewhere as written.
func (t *Tree) imports(f *file, yield func(spec *ast.ImportSpec, to string, internal bool)) {
	for _, spec := range f.ast.Imports {
		to, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue // the parser has refused such a file
		}
		rel, internal := strings.CutPrefix(to, t.Module+"/")
		if to == t.Module {
			rel, internal = ".", true
		}
		yield(spec, rel, internal)
	}
}

// match says whether a package fits one of the patterns: "a/b" is that package, "a/..." is a and all below it, "..." is any.
func match(patterns []string, pkg string) bool {
	for _, p := range patterns {
		tree, isTree := strings.CutSuffix(p, "/...")
		switch {
		case p == "...", p == pkg, isTree && (pkg == tree || strings.HasPrefix(pkg, tree+"/")):
			return true
		}
	}
	return false
}
