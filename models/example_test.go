package models_test

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// A model is built from a config.json and a source of weights, here one that initialises them.
func ExampleNew() {
	c, err := models.ParseConfig([]byte(`{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 512,
		"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
		"max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000, "hidden_act": "silu", "tie_word_embeddings": true}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	m, err := models.New(c, layers.NewSource(layers.Options{}))
	if err != nil {
		fmt.Println(err)
		return
	}
	g := graph.New("forward")
	tokens, pos := g.Input("tokens", tensor.T(tensor.I32, 1, 8)), g.Input("pos", tensor.T(tensor.I32, 1, 8))
	logits := m.Logits(m.Hidden(models.Inputs{Tokens: tokens, Pos: pos}))
	fmt.Println(logits.Type(), g.Err())
	for _, p := range layers.Params(m)[:3] {
		fmt.Println(p.Name, p.Type)
	}
	// Output:
	// f32[1,8,512] <nil>
	// model.embed_tokens.weight f32[512,64]
	// model.layers.0.input_layernorm.weight f32[64]
	// model.layers.0.self_attn.q_proj.weight f32[64,64]
}
