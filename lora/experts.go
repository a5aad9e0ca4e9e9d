package lora

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Weights of experts and of their routers are parameters to PEFT, not modules (target_parameters). Its all-linear means them too, because
// models of transformers 4 had a linear layer for each: the router, and gate, up and down of every expert. Gate and up are one weight now and
// get twice the rank and α.

// Grouped is a weight of experts with adapters.
type Grouped struct {
	Base  layers.Grouped `name:"."`
	Parts *parts         `name:"."`

	replace func(layers.Grouped) // sets the field that the weight stands in
}

// Forward implements layers.Grouped.
func (l *Grouped) Forward(x, offsets graph.Value) graph.Value {
	y := l.Base.Forward(x, offsets)
	for _, m := range l.Parts.list {
		if m.set.contributes() && y.Valid() {
			y = ops.Add(y, m.groupedDelta(x, offsets))
		}
	}
	return y
}

// Features implements layers.Grouped.
func (l *Grouped) Features() (experts, in, out int) { return l.Base.Features() }

// groupedDelta is what a module adds for the rows of each expert.
func (m *Module) groupedDelta(x, offsets graph.Value) graph.Value {
	g := x.Graph()
	defer g.Scope("lora")()
	n, r := m.count, m.Rank()
	a := ops.Reshape(ops.Cast(g.Read(m.A), x.DType()), n, r, m.A.Type.Dim(1))
	b := ops.Transpose(ops.Reshape(ops.Cast(g.Read(m.B), x.DType()), m.B.Type.Dim(0), r, n), 2, 0, 1)
	return ops.GroupedLinear(ops.Scale(ops.GroupedLinear(x, a, offsets), m.Scale), b, offsets)
}

func (l *Grouped) weighted() (layers.WeightedGrouped, error) {
	w, ok := l.Base.(layers.WeightedGrouped)
	if !ok {
		return nil, fmt.Errorf("the weight of a %T cannot be read", l.Base)
	}
	return w, nil
}

func (l *Grouped) storedType() tensor.DType {
	if w, ok := l.Base.(layers.WeightedGrouped); ok {
		return w.StoredType()
	}
	return tensor.F32
}

// attachGrouped puts the module on its weight.
func (m *Module) attachGrouped(l *layer) error {
	g, ok := l.grouped.(*Grouped)
	if !ok {
		g = &Grouped{Base: l.grouped, Parts: &parts{}, replace: l.replaceGrouped}
		l.replaceGrouped(g)
	}
	m.group = g
	return g.Parts.add(m)
}

// expertProducts is scale·b·a of each expert, (n, out, in).
func expertProducts(b, a []float32, scale float64, n, out, r, in int) []float32 {
	delta := make([]float32, 0, n*out*in)
	each := make([]float32, out*r)
	for e := range n {
		for i := range each { // b is (out, r, n)
			each[i] = b[i*n+e]
		}
		delta = append(delta, product(each, a[e*r*in:(e+1)*r*in], scale, out, r, in)...)
	}
	return delta
}

// mixtures are the mixtures of experts of a model by path.
type mixtures map[string]*layers.MoE

func mixturesOf(model any) mixtures {
	out := mixtures{}
	layers.Mixtures(model, func(path string, m *layers.MoE) { out[path] = m })
	return out
}

// router reports whether a path is that of a router.
func (x mixtures) router(path string) bool {
	_, ok := x[parent(path)]
	return ok && lastPart(path) == "gate"
}

// The weights of experts in their module.
const (
	expertsModule = "experts"
	gateUp        = "gate_up_proj"
	down          = "down_proj"
)

// parts are the names of the matrices in a weight of experts.
func (x mixtures) parts(path string) []string {
	m, ok := x[parent(parent(path))]
	switch {
	case !ok || m.Parts == [3]string{}:
		return nil
	case lastPart(path) == gateUp:
		return m.Parts[:2]
	}
	return m.Parts[2:]
}

// param reports what PEFT takes for a parameter.
func (l *layer) param() bool { return l.grouped != nil || l.router }

