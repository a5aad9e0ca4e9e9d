// Package models holds the model families: structs of layers named like the checkpoints, built from a configuration and a source
// of weights.
package models

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Config is the architecture of a Llama-type model.
type Config struct {
	Vocab, Hidden, Intermediate     int
	Layers, Heads, KVHeads, HeadDim int
	MaxPositions                    int
	Eps                             float32
	Rope                            Rope
	Tied                            bool // the head is the embedding
	AttentionBias, MLPBias          bool
	InitStd                         float64
	BOS, EOS                        []int32
	Pad                             int32 // -1: none
	// Quantization says how the weights beside this configuration are stored; nil: in full precision.
	Quantization *checkpoint.Quantization
}

// Rope is the rotary position embedding and its scaling to longer contexts.
type Rope struct {
	Theta       float64
	Interleaved bool // pairs (2i, 2i+1), as llama2.c files have it; else (i, i+D/2)
	Llama3      bool // frequency bands of Llama 3.1
	Factor      float64
	Low, High   float64
	Original    int // context length before scaling
}

// tables returns cos and sin (B, T, headDim/2) for positions i32 (B, T).
func (r Rope) tables(pos graph.Value, headDim int) (cos, sin graph.Value) {
	if !pos.Valid() {
		return pos, pos
	}
	freq := ops.InvFreq(r.Theta, headDim)
	if r.Llama3 {
		freq = ops.InvFreqLlama3(r.Theta, headDim, r.Factor, r.Low, r.High, r.Original)
	}
	t, err := tensor.Of(freq)
	if err != nil {
		return pos.Graph().Fail("rope", nil, err), pos.Graph().Poison()
	}
	return ops.RopeTables(pos, pos.Graph().Const(t))
}

// Validate checks that the sizes describe a model.
func (c Config) Validate() error {
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
	case c.HeadDim%2 != 0:
		return fmt.Errorf("config.json: head_dim %d is odd; rotary embeddings need pairs", c.HeadDim)
	case !(c.Eps > 0):
		return fmt.Errorf("config.json: rms_norm_eps %v must be positive", c.Eps)
	case !(c.Rope.Theta > 0):
		return fmt.Errorf("config.json: rope_theta %v must be positive", c.Rope.Theta)
	case c.Rope.Llama3 && !(c.Rope.Factor > 0 && c.Rope.High > c.Rope.Low && c.Rope.Low > 0 && c.Rope.Original > 0):
		return fmt.Errorf("config.json: llama3 rope scaling needs factor > 0, high_freq_factor > low_freq_factor > 0 and original_max_position_embeddings > 0")
	}
	return nil
}

// maxLayers bounds the depth, and with it what a configuration alone can make the program allocate.
const maxLayers = 4096

// maxSize bounds every extent of a configuration, so that products of two stay far from overflow.
const maxSize = 1 << 24

// hfConfig is config.json of transformers 4 and 5.
type hfConfig struct {
	ModelType        string          `json:"model_type"`
	Vocab            int             `json:"vocab_size"`
	Hidden           int             `json:"hidden_size"`
	Intermediate     int             `json:"intermediate_size"`
	Layers           int             `json:"num_hidden_layers"`
	Heads            int             `json:"num_attention_heads"`
	KVHeads          *int            `json:"num_key_value_heads"`
	HeadDim          *int            `json:"head_dim"`
	MaxPositions     int             `json:"max_position_embeddings"`
	Eps              *float64        `json:"rms_norm_eps"`
	Act              string          `json:"hidden_act"`
	Tied             bool            `json:"tie_word_embeddings"`
	AttentionBias    bool            `json:"attention_bias"`
	MLPBias          bool            `json:"mlp_bias"`
	AttentionDropout float64         `json:"attention_dropout"`
	PretrainingTP    int             `json:"pretraining_tp"`
	InitStd          *float64        `json:"initializer_range"`
	RopeTheta        *float64        `json:"rope_theta"`
	RopeScaling      *ropeParams     `json:"rope_scaling"`
	RopeParameters   *ropeParams     `json:"rope_parameters"`
	BOS              tokenIDs        `json:"bos_token_id"`
	EOS              tokenIDs        `json:"eos_token_id"`
	Pad              tokenIDs        `json:"pad_token_id"`
	Quantization     json.RawMessage `json:"quantization_config"`
}

type ropeParams struct {
	Type     string   `json:"rope_type"`
	OldType  string   `json:"type"`
	Theta    *float64 `json:"rope_theta"`
	Factor   float64  `json:"factor"`
	Low      float64  `json:"low_freq_factor"`
	High     float64  `json:"high_freq_factor"`
	Original int      `json:"original_max_position_embeddings"`
}

