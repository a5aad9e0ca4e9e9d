package models

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
)

// hfFile is config.json of transformers 4 and 5: the keys that most families have. A family reads its own with extra.
type hfFile struct {
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
	Tied             *bool           `json:"tie_word_embeddings"`
	AttentionDropout float64         `json:"attention_dropout"`
	InitStd          *float64        `json:"initializer_range"`
	RopeTheta        *float64        `json:"rope_theta"`
	RopeScaling      json.RawMessage `json:"rope_scaling"`
	RopeParameters   json.RawMessage `json:"rope_parameters"`
	PartialRotary    *float64        `json:"partial_rotary_factor"`
	Original         *int            `json:"original_max_position_embeddings"`
	BOS              tokenIDs        `json:"bos_token_id"`
	EOS              tokenIDs        `json:"eos_token_id"`
	Pad              tokenIDs        `json:"pad_token_id"`
	Quantization     json.RawMessage `json:"quantization_config"`

	raw     []byte
	partial bool              // a part of each head may turn
	renamed map[string]string // old names of rope_type
}

// extra reads further keys into a struct.
func (h *hfFile) extra(v any) error {
	if err := json.Unmarshal(h.raw, v); err != nil {
		return jsonError(err)
	}
	return nil
}

// common is the Config of the keys that families share, those left out having the family's defaults.
func (h *hfFile) common(f *family) (Config, error) {
	c := f.defaults
	c.Type, c.Pad = f.model, -1
	c.Vocab, c.Hidden, c.Intermediate, c.Layers, c.Heads, c.MaxPositions = h.Vocab, h.Hidden, h.Intermediate, h.Layers, h.Heads, h.MaxPositions
	c.BOS, c.EOS = h.BOS, h.EOS
	if h.Act != "" && h.Act != "silu" {
		c.Act = h.Act
	}
	if h.KVHeads != nil {
		c.KVHeads = *h.KVHeads
	} else if c.KVHeads == 0 {
		c.KVHeads = h.Heads
	}
	if h.HeadDim != nil {
		c.HeadDim = *h.HeadDim
	} else if c.HeadDim == 0 && h.Heads > 0 {
		c.HeadDim = h.Hidden / h.Heads
	}
	if h.Eps != nil {
		c.Eps = float32(*h.Eps)
	}
	if h.Tied != nil {
		c.Tied = *h.Tied
	}
	if c.InitStd = 0.02; h.InitStd != nil {
		c.InitStd = *h.InitStd
	}
	if len(h.Pad) > 0 {
		c.Pad = h.Pad[0]
	}
	if h.AttentionDropout != 0 {
		return c, fmt.Errorf("config.json: attention_dropout %v is not supported; set it to 0", h.AttentionDropout)
	}
	return c, nil
}

// optional is a key that may be left out, which is not the same as null.
type optional[T any] struct {
	set, null bool
	value     T
}

// UnmarshalJSON implements json.Unmarshaler.
func (o *optional[T]) UnmarshalJSON(b []byte) error {
	o.set, o.null = true, string(b) == "null"
	return json.Unmarshal(b, &o.value)
}

// or is the value, 0 for null, and def where the key is left out.
func (o optional[T]) or(def T) T {
	if !o.set {
		return def
	}
	return o.value
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

// jsonError says where the file is wrong, without the names of Go types.
func jsonError(err error) error {
	var kind *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &kind) && kind.Field == "":
		return fmt.Errorf("config.json: it is no JSON object but a %s; fetch the file again", kind.Value)
	case errors.As(err, &kind):
		return fmt.Errorf("config.json: %s is a %s, which it must not be (byte %d)", kind.Field, kind.Value, kind.Offset)
	case errors.As(err, &syntax):
		return fmt.Errorf("config.json: not valid JSON at byte %d: %w; fetch the file again", syntax.Offset, err)
	}
	return fmt.Errorf("config.json: %w", err)
}

// The kinds of attention that layer_types knows.
const (
	fullAttention    = "full_attention"
	slidingAttention = "sliding_attention"
)

// windows spreads sliding_window over the layers that layer_types, or without it slides, gives one.
func windows(c *Config, types []string, window int, slides func(layer int) bool) error {
	if types != nil && len(types) != c.Layers {
		return fmt.Errorf("config.json: layer_types lists %d layers, num_hidden_layers is %d", len(types), c.Layers)
	}
	if c.Layers < 0 || c.Layers > maxLayers || window < 0 || window > math.MaxInt32 {
		return fmt.Errorf("config.json: sliding_window %d of %d layers is out of range", window, c.Layers)
	}
	out := make([]int32, c.Layers)
	some := false
	for i := range out {
		on := types == nil && slides(i)
		if types != nil {
			switch types[i] {
			case fullAttention:
			case slidingAttention:
				on = true
			default:
				return fmt.Errorf("config.json: layer_types[%d] %q is not supported for model_type %q; supported: %s, %s", i, types[i], c.Type, fullAttention, slidingAttention)
			}
		}
		if !on {
			continue
		}
		if window == 0 {
			return fmt.Errorf("config.json: layer %d has a sliding window, but sliding_window gives no size; correct one of them", i)
		}
		out[i], some = int32(window), true
	}
	if some {
		c.Windows = out
	}
	return nil
}
