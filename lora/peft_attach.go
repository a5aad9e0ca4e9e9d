package lora

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// AttachSaved freezes the model and puts a saved adapter on exactly the modules that its weights name. The model is looked
// over first: when a module is missing or has another shape nothing is changed and the error, which matches
// checkpoint.ErrFormat, names the first. The weights go to values, in which the model's own must lie already; with nil, Init hands them over
// later.
func AttachSaved(model any, s *Saved, values Store) (*Adapter, error) {
	return AttachSavedNamed(model, "", s, values)
}

// AttachSavedNamed is AttachSaved under a name, as AttachNamed is Attach.
func AttachSavedNamed(model any, name string, s *Saved, values Store) (*Adapter, error) {
	if s == nil {
		return nil, errors.New("lora: the saved adapter is nil; read one with Load")
	}
	if d := s.Config.Dropout; !(d >= 0 && d < 1) {
		return nil, fmt.Errorf("lora: dropout %v must satisfy 0 <= dropout < 1", d)
	}
	all := layersOf(model)
	if err := s.fits(all); err != nil {
		return nil, err
	}
	byPath := map[string]*savedModule{}
	for _, m := range s.modules {
		byPath[m.path] = m
	}
	a := &Adapter{Config: s.Config, Name: name, saved: s}
	var chosen []*layer
	for _, l := range all {
		if byPath[l.path] != nil {
			chosen = append(chosen, l)
		}
	}
	if err := a.free(chosen); err != nil {
		return nil, err
	}
	a.freeze(model)
	for _, l := range chosen {
		m := byPath[l.path]
		if err := a.add(l, m.rank, m.scale); err != nil {
			return nil, a.undo(err)
		}
	}
	if err := a.attachRest(model); err != nil {
		return nil, a.undo(err)
	}
	a.setTrainable(true)
	if values == nil {
		return a, nil
	}
	return a, a.Init(values)
}

// attachRest puts what is trained whole, and trained tokens, on the model, and compares them with the files.
func (a *Adapter) attachRest(model any) error {
	s := a.saved
	if err := a.takeWhole(model); err != nil {
		return s.misfit(configFile, "", err.Error())
	}
	if err := a.takeTokens(model); err != nil {
		return s.misfit(configFile, "", err.Error())
	}
	here := map[string]bool{}
	for _, w := range a.whole {
		here[w.key] = true
		switch t := s.whole[w.key]; {
		case t == nil:
			return s.mismatch(w.key, "the file does not hold it, and "+configFile+" says that it is trained whole")
		case t.Shape() != w.own.Type.Shape:
			return s.mismatch(w.key, fmt.Sprintf("it is %v, the model's is %v", t.Shape(), w.own.Type.Shape))
		}
	}
	for _, key := range sortedKeys(s.whole) {
		if !here[key] {
			return s.mismatch(key, "the model has no such weight")
		}
	}
	rows := map[string]bool{}
	for _, k := range a.tokens {
		rows[k.path] = true
		switch t := s.tokens[k.path]; {
		case t == nil:
			return s.mismatch(k.path+tokensSuffix, "the file does not hold it, and "+configFile+" lists trained tokens")
		case t.Shape() != k.delta.Type.Shape:
			return s.mismatch(k.path+tokensSuffix, fmt.Sprintf("it is %v, and %d rows of %d features are trained", t.Shape(), len(k.ids), k.delta.Type.Dim(1)))
		}
	}
	for _, path := range sortedKeys(s.tokens) {
		if !rows[path] {
			return s.mismatch(path+tokensSuffix, "the model has no such embedding, or "+configFile+" lists no tokens of it")
		}
	}
	return nil
}

