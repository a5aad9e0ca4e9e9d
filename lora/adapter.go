// Package lora adds low-rank adapters to a frozen model (Hu et al. 2021): y = Wx + s·B(Ax), with s = α/r, or α/√r for
// rank-stabilised adapters (Kalajdzievski 2023). DoRA, LoRA+, PiSSA, OLoRA, LoftQ and adapters on embeddings are variants of it. Names,
// initial values, target patterns and files are PEFT's, so that an adapter made here loads there and the other way round.
// A nil file system is the operating system's.
package lora

import (
	"fmt"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Adapter is a named set of adapters on one model, together with what is trained whole beside them. Several may live on one model:
// those that are active when a graph is built are part of it.
type Adapter struct {
	Config  Config
	Name    string
	Modules []*Module
	// Random is what dropout draws from in the graph under construction; set it before the model's Forward. The zero value means
	// no dropout.
	Random layers.Random
	// Rows is a factor of the adapter's output for each row of the batch in the graph under construction, f32 (B): with 0 and 1 every row has
	// the adapters that it asks for. Absent: 1 in all rows. What is trained whole, tokens and experts are the same for all rows, so an adapter
	// that has them takes none.
	Rows graph.Value

	whole  []*whole
	tokens []*tokens
	heads  []*ownHead
	before []*graph.Var // what was trainable before
	model  any          // that it is on
	off    bool
	merged bool

	experts    bool     // the model has some, which is written down even where none is adapted
	parameters []string // PEFT's target_parameters: which weights of experts and routers are adapted

	targets []string         // what the adapted modules have in common: names that match them and no other module
	saved   *Saved           // the files it was loaded from; nil for a new adapter
	start   []*tensor.Tensor // A and B of each module before training, if the base gave them up to it
}

// Module is the adapter of one linear layer, embedding or weight of experts.
type Module struct {
	Path string
	// A and B are (r, in) and (out, r); of an embedding (r, vocabulary) and (features, r); of E experts (E·r, in) and (out, r·E), where
	// expert e has rows e·r to e·r+r-1 of A and columns e, E+e, 2E+e, ... of B.
	A, B      *graph.Var
	BBias     *graph.Var // (out), nil without Config.BBias
	Magnitude *graph.Var // (out), nil without DoRA; of an embedding (features)
	Scale     float64
	Dropout   layers.Dropout

	linear *Linear           // the layer it belongs to, or
	embed  *layers.Embedding // the embedding, or
	group  *Grouped          // the weight of experts
	count  int               // of experts, 0 for others
	square *graph.Var        // DoRA: f32 squares of the norms of the base weight's rows, which do not change in training
	set    *Adapter
	factor []float32 // DoRA, merged: what each row was multiplied by
	turn   int       // among the merged modules of its layer, 0 while it is not merged
}

// Rank is r.
func (m *Module) Rank() int { return m.A.Type.Dim(0) / max(m.count, 1) }

// Embedding reports whether the module is an embedding.
func (m *Module) Embedding() bool { return m.embed != nil }

// Base is the layer without adapters, nil for an embedding and for experts.
func (m *Module) Base() layers.Projection {
	if m.linear == nil {
		return nil
	}
	return m.linear.Base
}

// named lists the trained variables of a module by their names in files, below the module's path.
func (m *Module) named() []layers.NamedVar {
	a, b := "lora_A.weight", "lora_B.weight"
	if m.Embedding() {
		a, b = "lora_embedding_A", "lora_embedding_B"
	}
	out := []layers.NamedVar{{Name: a, Var: m.A}, {Name: b, Var: m.B}}
	if m.BBias != nil {
		out = append(out, layers.NamedVar{Name: "lora_B.bias", Var: m.BBias})
	}
	if m.Magnitude != nil {
		out = append(out, layers.NamedVar{Name: "lora_magnitude_vector", Var: m.Magnitude})
	}
	return out
}

// Vars returns the trained variables, in the order of the modules; those that are trained whole come last.
func (a *Adapter) Vars() []*graph.Var {
	var out []*graph.Var
	for _, t := range a.trained() {
		out = append(out, t.Var)
	}
	return out
}

// trained lists the trained variables by their names in files, without the common prefix.
func (a *Adapter) trained() []layers.NamedVar {
	var out []layers.NamedVar
	for _, m := range a.Modules {
		for _, n := range m.named() {
			out = append(out, layers.NamedVar{Name: a.filePath(m) + "." + n.Name, Var: n.Var})
		}
	}
	for _, t := range a.tokens {
		out = append(out, layers.NamedVar{Name: t.path + tokensSuffix, Var: t.delta})
	}
	for _, w := range a.whole {
		out = append(out, layers.NamedVar{Name: w.key, Var: w.own})
	}
	return out
}

// Named lists the trained variables by their names in PEFT's files.
func (a *Adapter) Named() []layers.NamedVar {
	out := a.trained()
	for i := range out {
		out[i].Name = keyPrefix + out[i].Name
	}
	return out
}

// LRScale returns the factors of the learning rate that make LoRA+ of an adapter (Hayou et al. 2024): ratio for B, its bias and
// magnitudes, none for A, embeddings and what is trained whole.
func (a *Adapter) LRScale(ratio float64) map[*graph.Var]float64 {
	out := map[*graph.Var]float64{}
	for _, m := range a.Modules {
		if m.Embedding() {
			continue
		}
		for _, v := range []*graph.Var{m.B, m.BBias, m.Magnitude} {
			if v != nil {
				out[v] = ratio
			}
		}
	}
	return out
}

// Active reports whether graphs that are built now contain the adapter.
func (a *Adapter) Active() bool { return !a.off }

// SetActive says whether graphs that are built from now on contain the adapter. Without it the model is as it was before, but for what an
// initialisation moved from the base into the adapter. A merged adapter stays in the weights either way, until Unmerge.
func (a *Adapter) SetActive(on bool) {
	if a.off == !on {
		return
	}
	a.off = !on
	if a.merged {
		return
	}
	for _, w := range a.whole {
		w.use(on)
	}
	for _, h := range a.heads {
		h.use(on)
	}
}

// contributes reports whether a graph under construction contains the adapter beside the weights.
func (a *Adapter) contributes() bool { return !a.off && !a.merged }

// setTrainable marks the trained variables.
func (a *Adapter) setTrainable(on bool) {
	for _, v := range a.Vars() {
		v.Trainable = on
	}
}

// Use makes one adapter of a model the only active and the only trainable one. all lists every adapter on the model.
func (a *Adapter) Use(all ...*Adapter) {
	for _, other := range all {
		if other != a {
			other.SetActive(false)
			other.setTrainable(false)
		}
	}
	a.SetActive(true)
	a.setTrainable(true)
}

// Remove takes the adapter off its model and frees its variables. A merged adapter leaves the weights as they are, merged, and a head that it
// gave the model.
func (a *Adapter) Remove(memory layers.Memory) error {
	keep := map[*graph.Var]bool{}
	if a.merged {
		for _, h := range a.heads {
			for _, p := range layers.Params(&struct {
				Now, Head layers.Projection `name:"."`
			}{h.head, h.merged}) {
				keep[p.Var], p.Var.Name = true, h.path+".weight" // it is the model's from now on
			}
		}
	} else {
		a.SetActive(false)
	}
	for _, m := range a.Modules {
		m.detach()
	}
	for _, t := range a.tokens {
		t.detach()
	}
	var err error
	for _, v := range append(a.Vars(), a.squares()...) {
		v.Trainable = false
		if v.Slab == nil && err == nil && !keep[v] {
			err = memory.Drop(v)
		}
	}
	a.Modules, a.whole, a.tokens, a.heads, a.start = nil, nil, nil, nil, nil
	return err
}

func (a *Adapter) squares() []*graph.Var {
	var out []*graph.Var
	for _, m := range a.Modules {
		if m.square != nil {
			out = append(out, m.square)
		}
	}
	return out
}

// varName names a variable of the adapter: that of the default adapter as in files, those of others apart.
func (a *Adapter) varName(path, name string) string {
	if a.Name == "" {
		return path + "." + name
	}
	return path + "." + name + "." + a.Name
}

// add puts an adapter of a rank on a layer.
func (a *Adapter) add(l *layer, r int, scale float64) error {
	m := &Module{Path: l.path, Scale: scale, set: a}
	var in, out int
	if l.param() {
		if err := a.Config.forParameters(l.path); err != nil {
			return err
		}
	}
	param := a.Config.param()
	aName, bName := "lora_A.weight", "lora_B.weight"
	if l.embed != nil {
		in, out = l.embed.Weight.Type.Dim(0), l.embed.Weight.Type.Dim(1)
		aName, bName = "lora_embedding_A", "lora_embedding_B"
		if a.Config.BBias {
			return fmt.Errorf("lora: %s is an embedding; a bias on B is for linear layers only", l.path)
		}
	} else if l.grouped != nil {
		m.count, in, out = l.grouped.Features()
		r *= m.count
	} else {
		in, out = l.linear.Features()
		m.Dropout = layers.Dropout{Rate: a.Config.Dropout, Site: uint32(len(a.Modules))}
	}
	m.A = graph.NewVar(a.varName(l.path, aName), tensor.T(param, r, in))
	m.A.Supplied = true // by Init: with zeros for both A and B no gradient would ever reach either, and zeros for B alone are a beginning
	m.B = graph.NewVar(a.varName(l.path, bName), tensor.T(param, out, r))
	if a.Config.BBias {
		m.BBias = graph.NewVar(a.varName(l.path, "lora_B.bias"), tensor.T(param, out))
	}
	if a.Config.DoRA {
		m.Magnitude = graph.NewVar(a.varName(l.path, "lora_magnitude_vector"), tensor.T(param, out))
		m.square = graph.NewVar(a.varName(l.path, "lora_base_squares"), tensor.T(tensor.F32, out))
		m.Magnitude.Supplied, m.square.Supplied = true, true
	}
	a.Modules = append(a.Modules, m)
	return m.attach(l)
}

// attach puts the module on its layer.
func (m *Module) attach(l *layer) error {
	if l.embed != nil {
		m.embed = l.embed
		t, ok := l.embed.Adapter.(*table)
		if !ok {
			if l.embed.Adapter != nil {
				return fmt.Errorf("lora: the embedding %s has an adapter of another kind", l.path)
			}
			t = newTable(l.embed)
			l.embed.Adapter = t
		}
		return t.Parts.add(m)
	}
	if l.grouped != nil {
		return m.attachGrouped(l)
	}
	w, ok := l.linear.(*Linear)
	if !ok {
		w = &Linear{Base: l.linear, Parts: &parts{}, replace: l.replace}
		l.replace(w)
	}
	m.linear = w
	if _, ok := w.Base.(layers.Weighted); m.Magnitude != nil && !ok {
		return fmt.Errorf("lora: %s is a %T, whose rows have no norms that DoRA could scale", l.path, w.Base)
	}
	return w.Parts.add(m)
}

// detach takes the module off its layer, and the wrapper with the last one.
func (m *Module) detach() {
	if m.embed != nil {
		t, ok := m.embed.Adapter.(*table)
		if ok && t.Parts.remove(m) && len(t.Rows.list) == 0 {
			m.embed.Adapter = nil
		}
		return
	}
	if m.group != nil {
		if m.group.Parts.remove(m) {
			m.group.replace(m.group.Base)
		}
		return
	}
	if m.linear.Parts.remove(m) {
		m.linear.replace(m.linear.Base)
	}
}

// parts are the modules on one layer.
type parts struct{ list []*Module }

// NamedVars implements layers.Namer.
func (p *parts) NamedVars() []layers.NamedVar {
	var out []layers.NamedVar
	for _, m := range p.list {
		for _, n := range m.named() {
			if m.set.Name != "" {
				n.Name += "." + m.set.Name
			}
			out = append(out, n)
		}
	}
	return out
}

func (p *parts) add(m *Module) error {
	for _, other := range p.list {
		if other.set.Name == m.set.Name {
			return fmt.Errorf("lora: %s already has an adapter of the name %q", m.Path, m.set.Name)
		}
	}
	p.list = append(p.list, m)
	return nil
}

// remove reports whether nothing is left.
func (p *parts) remove(m *Module) bool {
	p.list = slices.DeleteFunc(p.list, func(x *Module) bool { return x == m })
	return len(p.list) == 0
}
