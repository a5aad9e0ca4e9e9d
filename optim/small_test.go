package optim

import (
	"context"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func TestNewRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		opt  string
		c    Config
		want string
	}{
		"unknown":  {"adamw8bits", Config{}, `did you mean "adamw8bit"?`},
		"far":      {"lbfgsnewton", Config{}, "there are: adafactor, adagrad"},
		"beta":     {"adamw", Config{Betas: [2]float64{1, 0.9}}, "betas"},
		"rounded":  {"adamw32bit", Config{Betas: [2]float64{0.9, 0.99999999}}, "beta 2"},
		"momentum": {"sgd", Config{Momentum: 1.5}, "momentum"},
		"alpha":    {"rmsprop", Config{Alpha: 1}, "alpha"},
		"no state": {"sgd8bit", Config{}, "set a momentum"},
		"slow":     {"adafactor", Config{Momentum: 0.99999999}, "momentum"},
		"eps":      {"adamw8bit", Config{Eps: -1}, "eps"},
		"decay":    {"sgd", Config{WeightDecay: math.NaN()}, "decay"},
		"nesterov": {"sgd", Config{Nesterov: true}, "nesterov"},
		"min8":     {"adamw8bit", Config{Min8bitSize: -1}, "min_8bit_size"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(c.opt, c.c)
			require.ErrorContains(t, err, c.want)
		})
	}
	o, err := New("adamw", Config{})
	require.NoError(t, err)
	require.Equal(t, "adamw", o.Name())
	require.Equal(t, Config{Betas: [2]float64{0.9, 0.999}, Eps: 1e-8}, o.Config())
}

func TestGroupRefuses(t *testing.T) {
	opt, err := New("adamw", Config{})
	require.NoError(t, err)
	p, half := f32("p", 3), graph.NewVar("half", tensor.T(tensor.F64, 3))
	for name, c := range map[string]struct {
		params []*graph.Var
		o      Options
		want   string
	}{
		"no optimizer": {[]*graph.Var{p}, Options{}, "Optimizer"},
		"none":         {nil, Options{Optimizer: opt}, "no parameters"},
		"nil":          {[]*graph.Var{nil}, Options{Optimizer: opt}, "nil"},
		"twice":        {[]*graph.Var{p, p}, Options{Optimizer: opt}, "twice"},
		"dtype":        {[]*graph.Var{half}, Options{Optimizer: opt}, "float32"},
		"decay":        {[]*graph.Var{p}, Options{Optimizer: opt, Decay: map[*graph.Var]float64{p: -1}}, "weight decay of p"},
		"scale":        {[]*graph.Var{p}, Options{Optimizer: opt, LRScale: map[*graph.Var]float64{p: math.NaN()}}, "learning rate of p"},
		"stranger":     {[]*graph.Var{p}, Options{Optimizer: opt, LRScale: map[*graph.Var]float64{half: 1}}, "half"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewGroup(c.params, c.o)
			require.ErrorContains(t, err, c.want)
			require.Nil(t, p.Slab, "a refused group changes nothing")
		})
	}
	gr, err := NewGroup([]*graph.Var{p}, Options{Optimizer: opt})
	require.NoError(t, err)
	_, err = NewGroup([]*graph.Var{p}, Options{Optimizer: opt})
	require.ErrorContains(t, err, "view")

	g := graph.New("bad")
	gr.Accumulate(g, nil)
	require.ErrorContains(t, g.Err(), "0 gradients for 1 parameters")
	g = graph.New("bad")
	gr.Apply(g, Scalars{})
	require.ErrorContains(t, g.Err(), "learning rate")
	g = graph.New("bad")
	gr.ApplyGrads(g, nil, Scalars{})
	require.ErrorContains(t, g.Err(), "0 gradient slabs")
	for name, call := range map[string]func(g *graph.Graph){
		"apply": func(g *graph.Graph) { gr.Apply(g, Scalars{LR: ops.Fill(g, tensor.F32, 1)}) }, "zero": gr.Zero,
		"gradient norm": func(g *graph.Graph) { gr.GradNormSquared(g) },
	} {
		g = graph.New("one")
		gr.Accumulate(g, []graph.Value{g.Read(p)})
		require.NoError(t, g.Err())
		call(g)
		require.ErrorContains(t, g.Err(), name)
		require.ErrorContains(t, g.Err(), "would use those from before its step")
	}
}