// fits compares the adapter with the layers of a model.
func (s *Saved) fits(all []*layer) error {
	found := map[string]*layer{}
	linears := 0
	for _, l := range all {
		if found[l.path] == nil {
			found[l.path] = l
		}
		if l.linear != nil {
			linears++
		}
	}
	for _, m := range s.modules {
		a, b := m.path+"."+m.a(), m.path+"."+m.b()
		l := found[m.path]
		switch {
		case m.embedding && (l == nil || l.embed == nil):
			return s.mismatch(a, fmt.Sprintf("the model has no embedding %s", m.path))
		case m.experts > 0 && (l == nil || l.grouped == nil):
			return s.mismatch(a, fmt.Sprintf("the model has no experts %s", m.path))
		case !m.embedding && m.experts == 0 && (l == nil || l.linear == nil):
			return s.mismatch(a, fmt.Sprintf("the model has no linear layer %s among its %d", m.path, linears))
		}
		in, out := l.features()
		if l.grouped != nil {
			if n, _, _ := l.grouped.Features(); n != m.experts {
				return s.mismatch(a, fmt.Sprintf("it has %d rows, %d experts of rank %d; the model's %s has %d experts", n*m.rank, m.experts, m.rank, m.path, n))
			}
		}
		if got := m.tensors[m.a()].Shape().Dim(1); got != in {
			return s.mismatch(a, fmt.Sprintf("it takes %d features, the model's %s takes %d", got, m.path, in))
		}
		if got := m.tensors[m.b()].Shape().Dim(0); got != out {
			return s.mismatch(b, fmt.Sprintf("it gives %d features, the model's %s gives %d", got, m.path, out))
		}
	}
	for _, path := range sortedKeys(s.bases) {
		l := found[path]
		if l == nil {
			return s.mismatch(path+baseSuffix, fmt.Sprintf("the model has no module %s", path))
		}
		in, out := l.features()
		want := tensor.S(out, in)
		if l.embed != nil {
			want = tensor.S(in, out)
		}
		if got := s.bases[path].Shape(); got != want {
			return s.mismatch(path+baseSuffix, fmt.Sprintf("it is %v, the model's is %v", got, want))
		}
	}
	return nil
}

// features are the sizes of a layer; an embedding maps tokens to features.
func (l *layer) features() (in, out int) {
	if l.embed != nil {
		return l.embed.Weight.Type.Dim(0), l.embed.Weight.Type.Dim(1)
	}
	if l.grouped != nil {
		_, in, out = l.grouped.Features()
		return in, out
	}
	return l.linear.Features()
}

// mismatch names the first tensor that does not fit the model.
func (s *Saved) mismatch(key, reason string) error {
	return s.misfit(weightsFile, keyPrefix+key, reason)
}

func (s *Saved) misfit(file, tensor, reason string) error {
	remedy := "use the model that it was trained on"
	if s.BaseModel != "" {
		remedy += fmt.Sprintf("; its configuration names %q", s.BaseModel)
	}
	return &checkpoint.FormatError{File: filepath.Join(s.dir, file), Tensor: tensor,
		Reason: "this adapter is for another model: " + reason, Remedy: remedy}
}

// setBases gives adapted embeddings and heads the weights that were saved with the adapter, as PEFT does: they may hold rows of new tokens.
func (a *Adapter) setBases(s Store) error {
	for _, m := range a.Modules {
		t := a.saved.bases[m.Path]
		if t == nil {
			continue
		}
		v := m.plainBase()
		if v == nil {
			continue // quantized: it stays as it was loaded
		}
		if err := set(s, map[*graph.Var]*tensor.Tensor{v: t}); err != nil {
			return fmt.Errorf("lora: %s: %w", m.Path, err)
		}
	}
	return nil
}

// plainBase is the variable of the base weight as PEFT saves it, nil if it is quantized.
func (m *Module) plainBase() *graph.Var {
	if m.embed != nil {
		return m.embed.Weight
	}
	if m.linear == nil {
		return nil
	}
	if l, ok := m.linear.Base.(*layers.Linear); ok {
		return l.Weight
	}
	return nil
}

// setSaved hands over the values that were saved.
func (a *Adapter) setSaved(s layers.Values) error {
	byPath := make(map[string]*savedModule, len(a.saved.modules))
	for _, m := range a.saved.modules {
		byPath[m.path] = m
	}
	values := map[*graph.Var]*tensor.Tensor{}
	for _, m := range a.Modules {
		for _, n := range m.named() {
			values[n.Var] = byPath[m.Path].tensors[n.Name]
		}
	}
	for _, w := range a.whole {
		values[w.own] = a.saved.whole[w.key]
	}
	for _, k := range a.tokens {
		values[k.delta] = a.saved.tokens[k.path]
	}
	return set(s, values)
}
