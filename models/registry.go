package models

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/layers"
)

// family is one kind of model.
type family struct {
	model string // model_type in config.json
	class string // transformers' class, which "architectures" names
	// defaults is what the keys are worth that a config.json leaves out.
	defaults Config
	// learned: positions are an embedding of their own instead of rotations.
	learned bool
	// buffers are endings of stored tensors that are computed and no weights.
	buffers []string
	// experts are the names of mixtures of experts in files; the zero value where there are none.
	experts expertNames

	// parse fills in the rest of a Config that holds the common keys.
	parse func(h *hfFile, c *Config) error
	// build declares the layers of a valid Config.
	build func(c Config, src layers.Source) (Body, error)
	// keys adds the keys of config.json that only this family has to the common ones.
	keys func(c Config, out map[string]any)
}

// families is the registry, in the order in which they are listed to users.
var families = []*family{&llama, &mistral, &mixtral, &qwen2, &qwen3, &qwen3MoE, &gemma2, &gemma3, &phi3, &gpt2}

// Types lists the values of model_type that ParseConfig accepts.
func Types() []string {
	var out []string
	for _, f := range families {
		out = append(out, f.model)
	}
	return out
}

// familyOf looks a model_type up; "" is llama.
func familyOf(model string) (*family, error) {
	if model == "" {
		return &llama, nil
	}
	for _, f := range families {
		if f.model == model {
			return f, nil
		}
	}
	return nil, fmt.Errorf("config.json: model_type %.60q is not supported; supported: %s", model, strings.Join(Types(), ", "))
}

// ParseConfig reads config.json of a Hugging Face directory, in the keys of transformers 4 or 5. A model type or feature that
// is not supported is refused by name, never run approximately.
func ParseConfig(data []byte) (Config, error) {
	h := &hfFile{raw: data}
	if err := json.Unmarshal(data, h); err != nil {
		return Config{}, jsonError(err)
	}
	if h.ModelType == "" {
		return Config{}, fmt.Errorf("config.json: model_type is missing; supported: %s", strings.Join(Types(), ", "))
	}
	f, err := familyOf(h.ModelType)
	if err != nil {
		return Config{}, err
	}
	c, err := h.common(f)
	if err == nil {
		err = f.parse(h, &c)
	}
	if err != nil {
		return Config{}, err
	}
	if c.Quantization, err = checkpoint.ParseQuantization(h.Quantization); err != nil {
		return Config{}, fmt.Errorf("config.json: %w", err)
	}
	c.File = data
	return c, c.Validate()
}

// New builds the model of a configuration from a source of weights.
func New(c Config, src layers.Source) (*Model, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	f, err := familyOf(c.Type)
	if err != nil {
		return nil, err
	}
	m := &Model{config: c, policy: src.Policy()}
	src = src.WithLinear(layers.Normal(c.InitStd))
	if m.Body, err = f.build(c, src); err != nil {
		return nil, err
	}
	if !c.Tied {
		m.Head = src.Head("lm_head", layers.Normal(c.InitStd), c.Hidden, c.Vocab)
	}
	return m, src.Err()
}
