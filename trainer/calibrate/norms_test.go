package calibrate_test

import (
	"context"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/quant/prune"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer/calibrate"
)

// TestWandaBeatsMagnitudes prunes half of each row of the built-in model by both scores, without training: the one that knows the inputs
// keeps more of the model's predictions.
func TestWandaBeatsMagnitudes(t *testing.T) {
	divergence := func(wanda bool) float64 {
		f := newFixture(t)
		f.judge = f.judge[:16]
		plain := f.score(t)
		norms, err := calibrate.InputNorms(context.Background(), calibrate.Options{Model: f.model, Store: f.store, Rows: f.calibrate[:8]})
		require.NoError(t, err)
		_, err = layers.Prune(f.model, f.store, func(path string, w *tensor.Tensor) (prune.Mask, error) {
			in := norms[path]
			require.Len(t, in, w.Shape().Dim(1), path)
			if !wanda {
				for i := range in {
					in[i] = 1
				}
			}
			scores, err := prune.Wanda(w.Float32s(), in)
			if err != nil {
				return nil, err
			}
			return prune.NM(scores, len(in), 2, 4)
		})
		require.NoError(t, err)
		s := f.score(t)
		require.Less(t, plain.loss, s.loss)
		return s.divergence
	}
	wanda, magnitude := divergence(true), divergence(false)
	t.Logf("2:4 without training: divergence %.4f by Wanda, %.4f by magnitude", wanda, magnitude)
	require.Less(t, wanda, magnitude)
}

func TestInputNorms(t *testing.T) {
	f := newFixture(t)
	o := calibrate.Options{Model: f.model, Store: f.store, Rows: f.calibrate[:1]}
	one, err := calibrate.InputNorms(context.Background(), o)
	require.NoError(t, err)
	o.Rows = append(o.Rows, f.calibrate[0])
	o.Memory = 1
	two, err := calibrate.InputNorms(context.Background(), o)
	require.NoError(t, err)
	require.Len(t, one, 7*len(f.model.Body.Stack()))
	q, k := one["model.layers.0.self_attn.q_proj"], one["model.layers.0.self_attn.k_proj"]
	require.Equal(t, q, k, "they read one input")
	require.NotSame(t, &q[0], &k[0])
	for path, norms := range one {
		for j, n := range norms {
			require.InDelta(t, math.Sqrt2*float64(n), two[path][j], 1e-5*float64(n), path)
		}
	}
	o.Rows, o.Sequential, o.Percent = o.Rows[:1], true, -1 // which say nothing here
	again, err := calibrate.InputNorms(context.Background(), o)
	require.NoError(t, err)
	require.Equal(t, one, again)
	o.Rows = nil
	_, err = calibrate.InputNorms(context.Background(), o)
	require.ErrorContains(t, err, "InputNorms needs rows")
}
