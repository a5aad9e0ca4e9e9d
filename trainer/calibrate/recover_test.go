package calibrate_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/optim"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/quant/prune"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer/calibrate"
)

// TestSmoothQuantTamesOutliers plants channels with large activations without changing the model: their norm's scale is multiplied, the
// columns that read them divided. In int8 layers without an outlier threshold the plain model breaks, the smoothed one does not.
func TestSmoothQuantTamesOutliers(t *testing.T) {
	divergence := func(m calibrate.Method) float64 {
		f := newFixture(t)
		f.judge, f.calibrate = f.judge[:12], f.calibrate[:8]
		f.score(t)
		for _, l := range f.model.Body.Stack() {
			b := l.(*models.Block)
			attn, mlp := b.Attn.(*layers.Attention), b.MLP.(*layers.GatedMLP)
			plant(t, f.store, b.Norm1.Weight, attn.Q, attn.K, attn.V)
			plant(t, f.store, b.Norm2.Weight, mlp.Gate, mlp.Up)
		}
		require.Less(t, f.score(t).divergence, 1e-6, "planting changed the model")
		r := f.run(t, calibrate.Options{Method: m, Format: quant.AffineFormat{Bits: 8, Per: quant.PerChannel}})
		for _, p := range layers.Params(f.model) { // scaled weights, unquantized: the int8 layers quantize them
			if x := r.Dense[p.Name]; x != nil {
				require.NoError(t, f.store.Set(p.Var, x))
			} else if st := r.States[p.Name]; st != nil {
				x, err := st.Dequantize(p.Type.DType)
				require.NoError(t, err)
				require.NoError(t, f.store.Set(p.Var, x))
			}
		}
		done, err := layers.Replace(f.model, layers.ReplaceOptions{New: layers.Quantizing(f.store, quant.Config{Scheme: quant.Int8})})
		require.NoError(t, err)
		require.NotEmpty(t, done)
		return f.score(t).divergence
	}
	plain, smooth := divergence(calibrate.RTN), divergence(calibrate.SmoothQuant)
	t.Logf("int8 activations and weights: divergence %.5f, smoothed %.5f", plain, smooth)
	require.Less(t, smooth, plain/4)
}

func plant(t *testing.T, store *plan.Store, norm *graph.Var, readers ...layers.Projection) {
	const factor = 64 // a power of two: nothing is rounded
	change := func(v *graph.Var, f func(i int) float64) {
		x, err := store.Get(v)
		require.NoError(t, err)
		for i := range x.Type().Size() {
			x.Set(i, x.At(i)*f(i))
		}
		require.NoError(t, store.Set(v, x))
	}
	outlier := func(j int) bool { return j == 5 || j == 77 }
	change(norm, func(i int) float64 {
		if outlier(i) {
			return factor
		}
		return 1
	})
	for _, p := range readers {
		w := p.(*layers.Linear).Weight
		change(w, func(i int) float64 {
			if outlier(i % w.Type.Dim(1)) {
				return 1.0 / factor
			}
			return 1
		})
	}
}

// TestPrunedModelRecoversByDistillation prunes the built-in model to 2:4, trains what is left on the predictions of the whole model, and
// finds 2:4 still there and the predictions closer.
func TestPrunedModelRecoversByDistillation(t *testing.T) {
	f := newFixture(t)
	teacher := newFixture(t)
	f.judge = f.judge[:12]
	f.score(t)
	masked, err := layers.Prune(f.model, f.store, func(_ string, w *tensor.Tensor) (prune.Mask, error) {
		return prune.NM(prune.Magnitudes(w.Float32s()), w.Shape().Dim(1), 2, 4)
	})
	require.NoError(t, err)
	before := f.score(t).divergence
	f.distill(t, teacher, 24)
	after := f.score(t).divergence
	t.Logf("2:4: divergence %.4f, after 24 steps of distillation %.4f", before, after)
	require.Less(t, after, 0.6*before)
	for _, m := range masked {
		w, err := f.store.Get(m.Weight)
		require.NoError(t, err)
		require.NoError(t, prune.CheckNM(w.Float32s(), m.Weight.Type.Dim(1), 2, 4))
		require.Equal(t, 0.5, prune.Of(w.Float32s()).Sparsity(), m.Weight.Name)
	}
}

// distill trains the linear layers on one row a step: scores and hidden states of the teacher.
func (f *fixture) distill(t *testing.T, teacher *fixture, steps int) {
	const length = 64
	typ := tensor.T(tensor.I32, 1, length)
	layers.Walk(f.model, func(p layers.Param) { p.Var.Trainable = strings.Contains(p.Name, "_proj") })
	g := graph.New("distill")
	in := models.Inputs{Tokens: g.Input("tokens", typ), Pos: g.Input("pos", typ)}
	// Two models of the same variable names live in two stores: the teacher runs in a graph of its own.
	tg := graph.New("teacher")
	tin := models.Inputs{Tokens: tg.Input("tokens", typ), Pos: tg.Input("pos", typ)}
	tstates := teacher.model.HiddenStates(tin)
	touts := append(tstates[:len(tstates):len(tstates)], teacher.model.Logits(tstates[len(tstates)-1]))
	tp, err := plan.Compile(touts, plan.Options{Device: teacher.store.Device(), Store: teacher.store})
	require.NoError(t, err)
	defer func() { require.NoError(t, tp.Close()) }()

	states := f.model.HiddenStates(in)
	given := make([]graph.Value, len(touts))
	for i, v := range touts {
		given[i] = g.Input(fmt.Sprint("teacher", i), v.Type())
	}
	hidden := layers.NewHiddenDistill(layers.Source{}, layers.UniformLayers(len(states)-1, len(states)-1), 128, 128, layers.HiddenCosine)
	loss := ops.Add(layers.Distill{Temperature: 2}.Loss(f.model.Logits(states[len(states)-1]), given[len(given)-1], graph.Value{}),
		hidden.Loss(states, given[:len(given)-1], graph.Value{}))
	params := layers.Trainable(f.model)
	require.Len(t, params, 28)
	grads, err := autograd.Grad(loss, params...)
	require.NoError(t, err)
	opt, err := optim.New("adamw", optim.Config{WeightDecay: 0.01})
	require.NoError(t, err)
	opt.Update(g, params, grads, ops.Fill(g, tensor.F32, 1e-3))
	p, err := plan.Compile([]graph.Value{loss}, plan.Options{Device: f.store.Device(), Store: f.store})
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	pos := tensor.New(typ)
	for i := range length {
		tensor.Data[int32](pos)[i] = int32(i)
	}
	for i := range steps {
		tokens := tensor.New(typ)
		copy(tensor.Data[int32](tokens), tensor.Data[int32](f.calibrate[i%len(f.calibrate)]))
		res, err := tp.Run(context.Background(), plan.Feed{tin.Tokens: tokens, tin.Pos: pos})
		require.NoError(t, err)
		feed := plan.Feed{in.Tokens: tokens, in.Pos: pos}
		for k, v := range touts {
			feed[given[k]] = res.Tensor(v)
		}
		_, err = p.Run(context.Background(), feed)
		require.NoError(t, err)
	}
}
