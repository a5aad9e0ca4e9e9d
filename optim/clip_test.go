package optim

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// percentileOracle is percentile_clipping of bitsandbytes 0.48 on norms.
type percentileOracle struct{ norms [PercentileHistory]float32 }

func (o *percentileOracle) factor(norm float32, step, percentile int) float32 {
	if step == 1 {
		for i := range o.norms {
			o.norms[i] = norm
		}
	} else {
		o.norms[step%PercentileHistory] = norm
	}
	sorted := slices.Sorted(slices.Values(o.norms[:]))
	if limit := sorted[percentile]; norm > limit {
		return limit / norm
	}
	return 1
}

func TestPercentileClip(t *testing.T) {
	dev := device(t, 1)
	for _, percentile := range []int{1, 5, 50, 99} {
		clip, err := NewPercentileClip("", percentile)
		require.NoError(t, err)
		g := graph.New("clip")
		norm, ok := g.Input("norm", tensor.T(tensor.F32)), g.Input("ok", tensor.T(tensor.F32))
		factor := clip.Factor(g, norm, ok)
		p, err := plan.Compile([]graph.Value{factor}, plan.Options{Device: dev, Verify: true})
		require.NoError(t, err)
		rng, want := rand.New(rand.NewPCG(5, uint64(percentile))), &percentileOracle{}
		clipped, step := 0, 0
		for i := range 260 {
			n := float32(math.Exp(rng.NormFloat64()))
			if i%7 == 3 {
				n = 1 // ties
			}
			if i%11 == 5 { // a step that is not finite leaves no mark
				_, err := p.Run(context.Background(), plan.Feed{norm: math.NaN(), ok: 0.0})
				require.NoError(t, err)
				continue
			}
			step++
			out, err := p.Run(context.Background(), plan.Feed{norm: n, ok: 1.0})
			require.NoError(t, err)
			w := want.factor(n, step, percentile)
			require.Equal(t, w, float32(out.Float(factor)), "step %d", step)
			if w < 1 {
				clipped++
			}
		}
		require.Equal(t, percentile < 99, clipped > 0, "the largest norm is its own limit")
		require.Len(t, clip.Vars(), 2)
		require.NoError(t, p.Close())
	}
	for _, bad := range []int{-1, 0, 100} {
		_, err := NewPercentileClip("", bad)
		require.ErrorContains(t, err, "from 1 to 99")
	}
}

func TestClipValues(t *testing.T) {
	dev := device(t, 1)
	g := graph.New("clip")
	x, s := g.Input("x", tensor.T(tensor.F32, 4)), g.Input("s", tensor.T(tensor.F32))
	clipped := ClipValues([]graph.Value{x}, s, 0.5)
	half := NormSquared([]graph.Value{ops.Cast(x, tensor.BF16), x})
	in, err := tensor.FromBytes(tensor.T(tensor.F32, 4), tensor.AsBytes([]float32{-3, 0.5, 0.25, 8}))
	require.NoError(t, err)
	out, err := plan.Eval(dev, plan.Feed{x: in, s: 0.5}, clipped[0], NormSquared(clipped), half)
	require.NoError(t, err)
	require.Equal(t, []float32{-0.5, 0.25, 0.125, 0.5}, tensor.Data[float32](out[0]))
	require.InDelta(t, 0.25+0.0625+0.015625+0.25, out[1].At(0), 1e-7)
	require.InDelta(t, 2*(9+0.25+0.0625+64), out[2].At(0), 1e-5)
}

// TestAdaptiveClip compares the norms and the clipped gradients of tensors, among them one of several blocks, one of zeros and one
// with 8-bit states, with loops in float64.
func TestAdaptiveClip(t *testing.T) {
	const ratio, gscale = 0.1, 0.5
	dev, rng := device(t, 1), rand.New(rand.NewPCG(3, 4))
	opt, err := New("adamw8bit", Config{Min8bitSize: 1024})
	require.NoError(t, err)
	params := []*graph.Var{f32("a", 3), f32("zero", 5, 5), f32("wide", 3, 700), f32("narrow", 257)}
	gr, err := NewGroup(params, Options{Optimizer: opt})
	require.NoError(t, err)
	store := plan.NewStore(dev)
	values := map[string][]float32{}
	for i, p := range params {
		w, d := normal(rng, p.Type.Shape.Dims()...), normal(rng, p.Type.Shape.Dims()...)
		if p.Name == "zero" {
			w = tensor.New(p.Type)
		}
		if p.Name == "a" { // too small to be clipped
			for k := range tensor.Data[float32](d) {
				tensor.Data[float32](d)[k] *= 1e-3
			}
		}
		require.NoError(t, store.Set(p, w))
		require.NoError(t, store.Set(gr.GradVars()[i], d))
		values[p.Name], values[p.Name+".grad"] = tensor.Data[float32](w), tensor.Data[float32](d)
	}
	g := graph.New("agc")
	var slabs []graph.Value
	for _, s := range gr.GradSlabs() {
		slabs = append(slabs, g.Read(s))
	}
	norms, of := gr.GradNorms(g)
	clipped := gr.AdaptiveClip(g, slabs, ops.Fill(g, tensor.F32, gscale), ratio)
	p, err := plan.Compile(append(slices.Clone(norms), clipped...), plan.Options{Device: dev, Store: store})
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	out, err := p.Run(context.Background(), nil)
	require.NoError(t, err)
	norm := func(x []float32) (s float64) {
		for _, v := range x {
			s += float64(v) * float64(v)
		}
		return math.Sqrt(s)
	}
	seen := 0
	for s := range norms {
		sum, all := out.Tensor(norms[s]), out.Tensor(clipped[s])
		for i, v := range of[s] {
			seen++
			grad := values[v.Name+".grad"]
			require.InEpsilon(t, norm(grad), sum.At(i), 1e-6, v.Name)
			factor := min(1, ratio*max(norm(values[v.Name]), 1e-3)/(norm(grad)*gscale))
			require.Equal(t, v.Name == "a", factor == 1, v.Name)
			for k, x := range grad {
				require.InDelta(t, float64(x)*gscale*factor, all.At(gr.sections[s].layout.Offsets[i]+k), 1e-6, "%s[%d]", v.Name, k)
			}
		}
	}
	require.Equal(t, len(params), seen)
	g = graph.New("bad")
	gr.AdaptiveClip(g, nil, graph.Value{}, 1)
	require.ErrorContains(t, g.Err(), "0 gradient slabs")
}