// forParameters refuses what PEFT does not have for parameters.
func (c Config) forParameters(path string) error {
	what := ""
	switch {
	case c.Dropout != 0:
		what = "dropout"
	case c.DoRA:
		what = "DoRA"
	case c.BBias:
		what = "a bias on B"
	case c.Init != InitDefault && c.Init != InitGaussian:
		what = fmt.Sprintf("the initialisation %q", c.Init)
	default:
		return nil
	}
	return fmt.Errorf("lora: %s is a weight of experts or their router, for which there is no %s; leave it out, or name targets without it, such as [q_proj, k_proj, v_proj, o_proj]",
		path, what)
}

// choose picks the layers to be adapted. The configuration comes back with the patterns that fused weights need.
func (c Config) choose(all []*layer) ([]*layer, Config, error) {
	allowed, err := c.allows()
	if err != nil {
		return nil, c, err
	}
	match, err := c.Targets.matcher()
	if err != nil {
		return nil, c, err
	}
	gone := map[string]bool{} // names that mean parts of experts, and no linear layers
	for _, l := range all {
		for _, p := range l.parts {
			gone[p] = true
		}
	}
	var chosen []*layer
	var linears []string
	embedded := false // the first embedding, the input's, has passed
	for _, l := range all {
		is, fused := false, false
		switch {
		case l.grouped != nil:
			is, fused, err = c.meansExperts(l)
		case l.router:
			is = match(l.path) || named(l.path+".weight", c.Parameters)
		case l.embed != nil:
			is = !c.Targets.all() && match(l.path) || c.Embeddings && !embedded
			embedded = true
		default:
			linears = append(linears, l.path)
			is = match(l.path) && !gone[lastPart(l.path)]
		}
		if err != nil {
			return nil, c, err
		}
		if !is || !allowed(l.path) {
			continue
		}
		chosen = append(chosen, l)
		if fused {
			if c, err = c.widened(l); err != nil {
				return nil, c, err
			}
		}
	}
	if len(linears) == 0 && len(chosen) == 0 {
		return nil, c, errors.New("lora: the model has no linear layer that an adapter can take the place of: give a pointer to a struct whose layers are exported fields of the " +
			"type layers.Projection (not *layers.Linear) with a tag `name:\"...\"`")
	}
	if len(chosen) == 0 {
		return nil, c, fmt.Errorf("lora: the targets %v match none of the %d linear layers; their names end in: %s", c.Targets, len(linears), suffixes(linears))
	}
	return chosen, c, nil
}

// meansExperts reports whether a weight of experts is a target, and whether it is as several linear layers of models that had one for each.
func (c Config) meansExperts(l *layer) (is, fused bool, err error) {
	several := len(l.parts) > 1
	if c.Targets.all() {
		return true, several, nil
	}
	direct := named(l.path, c.Parameters) || named(l.path, c.Targets.Names)
	means := func(part string) bool { return named(parent(l.path)+"."+part, c.Targets.Names) }
	if c.Targets.Pattern != "" {
		re, err := compile("^(?:" + c.Targets.Pattern + ")$")
		if err != nil {
			return false, false, fmt.Errorf("lora: target pattern: %w", err)
		}
		direct = direct || re.MatchString(l.path)
		means = func(part string) bool { return re.MatchString(parent(l.path) + "." + part) }
	}
	var missing []string
	for _, p := range l.parts {
		if !means(p) {
			missing = append(missing, p)
		}
	}
	switch {
	case len(missing) == 0 && len(l.parts) > 0:
		return true, several, nil
	case direct:
		return true, false, nil
	case len(missing) < len(l.parts):
		return false, false, fmt.Errorf("lora: the targets leave out %s, which is one weight with the rest of %s; name all of %s, or none",
			strings.Join(missing, ", "), l.path, strings.Join(l.parts, ", "))
	}
	return false, false, nil
}

