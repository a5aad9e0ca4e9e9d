package main

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/layers"
)

type stableEmbedding struct {
	Table  *layers.Embedding `name:"."`
	Weight *graph.Var        `name:"norm.weight"`
	Bias   *graph.Var        `name:"norm.bias"`
}

func newStable(src layers.Source, vocab, dim int) *stableEmbedding {
	return &stableEmbedding{layers.NewEmbedding(src, vocab, dim, layers.Uniform(math.Sqrt(6/float64(vocab+dim)))),
		src.Sub("norm").Var("weight", layers.Ones(), dim), src.Sub("norm").Var("bias", layers.Zeros(), dim)}
}

func (e *stableEmbedding) Forward(ids graph.Value) graph.Value {
	x := e.Table.Forward(ids)
	return ops.LayerNorm(x, x.Graph().Read(e.Weight), x.Graph().Read(e.Bias), 1e-5)
}