// tokenIDs is an id, a list of ids, or null.
type tokenIDs []int32

// UnmarshalJSON implements json.Unmarshaler.
func (t *tokenIDs) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	var one int32
	if json.Unmarshal(b, &one) == nil {
		*t = tokenIDs{one}
		return nil
	}
	var many []int32
	if err := json.Unmarshal(b, &many); err != nil {
		return fmt.Errorf("a token id must be a number or a list of numbers")
	}
	*t = many
	return nil
}

// Types lists the model types that ParseConfig accepts.
func Types() []string { return []string{"llama"} }

// ParseConfig reads config.json of a Hugging Face directory, in the keys of transformers 4 or 5. A model type or feature that
// is not supported is refused by name, never run approximately.
func ParseConfig(data []byte) (Config, error) {
	var h hfConfig
	if err := json.Unmarshal(data, &h); err != nil {
		return Config{}, jsonError(err)
	}
	if !slices.Contains(Types(), h.ModelType) {
		return Config{}, fmt.Errorf("config.json: model_type %q is not supported; supported: %s", h.ModelType, strings.Join(Types(), ", "))
	}
	if err := h.refuse(); err != nil {
		return Config{}, err
	}
	c := Config{Vocab: h.Vocab, Hidden: h.Hidden, Intermediate: h.Intermediate, Layers: h.Layers, Heads: h.Heads, KVHeads: h.Heads,
		MaxPositions: h.MaxPositions, Eps: 1e-6, Tied: h.Tied, AttentionBias: h.AttentionBias, MLPBias: h.MLPBias, InitStd: 0.02,
		BOS: h.BOS, EOS: h.EOS, Pad: -1}
	if h.KVHeads != nil {
		c.KVHeads = *h.KVHeads
	}
	if h.HeadDim != nil {
		c.HeadDim = *h.HeadDim
	} else if h.Heads > 0 {
		c.HeadDim = h.Hidden / h.Heads
	}
	if h.Eps != nil {
		c.Eps = float32(*h.Eps)
	}
	if h.InitStd != nil {
		c.InitStd = *h.InitStd
	}
	if len(h.Pad) > 0 {
		c.Pad = h.Pad[0]
	}
	var err error
	if c.Rope, err = h.rope(); err != nil {
		return Config{}, err
	}
	if c.Quantization, err = checkpoint.ParseQuantization(h.Quantization); err != nil {
		return Config{}, fmt.Errorf("config.json: %w", err)
	}
	return c, c.Validate()
}

// jsonError says where the file is wrong, without the names of Go types.
func jsonError(err error) error {
	var kind *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &kind):
		return fmt.Errorf("config.json: %s is a %s, which it must not be (byte %d)", kind.Field, kind.Value, kind.Offset)
	case errors.As(err, &syntax):
		return fmt.Errorf("config.json: not valid JSON at byte %d: %w; fetch the file again", syntax.Offset, err)
	}
	return fmt.Errorf("config.json: %w", err)
}

// refuse names a feature that would change the numbers and is not implemented.
func (h *hfConfig) refuse() error {
	switch {
	case h.Act != "" && h.Act != "silu" && h.Act != "swish":
		return fmt.Errorf("config.json: hidden_act %q is not supported for model_type %q; supported: silu", h.Act, h.ModelType)
	case h.AttentionDropout != 0:
		return fmt.Errorf("config.json: attention_dropout %v is not supported; set it to 0", h.AttentionDropout)
	case h.PretrainingTP > 1:
		return fmt.Errorf("config.json: pretraining_tp %d is not supported; set it to 1", h.PretrainingTP)
	}
	return nil
}

func (h *hfConfig) rope() (Rope, error) {
	r := Rope{Theta: 10000}
	if h.RopeTheta != nil {
		r.Theta = *h.RopeTheta
	}
	p := h.RopeParameters
	if p == nil {
		p = h.RopeScaling
	}
	if p == nil {
		return r, nil
	}
	if p.Theta != nil {
		r.Theta = *p.Theta
	}
	kind := p.Type
	if kind == "" {
		kind = p.OldType
	}
	switch kind {
	case "", "default":
	case "llama3":
		r.Llama3, r.Factor, r.Low, r.High, r.Original = true, p.Factor, p.Low, p.High, p.Original
		if r.Original == 0 {
			r.Original = h.MaxPositions
		}
	default:
		return r, fmt.Errorf("config.json: rope_type %q is not supported; supported: default, llama3", kind)
	}
	return r, nil
}