// widened gives a fused weight the ranks and α of its parts together, unless a pattern says something about it.
func (c Config) widened(l *layer) (Config, error) {
	key, n := `.*\.`+lastPart(l.path), len(l.parts)
	known := func(keys []string) (bool, error) {
		for _, k := range keys {
			p, err := newPattern(k, 1)
			if err != nil || p.re.MatchString(l.path) {
				return err == nil, err
			}
		}
		return false, nil
	}
	if has, err := known(sortedKeys(c.RankPattern)); err != nil {
		return c, fmt.Errorf("lora: rank_pattern: %w", err)
	} else if !has {
		if c.RankPattern = maps.Clone(c.RankPattern); c.RankPattern == nil {
			c.RankPattern = map[string]int{}
		}
		c.RankPattern[key] = n * c.Rank
	}
	if has, err := known(sortedKeys(c.AlphaPattern)); err != nil {
		return c, fmt.Errorf("lora: alpha_pattern: %w", err)
	} else if !has {
		if c.AlphaPattern = maps.Clone(c.AlphaPattern); c.AlphaPattern == nil {
			c.AlphaPattern = map[string]float64{}
		}
		c.AlphaPattern[key] = float64(n) * c.Alpha
	}
	return c, nil
}

// parametersOf are PEFT's names of the chosen parameters: by their ends where all of that end are chosen, else by their paths.
func parametersOf(chosen, all []*layer) []string {
	total, have := map[string]int{}, map[string]int{}
	for _, l := range all {
		if l.param() {
			total[lastPart(l.path)]++
		}
	}
	for _, l := range chosen {
		if l.param() {
			have[lastPart(l.path)]++
		}
	}
	var out []string
	for _, l := range chosen {
		name := lastPart(l.path)
		if have[name] != total[name] {
			name = l.path
		}
		if l.router {
			name += ".weight"
		}
		if l.param() && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// ofExperts reports whether a path is that of a weight of experts.
func ofExperts(path string) bool {
	return lastPart(parent(path)) == expertsModule && (lastPart(path) == gateUp || lastPart(path) == down)
}

// filePath is the path of a module in files. PEFT wraps the module of the experts once for each of its weights, the first one inside.
func (a *Adapter) filePath(m *Module) string {
	if m.group == nil {
		return m.Path
	}
	module := parent(m.Path)
	if lastPart(m.Path) == gateUp && slices.ContainsFunc(a.Modules, func(o *Module) bool { return o.Path == module+"."+down }) {
		return module + ".base_layer"
	}
	return module
}

// nameExperts turns paths of files into those of the weights of experts.
func (s *Saved) nameExperts(index map[string]*savedModule) {
	has := func(name string) bool {
		return slices.ContainsFunc(s.Config.Parameters, func(p string) bool { return lastPart(p) == name })
	}
	for path, m := range index {
		inner := lastPart(path) == "base_layer" && lastPart(parent(path)) == expertsModule
		switch {
		case inner:
			m.path = parent(path) + "." + gateUp
		case lastPart(path) != expertsModule:
		case index[path+".base_layer"] != nil || has(down) && !has(gateUp):
			m.path = path + "." + down
		case has(gateUp):
			m.path = path + "." + gateUp
		}
	}
}

// patternPath is what rank_pattern and alpha_pattern are matched with: of a router it is its weight.
func (s *Saved) patternPath(path string) string {
	if lastPart(path) == "gate" && named(path+".weight", s.Config.Parameters) {
		return path + ".weight"
	}
	return path
}

// checkParameters refuses target_parameters that are no weights of experts or routers.
func checkParameters(pattern string, names []string) error {
	if pattern != "" {
		return fmt.Errorf("target_parameters is %q, it must be a list of names", pattern)
	}
	for _, n := range names {
		if end := lastPart(n); end != gateUp && end != down && n != "gate.weight" && !strings.HasSuffix(n, ".gate.weight") {
			return &featureError{"target_parameters", fmt.Sprintf("%q", n), "not supported: an adapter on a parameter that is no weight of experts (gate_up_proj, down_proj) or of their router (gate.weight)", refusedRemedy}
		}
	}
	return nil
}
