package layers_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/golden/bnb"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func TestReplaceQuantizes(t *testing.T) {
	for limit, cfg := range map[float64]quant.Config{1e-5: {Scheme: quant.NF4, Double: true}, 0.02: {Scheme: quant.Int8, Threshold: 6}} {
		src := layers.NewSource(layers.Options{Seed: 2})
		m := newNetwork(src, 64, 96)
		store := newStore(t)
		require.NoError(t, src.Load(store))
		g := graph.New("replaced")
		x := normal(1, tensor.F32, 4, 64)
		bytes := store.Bytes()
		done, err := layers.Replace(m, layers.ReplaceOptions{New: layers.Quantizing(store, cfg)})
		require.NoError(t, err)
		require.Len(t, done, 2, "lm_head is excluded")
		require.Contains(t, done[0].String(), "mlp.up_proj: *layers.Linear -> *layers.Linear")
		require.Less(t, store.Bytes(), bytes*2/5)
		twin := &network{dequantized(t, store, m.Up), dequantized(t, store, m.Down), m.Head}
		got := evaluate(t, store, m.Forward(g.Const(x)), twin.Forward(g.Const(x)))
		require.Less(t, bnb.NormError(got[0], got[1]), limit, "int8 rounds activations too")
		require.Equal(t, []string{"mlp.up_proj.weight", "mlp.up_proj.bias", "mlp.down_proj.weight", "lm_head.weight"}, names(m))
		again, err := layers.Replace(m, layers.ReplaceOptions{New: layers.Quantizing(store, cfg)})
		require.NoError(t, err)
		require.Empty(t, again, "what is quantized stays")
	}
}

// dequantized is the layer in full precision that a quantized one stands for.
func dequantized(t *testing.T, store *plan.Store, p layers.Projection) layers.Projection {
	t.Helper()
	var q *layers.Quantized
	var bias *graph.Var
	switch p := p.(type) {
	case *layers.Linear4bit:
		q, bias = p.Weight, p.Bias
	case *layers.Linear8bitLt:
		q, bias = p.Weight, p.Bias
	}
	st, err := q.State(store)
	require.NoError(t, err)
	w, err := st.Dequantize(tensor.F32)
	require.NoError(t, err)
	l := &layers.Linear{Weight: graph.NewVar("full", w.Type()), Bias: bias}
	require.NoError(t, store.Set(l.Weight, w))
	return l
}

func TestReplaceSelects(t *testing.T) {
	paths := func(o layers.ReplaceOptions) ([]string, error) {
		m := newNetwork(layers.NewSource(layers.Options{}), 4, 4)
		o.New = func(_ string, p layers.Projection) (layers.Projection, error) { return &wrapped{Base: p}, nil }
		done, err := layers.Replace(m, o)
		var out []string
		for _, r := range done {
			out = append(out, r.Path)
		}
		return out, err
	}
	for _, c := range []struct {
		o    layers.ReplaceOptions
		want []string
	}{
		{layers.ReplaceOptions{}, []string{"mlp.up_proj", "mlp.down_proj"}},
		{layers.ReplaceOptions{Exclude: []string{}}, []string{"mlp.up_proj", "mlp.down_proj", "lm_head"}},
		{layers.ReplaceOptions{Names: []string{"up_proj"}}, []string{"mlp.up_proj"}},
		{layers.ReplaceOptions{Names: []string{"mlp.up_proj", "lm_head"}, Exclude: []string{"none"}}, []string{"mlp.up_proj", "lm_head"}},
		{layers.ReplaceOptions{Pattern: `^mlp\.(up|down)`, Exclude: []string{"down_proj"}}, []string{"mlp.up_proj"}},
		{layers.ReplaceOptions{Names: []string{"up_proj", "down_proj"}, Pattern: "down"}, []string{"mlp.down_proj"}},
	} {
		got, err := paths(c.o)
		require.NoError(t, err)
		require.Equal(t, c.want, got)
	}
	_, err := paths(layers.ReplaceOptions{Names: []string{"proj"}})
	require.ErrorContains(t, err, "select none of the 3")
	_, err = paths(layers.ReplaceOptions{Pattern: "("})
	require.ErrorContains(t, err, "pattern")
}

func TestReplaceRefuses(t *testing.T) {
	m := newNetwork(layers.NewSource(layers.Options{}), 4, 6)
	_, err := layers.Replace(m, layers.ReplaceOptions{})
	require.ErrorContains(t, err, "New is not set")
	up := m.Up
	done, err := layers.Replace(m, layers.ReplaceOptions{New: func(string, layers.Projection) (layers.Projection, error) { return up, nil }})
	require.ErrorContains(t, err, "replace mlp.down_proj: the layer maps 6 to 4 features, its replacement 4 to 6")
	require.Empty(t, done)
	n := 0
	done, err = layers.Replace(m, layers.ReplaceOptions{New: func(_ string, p layers.Projection) (layers.Projection, error) {
		if n++; n == 2 {
			return nil, errors.New("no room")
		}
		return &wrapped{Base: p}, nil
	}})
	require.ErrorContains(t, err, "replace mlp.down_proj: no room")
	require.Len(t, done, 1)
}
