package layers_test

import (
	"errors"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// file is a checkpoint in memory.
type file map[string]*tensor.Tensor

func (f file) Type(name string) (tensor.Type, bool) {
	t, ok := f[name]
	if !ok {
		return tensor.Type{}, false
	}
	return t.Type(), true
}

func (f file) Read(name string) (*tensor.Tensor, error) {
	if f[name] == nil {
		return nil, errors.New("no " + name)
	}
	return f[name].Clone(), nil
}

func newStore(t *testing.T) *plan.Store {
	t.Helper()
	s := plan.NewStore(cpu.New(cpu.Options{Threads: 1}))
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

type tower struct {
	Floors []*floor          `name:"floors"`
	Top    layers.Projection `name:"top"`
	Tied   *graph.Var        `name:"tied"`
	hidden *graph.Var
	Other  *graph.Var
}

type floor struct {
	Norm *layers.RMSNorm   `name:"norm"`
	Lin  layers.Projection `name:"lin"`
}

// wrapped holds a projection under its own path, as an adapter does.
type wrapped struct {
	Base  layers.Projection `name:"."`
	Extra *graph.Var        `name:"extra"`
}

func (w *wrapped) Forward(x graph.Value) graph.Value { return w.Base.Forward(x) }
func (w *wrapped) Features() (in, out int)           { return w.Base.Features() }

func newTower(src layers.Source) *tower {
	m := &tower{hidden: src.Var("hidden", layers.Zeros(), 1), Other: src.Var("other", layers.Zeros(), 1)}
	for i := range 2 {
		s := src.Sub("floors.%d", i)
		m.Floors = append(m.Floors, &floor{layers.NewRMSNorm(s.Sub("norm"), 4, 1e-5), s.Linear("lin", 4, 4, true)})
	}
	m.Top = src.Linear("top", 4, 6, false)
	m.Tied = m.Floors[0].Norm.Weight
	return m
}

func names(m any) []string {
	var out []string
	layers.Walk(m, func(p layers.Param) { out = append(out, p.Name) })
	return out
}

func TestWalk(t *testing.T) {
	m := newTower(layers.NewSource(layers.Options{}))
	require.Equal(t, []string{"floors.0.norm.weight", "floors.0.lin.weight", "floors.0.lin.bias",
		"floors.1.norm.weight", "floors.1.lin.weight", "floors.1.lin.bias", "top.weight"}, names(m))
	for _, p := range layers.Params(m) {
		require.Equal(t, p.Name, p.Var.Name)
		require.Equal(t, p.Type, p.Var.Type)
	}
	layers.SetTrainable(m, true)
	require.Len(t, layers.Trainable(m), 7)
	layers.SetTrainable(m, false)
	require.Empty(t, layers.Trainable(m))
}

func TestModulesReplace(t *testing.T) {
	m := newTower(layers.NewSource(layers.Options{}))
	var paths []string
	layers.Modules(m, func(path string, p layers.Projection, replace func(layers.Projection)) {
		paths = append(paths, path)
		replace(&wrapped{Base: p, Extra: graph.NewVar("x", tensor.T(tensor.F32, 1))})
	})
	require.Equal(t, []string{"floors.0.lin", "floors.1.lin", "top"}, paths, "what a replacement wraps is not offered again")
	require.Equal(t, []string{"floors.0.norm.weight", "floors.0.lin.weight", "floors.0.lin.bias", "floors.0.lin.extra",
		"floors.1.norm.weight", "floors.1.lin.weight", "floors.1.lin.bias", "floors.1.lin.extra", "top.weight", "top.extra"}, names(m))
}

func TestSourceFromFile(t *testing.T) {
	w := tensor.New(tensor.T(tensor.BF16, 2, 3))
	for i := range 6 {
		w.Set(i, float64(i))
	}
	weights := file{"model.a.weight": w, "model.a.bias": tensor.New(tensor.T(tensor.F32, 2)), "rest": w, "skip.inv_freq": w}
	build := func(p layers.Policy) (*layers.Linear, layers.Source) {
		src := layers.NewSource(layers.Options{Weights: weights, Policy: p, Rename: func(n string) string { return "model." + n }})
		return src.Linear("a", 3, 2, true).(*layers.Linear), src
	}
	for policy, want := range map[layers.Policy]tensor.DType{{}: tensor.BF16, {Param: tensor.F32}: tensor.F32} {
		l, src := build(policy)
		require.NoError(t, src.Err())
		require.Equal(t, want, l.Weight.Type.DType)
		store := newStore(t)
		require.NoError(t, src.Load(store))
		got, err := store.Get(l.Weight)
		require.NoError(t, err)
		require.Equal(t, w.Float32s(), got.Float32s())
		require.Equal(t, []string{"rest"}, src.Unused([]string{"model.a.weight", "rest", "skip.inv_freq"}, "inv_freq"))
		require.True(t, src.Has("a.weight"))
		require.False(t, src.Has("b"))
	}
}

func TestSourceErrors(t *testing.T) {
	weights := file{"a": tensor.New(tensor.T(tensor.F32, 2)), "codes": tensor.New(tensor.T(tensor.U8, 2))}
	for _, c := range []struct {
		name string
		dims []int
		err  string
	}{
		{"b", []int{2}, `tensor "b" is missing`}, {"a", []int{3}, `tensor "a" is f32[2], the configuration needs shape [3]`},
		{"codes", []int{2}, "floating-point"},
	} {
		src := layers.NewSource(layers.Options{Weights: weights})
		require.NotNil(t, src.Var(c.name, layers.Zeros(), c.dims...))
		require.ErrorContains(t, src.Err(), c.err)
		require.ErrorContains(t, src.Load(newStore(t)), c.err)
	}
	src := layers.NewSource(layers.Options{Weights: weights})
	for range 50 {
		src.Var("missing", layers.Zeros(), 1)
	}
	require.ErrorContains(t, src.Err(), "(and 9 more like it)", "errors are bounded")
}

func TestInitIndependentOfOrder(t *testing.T) {
	a, b := graph.NewVar("a", tensor.T(tensor.F32, 100)), graph.NewVar("b", tensor.T(tensor.F32, 100))
	in := layers.Normal(0.02)
	require.Equal(t, in.Value(1, a).Float32s(), in.Value(1, a).Float32s())
	require.NotEqual(t, in.Value(1, a).Float32s(), in.Value(1, b).Float32s())
	require.NotEqual(t, in.Value(1, a).Float32s(), in.Value(2, a).Float32s())
}

func TestInitMoments(t *testing.T) {
	v := graph.NewVar("w", tensor.T(tensor.F32, 200, 300))
	for name, c := range map[string]struct {
		in       layers.Init
		std, max float64
	}{
		"normal":  {layers.Normal(0.5), 0.5, math.Inf(1)},
		"uniform": {layers.Uniform(0.3), 0.3 / math.Sqrt(3), 0.3},
		"linear":  {layers.LinearInit(300), 1 / math.Sqrt(900), 1 / math.Sqrt(300)},
		"zeros":   {layers.Zeros(), 0, 0},
	} {
		x := c.in.Value(3, v).Float32s()
		mean, square, top := 0.0, 0.0, 0.0
		for _, e := range x {
			mean += float64(e) / float64(len(x))
			square += float64(e) * float64(e) / float64(len(x))
			top = max(top, math.Abs(float64(e)))
		}
		require.InDelta(t, 0, mean, 0.01, name)
		require.InDelta(t, c.std, math.Sqrt(square), 0.01*c.std+1e-9, name)
		require.LessOrEqual(t, top, c.max+1e-6, name)
	}
}

// A quantized layer must compute with exactly the values that its state dequantizes to.
func TestLinear4bit(t *testing.T) {
	for _, cfg := range []quant.Config{{Scheme: quant.NF4, Blocksize: 64}, {Scheme: quant.NF4, Blocksize: 64, Double: true}, {Scheme: quant.FP4, Blocksize: 128}} {
		const in, out = 43, 20 // rows that end inside blocks
		src := layers.NewSource(layers.Options{Seed: 5, Quantize: func(name string) (quant.Config, bool) { return cfg, name == "q.weight" }})
		l, ok := src.Linear("q", in, out, true).(*layers.Linear4bit)
		require.True(t, ok)
		_, plain := src.Linear("p", in, out, false).(*layers.Linear)
		require.True(t, plain)
		store := newStore(t)
		require.NoError(t, src.Load(store))
		require.Equal(t, []string{"weight", "bias"}, names(l), "one parameter of its logical shape")
		require.Equal(t, tensor.T(tensor.F32, out, in), layers.Params(l)[0].Type)
		st, err := l.Weight.State(store)
		require.NoError(t, err)
		w, err := st.Dequantize(tensor.F32)
		require.NoError(t, err)

		x := layers.Normal(1).Value(1, graph.NewVar("x", tensor.T(tensor.F32, 3, in)))
		g := graph.New("q")
		y := l.Forward(g.Const(x))
		p, err := plan.Compile([]graph.Value{y}, plan.Options{Device: store.Device(), Session: plan.NewSession(store)})
		require.NoError(t, err)
		res, err := p.Run(t.Context(), nil)
		require.NoError(t, err)
		for i := range 3 {
			for o := range out {
				want := 0.0
				for k := range in {
					want += x.At(i*in+k) * w.At(o*in+k)
				}
				require.InDelta(t, want, res.Tensor(y).At(i*out+o), 1e-5)
			}
		}
		require.NoError(t, p.Close())
	}
}
