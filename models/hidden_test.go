package models_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestHiddenStates: the embedding, what every block but the last gives, and the norm of what the last one gives.
func TestHiddenStates(t *testing.T) {
	c, err := parse(t, map[string]any{"num_hidden_layers": 3})
	require.NoError(t, err)
	src := layers.NewSource(layers.Options{Seed: 1})
	m, err := models.New(c, src)
	require.NoError(t, err)
	store := plan.NewStore(cpu.New(cpu.Options{Threads: 1}))
	defer func() { require.NoError(t, store.Close()) }()
	require.NoError(t, src.Load(store))
	g := graph.New("hidden states")
	typ := tensor.T(tensor.I32, 1, 4)
	in := models.Inputs{Tokens: g.Input("tokens", typ), Pos: g.Input("pos", typ)}
	states := m.HiddenStates(in)
	require.Len(t, states, 4)
	inv, err := tensor.Of(ops.InvFreq(c.Rope.Theta, c.HeadDim))
	require.NoError(t, err)
	var ctx layers.AttentionContext
	ctx.Cos, ctx.Sin = ops.RopeTables(in.Pos, g.Const(inv))
	want := []graph.Value{m.Body.Embed(in, tensor.F32)}
	for _, b := range m.Body.Stack() {
		want = append(want, b.Forward(want[len(want)-1], ctx))
	}
	want[3] = m.Body.Final(want[3])
	last := m.Hidden(in)
	p, err := plan.Compile(append(append(want, states...), last), plan.Options{Device: store.Device(), Store: store})
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	tokens, pos := tensor.New(typ), tensor.New(typ)
	copy(tensor.Data[int32](tokens), []int32{3, 1, 10, 3})
	copy(tensor.Data[int32](pos), []int32{0, 1, 2, 3})
	res, err := p.Run(t.Context(), plan.Feed{in.Tokens: tokens, in.Pos: pos})
	require.NoError(t, err)
	for i, s := range states {
		require.Equal(t, []int{1, 4, 8}, s.Shape().Dims())
		require.Equal(t, res.Tensor(want[i]).Float32s(), res.Tensor(s).Float32s(), i)
		require.NotEqual(t, res.Tensor(states[(i+1)%4]).Float32s(), res.Tensor(s).Float32s())
	}
	require.Equal(t, res.Tensor(last).Float32s(), res.Tensor(states[3]).Float32s())
}

// TestNoPositions: a model whose tokens have no positions would train without a word and know no order.
func TestNoPositions(t *testing.T) {
	for _, change := range []map[string]any{{}, {"model_type": "gpt2", "n_head": 2, "n_embd": 16, "n_layer": 1, "n_positions": 16}} {
		c, err := parse(t, change)
		require.NoError(t, err)
		m, err := models.New(c, layers.NewSource(layers.Options{}))
		require.NoError(t, err)
		g := graph.New("no positions")
		h := m.Hidden(models.Inputs{Tokens: g.Input("tokens", tensor.T(tensor.I32, 1, 4))})
		require.False(t, h.Valid())
		require.ErrorContains(t, g.Err(), "Inputs.Pos is absent: give the position of each token")
	}
}
