package optest

import (
	"maps"
	"math"
	"math/rand/v2"
	"slices"

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

// hypers is one set of hyperparameters for each rule, and the variants that change its equations.
func hypers() map[string]ops.Hyper {
	return map[string]ops.Hyper{
		"adam":           {Rule: ops.Adam, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.1},
		"adamw_torch":    {Rule: ops.AdamTorch, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.1},
		"ademamix":       {Rule: ops.AdEMAMix, Beta1: 0.9, Beta2: 0.999, Beta3: 0.9999, Alpha: 5, Eps: 1e-8, WeightDecay: 0.1},
		"ademamix_sched": {Rule: ops.AdEMAMix, Beta1: 0.9, Beta2: 0.999, Beta3: 0.9999, Alpha: 5, TAlpha: 7, TBeta3: 5, Eps: 1e-8},
		"lion":           {Rule: ops.Lion, Beta1: 0.9, Beta2: 0.99, WeightDecay: 0.1},
		"momentum":       {Rule: ops.Momentum, Beta1: 0.9, Dampening: 0.2, WeightDecay: 0.1},
		"nesterov":       {Rule: ops.Momentum, Beta1: 0.9, WeightDecay: 0.1, Nesterov: true},
		"rmsprop":        {Rule: ops.RMSprop, Beta1: 0.99, Eps: 1e-8, WeightDecay: 0.1},
		"adagrad":        {Rule: ops.Adagrad, Eps: 1e-10, WeightDecay: 0.1},
		"lamb":           {Rule: ops.Adam, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.1, MaxUnorm: 0.02},
		"lars":           {Rule: ops.Momentum, Beta1: 0.9, WeightDecay: 0.1, MaxUnorm: 0.02},
		"skip_zeros":     {Rule: ops.Adam, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.1, SkipZeros: true},
		"stochastic":     {Rule: ops.AdamTorch, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.1, WeightRounding: ops.WeightRounding{Rounding: ops.Stochastic, Seed: 1 << 40}},
		"kahan":          {Rule: ops.Adam, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.1, WeightRounding: ops.WeightRounding{Rounding: ops.Kahan}},
		"kahan_lamb":     {Rule: ops.Adam, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, MaxUnorm: 0.02, SkipZeros: true, WeightRounding: ops.WeightRounding{Rounding: ops.Kahan}},
	}
}

// stateArgs draws the states of an update: magnitudes where they are squares, codes and scales in 8 bits.
func stateArgs(l *ops.Layout, h ops.Hyper, eight bool) []Arg {
	var states, scales []Arg
	for _, unsigned := range h.Moments() {
		lo := -2.0
		if unsigned || h.Rule == ops.RMSprop || h.Rule == ops.Adagrad {
			lo = 0
		}
		codes := Arg{Dims: []int{l.Total}, DType: tensor.U8, Lo: 0, Hi: 256}
		if lo == 0 && !unsigned { // squares in the signed book
			codes.Lo = 127
		}
		if states = append(states, slabArg(l, lo)); eight {
			states[len(states)-1] = codes
			scales = append(scales, Arg{Dims: []int{l.Total / ops.SlabAlign}, DType: tensor.F32, Lo: 0.1, Hi: 1})
		}
	}
	if states = append(states, scales...); h.MaxUnorm > 0 {
		states = append(states, Arg{Dims: []int{len(l.Sizes)}, DType: tensor.F32})
	}
	if h.Compensated(l) { // at most half a unit of the least parameter
		comp := slabArg(l, 0)
		comp.DType = l.DType
		for i, v := range comp.Values {
			comp.Values[i] = v / (1 << 14)
		}
		states = append(states, comp)
	}
	return states
}

// ruleCases are updates by each rule in both widths of state, with parameters in 32 and in 16 bits.
func ruleCases() []Case {
	var out []Case
	for _, name := range slices.Sorted(maps.Keys(hypers())) {
		h := hypers()[name]
		for _, p := range []tensor.DType{tensor.F32, tensor.BF16} {
			l := optimLayout()
			l.DType = p
			param, grad := slabArg(l, -2), slabArg(l, -2)
			param.DType, grad.DType = p, p
			suffix := map[tensor.DType]string{tensor.F32: "", tensor.BF16: "_bf16"}[p]
			out = append(out,
				updateCase(name+suffix, ops.Update{Hyper: h, Layout: l}, updateArgs(1, append([]Arg{param, grad}, stateArgs(l, h, false)...)...)),
				updateCase(name+"8bit"+suffix, ops.Update8bit{Hyper: h, Layout: l},
					updateArgs(1, append([]Arg{param, grad}, stateArgs(l, h, true)...)...)))
		}
	}
	return out
}

// matrixCases are the updates that look at shapes: matrices of both proportions and, where they may be, a vector.
func matrixCases() []Case {
	l := ops.NewLayout(300, 256, 5)
	l.Rows, l.LRScale = []int{30, 8, 0}, []float64{1, 0.5, 1}
	only := ops.NewLayout(300, 256)
	only.Rows, only.DType = []int{30, 8}, tensor.BF16
	factor := ops.Adafactor{Decay: 0.8, Eps1: 1e-30, Eps2: 1e-3, Clip: 1, Beta1: 0.9, Relative: true, WeightDecay: 0.1, Layout: l}
	bare := ops.Adafactor{Decay: 0.8, Eps1: 1e-30, Eps2: 1e-3, Clip: 0.5, Absolute: true, Layout: l}
	muon := ops.Muon{Momentum: 0.95, Steps: 5, MatchRMS: true, WeightDecay: 0.1, Layout: only}
	args := func(l *ops.Layout, states []ops.StateSpec) []Arg {
		p := slabArg(l, -2)
		p.DType = l.Type().DType
		in := []Arg{p, p}
		for _, s := range states {
			if a := slabArg(l, -2); s.Each == ops.EachElement {
				in = append(in, a)
				continue
			}
			in = append(in, Arg{Dims: s.Type.Shape.Dims(), DType: tensor.F32, Lo: 0.1, Hi: 2})
		}
		return updateArgs(1, in...)
	}
	cases := []Case{
		updateCase("adafactor", factor, args(l, factor.States())), updateCase("adafactor_absolute", bare, args(l, bare.States())),
		updateCase("muon", muon, args(only, muon.States())),
	}
	vector := muon
	vector.Layout = l
	cases[2].Bad = append(cases[2].Bad, args(l, vector.States()))
	return cases
}

func updateCase(name string, op graph.Op, in []Arg) Case {
	return Case{Name: name, In: in, DTypes: []tensor.DType{tensor.F32}, NoGrad: noUpdateGrad,
		Bad:   [][]Arg{append([]Arg{{Dims: []int{7}, DType: tensor.F32}}, in[1:]...)},
		Build: func(g *graph.Graph, in []graph.Value) []graph.Value { return g.Apply(op, in...) }}
}

func optimCases() []Case {
	l := optimLayout()
	f32 := []tensor.DType{tensor.F32}
	slab := slabArg(l, -2)
	adam, plain := hypers()["adam"], ops.Hyper{Rule: ops.Momentum, WeightDecay: 0.1}
	slabs := func(h ops.Hyper, eight bool) []Arg { return append([]Arg{slab, slab}, stateArgs(l, h, eight)...) }
	pack := Case{Name: "pack", In: []Arg{{Dims: []int{3, 100}, DType: tensor.F32}, {Dims: []int{256}, DType: tensor.F32}, {Dims: []int{5}, DType: tensor.F32}},
		DTypes: f32, NoGrad: "defined on f32 only; its gradient is slices", Bad: [][]Arg{{{Dims: []int{3}}, {Dims: []int{256}}, {Dims: []int{5}}}},
		Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.PackSlab(l, in...)) }}
	squares := Case{Name: "sum_squares", In: []Arg{{Dims: []int{70, 300}, DType: tensor.F32}}, DTypes: f32, NoGrad: "defined on f32 only",
		Bad:   [][]Arg{{{Dims: []int{3}, DType: tensor.BF16}}},
		Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.SumOfSquares(in[0])) }}
	half := optimLayout()
	half.DType, half.Sites = tensor.F16, []uint32{7, 8, 9}
	round := Case{Name: "stochastic_round", In: []Arg{slab, {DType: tensor.F32, Values: []float64{3}}}, DTypes: f32, NoGrad: "rounding has no gradient",
		Tol: map[tensor.DType]float64{tensor.F32: 1e-3}, // a unit of float16 at 2
		Bad: [][]Arg{{{Dims: []int{7}, DType: tensor.F32}, {DType: tensor.F32}}, {slab, {DType: tensor.I32}}},
		Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
			return one(ops.RoundStep(ops.StochasticRound{Seed: 5, Layout: half}, in[0], in[1]))
		}}
	return append(append(append(ruleCases(), matrixCases()...), round),
		updateCase("adam_not_ok", ops.Update{Hyper: adam, Layout: l}, updateArgs(0, slabs(adam, false)...)),
		updateCase("adam8bit_not_ok", ops.Update8bit{Hyper: adam, Layout: l}, updateArgs(0, slabs(adam, true)...)),
		updateCase("sgd", ops.Update{Hyper: plain, Layout: l}, updateArgs(1, slabs(plain, false)...)), pack, squares)
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
