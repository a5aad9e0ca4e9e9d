package models

import (
	"errors"
	"fmt"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/layers"
)

// Config is the architecture of a model: what the families have in common. Zero values are Llama's.
type Config struct {
	Type                            string // model_type of config.json; "" = llama
	Vocab, Hidden, Intermediate     int
	Layers, Heads, KVHeads, HeadDim int
	MaxPositions                    int
	Eps                             float32
	Act                             string  // activation of the MLP as config.json names it; "" = silu
	Rope                            Rope    // of every layer, or of those without a window where LocalRope is set
	LocalRope                       Rope    // of layers with a window (Gemma 3); without a Theta: Rope
	Windows                         []int32 // of each layer: keys a query sees, itself included, 0 = all; nil = all see all
	QueryScale                      float64 // factor on q·k; 0 = 1/sqrt(HeadDim)
	AttentionCap, LogitCap          float64 // c: scores and logits become c·tanh(x/c) (Gemma 2); 0 = none
	Mixture                         Mixture // of experts instead of MLPs
	Tied                            bool    // the head is the embedding
	QKVBias                         bool    // q_proj, k_proj and v_proj have a bias
	AttentionBias                   bool    // they and o_proj have one
	MLPBias                         bool
	InitStd                         float64
	BOS, EOS                        []int32
	Pad                             int32 // -1: none
	// Quantization says how the weights beside this configuration are stored; nil: in full precision.
	Quantization *checkpoint.Quantization
	// File is the config.json that this was read from, whose keys are kept where the model is written; nil: none.
	File []byte
	// Notes are what a user should know about how the file was read.
	Notes []string
}

// window is that of a layer, 0 for none.
func (c Config) window(layer int) int32 {
	if layer < len(c.Windows) {
		return c.Windows[layer]
	}
	return 0
}

// rope is the rotary embedding of a layer.
func (c Config) rope(layer int) Rope {
	if c.window(layer) > 0 && c.LocalRope.Theta != 0 {
		return c.LocalRope
	}
	return c.Rope
}

// attention is the shape of a layer's attention.
func (c Config) attention(layer int) layers.AttentionShape {
	return layers.AttentionShape{Heads: c.Heads, KVHeads: c.KVHeads, HeadDim: c.HeadDim, Interleaved: c.Rope.Interleaved,
		Window: c.window(layer), Scale: c.QueryScale, SoftCap: c.AttentionCap}
}

// activation is the function of the MLP.
func (c Config) activation() (layers.Activation, error) {
	if c.Act == "" {
		return layers.ActivationNamed("silu")
	}
	f, err := layers.ActivationNamed(c.Act)
	if err != nil {
		return nil, fmt.Errorf("config.json: hidden_act: %w", err)
	}
	return f, nil
}

// Validate checks that the sizes describe a model.
func (c Config) Validate() error {
	f, err := familyOf(c.Type)
	if err != nil {
		return err
	}
	if err := errors.Join(c.checkSizes(), c.Mixture.validate()); err != nil {
		return err
	}
	switch {
	case !(c.Eps > 0):
		return fmt.Errorf("config.json: the norms' epsilon %v must be positive", c.Eps)
	case !(c.QueryScale >= 0) || !(c.AttentionCap >= 0) || !(c.LogitCap >= 0):
		return fmt.Errorf("config.json: a score scale of %v and caps of %v and %v must be positive numbers", c.QueryScale, c.AttentionCap, c.LogitCap)
	case len(c.Windows) > 0 && len(c.Windows) != c.Layers:
		return fmt.Errorf("config.json: there are windows for %d layers, the model has %d", len(c.Windows), c.Layers)
	case slices.ContainsFunc(c.Windows, func(w int32) bool { return w < 0 }):
		return fmt.Errorf("config.json: sliding_window %d must be positive", slices.Min(c.Windows))
	}
	if _, err := c.activation(); err != nil || f.learned {
		return err
	}
	if c.HeadDim%2 != 0 {
		return fmt.Errorf("config.json: head_dim %d is odd; rotary embeddings need pairs", c.HeadDim)
	}
	if c.LocalRope.Theta != 0 {
		if err := c.LocalRope.validate(c.HeadDim); err != nil {
			return err
		}
	}
	return c.Rope.validate(c.HeadDim)
}

func (c Config) checkSizes() error {
	sizes := []struct {
		name string
		n    int
	}{{"vocab_size", c.Vocab}, {"hidden_size", c.Hidden}, {"intermediate_size", c.Intermediate}, {"num_hidden_layers", c.Layers},
		{"num_attention_heads", c.Heads}, {"num_key_value_heads", c.KVHeads}, {"head_dim", c.HeadDim}, {"max_position_embeddings", c.MaxPositions}}
	for _, s := range sizes {
		if s.n <= 0 || s.n > maxSize {
			return fmt.Errorf("config.json: %s is %d, it must be between 1 and %d", s.name, s.n, maxSize)
		}
	}
	switch {
	case c.Layers > maxLayers:
		return fmt.Errorf("config.json: num_hidden_layers is %d, at most %d are supported", c.Layers, maxLayers)
	case c.Heads%c.KVHeads != 0:
		return fmt.Errorf("config.json: num_attention_heads %d is not a multiple of num_key_value_heads %d", c.Heads, c.KVHeads)
	}
	return nil
}

// maxLayers bounds the depth, and with it what a configuration alone can make the program allocate.
const maxLayers = 4096

// maxSize bounds every extent of a configuration, so that products of two stay far from overflow.
const maxSize = 1 << 24
