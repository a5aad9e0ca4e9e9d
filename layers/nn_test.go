package layers_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// doubles is a source of float64 weights, so that layers can be compared with loops exactly.
func doubles() layers.Source {
	return layers.NewSource(layers.Options{Seed: 7, Policy: layers.Policy{Param: tensor.F64}})
}

func noise(seed uint64, dims ...int) *tensor.Tensor {
	r := rand.New(rand.NewPCG(seed, 3))
	x := tensor.New(tensor.T(tensor.F64, dims...))
	for i := range x.Type().Size() {
		x.Set(i, r.NormFloat64())
	}
	return x
}

// run computes values with the variables of a store and applies the effects of their graph.
func run(t *testing.T, store *plan.Store, feed plan.Feed, outs ...graph.Value) []*tensor.Tensor {
	t.Helper()
	p, err := plan.Compile(outs, plan.Options{Device: store.Device(), Session: plan.NewSession(store), Verify: true})
	require.NoError(t, err)
	res, err := p.Run(t.Context(), feed)
	require.NoError(t, err)
	var got []*tensor.Tensor
	for _, v := range outs {
		got = append(got, res.Tensor(v))
	}
	require.NoError(t, p.Close())
	return got
}

func values(t *testing.T, store *plan.Store, v *graph.Var) []float64 {
	t.Helper()
	x, err := store.Get(v)
	require.NoError(t, err)
	out := make([]float64, x.Type().Size())
	for i := range out {
		out[i] = x.At(i)
	}
	return out
}

// TestNamesOfPyTorch: state dicts have PyTorch's names and shapes.
func TestNamesOfPyTorch(t *testing.T) {
	src := layers.NewSource(layers.Options{})
	model := struct {
		Conv *layers.Conv               `name:"conv"`
		Up   *layers.ConvTranspose      `name:"up"`
		Norm *layers.BatchNorm          `name:"bn"`
		Grp  *layers.GroupNorm          `name:"gn"`
		Rec  *layers.Recurrent          `name:"lstm"`
		Att  *layers.MultiheadAttention `name:"attn"`
		Odd  *layers.MultiheadAttention `name:"cross"`
	}{
		layers.NewConv(src.Sub("conv"), 4, 6, []int{3, 5}, layers.ConvOptions{Groups: 2}),
		layers.NewConvTranspose(src.Sub("up"), 6, 4, []int{2}, layers.ConvOptions{Groups: 2, NoBias: true}),
		layers.NewBatchNorm(src.Sub("bn"), 6), layers.NewGroupNorm(src.Sub("gn"), 2, 6),
		layers.NewLSTM(src.Sub("lstm"), 3, 5, layers.RecurrentOptions{Layers: 2, Bidirectional: true}),
		layers.NewMultiheadAttention(src.Sub("attn"), 8, 2, layers.MultiheadOptions{}),
		layers.NewMultiheadAttention(src.Sub("cross"), 8, 2, layers.MultiheadOptions{KeyWidth: 3, NoBias: true}),
	}
	require.NoError(t, src.Err())
	got := map[string]string{}
	for _, p := range layers.Params(&model) {
		got[p.Name] = p.Type.String()
		require.Equal(t, p.Name, p.Var.Name)
	}
	want := map[string]string{
		"conv.weight": "f32[6,2,3,5]", "conv.bias": "f32[6]", "up.weight": "f32[6,2,2]",
		"bn.weight": "f32[6]", "bn.bias": "f32[6]", "bn.running_mean": "f32[6]", "bn.running_var": "f32[6]", "bn.num_batches_tracked": "i64[]",
		"gn.weight": "f32[6]", "gn.bias": "f32[6]",
		"attn.in_proj_weight": "f32[24,8]", "attn.in_proj_bias": "f32[24]", "attn.out_proj.weight": "f32[8,8]", "attn.out_proj.bias": "f32[8]",
		"cross.q_proj_weight": "f32[8,8]", "cross.k_proj_weight": "f32[8,3]", "cross.v_proj_weight": "f32[8,8]", "cross.out_proj.weight": "f32[8,8]",
	}
	for _, d := range []string{"", "_reverse"} {
		for l, in := range []string{"3", "10"} {
			name := "_l" + string(rune('0'+l)) + d
			want["lstm.weight_ih"+name], want["lstm.weight_hh"+name] = "f32[20,"+in+"]", "f32[20,5]"
			want["lstm.bias_ih"+name], want["lstm.bias_hh"+name] = "f32[20]", "f32[20]"
		}
	}
	require.Equal(t, want, got)
	layers.SetTrainable(&model, true)
	require.Len(t, layers.Trainable(&model), len(want)-3, "running statistics are no parameters")
}

