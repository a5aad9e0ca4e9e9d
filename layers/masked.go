package layers

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant/prune"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Masked is a pruned linear layer: y = x·(W where Mask, else 0)ᵀ + b. The gradient of a weight that was pruned is exactly 0, so an
// optimizer that treats elements alone leaves it at 0, decay and moments included; KeepMasks holds it there under any optimizer.
type Masked struct {
	Weight *graph.Var `name:"weight"`
	Bias   *graph.Var `name:"bias"`
	Mask   *graph.Var // bool (out, in); it is not a parameter: a saved weight has it in its zeros
}

// Forward implements Projection.
func (l *Masked) Forward(x graph.Value) graph.Value {
	if !x.Valid() {
		return x
	}
	g := x.Graph()
	w := g.Read(l.Weight)
	w = ops.Where(g.Read(l.Mask), w, ops.Scalar(w, 0))
	return addBias(ops.Linear(x, ops.Cast(w, x.DType())), l.Bias)
}

// Features implements Projection.
func (l *Masked) Features() (in, out int) { return l.Weight.Type.Dim(1), l.Weight.Type.Dim(0) }

// Prune replaces linear layers of a model by Masked ones. choose gets the path and the weight (out, in) of each Linear that is a
// Projection of the model and returns its mask, nil to leave the layer as it is; see package quant/prune. Pruned weights are set to 0 in
// values. Graphs built before do not see the change.
func Prune(model any, values interface {
	Values
	Reader
}, choose func(path string, w *tensor.Tensor) (prune.Mask, error)) ([]*Masked, error) {
	var out []*Masked
	var err error
	Modules(model, func(path string, p Projection, replace func(Projection)) {
		l, ok := p.(*Linear)
		if !ok || err != nil {
			return
		}
		var m *Masked
		if m, err = pruned(path, l, values, choose); err != nil {
			err = fmt.Errorf("prune %s: %w", path, err)
		} else if m != nil {
			replace(m)
			out = append(out, m)
		}
	})
	return out, err
}

func pruned(path string, l *Linear, values interface {
	Values
	Reader
}, choose func(path string, w *tensor.Tensor) (prune.Mask, error)) (*Masked, error) {
	w, err := values.Get(l.Weight)
	if err != nil {
		return nil, err
	}
	mask, err := choose(path, w)
	if mask == nil || err != nil {
		return nil, err
	}
	if len(mask) != w.Type().Size() {
		return nil, fmt.Errorf("a mask of %d elements for a weight %v", len(mask), w.Type())
	}
	size := w.DType().Size()
	for i, keep := range mask {
		if !keep {
			clear(w.Bytes()[i*size : (i+1)*size])
		}
	}
	m := &Masked{Weight: l.Weight, Bias: l.Bias, Mask: graph.NewVar(l.Weight.Name+".mask", l.Weight.Type.With(tensor.Bool))}
	t, err := tensor.Of([]bool(mask), w.Shape().Dims()...)
	if err != nil {
		return nil, err
	}
	if err := values.Set(m.Mask, t); err != nil {
		return nil, err
	}
	return m, values.Set(m.Weight, w)
}

// KeepMasks makes the graph's updates of masked weights leave pruned elements at 0: call it after the optimizer wrote its updates into
// the graph. Masked needs it only under rules that mix the elements of a tensor (Muon, Adafactor's factored moments do not) or that add
// noise. Weights in an optimizer's slab cost a copy of the slab.
func KeepMasks(g *graph.Graph, masked ...*Masked) {
	slabs := map[*graph.Var][]*Masked{}
	for _, w := range slices.Clone(g.Writes()) {
		for _, m := range masked {
			switch w.Var {
			case m.Weight:
				g.Write(w.Var, zeroPruned(g, m, w.Value))
			case m.Weight.Slab:
				slabs[w.Var] = append(slabs[w.Var], m)
			}
		}
	}
	for _, w := range slices.Clone(g.Writes()) {
		if in := slabs[w.Var]; len(in) > 0 {
			g.Write(w.Var, keepInSlab(g, in, w.Value))
		}
	}
}

func zeroPruned(g *graph.Graph, m *Masked, w graph.Value) graph.Value {
	return ops.Where(g.Read(m.Mask), w, ops.Scalar(w, 0))
}

// keepInSlab rebuilds a slab from the masked weights and what lies between them.
func keepInSlab(g *graph.Graph, in []*Masked, slab graph.Value) graph.Value {
	slices.SortFunc(in, func(a, b *Masked) int { return cmp.Compare(a.Weight.Offset, b.Weight.Offset) })
	var parts []graph.Value
	at := 0
	for _, m := range in {
		lo, n := int(m.Weight.Offset), m.Weight.Type.Size()
		if lo > at {
			parts = append(parts, ops.Slice(slab, 0, at, lo))
		}
		w := ops.Reshape(ops.Slice(slab, 0, lo, lo+n), m.Weight.Type.Shape.Dims()...)
		parts = append(parts, ops.Reshape(zeroPruned(g, m, w), n))
		at = lo + n
	}
	if at < slab.Dim(0) {
		parts = append(parts, ops.Slice(slab, 0, at, slab.Dim(0)))
	}
	return ops.Concat(0, parts...)
}
