package llamacpp

import (
	"encoding/json"
	"fmt"
	"math"
)

// hfConfig reads a config.json whose keys are all there, those of transformers 5 (models.Config.HF makes one). The first error stays and
// is asked for at the end.
type hfConfig struct {
	keys map[string]any
	err  error
}

func parseConfig(raw []byte) (*hfConfig, error) {
	c := &hfConfig{}
	if err := json.Unmarshal(raw, &c.keys); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	return c, nil
}

func (c *hfConfig) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("config.json: "+format, args...)
	}
}

func (c *hfConfig) text(key string) string {
	s, _ := c.keys[key].(string)
	return s
}

func (c *hfConfig) on(key string) bool {
	b, _ := c.keys[key].(bool)
	return b
}

// float is a number, 0 where the key is left out or null.
func (c *hfConfig) float(key string) float64 {
	v, ok := c.keys[key].(float64)
	if !ok && c.keys[key] != nil {
		c.fail("%s is no number", key)
	}
	return v
}

// integer is a count that fits uint32, 0 where the key is left out or null.
func (c *hfConfig) integer(key string) uint32 {
	v := c.float(key)
	if v < 0 || v > math.MaxInt32 || v != math.Trunc(v) {
		c.fail("%s is %v, which is no count", key, v)
		return 0
	}
	return uint32(v)
}

// object is the value of a key as keys of their own.
func (c *hfConfig) object(key string) *hfConfig {
	o, _ := c.keys[key].(map[string]any)
	return &hfConfig{keys: o}
}

// list is an array of numbers.
func (c *hfConfig) list(key string) []float32 {
	raw, _ := c.keys[key].([]any)
	out := make([]float32, len(raw))
	for i, v := range raw {
		f, ok := v.(float64)
		if !ok {
			c.fail("%s[%d] is no number", key, i)
		}
		out[i] = float32(f)
	}
	return out
}

// headDim is the size of a head.
func (c *hfConfig) headDim() uint32 {
	if d := c.integer("head_dim"); d > 0 {
		return d
	}
	return c.integer("hidden_size") / max(c.integer("num_attention_heads"), 1)
}
