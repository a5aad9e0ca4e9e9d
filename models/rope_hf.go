package models

import (
	"encoding/json"
	"fmt"
	"math"
)

// ropeParams is rope_scaling of transformers 4 or rope_parameters of transformers 5, for one kind of layer.
type ropeParams struct {
	Type      string    `json:"rope_type"`
	OldType   string    `json:"type"`
	Theta     *float64  `json:"rope_theta"`
	Partial   *float64  `json:"partial_rotary_factor"`
	Factor    *float64  `json:"factor"`
	Original  *int      `json:"original_max_position_embeddings"`
	Low       float64   `json:"low_freq_factor"`
	High      float64   `json:"high_freq_factor"`
	Attention *float64  `json:"attention_factor"`
	BetaFast  float64   `json:"beta_fast"`
	BetaSlow  float64   `json:"beta_slow"`
	MScale    float64   `json:"mscale"`
	MScaleAll float64   `json:"mscale_all_dim"`
	Truncate  *bool     `json:"truncate"`
	Short     []float64 `json:"short_factor"`
	Long      []float64 `json:"long_factor"`
	Full      any       `json:"full_attention"` // these two: one object for each kind of layer
	Sliding   any       `json:"sliding_attention"`
}

// rope reads the rotary embedding that all layers share. theta is what rope_theta is worth when it is left out.
func (h *hfFile) rope(c *Config, theta float64) error {
	var p ropeParams
	for _, raw := range []json.RawMessage{h.RopeScaling, h.RopeParameters} {
		if len(raw) == 0 || string(raw) == "null" {
			continue
		}
		if err := json.Unmarshal(raw, &p); err != nil {
			return fmt.Errorf("config.json: rope scaling: %w", err)
		}
		break
	}
	if p.Full != nil || p.Sliding != nil {
		return fmt.Errorf("config.json: rope_parameters that differ by the kind of layer are not supported for model_type %q", c.Type)
	}
	if h.RopeTheta != nil {
		theta = *h.RopeTheta
	}
	var err error
	c.Rope, err = p.rope(h, c, theta)
	if s := c.Rope.Scaling; s == Dynamic || s == Yarn { // many files give the context before scaling
		c.MaxPositions = max(c.MaxPositions, int(min(c.Rope.Factor*float64(c.Rope.Original), maxSize)))
	}
	return err
}

// rope is the Rope of the keys, with the defaults of transformers.
func (p *ropeParams) rope(h *hfFile, c *Config, theta float64) (Rope, error) {
	r := Rope{Theta: theta}
	if p.Theta != nil {
		r.Theta = *p.Theta
	}
	partial := p.Partial
	if partial == nil {
		partial = h.PartialRotary
	}
	if partial != nil && *partial != 1 {
		if !h.partial {
			return r, fmt.Errorf("config.json: partial_rotary_factor %v is not supported for model_type %q; supported: 1", *partial, c.Type)
		}
		if r.Dim = int(float64(c.HeadDim) * *partial); !(*partial > 0 && *partial < 1) || r.Dim < 2 {
			return r, fmt.Errorf("config.json: partial_rotary_factor %v of heads of %d features is not supported", *partial, c.HeadDim)
		}
	}
	kind := p.Type
	if kind == "" {
		kind = p.OldType
	}
	if now, old := h.renamed[kind]; old {
		kind = now
	}
	if kind == "" || kind == "default" {
		return r, nil
	}
	r.Scaling = RopeScaling(kind)
	if p.Factor != nil {
		r.Factor = *p.Factor
	}
	r.Original = h.MaxPositions
	switch {
	case r.Scaling == Dynamic:
	case h.Original != nil:
		r.Original = *h.Original
	case p.Original != nil:
		r.Original = *p.Original
	}
	switch r.Scaling {
	case Linear:
		r.Original = 0
	case Llama3:
		r.Low, r.High = p.Low, p.High
	case Yarn:
		p.yarn(&r, h)
	case LongRope:
		p.longRope(&r, h)
	}
	return r, nil
}

func (p *ropeParams) yarn(r *Rope, h *hfFile) {
	r.BetaFast, r.BetaSlow = 32, 1
	if p.BetaFast != 0 {
		r.BetaFast = p.BetaFast
	}
	if p.BetaSlow != 0 {
		r.BetaSlow = p.BetaSlow
	}
	r.NoTruncate = p.Truncate != nil && !*p.Truncate
	if p.Factor == nil && r.Original > 0 {
		r.Factor = float64(h.MaxPositions) / float64(r.Original)
	}
	mscale := func(m float64) float64 {
		if r.Factor <= 1 {
			return 1
		}
		return 0.1*m*math.Log(r.Factor) + 1
	}
	switch {
	case p.Attention != nil:
		r.Attention = *p.Attention
	case p.MScale != 0 && p.MScaleAll != 0:
		r.Attention = mscale(p.MScale) / mscale(p.MScaleAll)
	default:
		r.Attention = mscale(1)
	}
}

func (p *ropeParams) longRope(r *Rope, h *hfFile) {
	r.Short, r.Long = p.Short, p.Long
	if p.Factor == nil && r.Original > 0 {
		r.Factor = float64(h.MaxPositions) / float64(r.Original)
	}
	switch {
	case p.Attention != nil:
		r.Attention = *p.Attention
	case r.Factor > 1 && r.Original > 1:
		r.Attention = math.Sqrt(1 + math.Log(r.Factor)/math.Log(float64(r.Original)))
	}
}
