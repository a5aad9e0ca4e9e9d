package profile

import (
	"cmp"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/graph"
)

// Scope is a scope of the graph with what was launched in it and below it.
type Scope struct {
	Name string `json:"name"`
	Path string `json:"path"` // "model.layers.0.mlp"; empty for the whole step
	// Total is the work here and below, Self that of this scope alone.
	Total  Work               `json:"total"`
	Self   Work               `json:"self"`
	Phases map[string]float64 `json:"phases"` // seconds of Total by phase
	Parts  []*Scope           `json:"parts,omitempty"`
}

// noScope is the name of what no scope holds.
const noScope = "(no scope)"

// byScope makes the tree, in the order in which scopes are first launched.
func byScope(ls []Launch) *Scope {
	root := &Scope{Name: "step", Phases: map[string]float64{}}
	for i := range ls {
		l := &ls[i]
		if l.Calls == 0 {
			continue // of a plan that no step ran
		}
		path := l.Scope
		if path == "" {
			path = noScope
		}
		root.put(path, strings.Split(path, "."), l.Work, l.Phase)
	}
	return root
}

// put adds work to the scope at the end of names and to all on the way to it.
func (s *Scope) put(path string, names []string, w Work, phase string) {
	at := s
	for i := 0; ; i++ {
		at.Total.add(w)
		at.Phases[phase] += w.Seconds
		if i == len(names) {
			at.Self.add(w)
			return
		}
		at = at.part(names[i], strings.Join(names[:i+1], "."))
	}
}

func (s *Scope) part(name, path string) *Scope {
	for _, p := range s.Parts {
		if p.Name == name {
			return p
		}
	}
	p := &Scope{Name: name, Path: path, Phases: map[string]float64{}}
	s.Parts = append(s.Parts, p)
	return p
}

// Merged returns the tree with scopes that differ in a number alone, as the layers of a model, put together under "*".
func (s *Scope) Merged() *Scope {
	out := &Scope{Name: s.Name, Path: s.Path, Phases: map[string]float64{}}
	out.merge(s)
	return out
}

func (s *Scope) merge(from *Scope) {
	s.Total.add(from.Total)
	s.Self.add(from.Self)
	for _, ph := range graph.Phases {
		if t, ok := from.Phases[ph.String()]; ok {
			s.Phases[ph.String()] += t
		}
	}
	for _, p := range from.Parts {
		name := p.Name
		if strings.Trim(name, "0123456789") == "" {
			name = "*"
		}
		s.part(name, strings.TrimPrefix(s.Path+"."+name, ".")).merge(p)
	}
}

// Longest returns a copy of the tree with the parts of each scope by time, longest first.
func (s *Scope) Longest() *Scope {
	out := *s
	out.Parts = nil
	for _, p := range s.Parts {
		out.Parts = append(out.Parts, p.Longest())
	}
	slices.SortStableFunc(out.Parts, func(a, b *Scope) int { return -cmp.Compare(a.Total.Seconds, b.Total.Seconds) })
	return &out
}
