package layers

import (
	"reflect"
	"strconv"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Param is one parameter of a model under its checkpoint name. A quantized weight is a single parameter of its logical type;
// Var is then nil.
type Param struct {
	Name      string
	Type      tensor.Type
	Var       *graph.Var
	Quantized *Quantized
	Buffer    bool // saved with the model, but no parameter: SetTrainable leaves it frozen
}

// Walk calls f for each parameter of a model, in the order of the struct fields. A model is a pointer to a struct whose fields
// are *graph.Var, *Quantized, other models, slices of models, or interfaces that hold models; the tag `name:"..."` gives a
// field's part of the path, `name:"."` adds none, `name:"...,buffer"` marks a variable as a buffer, and an untagged field is not
// walked. A Namer is asked for its variables instead. A variable met twice (a tied head) is reported once.
func Walk(model any, f func(p Param)) {
	w := walker{seen: map[any]bool{}, param: f}
	w.walk("", reflect.ValueOf(model))
}

// Modules calls f for every field of interface type Projection, with its path and a function that replaces it.
func Modules(model any, f func(path string, p Projection, replace func(Projection))) {
	w := walker{seen: map[any]bool{}, module: f}
	w.walk("", reflect.ValueOf(model))
}

// GroupedModules calls f for every field of interface type Grouped, with its path and a function that replaces it.
func GroupedModules(model any, f func(path string, p Grouped, replace func(Grouped))) {
	w := walker{seen: map[any]bool{}, grouped: f}
	w.walk("", reflect.ValueOf(model))
}

// Embeddings calls f for every Embedding of a model, with its path.
func Embeddings(model any, f func(path string, e *Embedding)) {
	w := walker{seen: map[any]bool{}}
	w.visit = func(path string, m any) {
		if e, ok := m.(*Embedding); ok && !w.seen[e] {
			w.seen[e] = true
			f(path, e)
		}
	}
	w.walk("", reflect.ValueOf(model))
}

// Mixtures calls f for every mixture of experts of a model, with its path. Its router is a parameter more than a layer: PEFT takes none for a
// linear layer.
func Mixtures(model any, f func(path string, m *MoE)) {
	w := walker{seen: map[any]bool{}}
	w.visit = func(path string, m any) {
		if x, ok := m.(*MoE); ok && !w.seen[x] {
			w.seen[x] = true
			f(path, x)
		}
	}
	w.walk("", reflect.ValueOf(model))
}

// Vacant calls f for every field of interface type Projection that holds nothing, with its path and a function that fills it: a head
// that is the embedding, transposed, is one.
func Vacant(model any, f func(path string, fill func(Projection))) {
	w := walker{seen: map[any]bool{}, vacant: f}
	w.walk("", reflect.ValueOf(model))
}

// Fields calls f for every field of type *graph.Var that holds a parameter, with its path and a function that puts another variable
// there. A variable that stands in two fields is offered twice.
func Fields(model any, f func(path string, v *graph.Var, replace func(*graph.Var))) {
	w := walker{seen: map[any]bool{}, field: f}
	w.walk("", reflect.ValueOf(model))
}

// Tied is implemented by models whose output head may be the embedding.
type Tied interface {
	// TiedTable returns the table (vocabulary, features) that is the head too, nil when the head has a weight of its own.
	TiedTable() *graph.Var
}

// Params returns the parameters of a model.
func Params(model any) []Param {
	var out []Param
	Walk(model, func(p Param) { out = append(out, p) })
	return out
}

// Trainable returns the variables of a model that are marked trainable, in walking order.
func Trainable(model any) []*graph.Var {
	var out []*graph.Var
	Walk(model, func(p Param) {
		if p.Var != nil && p.Var.Trainable {
			out = append(out, p.Var)
		}
	})
	return out
}

// SetTrainable marks every parameter trainable or frozen. Quantized weights and buffers stay frozen.
func SetTrainable(model any, on bool) {
	Walk(model, func(p Param) {
		if p.Var != nil {
			p.Var.Trainable = on && !p.Buffer
		}
	})
}

// FullState returns the variables of a model whose layers ask for 32-bit optimizer states (a method FullState() []*graph.Var), each
// once: rows of an embedding are seldom updated and vary much in size, which 8-bit blocks serve badly (Dettmers et al. 2022, arXiv 2110.02861,
// §2.3). An optimizer takes them as optim.Override{Vars: layers.FullState(model), Bits: 32}.
func FullState(model any) []*graph.Var {
	var out []*graph.Var
	met := map[*graph.Var]bool{}
	w := walker{seen: map[any]bool{}, visit: func(_ string, m any) {
		l, ok := m.(interface{ FullState() []*graph.Var })
		if !ok {
			return
		}
		for _, v := range l.FullState() {
			if !met[v] {
				met[v] = true
				out = append(out, v)
			}
		}
	}}
	w.walk("", reflect.ValueOf(model))
	return out
}

type walker struct {
	seen    map[any]bool
	param   func(Param)
	module  func(path string, p Projection, replace func(Projection))
	grouped func(path string, p Grouped, replace func(Grouped))
	vacant  func(path string, fill func(Projection))
	field   func(path string, v *graph.Var, replace func(*graph.Var))
	buffer  bool                     // of the field that is walked
	visit   func(path string, m any) // called with each pointer to a model
}

var projectionType, groupedType = reflect.TypeFor[Projection](), reflect.TypeFor[Grouped]()

func (w *walker) walk(path string, v reflect.Value) {
	switch v.Kind() {
	case reflect.Interface:
		if v.IsNil() {
			if w.vacant != nil && v.Type() == projectionType && v.CanSet() {
				w.vacant(path, func(p Projection) { setProjection(v, p) })
			}
			return
		}
		inner := v.Elem() // taken first: what a replacement wraps is not offered again
		if w.module != nil && v.Type() == projectionType && v.CanSet() {
			w.module(path, v.Interface().(Projection), func(p Projection) { setProjection(v, p) })
		}
		if w.grouped != nil && v.Type() == groupedType && v.CanSet() {
			w.grouped(path, v.Interface().(Grouped), func(p Grouped) { v.Set(reflect.ValueOf(p)) })
		}
		w.walk(path, inner)
	case reflect.Pointer:
		if x, ok := v.Interface().(*graph.Var); ok && x != nil && w.field != nil && v.CanSet() && !w.buffer {
			w.field(path, x, func(y *graph.Var) { v.Set(reflect.ValueOf(y)) })
		}
		if v.IsNil() || w.leaf(path, v.Interface()) {
			return
		}
		if w.visit != nil {
			w.visit(path, v.Interface())
		}
		w.walk(path, v.Elem())
	case reflect.Struct:
		w.fields(path, v)
	case reflect.Slice:
		for i := range v.Len() {
			w.walk(join(path, strconv.Itoa(i)), v.Index(i))
		}
	}
}

// setProjection fills a field; a nil p empties it.
func setProjection(field reflect.Value, p Projection) {
	if p == nil {
		field.SetZero()
		return
	}
	field.Set(reflect.ValueOf(p))
}

// leaf reports a parameter; true ends the descent.
func (w *walker) leaf(path string, x any) bool {
	switch x := x.(type) {
	case *graph.Var:
		if w.param != nil && !w.seen[x] {
			w.seen[x] = true
			w.param(Param{Name: path, Type: x.Type, Var: x, Buffer: w.buffer})
		}
		return true
	case Namer:
		for _, n := range x.NamedVars() {
			w.leaf(join(path, n.Name), n.Var)
		}
		return true
	case *Quantized:
		if w.param != nil && !w.seen[x] {
			w.seen[x] = true
			w.param(Param{Name: path, Type: x.Logical(), Quantized: x})
		}
		return true
	}
	return false
}

func (w *walker) fields(path string, v reflect.Value) {
	t := v.Type()
	for i := range t.NumField() {
		tag, ok := t.Field(i).Tag.Lookup("name")
		if !ok || !t.Field(i).IsExported() {
			continue
		}
		name, kind, _ := strings.Cut(tag, ",")
		sub := path
		if name != "." {
			sub = join(path, name)
		}
		w.buffer = kind == "buffer"
		w.walk(sub, v.Field(i))
		w.buffer = false
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return strings.Join([]string{path, name}, ".")
}
