package models_test

import (
	"math"
	"math/bits"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestFirstBlocksAreBest compiles a step for every set of recomputed blocks: no set of n needs less memory than the first n.
func TestFirstBlocksAreBest(t *testing.T) {
	const blocks = 4
	c, err := models.ParseConfig([]byte(`{"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 4,
		"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000, "hidden_act": "silu"}`))
	require.NoError(t, err)
	m, err := models.New(c, layers.NewSource(layers.Options{}))
	require.NoError(t, err)
	layers.SetTrainable(m, true)
	dev := cpu.New(cpu.Options{Threads: 1})
	defer func() { require.NoError(t, dev.Close()) }()
	arena := func(set func(int) bool) int64 {
		g := graph.New("step")
		in := tensor.T(tensor.I32, 2, 128)
		loss := ops.Sum(m.TokenLoss(m.Hidden(models.Inputs{Tokens: g.Input("tokens", in), Pos: g.Input("pos", in), Checkpoint: set}), g.Input("targets", in)))
		grads, err := autograd.Grad(loss, layers.Trainable(m)...)
		require.NoError(t, err)
		total := loss
		for _, x := range grads {
			total = ops.Add(total, ops.Sum(x)) // each gradient is used up at once, as when it is added to a slab
		}
		p, err := plan.Compile([]graph.Value{total}, plan.Options{Device: dev})
		require.NoError(t, err)
		defer func() { require.NoError(t, p.Close()) }()
		return p.Report().Arena
	}
	least := [blocks + 1]int64{}
	for i := range least {
		least[i] = math.MaxInt64
	}
	for set := range uint(1 << blocks) {
		n := bits.OnesCount(set)
		least[n] = min(least[n], arena(func(block int) bool { return set>>block&1 == 1 }))
	}
	for n := range blocks + 1 {
		require.LessOrEqual(t, arena(models.FirstBlocks(n)), least[n], "%d blocks", n)
		if n > 0 && n < blocks {
			require.Less(t, least[n], least[n-1], "one more block takes less")
		}
	}
}
