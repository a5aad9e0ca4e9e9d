package lora

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// whole is a variable of the model that an adapter has a trained copy of: a weight of modules_to_save, or a bias. The copy stands in the
// model's field while the adapter is active; the model's own keeps its value.
type whole struct {
	key       string // in files, without the common prefix
	own, base *graph.Var
	replace   func(*graph.Var) // sets the field; nil for a head of its own, which is set as a whole
}

func (w *whole) use(on bool) {
	switch {
	case w.replace == nil:
	case on:
		w.replace(w.own)
	default:
		w.replace(w.base)
	}
}

// ownHead is a head that an adapter gave a model whose head is the embedding.
type ownHead struct {
	head layers.Projection // nil: none, while the adapter lies beside the weights
	path string
	fill func(layers.Projection)
	// merged is the head while the adapter lies in the model's weights, if another one: the table as it was lies in the adapter's copy then, or
	// in parted.
	merged layers.Projection
	parted *graph.Var
}

func (h *ownHead) use(on bool) {
	if on {
		h.fill(h.head)
		return
	}
	h.fill(nil)
}

// field is a place of a model where a variable stands.
type field struct {
	path    string
	v       *graph.Var
	replace func(*graph.Var)
}

func fieldsOf(model any) []field {
	var out []field
	layers.Fields(model, func(path string, v *graph.Var, replace func(*graph.Var)) {
		out = append(out, field{path, v, replace})
	})
	return out
}

// module is the path of the module that a field belongs to.
func (f field) module() string { return parent(f.path) }

// parent drops the last part of a path.
func parent(path string) string {
	i := strings.LastIndexByte(path, '.')
	return path[:max(i, 0)]
}

// savedWhole reports whether a module is or lies below one that modules_to_save means: a path that ends in one of the names, and be it
// in the middle of a part, as PEFT has it.
func savedWhole(module string, names []string) bool {
	for m := module; m != ""; m = parent(m) {
		if slices.ContainsFunc(names, func(n string) bool { return strings.HasSuffix(m, n) }) {
			return true
		}
	}
	return false
}

// takeWhole gives the adapter its copies of modules and biases that the configuration names.
func (a *Adapter) takeWhole(model any) error {
	if whole := len(a.Config.ModulesToSave) > 0; (whole || len(a.Config.Tokens) > 0) && headTaken(model) {
		return fmt.Errorf("lora: another adapter has given the model a head of its own; leave it out with SetActive(false) before this one is put on")
	}
	if err := a.untie(model, func(path string) bool { return savedWhole(path, a.Config.ModulesToSave) }); err != nil {
		return err
	}
	adapted := map[string]bool{}
	for _, m := range a.Modules {
		adapted[m.Path] = true
	}
	for _, f := range fieldsOf(model) {
		module := f.module()
		isBias := lastPart(f.path) == "bias" && (a.Config.Bias == BiasAll || a.Config.Bias == BiasLoRA && adapted[module])
		switch {
		case a.owns(f.v):
		case foreign(f.v) && (isBias || savedWhole(module, a.Config.ModulesToSave)):
			return fmt.Errorf("lora: %s is trained whole by another adapter; leave that one out with SetActive(false) first", f.path)
		case savedWhole(module, a.Config.ModulesToSave):
			a.copyOf(f, f.path)
		case isBias && adapted[module]:
			a.copyOf(f, module+".base_layer.bias")
		case isBias:
			a.copyOf(f, f.path)
		}
	}
	for _, h := range a.heads {
		t, ok := h.head.(*frozenTable)
		for _, w := range a.whole {
			if ok && w.base == t.table {
				h.merged = &layers.Linear{Weight: w.own}
			}
		}
	}
	return a.checkWhole(model)
}

// checkWhole says which of modules_to_save names nothing that can be trained.
func (a *Adapter) checkWhole(model any) error {
	for _, name := range a.Config.ModulesToSave {
		if !slices.ContainsFunc(a.whole, func(w *whole) bool { return savedWhole(parent(w.key), []string{name}) }) {
			var modules []string
			for _, p := range layers.Params(model) {
				if m := parent(p.Name); p.Quantized != nil && savedWhole(m, []string{name}) {
					return fmt.Errorf("lora: modules_to_save: %s is quantized and cannot be trained whole; load it in full precision, or adapt it", m)
				}
				modules = append(modules, parent(p.Name))
			}
			return fmt.Errorf("lora: modules_to_save: no module's path ends in %q; paths end in: %s", name, suffixes(modules))
		}
	}
	return nil
}

