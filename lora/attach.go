package lora

import (
	"fmt"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/layers"
)

// layer is a place for an adapter: a projection with what sets its field, an embedding, or a weight of experts.
type layer struct {
	path    string
	linear  layers.Projection
	replace func(layers.Projection)
	router  bool // the projection sends tokens to experts
	embed   *layers.Embedding

	grouped        layers.Grouped
	replaceGrouped func(layers.Grouped)
	parts          []string // names of the weight's parts in models whose experts are modules
}

// layersOf lists where a model can be adapted: its linear layers in walking order, weights of experts, and its embeddings.
func layersOf(model any) []*layer {
	var out []*layer
	mixtures := mixturesOf(model)
	seen := map[string]bool{} // what an adapter wraps is offered after it, under the same path
	inside := func(path string) bool {
		was := seen[path]
		seen[path] = true
		return was
	}
	layers.Modules(model, func(path string, p layers.Projection, replace func(layers.Projection)) {
		switch p.(type) {
		case *tokenHead, *frozenTable: // no layers of their own
			return
		}
		if inside(path) {
			return
		}
		out = append(out, &layer{path: path, linear: p, replace: replace, router: mixtures.router(path)})
	})
	layers.GroupedModules(model, func(path string, p layers.Grouped, replace func(layers.Grouped)) {
		if inside(path) {
			return
		}
		out = append(out, &layer{path: path, grouped: p, replaceGrouped: replace, parts: mixtures.parts(path)})
	})
	layers.Embeddings(model, func(path string, e *layers.Embedding) { out = append(out, &layer{path: path, embed: e}) })
	return out
}

// Attach freezes the model and puts an adapter on every layer that the configuration picks. The output head is left out of all-linear, and
// embeddings are, as PEFT does. Init gives the adapter its values.
func Attach(model any, cfg Config) (*Adapter, error) { return AttachNamed(model, "", cfg) }

// AttachNamed is Attach under a name, for several adapters on one model: the last one attached is the only one that is trained, and all are
// active until SetActive or Use says otherwise.
func AttachNamed(model any, name string, cfg Config) (*Adapter, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	all := layersOf(model)
	chosen, cfg, err := cfg.choose(all)
	if err != nil {
		return nil, err
	}
	sizes, err := cfg.sizes()
	if err != nil {
		return nil, err
	}
	a := &Adapter{Config: cfg, Name: name, experts: slices.ContainsFunc(all, (*layer).param), parameters: parametersOf(chosen, all)}
	if err := a.free(chosen); err != nil {
		return nil, err
	}
	a.freeze(model)
	for _, l := range chosen {
		path := l.path
		if l.router {
			path += ".weight" // what PEFT's patterns are matched with
		}
		r, alpha := sizes(path)
		if err := a.add(l, r, cfg.scale(r, alpha)); err != nil {
			return nil, a.undo(err)
		}
	}
	a.targets = commonNames(chosen, all)
	if err := a.takeWhole(model); err != nil {
		return nil, a.undo(err)
	}
	if err := a.takeTokens(model); err != nil {
		return nil, a.undo(err)
	}
	a.setTrainable(true)
	return a, nil
}

// free refuses layers that have an adapter of this name already, before anything is changed.
func (a *Adapter) free(chosen []*layer) error {
	for _, l := range chosen {
		var list []*Module
		if g, ok := l.grouped.(*Grouped); ok {
			list = g.Parts.list
		}
		if w, ok := l.linear.(*Linear); ok {
			list = w.Parts.list
		}
		if l.embed != nil {
			if t, ok := l.embed.Adapter.(*table); ok {
				list = t.Parts.list
			}
		}
		if slices.ContainsFunc(list, func(m *Module) bool { return m.set.Name == a.Name }) {
			if a.Name == "" {
				return fmt.Errorf("lora: %s already has an adapter; give a second one a name", l.path)
			}
			return fmt.Errorf("lora: %s already has an adapter of the name %q", l.path, a.Name)
		}
	}
	return nil
}

// freeze freezes the model, other adapters on it included, and notes it and what was trainable.
func (a *Adapter) freeze(model any) {
	a.model, a.before = model, layers.Trainable(model)
	layers.SetTrainable(model, false)
}

// undo takes a half-made adapter off the model again and passes err on.
func (a *Adapter) undo(err error) error {
	a.SetActive(false)
	for _, m := range a.Modules {
		m.detach()
	}
	for _, t := range a.tokens {
		t.detach()
	}
	for _, v := range a.before {
		v.Trainable = true
	}
	return err
}
