package optest

import (
	"math"
	"math/rand/v2"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

const noUpdateGrad = "an update is not differentiated"

// optimLayout holds two tensors with padding between, the second with a learning rate and a decay of its own.
func optimLayout() *ops.Layout {
	l := ops.NewLayout(300, 256, 5)
	l.LRScale, l.Decay = []float64{1, 0.5, 1}, []float64{0.1, 0, 0.1}
	return l
}

// slabArg is a slab with values in [lo, 2) in its tensors and zeros in the padding, as updates promise and expect.
func slabArg(l *ops.Layout, lo float64) Arg {
	a := Arg{Dims: []int{l.Total}, DType: tensor.F32, Values: make([]float64, l.Total)}
	rng := rand.New(rand.NewPCG(uint64(l.Total), math.Float64bits(lo)))
	for i, at := range l.Offsets {
		for j := range l.Sizes[i] {
			a.Values[at+j] = lo + (2-lo)*rng.Float64()
		}
	}
	return a
}

// updateArgs are slabs followed by lr, step, gscale and ok.
func updateArgs(ok float64, slabs ...Arg) []Arg {
	scalar := func(v float64) Arg { return Arg{DType: tensor.F32, Values: []float64{v}, NoGrad: true} }
	return append(append([]Arg(nil), slabs...), scalar(0.01), scalar(3), scalar(0.5), scalar(ok))
}

func optimCases() []Case {
	l := optimLayout()
	f32 := []tensor.DType{tensor.F32}
	slab, second := slabArg(l, -2), slabArg(l, 0)
	codes := Arg{Dims: []int{l.Total}, DType: tensor.U8, Lo: 0, Hi: 256}
	scales := Arg{Dims: []int{l.Total / ops.SlabAlign}, DType: tensor.F32, Lo: 0.1, Hi: 1}
	row := func(name string, op graph.Op, in []Arg) Case {
		return Case{Name: name, In: in, DTypes: f32, NoGrad: noUpdateGrad, Bad: [][]Arg{append([]Arg{{Dims: []int{7}, DType: tensor.F32}}, in[1:]...)},
			Build: func(g *graph.Graph, in []graph.Value) []graph.Value { return g.Apply(op, in...) }}
	}
	adam := ops.AdamW{Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.1, Layout: l}
	adamLast := adam
	adamLast.DecayLast = true
	adam8 := ops.AdamW8bit{Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.1, Layout: l}
	sgd := ops.SGD{Momentum: 0.9, WeightDecay: 0.1, Nesterov: true, Layout: l}
	plain := Case{Name: "sgd_plain", In: updateArgs(1, slab, slab), DTypes: f32, NoGrad: noUpdateGrad,
		Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
			p, _ := ops.SGD{WeightDecay: 0.1, Layout: l}.Apply(in[0], in[1], graph.Value{}, ops.UpdateScalars{LR: in[2], Step: in[3], GScale: in[4], OK: in[5]})
			return one(p)
		}}
	pack := Case{Name: "pack", In: []Arg{{Dims: []int{3, 100}, DType: tensor.F32}, {Dims: []int{256}, DType: tensor.F32}, {Dims: []int{5}, DType: tensor.F32}},
		DTypes: f32, NoGrad: "defined on f32 only; its gradient is slices", Bad: [][]Arg{{{Dims: []int{3}}, {Dims: []int{256}}, {Dims: []int{5}}}},
		Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.PackSlab(l, in...)) }}
	squares := Case{Name: "sum_squares", In: []Arg{{Dims: []int{70, 300}, DType: tensor.F32}}, DTypes: f32, NoGrad: "defined on f32 only",
		Bad:   [][]Arg{{{Dims: []int{3}, DType: tensor.BF16}}},
		Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.SumOfSquares(in[0])) }}
	return []Case{
		row("adamw", adam, updateArgs(1, slab, slab, slab, second)), row("adamw_decay_last", adamLast, updateArgs(1, slab, slab, slab, second)),
		row("adamw_not_ok", adam, updateArgs(0, slab, slab, slab, second)),
		row("adamw8bit", adam8, updateArgs(1, slab, slab, codes, codes, scales, scales)),
		row("adamw8bit_not_ok", adam8, updateArgs(0, slab, slab, codes, codes, scales, scales)),
		row("sgd", sgd, updateArgs(1, slab, slab, slab)), plain, pack, squares,
	}
}

// collectiveCases run on a single rank, where each passes its input on; several ranks are tested with the communicators.
func collectiveCases() []Case {
	x := Arg{Dims: []int{4, 3}}
	row := func(name string, f func(x graph.Value) graph.Value) Case {
		return Case{Name: name, In: []Arg{x}, Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(f(in[0])) }}
	}
	from := row("broadcast_ranks", func(x graph.Value) graph.Value { return ops.FromRank(x, 0) })
	from.NoGrad = "it has no gradient"
	return []Case{
		row("all_reduce", func(x graph.Value) graph.Value { return ops.ReduceAll(x, ops.CombineSum) }),
		row("enter_parallel", ops.EnterParallel),
		row("all_gather", func(x graph.Value) graph.Value { return ops.GatherAll(x, 1) }),
		row("reduce_scatter", func(x graph.Value) graph.Value { return ops.ScatterReduced(x, ops.CombineSum, 1) }),
		from,
	}
}