// foreign reports a variable that an active adapter put into the model.
func foreign(v *graph.Var) bool { return strings.Contains(v.Name, ownMark) }

// ownMark is in the names of copies that adapters train whole.
const ownMark = ".modules_to_save."

// headTaken reports whether an active adapter of a model has given it a head.
func headTaken(model any) bool {
	taken := false
	layers.Modules(model, func(_ string, p layers.Projection, _ func(layers.Projection)) {
		switch p := p.(type) {
		case *tokenHead, *frozenTable:
			taken = true
		case *layers.Linear:
			taken = taken || foreign(p.Weight)
		}
	})
	return taken
}

func (a *Adapter) owns(v *graph.Var) bool {
	return slices.ContainsFunc(a.whole, func(w *whole) bool { return w.own == v })
}

// copyOf puts a copy of a variable into its field.
func (a *Adapter) copyOf(f field, key string) {
	own := a.ownVar(f.module(), lastPart(f.path), f.v.Type)
	a.whole = append(a.whole, &whole{key: key, own: own, base: f.v, replace: f.replace})
	f.replace(own)
}

// ownVar is a variable for a trained copy of a weight of that type; Init gives it its value.
func (a *Adapter) ownVar(module, name string, t tensor.Type) *graph.Var {
	v := graph.NewVar(a.varName(module, ownMark[1:]+name), t.With(a.Config.param()))
	v.Supplied = true
	return v
}

// untie gives a model whose head is the embedding a head of its own where the adapter treats the two apart: the head is trained whole, or
// the embedding is. PEFT leaves the other one at the model's table then.
func (a *Adapter) untie(model any, saved func(path string) bool) error {
	tied, ok := model.(layers.Tied)
	if !ok || tied.TiedTable() == nil {
		return nil
	}
	base := tied.TiedTable()
	path, fill := vacantHead(model)
	if fill == nil {
		return nil
	}
	embedding := ""
	layers.Embeddings(model, func(p string, e *layers.Embedding) {
		if e.Weight == base {
			embedding = p
		}
	})
	h := &ownHead{path: path, fill: fill}
	switch {
	case saved(path):
		own := a.ownVar(path, "weight", base.Type)
		a.whole = append(a.whole, &whole{key: path + ".weight", own: own, base: base})
		h.head = &layers.Linear{Weight: own}
	case embedding != "" && saved(embedding):
		h.head = &frozenTable{base}
	default:
		return nil
	}
	a.heads = append(a.heads, h)
	fill(h.head)
	return nil
}

// vacantHead finds the field for a head that a model does not use.
func vacantHead(model any) (path string, fill func(layers.Projection)) {
	layers.Vacant(model, func(p string, f func(layers.Projection)) {
		if slices.Contains(outputHeads, lastPart(p)) {
			path, fill = p, f
		}
	})
	return path, fill
}

// frozenTable is an embedding's table as a head. It is no parameter of the model a second time.
type frozenTable struct{ table *graph.Var }

// Forward implements layers.Projection.
func (t *frozenTable) Forward(x graph.Value) graph.Value {
	if !x.Valid() {
		return x
	}
	return ops.Linear(x, ops.Cast(x.Graph().Read(t.table), x.DType()))
}

// Features implements layers.Projection.
func (t *frozenTable) Features() (in, out int) { return t.table.Type.Dim(1), t.table.Type.Dim(0) }

// copyWhole gives the copies the values of the model's own variables.
func (a *Adapter) copyWhole(s Store) error {
	for _, w := range a.whole {
		t, err := s.Get(w.base)
		if err == nil {
			t, err = t.Convert(w.own.Type.DType)
		}
		if err == nil {
			err = s.Set(w.own, t)
		}
		if err != nil {
			return fmt.Errorf("lora: %s: %w", w.key, err)
		}
	}
	return nil
}