func TestUpdateRefuses(t *testing.T) {
	opt, err := New("adamw", Config{})
	require.NoError(t, err)
	p, q := f32("p", 3), f32("q", 3)
	require.Empty(t, opt.StateVars())
	for want, call := range map[string]func(g *graph.Graph){
		"gradients": func(g *graph.Graph) { opt.Update(g, []*graph.Var{p}, nil, g.Read(q)) },
		"first call": func(g *graph.Graph) {
			opt.Update(g, []*graph.Var{q}, []graph.Value{g.Read(p)}, ops.Fill(g, tensor.F32, 1))
		},
		"is absent":         func(g *graph.Graph) { opt.Update(g, []*graph.Var{p}, []graph.Value{{}}, ops.Fill(g, tensor.F32, 1)) },
		"rate is absent":    func(g *graph.Graph) { opt.Update(g, []*graph.Var{p}, []graph.Value{g.Read(q)}, graph.Value{}) },
		"input 4 must be f": func(g *graph.Graph) { opt.Update(g, []*graph.Var{p}, []graph.Value{g.Read(q)}, g.Read(q)) },
	} {
		g := graph.New("ok")
		opt.Update(g, []*graph.Var{p}, []graph.Value{g.Read(q)}, ops.Fill(g, tensor.F32, 1))
		require.NoError(t, g.Err())
		g = graph.New("bad")
		call(g)
		require.ErrorContains(t, g.Err(), want)
	}
}

func TestSchedule(t *testing.T) {
	for _, c := range []struct {
		s    Schedule
		want map[int]float64
	}{
		{Schedule{LR: 2}, map[int]float64{0: 2, 100: 2}},
		{Schedule{Kind: "linear", LR: 1, Total: 10}, map[int]float64{0: 1, 5: 0.5, 9: 0.1, 10: 0, 11: 0}},
		{Schedule{Kind: "linear", LR: 1, Warmup: 0.2, Total: 10}, map[int]float64{0: 0.5, 1: 1, 2: 1, 6: 0.5, 9: 0.125}},
		{Schedule{Kind: "cosine", LR: 4, Warmup: 4, Total: 12}, map[int]float64{0: 1, 3: 4, 4: 4, 8: 2, 10: 2 - math.Sqrt2}},
		{Schedule{Kind: "cosine", LR: 1, Warmup: 0.03, Total: 10}, map[int]float64{0: 1, 1: 1}},
		{Schedule{Kind: "constant", LR: 1, Warmup: 100, Total: 4}, map[int]float64{0: 0.25, 3: 1, 4: 1}},
		{Schedule{Kind: "odd", LR: 1}, map[int]float64{0: 0}},
	} {
		for step, want := range c.want {
			require.InDelta(t, want, c.s.At(step), 1e-12, "%+v at %d", c.s, step)
		}
	}
	require.ErrorContains(t, Schedule{Kind: "cosin"}.Check(), `did you mean "cosine"?`)
	require.Error(t, Schedule{LR: math.NaN()}.Check())
	require.Error(t, Schedule{Warmup: -1}.Check())
	require.Error(t, Schedule{Total: -1}.Check())
	require.NoError(t, Schedule{Kind: "linear", LR: 1, Warmup: 0.1, Total: 3}.Check())
}

func TestClipAndFinite(t *testing.T) {
	dev := device(t, 1)
	g := graph.New("clip")
	norm := g.Input("norm", tensor.T(tensor.F32))
	for n, want := range map[float64][3]float64{
		0.5: {1, 1, 1}, 4: {2 / (4 + 1e-6), 1, 1}, math.Inf(1): {0, 1, 0},
	} {
		out, err := plan.Eval(dev, plan.Feed{norm: n}, ClipFactor(norm, 2), ClipFactor(norm, 0), Finite(norm))
		require.NoError(t, err)
		for i, w := range want {
			require.InDelta(t, w, out[i].At(0), 1e-7, "norm %v", n)
		}
	}
	out, err := plan.Eval(dev, plan.Feed{norm: math.NaN()}, Finite(norm))
	require.NoError(t, err)
	require.Zero(t, out[0].At(0))
}

func TestLossScaler(t *testing.T) {
	dev := device(t, 1)
	s := NewLossScaler(ScalerOptions{Init: 1024, Interval: 3})
	g := graph.New("scale")
	ok := g.Input("ok", tensor.T(tensor.F32))
	now := s.Scale(g)
	s.Update(g, ok)
	p, err := plan.Compile([]graph.Value{now}, plan.Options{Device: dev})
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	for i, c := range []struct{ ok, scale float64 }{
		{1, 1024}, {1, 1024}, {0, 1024}, {1, 512}, {1, 512}, {1, 512}, {1, 1024}, {0, 1024}, {0, 512}, {1, 256},
	} {
		out, err := p.Run(context.Background(), plan.Feed{ok: c.ok})
		require.NoError(t, err)
		require.Equal(t, c.scale, out.Float(now), "step %d", i)
	}
	for range 60 {
		_, err := p.Run(context.Background(), plan.Feed{ok: 0.0})
		require.NoError(t, err)
	}
	out, err := p.Run(context.Background(), plan.Feed{ok: 1.0})
	require.NoError(t, err)
	require.Equal(t, MinLossScale, out.Float(now))
	require.Len(t, s.Vars(), 2)
}
