package layers

import (
	"fmt"
	"reflect"
	"regexp"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/quant"
)

// ReplaceOptions says which projections of a model are replaced and by what.
type ReplaceOptions struct {
	// Names are suffixes of paths, whole components: "q_proj" means model.layers.3.self_attn.q_proj but not my_q_proj. Empty means all.
	Names []string
	// Pattern is a regular expression (RE2) that must match somewhere in the path, besides Names; anchor it with ^ and $ for whole paths.
	// Empty means all.
	Pattern string
	// Exclude are suffixes of paths that stay as they are. nil means lm_head, the output head; an empty slice excludes nothing.
	Exclude []string
	// New returns what takes the place of p; p itself or nil leaves it. The sizes of both must agree.
	New func(path string, p Projection) (Projection, error)
}

// Replacement is one projection that was replaced.
type Replacement struct {
	Path     string
	Old, New Projection
}

// String says what became of the projection: "model.layers.0.mlp.up_proj: *layers.Linear -> *layers.Linear4bit".
func (r Replacement) String() string { return fmt.Sprintf("%s: %T -> %T", r.Path, r.Old, r.New) }

// Replace puts new projections into the fields of interface type Projection that the options select, in walking order, and reports
// which. What a new projection wraps is not offered again. An error ends it; what was replaced before stays replaced and is reported beside the
// error. Graphs built before do not see the change.
func Replace(model any, o ReplaceOptions) ([]Replacement, error) {
	selects, err := o.selector()
	if err != nil {
		return nil, err
	}
	var done []Replacement
	matched, paths := 0, 0
	Modules(model, func(path string, p Projection, replace func(Projection)) {
		paths++
		if err != nil || !selects(path) {
			return
		}
		matched++
		var next Projection
		if next, err = o.New(path, p); err != nil {
			err = fmt.Errorf("replace %s: %w", path, err)
			return
		}
		if next == nil || same(next, p) {
			return
		}
		if err = sameSizes(path, p, next); err == nil {
			replace(next)
			done = append(done, Replacement{path, p, next})
		}
	})
	if err == nil && matched == 0 && paths > 0 && (len(o.Names) > 0 || o.Pattern != "") {
		err = fmt.Errorf("replace: names %v and pattern %q select none of the %d linear layers", o.Names, o.Pattern, paths)
	}
	return done, err
}

// same reports whether a and b are one layer. Layers of types that cannot be compared never are.
func same(a, b Projection) bool {
	return reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}

func sameSizes(path string, a, b Projection) error {
	ai, ao := a.Features()
	bi, bo := b.Features()
	if ai != bi || ao != bo {
		return fmt.Errorf("replace %s: the layer maps %d to %d features, its replacement %d to %d", path, ai, ao, bi, bo)
	}
	return nil
}

// selector compiles the options into a test of paths.
func (o ReplaceOptions) selector() (func(path string) bool, error) {
	if o.New == nil {
		return nil, fmt.Errorf("replace: New is not set: it makes the layers that take the others' places")
	}
	pattern, err := regexp.Compile(o.Pattern)
	if err != nil {
		return nil, fmt.Errorf("replace: pattern %q: %w", o.Pattern, err)
	}
	exclude := o.Exclude
	if exclude == nil {
		exclude = []string{"lm_head"}
	}
	return func(path string) bool {
		return (len(o.Names) == 0 || hasSuffix(path, o.Names)) && pattern.MatchString(path) && !hasSuffix(path, exclude)
	}, nil
}

// hasSuffix reports whether a path is one of the names or ends in one as whole components.
func hasSuffix(path string, names []string) bool {
	for _, n := range names {
		if path == n || strings.HasSuffix(path, "."+n) {
			return true
		}
	}
	return false
}

// Memory reads, writes and lets go of the values of variables: a plan.Store.
type Memory interface {
	Values
	Reader
	Drop(v *graph.Var) error
}

// Quantizing returns a ReplaceOptions.New that quantizes the weights of Linear layers as they lie in memory and drops them in full
// precision; biases stay. Other projections are left. Trained weights become frozen. A weight that another part of the model reads, such as a
// tied head's, must be excluded.
func Quantizing(memory Memory, cfg quant.Config) func(path string, p Projection) (Projection, error) {
	return func(_ string, p Projection) (Projection, error) {
		l, ok := p.(*Linear)
		if !ok {
			return nil, nil
		}
		w, err := memory.Get(l.Weight)
		if err != nil {
			return nil, err
		}
		q, err := NewQuantized(l.Weight.Name, cfg, l.Weight.Type.Shape.Dims()...)
		if err != nil {
			return nil, err
		}
		if q.Scheme.FourBit() {
			q.DType = w.DType()
		}
		if err := q.Quantize(w, memory); err != nil {
			return nil, err
		}
		return quantizedLinear(q, l.Bias, cfg), memory.Drop(l.Weight)
	}
}