// partHead keeps the table of an adapted embedding that is the head too as a weight of its own, for while the adapter is merged: the adapter
// changes what the embedding gives, and not the scores. Tokens that the adapter trains are rows of both.
func (a *Adapter) partHead(s Store) error {
	for _, m := range a.Modules {
		if m.embed == nil {
			continue
		}
		table := m.embed.Weight
		h, err := a.sharing(table)
		if err != nil {
			return fmt.Errorf("lora: %s: %w", m.Path, err)
		}
		if h == nil {
			continue
		}
		h.parted = graph.NewVar(a.varName(table.Name, "head"), table.Type)
		h.merged = &layers.Linear{Weight: h.parted}
		t, err := s.Get(table)
		for _, k := range a.tokens {
			if err == nil && k.base == table {
				err = k.putRows(s, t)
			}
		}
		if err == nil {
			err = s.Set(h.parted, t)
		}
		if err != nil {
			return fmt.Errorf("lora: %s: %w", m.Path, err)
		}
	}
	return nil
}

// sharing is the head that reads an embedding's table: that of the adapter's tokens, or one without layers yet; nil if there is none.
func (a *Adapter) sharing(table *graph.Var) (*ownHead, error) {
	for _, h := range a.heads {
		if t, ok := h.head.(*tokenHead); ok && t.table == table {
			return h, nil
		}
	}
	var err error
	layers.Modules(a.model, func(_ string, p layers.Projection, _ func(layers.Projection)) {
		if t, ok := p.(*tokenHead); ok && t.table == table {
			err = fmt.Errorf("the adapter %q trains tokens of this embedding, which is the head too; leave it out with SetActive(false) first", t.rows.set.Name)
		}
	})
	tied, ok := a.model.(layers.Tied)
	if err != nil || !ok || tied.TiedTable() != table {
		return nil, err
	}
	path, fill := vacantHead(a.model)
	if fill == nil {
		return nil, fmt.Errorf("the embedding is the head too, and the model has no place for one of its own; keep the adapter beside the weights")
	}
	h := &ownHead{path: path, fill: fill}
	a.heads = append(a.heads, h)
	return h, nil
}

// joinHead undoes partHead: the table, as it was again, is the head.
func (a *Adapter) joinHead(s Store) error {
	var err error
	for _, h := range a.heads {
		if h.parted == nil {
			continue
		}
		if memory, ok := s.(layers.Memory); ok {
			err = errors.Join(err, memory.Drop(h.parted))
		}
		h.parted, h.merged = nil, nil
	}
	a.heads = slices.DeleteFunc(a.heads, func(h *ownHead) bool { return h.head == nil })
	return err
}

// wholeFits reads what was trained whole and refuses values that the model's variables cannot hold, before anything is changed.
func (a *Adapter) wholeFits(s Store) error {
	for _, w := range a.whole {
		if w.replace == nil { // a head of its own stays where it is
			continue
		}
		if err := fits(s, w.own, w.base); err != nil {
			return fmt.Errorf("lora: %s: %w", w.key, err)
		}
	}
	for _, k := range a.tokens {
		if err := fits(s, k.delta, k.base); err != nil {
			return fmt.Errorf("lora: %s: %w", k.path, err)
		}
	}
	return nil
}

// fits reports a value of own that is not finite in the dtype of base.
func fits(s Store, own, base *graph.Var) error {
	t, err := s.Get(own)
	if err != nil {
		return err
	}
	if err := finite(t); err != nil {
		return err
	}
	rounded, err := t.Convert(base.Type.DType)
	if err != nil {
		return err
	}
	if finite(rounded) != nil {
		return fmt.Errorf("a trained value is too large for %v; nothing was changed", base.Type.DType)
	}
	return nil
}

// exchange swaps the values of a copy and of the model's variable. Its own inverse, but for rounding to a narrower dtype.
func (w *whole) exchange(s Store) error {
	own, err := s.Get(w.own)
	if err != nil {
		return err
	}
	base, err := s.Get(w.base)
	if err != nil {
		return err
	}
	return set(s, map[*graph.Var]*tensor.Tensor{w.own: base, w.base: own})
}

// set stores tensors in the dtypes of their variables.
func set(values layers.Values, of map[*graph.Var]*tensor.Tensor) error {
	for v, t := range of {
		t, err := t.Convert(v.Type.DType)
		if err == nil {
			err = values.Set(v, t)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
