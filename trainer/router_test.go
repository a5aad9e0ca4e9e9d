package trainer_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// TestRouterLoss trains a model with experts whose routers are pushed towards an even load.
func TestRouterLoss(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	raw, err := json.Marshal(map[string]any{"model_type": "mixtral", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
		"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
		"num_local_experts": 4, "num_experts_per_tok": 2, "initializer_range": 0.5, "bos_token_id": 1, "eos_token_id": 0})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, raw, 0o600))
	c := pretrain(t)
	c.Model, c.Train.Steps, c.Train.LR, c.Train.RouterLoss = path, 30, 1e-2, 0.5
	run(t, c, trainer.Hooks{})
	rows := metrics(t, c)
	first, last := rows[0].More["router_loss"], rows[29].More["router_loss"]
	require.Greater(t, first, 2.0, "an even load has the least loss, the experts of a token")
	require.Less(t, last, first)
	require.Less(t, rows[29].Loss, rows[0].Loss)

	c.Train.RouterLoss, c.Out = 0, filepath.Join(t.TempDir(), "run")
	run(t, c, trainer.Hooks{})
	require.NotContains(t, metrics(t, c)[0].More, "router_loss")
	require.Equal(t, rows[0].Loss, metrics(t, c)[0].Loss, "the loss is reported without it")

	dense := pretrain(t)
	dense.Train.RouterLoss = 0.01
	fails(t, context.Background(), dense, trainer.Hooks{}, config.ExitConfig, "has none")
}
