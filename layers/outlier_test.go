package layers_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/golden/bnb"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// network is two layers and a head.
type network struct {
	Up   layers.Projection `name:"mlp.up_proj"`
	Down layers.Projection `name:"mlp.down_proj"`
	Head layers.Projection `name:"lm_head"`
}

func newNetwork(src layers.Source, dim, hidden int) *network {
	return &network{src.Linear("mlp.up_proj", dim, hidden, true), src.Linear("mlp.down_proj", hidden, dim, false), src.Linear("lm_head", dim, 10, false)}
}

func (n *network) Forward(x graph.Value) graph.Value {
	return n.Head.Forward(n.Down.Forward(ops.ReLU(n.Up.Forward(x))))
}

// planted draws activations of 64 features with outliers in three of them: one above the threshold now and then, one wide but small, and
// one with a single spike.
func planted(seed uint64, rows int) *tensor.Tensor {
	x := normal(seed, tensor.F32, rows, 64)
	for r := range rows {
		for j := range 64 {
			x.Set(r*64+j, x.At(r*64+j)/4)
		}
		x.Set(r*64+7, x.At(r*64+7)*40)
		x.Set(r*64+20, x.At(r*64+20)*5)
	}
	return x
}

func TestOutlierTracer(t *testing.T) {
	src := layers.NewSource(layers.Options{Seed: 1})
	m := newNetwork(src, 64, 96)
	store := newStore(t)
	require.NoError(t, src.Load(store))
	before := names(m)
	tr := layers.TraceOutliers(m, layers.OutlierRule{InputZ: 2})
	require.Equal(t, before, names(m), "observers are not parts of the model")
	g := graph.New("traced")
	in := g.Input("x", tensor.T(tensor.F32, 32, 64))
	y := m.Forward(in)
	p, err := plan.Compile(append(tr.Values(), y), plan.Options{Device: store.Device(), Session: plan.NewSession(store)})
	require.NoError(t, err)
	for batch := range uint64(3) {
		x := planted(batch, 32)
		if batch == 1 {
			x.Set(5*64+40, -7)
		}
		res, err := p.Run(t.Context(), plan.Feed{in: x})
		require.NoError(t, err)
		require.NoError(t, tr.Observe(res.Tensor))
	}
	require.NoError(t, p.Close())
	tr.Detach()
	_, plain := m.Up.(*layers.Linear)
	require.True(t, plain)
	found := tr.Outliers()
	require.Len(t, found, 3)
	require.Equal(t, layers.Outliers{Path: "mlp.up_proj", Columns: []int{7, 40}}, found[0], "by spread or magnitude, and by one spike")
	require.Equal(t, "mlp.down_proj", found[1].Path)
	require.ErrorContains(t, tr.Observe(func(graph.Value) *tensor.Tensor { return nil }), "outputs of the plan")
	err = tr.Observe(func(v graph.Value) *tensor.Tensor {
		x := tensor.New(v.Type())
		x.Set(3, math.NaN())
		return x
	})
	require.ErrorContains(t, err, "mlp.up_proj")
	require.ErrorContains(t, err, "feature 3 is NaN")
	require.Equal(t, found, tr.Outliers(), "what was observed before stays")
}

func TestWeightOutliers(t *testing.T) {
	src := layers.NewSource(layers.Options{Seed: 1})
	m := newNetwork(src, 64, 96)
	store := newStore(t)
	require.NoError(t, src.Load(store))
	up := m.Up.(*layers.Linear).Weight
	w, err := store.Get(up)
	require.NoError(t, err)
	for r := range 96 {
		w.Set(r*64+9, w.At(r*64+9)*6)
	}
	require.NoError(t, store.Set(up, w))
	found, err := layers.WeightOutliers(m, store, layers.OutlierRule{})
	require.NoError(t, err)
	require.Equal(t, []layers.Outliers{{Path: "mlp.up_proj", Columns: []int{9}}, {Path: "mlp.down_proj"}, {Path: "lm_head"}}, found)
	w.Set(5*64+2, math.Inf(1))
	require.NoError(t, store.Set(up, w))
	_, err = layers.WeightOutliers(m, store, layers.OutlierRule{})
	require.ErrorContains(t, err, "mlp.up_proj")
	require.ErrorContains(t, err, "column 2")
}

// Keeping the outlier columns makes the layer as exact as its other columns are, in 4 bits and in int8, from a file and from memory.
func TestOutlierAwareLinear(t *testing.T) {
	w := normal(3, tensor.F32, 30, 64)
	for r := range 30 {
		w.Set(r*64+7, w.At(r*64+7)*50)
	}
	x := planted(9, 12)
	exact := tensor.New(tensor.T(tensor.F32, 12, 30))
	for i := range 12 * 30 {
		for k := range 64 {
			exact.Set(i, exact.At(i)+x.At(i/30*64+k)*w.At(i%30*64+k))
		}
	}
	for _, cfg := range []quant.Config{{Scheme: quant.NF4, Blocksize: 64}, {Scheme: quant.Int8}} {
		src := layers.NewSource(layers.Options{Weights: file{"weight": w}})
		aware := layers.NewOutlierAwareLinear(src, 64, 30, false, cfg, []int{20, 7, 7})
		require.Equal(t, []int{7, 20}, aware.Columns)
		store := newStore(t)
		require.NoError(t, src.Load(store))
		require.Equal(t, []string{"weight", "outlier_weight"}, names(aware))

		l := &layers.Linear{Weight: graph.NewVar("weight", w.Type())}
		require.NoError(t, store.Set(l.Weight, w))
		twin, err := layers.OutlierAware(l, store, cfg, []int{7, 20})
		require.NoError(t, err)
		require.False(t, store.Has(l.Weight))

		q, err := layers.NewQuantized("all", cfg, 30, 64)
		require.NoError(t, err)
		require.NoError(t, q.Quantize(w, store))
		g := graph.New("aware")
		v := g.Const(x)
		got := evaluate(t, store, aware.Forward(v), twin.Forward(v), q.MatMul(v))
		require.Equal(t, got[0].Bytes(), got[1].Bytes())
		require.Less(t, 5*bnb.NormError(got[0], exact), bnb.NormError(got[2], exact), cfg.Scheme)
		require.Less(t, bnb.NormError(got[0], exact), 0.02)
	}
	src := layers.NewSource(layers.Options{})
	require.NotNil(t, layers.NewOutlierAwareLinear(src, 8, 4, true, quant.Config{}, []int{8}))
	require.ErrorContains(t, src.Err(), "8 input features")
}
