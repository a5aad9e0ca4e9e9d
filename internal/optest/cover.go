package optest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"sort"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// OpTypes lists the op types declared in a folder: exported types with the methods Name and Infer.
func OpTypes(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	has := map[string]map[string]bool{}
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, src, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv != nil {
				id, ok := fn.Recv.List[0].Type.(*ast.Ident)
				if !ok {
					continue
				}
				if has[id.Name] == nil {
					has[id.Name] = map[string]bool{}
				}
				has[id.Name][fn.Name.Name] = true
			}
		}
	}
	var out []string
	for name, methods := range has {
		if methods["Name"] && methods["Infer"] && ast.IsExported(name) {
			out = append(out, name)
		}
	}
	sort.Strings(out)
	return out, nil
}

// Use is where an op occurs in the table.
type Use struct {
	Op    graph.Op
	Types map[tensor.DType]*graph.Node // an example node by the dtype that leads its inputs and outputs
}

// Uses collects the ops of all cases, forward and backward, in every dtype: by op type, pointwise functions by name.
func Uses() (map[string]*Use, error) {
	out := map[string]*Use{}
	for _, c := range All() {
		for _, d := range c.Types() {
			b, _, err := c.Backward(d)
			if err != nil {
				return nil, err
			}
			for _, n := range b.Graph.Nodes() {
				key := useKey(n.Op)
				if out[key] == nil {
					out[key] = &Use{Op: n.Op, Types: map[tensor.DType]*graph.Node{}}
				}
				if lead := leadingType(n); out[key].Types[lead] == nil {
					out[key].Types[lead] = n
				}
			}
		}
	}
	return out, nil
}

// useKey is the Go type of an op, with the name where one type is many functions.
func useKey(op graph.Op) string {
	key := reflect.TypeOf(op).Name()
	switch op.(type) {
	case ops.Pointwise, ops.Reduce:
		return key + " " + op.Name()
	}
	return key
}

// leadingType is the dtype a kernel is chosen by: of the first floating-point input, else of the first input, else of the output.
func leadingType(n *graph.Node) tensor.DType {
	for _, v := range n.In {
		if v.DType().IsFloat() {
			return v.DType()
		}
	}
	if len(n.In) > 0 {
		return n.In[0].DType()
	}
	return n.Out[0].DType
}