// TestBatchNormRunningStatistics: training moves them as PyTorch does, evaluation uses them, and gradients come from the batch.
func TestBatchNormRunningStatistics(t *testing.T) {
	for _, momentum := range []float64{0.1, 0} {
		src := doubles()
		bn := layers.NewBatchNorm(src, 2)
		bn.Momentum = momentum
		require.NoError(t, src.Err())
		store := newStore(t)
		require.NoError(t, src.Load(store))
		mean, variance := []float64{0, 0}, []float64{1, 1}
		for step := range 3 {
			x := noise(uint64(step), 3, 2, 4)
			g := graph.New("train")
			in := g.Input("x", x.Type())
			y := bn.Forward(in, true)
			run(t, store, plan.Feed{in: x}, y)
			share := momentum
			if momentum == 0 {
				share = 1 / float64(step+1)
			}
			for c := range 2 {
				m, v := channelMoments(x, c)
				mean[c], variance[c] = (1-share)*mean[c]+share*m, (1-share)*variance[c]+share*v*12/11
			}
		}
		require.InDeltaSlice(t, mean, values(t, store, bn.Mean), 1e-6)
		require.InDeltaSlice(t, variance, values(t, store, bn.Var), 1e-6)
		require.Equal(t, []float64{3}, values(t, store, bn.Batches))

		x := noise(9, 1, 2, 3)
		g := graph.New("eval")
		in := g.Input("x", x.Type())
		got := run(t, store, plan.Feed{in: x}, bn.Forward(in, false))[0]
		for i := range 6 {
			require.InDelta(t, (x.At(i)-mean[i/3])/math.Sqrt(variance[i/3]+1e-5), got.At(i), 1e-5)
		}
	}
	g := graph.New("one")
	layers.NewBatchNorm(doubles(), 2).Forward(g.Input("x", tensor.T(tensor.F32, 1, 2)), true)
	require.ErrorContains(t, g.Err(), "larger batches")
}

func channelMoments(x *tensor.Tensor, c int) (mean, variance float64) {
	n, s := x.Shape().Dim(0), x.Shape().Dim(2)
	at := func(i int) float64 { return x.At((i/s*x.Shape().Dim(1)+c)*s + i%s) }
	for i := range n * s {
		mean += at(i) / float64(n*s)
	}
	for i := range n * s {
		variance += (at(i) - mean) * (at(i) - mean) / float64(n*s)
	}
	return mean, variance
}

func TestBatchNormFromFile(t *testing.T) {
	weights := file{}
	for _, n := range []string{"weight", "bias", "running_mean", "running_var"} {
		weights[n] = tensor.New(tensor.T(tensor.F32, 2))
		weights[n].Set(1, 3)
	}
	src := layers.NewSource(layers.Options{Weights: weights})
	bn := layers.NewBatchNorm(src, 2) // files of old versions do not count batches
	store := newStore(t)
	require.NoError(t, src.Load(store))
	require.Equal(t, []float64{0, 3}, values(t, store, bn.Var))
	require.Equal(t, []float64{0}, values(t, store, bn.Batches))
	require.Empty(t, src.Unused([]string{"running_mean", "running_var"}))

	delete(weights, "running_var")
	src = layers.NewSource(layers.Options{Weights: weights})
	layers.NewBatchNorm(src, 2)
	require.ErrorContains(t, src.Err(), `"running_var" is missing`)
	weights["running_var"] = tensor.New(tensor.T(tensor.I64, 2))
	src = layers.NewSource(layers.Options{Weights: weights})
	layers.NewBatchNorm(src, 2)
	require.ErrorContains(t, src.Err(), "running_var")
}

// TestConvNetTrains: convolution, normalisation, pooling and a transposed convolution learn to reproduce an image.
func TestConvNetTrains(t *testing.T) {
	src := layers.NewSource(layers.Options{Seed: 3})
	conv := layers.NewConv(src.Sub("c"), 2, 8, []int{3, 3}, layers.ConvOptions{WindowOptions: ops.WindowOptions{Pad: []int{1}}})
	bn, up := layers.NewBatchNorm(src.Sub("n"), 8), layers.NewConvTranspose(src.Sub("u"), 8, 2, []int{2, 2}, layers.ConvOptions{WindowOptions: ops.WindowOptions{Stride: []int{2}}})
	pool := layers.MaxPool{Kernel: []int{2, 2}}
	model := struct {
		C *layers.Conv          `name:"c"`
		N *layers.BatchNorm     `name:"n"`
		U *layers.ConvTranspose `name:"u"`
	}{conv, bn, up}
	layers.SetTrainable(&model, true)
	store := newStore(t)
	require.NoError(t, src.Load(store))
	g := graph.New("step")
	x := g.Input("x", tensor.T(tensor.F32, 4, 2, 8, 8))
	y := up.Forward(pool.Forward(ops.ReLU(bn.Forward(conv.Forward(x), true))))
	loss := ops.MSELoss(y, x, ops.LossMean)
	sgd(t, g, loss, layers.Trainable(&model), 0.2)
	img, err := noise(1, 4, 2, 8, 8).Convert(tensor.F32)
	require.NoError(t, err)
	first, last := trained(t, store, loss, plan.Feed{x: img}, 30)
	require.Less(t, last, 0.8*first)
}

