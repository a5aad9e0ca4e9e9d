package deptest

import (
	"go/ast"
	"go/token"
	"path"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"unicode"
)

func checkEdges(t *Tree) []Problem {
	var out []Problem
	for _, f := range t.files {
		if f.test {
			continue
		}
		t.imports(f, func(spec *ast.ImportSpec, to string, internal bool) {
			if !internal || to == f.pkg {
				return
			}
			for _, e := range edges {
				if match(e.From, f.pkg) && !match(e.Except, f.pkg) && match(e.To, to) && !match(e.Allow, to) {
					out = append(out, f.problem(spec.Pos(), "%s must not import %s: %s", f.pkg, to, e.Reason))
				}
			}
		})
	}
	return out
}

func checkExternals(t *Tree) []Problem {
	var out []Problem
	for _, f := range t.files {
		if f.test {
			continue
		}
		t.imports(f, func(spec *ast.ImportSpec, to string, internal bool) {
			for _, e := range externals {
				if !internal && match(e.Import, to) && !match(e.Allow, f.pkg) {
					out = append(out, f.problem(spec.Pos(), "%s must not import %s: %s", f.pkg, to, e.Reason))
				}
			}
		})
	}
	return out
}

func checkUnsafe(t *Tree) []Problem {
	var allowed []string
	for _, a := range unsafeAllowed {
		allowed = append(allowed, a.Package)
	}
	var out []Problem
	for _, f := range t.files {
		if f.test || match(allowed, f.pkg) {
			continue
		}
		t.imports(f, func(spec *ast.ImportSpec, to string, _ bool) {
			if to == "unsafe" {
				out = append(out, f.problem(spec.Pos(), "%s must not import unsafe: only %s may, each for a reason in internal/deptest/rules.go",
					f.pkg, strings.Join(allowed, ", ")))
			}
		})
	}
	return out
}

func checkDots(t *Tree) []Problem {
	var out []Problem
	for _, f := range t.files {
		for _, spec := range f.ast.Imports {
			if spec.Name != nil && spec.Name.Name == "." {
				out = append(out, f.problem(spec.Pos(), "dot import of %s: a reader cannot tell where a name comes from", spec.Path.Value))
			}
		}
	}
	return out
}

func checkMust(t *Tree) []Problem {
	var out []Problem
	for _, f := range t.files {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && isMust(fn.Name.Name) {
				out = append(out, f.problem(fn.Name.Pos(), "%s: return an error (or record it in the graph); callers must not be made to panic", fn.Name.Name))
			}
		}
	}
	return out
}

// isMust is true for Must and MustX, not for Mustard.
func isMust(name string) bool {
	rest, ok := strings.CutPrefix(name, "Must")
	if !ok {
		return false
	}
	for _, r := range rest {
		return !unicode.IsLower(r)
	}
	return true
}

func checkLengths(t *Tree) []Problem {
	var out []Problem
	for _, f := range t.files {
		if f.generated() {
			continue
		}
		if f.lines > maxFileLines {
			out = append(out, Problem{File: f.path, Line: maxFileLines + 1,
				Reason: lengthReason("file", f.lines, maxFileLines, "split it by subject")})
		}
		for _, fn := range f.functions() {
			if fn.lines > maxFuncLines {
				out = append(out, f.problem(fn.pos, "%s", lengthReason("function "+fn.name, fn.lines, maxFuncLines, "name its parts as helpers below it")))
			}
		}
	}
	return out
}

func lengthReason(what string, lines, limit int, remedy string) string {
	return what + " has " + strconv.Itoa(lines) + " lines, limit " + strconv.Itoa(limit) + ": " + remedy
}

// Shares returns the share of files and of functions that are no longer than usual (450 and 45 lines), generated ones aside.
func (t *Tree) Shares() (files, functions float64) {
	var nFiles, okFiles, nFuncs, okFuncs int
	for _, f := range t.files {
		if f.generated() {
			continue
		}
		nFiles++
		if f.lines <= usualFileLines {
			okFiles++
		}
		for _, fn := range f.functions() {
			nFuncs++
			if fn.lines <= usualFuncLines {
				okFuncs++
			}
		}
	}
	return float64(okFiles) / float64(max(nFiles, 1)), float64(okFuncs) / float64(max(nFuncs, 1))
}

