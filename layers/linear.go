// Package layers holds the parts of models: structs of variables with a Forward. Names in struct tags are the checkpoint's, so
// that walking a model gives its state dict, and what LoRA or freezing aims at.
package layers

import (
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
)

// Projection is a linear map of the last axis: a Linear, a Linear4bit, a LoRA adapter around either. Models hold projections
// as fields of this type, so that adapters can take their place.
type Projection interface {
	// Forward maps (..., in) to (..., out) in x's dtype.
	Forward(x graph.Value) graph.Value
	// Features returns the sizes of the input and output axes.
	Features() (in, out int)
}

// named is p.Forward in a scope of its own, so that errors and reports tell the projections of a layer apart.
func named(name string, p Projection, x graph.Value) graph.Value {
	if x.Valid() {
		defer x.Graph().Scope(name)()
	}
	return p.Forward(x)
}

// Linear is y = x·Wᵀ + b with W stored (out, in). The weight is cast to x's dtype.
type Linear struct {
	Weight *graph.Var `name:"weight"`
	Bias   *graph.Var `name:"bias"`
}

// Forward implements Projection.
func (l *Linear) Forward(x graph.Value) graph.Value {
	if !x.Valid() {
		return x
	}
	y := ops.Linear(x, ops.Cast(x.Graph().Read(l.Weight), x.DType()))
	return addBias(y, l.Bias)
}

// Features implements Projection.
func (l *Linear) Features() (in, out int) { return l.Weight.Type.Dim(1), l.Weight.Type.Dim(0) }

func addBias(y graph.Value, b *graph.Var) graph.Value {
	if b == nil || !y.Valid() {
		return y
	}
	return ops.Add(y, ops.Cast(y.Graph().Read(b), y.DType()))
}

// Embedding looks up rows of a (vocabulary, features) table.
type Embedding struct {
	Weight *graph.Var `name:"weight"`
	// State32 asks the optimizer for 32-bit states of the table whatever its own width, as bitsandbytes' Embedding does: see FullState.
	State32 bool
	// Adapter changes what the table gives; nil: nothing does.
	Adapter EmbeddingAdapter `name:"."`
}

// EmbeddingAdapter changes what an Embedding returns. Models whose head is the embedding, transposed, read the table without it.
type EmbeddingAdapter interface {
	// Forward returns (..., features) in y's dtype for ids (...), of which the table gives y.
	Forward(ids, y graph.Value) graph.Value
}

// NewEmbedding takes the table named "weight" from src.
func NewEmbedding(src Source, vocab, dim int, init Init) *Embedding {
	return &Embedding{Weight: src.Var("weight", init, vocab, dim)}
}

// Forward maps i32 ids (...) to (..., features) in the table's dtype.
func (e *Embedding) Forward(ids graph.Value) graph.Value {
	if !ids.Valid() {
		return ids
	}
	y := ops.Embed(ids.Graph().Read(e.Weight), ids)
	if e.Adapter != nil {
		return e.Adapter.Forward(ids, y)
	}
	return y
}

// FullState returns the table if its optimizer state must have 32 bits.
func (e *Embedding) FullState() []*graph.Var {
	if !e.State32 {
		return nil
	}
	return []*graph.Var{e.Weight}
}
