package lora

import (
	"fmt"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Linear is a projection with adapters. Their variables are cast to x's dtype in the graph.
type Linear struct {
	Base  layers.Projection `name:"."`
	Parts *parts            `name:"."`

	replace func(layers.Projection) // sets the field that the layer stands in
}

// Forward implements layers.Projection.
func (l *Linear) Forward(x graph.Value) graph.Value {
	base := l.Base.Forward(x)
	if !base.Valid() {
		return base
	}
	y := base
	for _, m := range l.Parts.list {
		if m.set.contributes() {
			y = ops.Add(y, m.set.byRow(m.delta(l, x, base)))
		}
	}
	return y
}

// Features implements layers.Projection.
func (l *Linear) Features() (in, out int) { return l.Base.Features() }

// byRow applies the factors of the batch's rows to what a module adds, (B, T, out).
func (a *Adapter) byRow(d graph.Value) graph.Value {
	if a.Rows.Absent() || !d.Valid() {
		return d
	}
	g := d.Graph()
	switch {
	case len(a.whole)+len(a.tokens) > 0 || a.hasExperts():
		return g.Fail("lora_rows", []graph.Value{d}, fmt.Errorf("the adapter %q trains weights whole, tokens or experts, which are the same for all rows of a batch", a.Name))
	case a.Rows.Rank() != 1 || a.Rows.Dim(0) != d.Dim(0):
		return g.Fail("lora_rows", []graph.Value{d, a.Rows}, fmt.Errorf("the factors of the rows are %v, and what they belong to is %v", a.Rows.Type(), d.Type()))
	}
	dims := make([]int, d.Rank())
	for i := range dims {
		dims[i] = 1
	}
	dims[0] = d.Dim(0)
	return ops.Mul(d, ops.Reshape(ops.Cast(a.Rows, d.DType()), dims...))
}

func (a *Adapter) hasExperts() bool {
	return slices.ContainsFunc(a.Modules, func(m *Module) bool { return m.group != nil })
}

// wide is the adapter's other side, scaled: h (..., r) times B. Where B is cast, the scale is part of the cast.
func (m *Module) wide(h graph.Value) graph.Value {
	b := h.Graph().Read(m.B)
	if b.DType() == h.DType() {
		return ops.Linear(ops.Scale(h, m.Scale), b)
	}
	return ops.Linear(h, ops.Cast(ops.Scale(b, m.Scale), h.DType()))
}

// delta is what a module adds to y = Wx + b, of which base is the value.
func (m *Module) delta(l *Linear, x, base graph.Value) graph.Value {
	g := x.Graph()
	defer g.Scope("lora")()
	in := m.Dropout.Forward(x, m.set.Random)
	d := ops.Linear(in, ops.Cast(g.Read(m.A), x.DType())) // the narrow side, in both directions
	d = m.wide(d)
	if m.BBias != nil {
		d = ops.Add(d, ops.Cast(ops.Scale(g.Read(m.BBias), m.Scale), x.DType()))
	}
	if m.Magnitude == nil {
		return d
	}
	w, ok := l.Base.(layers.Weighted) // attach has seen to it
	if !ok {
		return d
	}
	wx := base
	switch {
	case in != x: // under dropout PEFT gives the base what is left of x too
		wx = w.MatMul(in)
	case w.BiasVar() != nil:
		wx = ops.Sub(base, ops.Cast(g.Read(w.BiasVar()), base.DType()))
	}
	f := m.rowFactors(g, func(a graph.Value) graph.Value { return w.MatMul(ops.Cast(a, x.DType())) })
	rest := ops.Cast(ops.AddScalar(f, -1), x.DType()) // apart, as 16 bits would lose it beside the 1
	return ops.Add(ops.Mul(rest, wx), ops.Mul(ops.Cast(f, x.DType()), d))
}

// rowFactors is m/‖W + sBA‖ of each row in float32, (out). The norm is a constant in the gradient (Liu et al. 2024, §4.3). W is not
// needed for it as a whole: with its own squared norms, which do not change, ‖w + sbA‖² = ‖w‖² + 2s·b·(A·wᵀ) + s²·b(A·Aᵀ)bᵀ for each row w of
// W and b of B. wx returns x·Wᵀ.
func (m *Module) rowFactors(g *graph.Graph, wx func(x graph.Value) graph.Value) graph.Value {
	a, b := ops.Cast(g.Read(m.A), tensor.F32), ops.Cast(g.Read(m.B), tensor.F32)
	cross := ops.Cast(ops.Transpose(wx(a), 1, 0), tensor.F32) // (out, r)
	inner := ops.Linear(b, ops.Linear(a, a))                  // (out, r); A·Aᵀ is symmetric
	sum := ops.Add(ops.Scale(cross, 2*m.Scale), ops.Scale(inner, m.Scale*m.Scale))
	square := ops.Add(g.Read(m.square), ops.Sum(ops.Mul(b, sum), 1))
	norm := autograd.StopGrad(ops.Sqrt(square))
	return ops.Div(ops.Cast(g.Read(m.Magnitude), tensor.F32), norm)
}

// table is what adapters make of an embedding.
type table struct {
	Parts *parts `name:"."`
	Rows  *rows  `name:"."`
	base  *layers.Embedding
}

func newTable(e *layers.Embedding) *table { return &table{Parts: &parts{}, Rows: &rows{}, base: e} }

// Forward implements layers.EmbeddingAdapter.
func (t *table) Forward(ids, y graph.Value) graph.Value {
	base := y
	for _, m := range t.Parts.list {
		if m.set.contributes() && base.Valid() {
			y = ops.Add(y, m.set.byRow(m.embedDelta(ids, base)))
		}
	}
	for _, k := range t.Rows.list {
		if k.set.contributes() && base.Valid() {
			y = k.lookup(ids, y)
		}
	}
	return y
}

// embedDelta is what a module adds to the rows of the table that ids name, of which base is the value.
func (m *Module) embedDelta(ids, base graph.Value) graph.Value {
	g := ids.Graph()
	defer g.Scope("lora")()
	h := ops.Embed(ops.Transpose(g.Read(m.A), 1, 0), ids)
	d := m.wide(ops.Cast(h, base.DType()))
	if m.Magnitude == nil {
		return d
	}
	f := m.rowFactors(g, func(x graph.Value) graph.Value {
		w := ops.Cast(g.Read(m.embed.Weight), x.DType())
		return ops.Dot(x, w) // the weight that maps one-hot tokens is the table, transposed
	})
	rest := ops.Cast(ops.AddScalar(f, -1), base.DType())
	return ops.Add(ops.Mul(rest, base), ops.Mul(ops.Cast(f, base.DType()), d))
}