type function struct {
	name  string
	pos   token.Pos
	lines int
}

// functions lists declared functions, and function literals outside them.
func (f *file) functions() []function {
	var out []function
	ast.Inspect(f.ast, func(n ast.Node) bool {
		name := "literal"
		switch fn := n.(type) {
		case *ast.FuncDecl:
			name = fn.Name.Name
		case *ast.FuncLit:
		default:
			return true
		}
		first, last := f.fset.Position(n.Pos()).Line, f.fset.Position(n.End()).Line
		out = append(out, function{name: name, pos: n.Pos(), lines: last - first + 1})
		return false
	})
	return out
}

// checkPackageDocs wants a comment on every package that has more than tests: "Package x ..." for a library, any for a program.
func checkPackageDocs(t *Tree) []Problem {
	first := map[string]*file{}
	documented := map[string]bool{}
	for _, f := range t.files {
		if f.test {
			continue
		}
		if first[f.pkg] == nil {
			first[f.pkg] = f
		}
		name := f.ast.Name.Name
		text := strings.TrimSpace(f.ast.Doc.Text())
		if text != "" && (name == "main" || strings.HasPrefix(text, "Package "+name+" ")) {
			documented[f.pkg] = true
		}
	}
	var out []Problem
	for pkg, f := range first {
		if !documented[pkg] {
			out = append(out, f.problem(f.ast.Name.Pos(), "package %s (%s) has no package comment: say what it is and why it exists, from %q",
				f.ast.Name.Name, path.Clean(pkg), "Package "+f.ast.Name.Name+" "))
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].File < out[j].File })
	return out
}

// standardMethods need no comment of their own: their contract is the standard library's.
var standardMethods = map[string]bool{
	"Error": true, "Unwrap": true, "Is": true, "String": true, "Read": true, "Write": true, "Close": true, "Len": true, "Less": true,
	"Swap": true, "Push": true, "Pop": true, "MarshalJSON": true, "UnmarshalJSON": true, "UnmarshalYAML": true, "Name": true, "Infer": true,
}

// checkDocs wants a comment on every exported function, type, and method of an exported type, outside tests and programs. Name
// and Infer of an op are excused like the standard methods: the type's comment says it.
func checkDocs(t *Tree) []Problem {
	var out []Problem
	for _, f := range t.files {
		if f.test || f.generated() || f.ast.Name.Name == "main" {
			continue
		}
		for _, d := range f.ast.Decls {
			for _, name := range undocumented(d) {
				out = append(out, f.problem(name.Pos(), "exported %s has no comment: give its contract (shapes, units, errors, source)", name.Name))
			}
		}
	}
	return out
}

func undocumented(d ast.Decl) []*ast.Ident {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Doc == nil && d.Name.IsExported() && (d.Recv == nil || exportedReceiver(d.Recv) && !standardMethods[d.Name.Name]) {
			return []*ast.Ident{d.Name}
		}
	case *ast.GenDecl:
		var out []*ast.Ident
		for _, s := range d.Specs {
			if ts, ok := s.(*ast.TypeSpec); ok && ts.Name.IsExported() && ts.Doc == nil && d.Doc == nil {
				out = append(out, ts.Name)
			}
		}
		return out
	}
	return nil
}

func exportedReceiver(recv *ast.FieldList) bool {
	typ := recv.List[0].Type
	for {
		switch t := typ.(type) {
		case *ast.StarExpr:
			typ = t.X
		case *ast.IndexExpr:
			typ = t.X
		case *ast.IndexListExpr:
			typ = t.X
		case *ast.Ident:
			return t.IsExported()
		default:
			return false
		}
	}
}

// marker matches words that promise later work. The pattern is split so that this file does not match itself.
var marker = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X|HA` + `CK)\b`)

func checkMarkers(t *Tree) []Problem {
	var out []Problem
	for _, f := range t.files {
		for _, group := range f.ast.Comments {
			for _, c := range group.List {
				if word := marker.FindString(c.Text); word != "" {
					out = append(out, f.problem(c.Pos(), "comment says %s: finish it, or state the limit as a fact", word))
				}
			}
		}
	}
	return out
}