// sgd writes a step of gradient descent as effects.
func sgd(t *testing.T, g *graph.Graph, loss graph.Value, params []*graph.Var, lr float64) {
	t.Helper()
	grads, err := autograd.Grad(loss, params...)
	require.NoError(t, err)
	for i, p := range params {
		g.Write(p, ops.Sub(g.Read(p), ops.Scale(grads[i], lr)))
	}
}

func trained(t *testing.T, store *plan.Store, loss graph.Value, feed plan.Feed, steps int) (first, last float64) {
	t.Helper()
	p, err := plan.Compile([]graph.Value{loss}, plan.Options{Device: store.Device(), Session: plan.NewSession(store)})
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	for i := range steps {
		res, err := p.Run(t.Context(), feed)
		require.NoError(t, err)
		last = res.Tensor(loss).At(0)
		if i == 0 {
			first = last
		}
	}
	return first, last
}

// TestWrongInputs: a layer that is fed what does not fit records one error and never panics.
func TestWrongInputs(t *testing.T) {
	src := layers.NewSource(layers.Options{})
	mha := layers.NewMultiheadAttention(src.Sub("a"), 8, 2, layers.MultiheadOptions{})
	rec := layers.NewGRU(src.Sub("r"), 3, 4, layers.RecurrentOptions{Layers: 2})
	conv := layers.NewConv(src.Sub("c"), 4, 6, []int{3}, layers.ConvOptions{Groups: 2})
	bn, gn := layers.NewBatchNorm(src.Sub("b"), 4), layers.NewGroupNorm(src.Sub("g"), 2, 4)
	for name, f := range map[string]func(x graph.Value) graph.Value{
		"attention": func(x graph.Value) graph.Value { return mha.Forward(x, x, x, layers.AttentionMasks{}, layers.Random{}) },
		"masked": func(x graph.Value) graph.Value {
			return mha.Forward(x, x, x, layers.AttentionMasks{Causal: true, KeyPadding: x}, layers.Random{})
		},
		"recurrent": func(x graph.Value) graph.Value {
			y, _ := rec.Forward(x, layers.RecurrentState{}, graph.Value{}, layers.Random{})
			return y
		},
		"state": func(x graph.Value) graph.Value {
			y, _ := rec.Forward(x, layers.RecurrentState{H: x}, graph.Value{}, layers.Random{})
			return y
		},
		"conv": conv.Forward, "group": gn.Forward,
		"up":       layers.NewConvTranspose(src.Sub("u"), 4, 6, []int{3, 3}, layers.ConvOptions{}).Forward,
		"batch":    func(x graph.Value) graph.Value { return bn.Forward(x, true) },
		"fixed":    func(x graph.Value) graph.Value { return bn.Forward(x, false) },
		"adaptive": layers.AdaptivePool{Out: []int{2, 2}}.Forward, "max": layers.MaxPool{Kernel: []int{9, 9}}.Forward,
		"avg": layers.AvgPool{Kernel: []int{9}}.Forward, "layer": layers.NewLayerNorm(src.Sub("l"), 9).Forward,
	} {
		for _, dims := range [][]int{{}, {2}, {2, 5}, {2, 5, 7}, {0, 5, 7}, {2, 0, 7}, {2, 5, 0}, {2, 5, 6, 7, 8, 9}} {
			for _, d := range []tensor.DType{tensor.F32, tensor.BF16, tensor.I32, tensor.Bool} {
				g := graph.New(name)
				y := f(g.Input("x", tensor.T(d, dims...)))
				if err := g.Err(); err != nil {
					require.NotContains(t, err.Error(), "\n", "%s %v: one mistake gives one error", name, dims)
					require.False(t, y.Valid(), "%s %v %v", name, d, dims)
				}
			}
		}
	}
}
