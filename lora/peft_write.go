package lora

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/bitsandbyes/bitsandbyes/layers"
)

// peftConfig makes the bytes of adapter_config.json.
func (a *Adapter) peftConfig(info SaveInfo) ([]byte, error) {
	f := fields{}
	for k, v := range peftDefaults {
		f[k] = json.RawMessage(v)
	}
	if a.saved != nil {
		for k, v := range a.saved.fields {
			f[k] = v
		}
	}
	a.setNumbers(f)
	f["inference_mode"] = json.RawMessage("true")
	if info.BaseModel != "" {
		f["base_model_name_or_path"] = appendString(nil, info.BaseModel)
		f["revision"] = json.RawMessage("null")
	}
	if info.Revision != "" {
		f["revision"] = appendString(nil, info.Revision)
	}
	sets := a.selectionFields()
	if a.saved == nil {
		for k, v := range a.kindFields() {
			sets[k] = v
		}
	}
	for k, v := range sets {
		raw, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("lora: %s: %w", k, err)
		}
		f[k] = raw
	}
	if a.converts() {
		if err := a.convertNumbers(f); err != nil {
			return nil, err
		}
	}
	whole, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("lora: %w", err)
	}
	return appendPython(nil, whole)
}

// setNumbers writes rank, alpha, dropout and the kind of scale. A number that says the same already stays as it was written.
func (a *Adapter) setNumbers(f fields) {
	set := func(key string, value float64, text string) {
		var old float64
		if json.Unmarshal(f[key], &old) != nil || old != value || a.saved == nil {
			f[key] = json.RawMessage(text)
		}
	}
	c := a.Config
	set("r", float64(c.Rank), strconv.Itoa(c.Rank))
	set("lora_alpha", c.Alpha, alphaText(c.Alpha))
	if old := json.RawMessage(f["lora_dropout"]); a.saved == nil || !sameFloat32(old, c.Dropout) {
		f["lora_dropout"] = json.RawMessage(pyFloat(float64(c.Dropout), 32))
	}
	f["use_rslora"] = json.RawMessage(strconv.FormatBool(c.RSLoRA))
}

// alphaText prints α as Python prints an int where it is whole, else as a float.
func alphaText(alpha float64) string {
	if alpha == math.Trunc(alpha) && alpha < 1<<53 {
		return strconv.FormatInt(int64(alpha), 10)
	}
	return pyFloat(alpha, 64)
}

func sameFloat32(raw json.RawMessage, x float32) bool {
	var old float64
	return json.Unmarshal(raw, &old) == nil && float32(old) == x
}

// selectionFields are the adapted modules, sorted. Of a loaded adapter only what its configuration in Go says.
func (a *Adapter) selectionFields() map[string]any {
	out := map[string]any{}
	switch t := a.Config.Targets; {
	case a.saved == nil && a.Config.Embeddings:
		out["target_modules"] = a.targets
	case t.Pattern != "" && len(a.parameters) == 0:
		out["target_modules"] = t.Pattern
	case len(t.Names) > 0 && len(a.parameters) == 0:
		out["target_modules"] = sorted(t.Names)
	case a.saved == nil:
		out["target_modules"] = a.targets
	}
	return out
}

func sorted(names []string) []string {
	out := slices.Clone(names)
	slices.Sort(out)
	return out
}

// kindFields are the keys of a new adapter that differ from PEFT's defaults.
func (a *Adapter) kindFields() map[string]any {
	c := a.Config
	out := map[string]any{"use_dora": c.DoRA, "lora_bias": c.BBias, "bias": c.Bias, "fan_in_fan_out": a.fanInFanOut()}
	switch {
	case c.ExcludePattern != "":
		out["exclude_modules"] = c.ExcludePattern
	case len(c.Exclude) > 0:
		out["exclude_modules"] = sorted(c.Exclude)
	}
	if len(c.Layers) > 0 {
		out["layers_to_transform"] = c.Layers
	}
	switch len(c.LayersPattern) {
	case 0:
	case 1:
		out["layers_pattern"] = c.LayersPattern[0]
	default:
		out["layers_pattern"] = c.LayersPattern
	}
	if len(c.ModulesToSave) > 0 {
		out["modules_to_save"] = c.ModulesToSave
	}
	if a.experts {
		out["target_parameters"] = append([]string{}, a.parameters...)
	}
	if len(c.RankPattern) > 0 {
		out["rank_pattern"] = c.RankPattern
	}
	if len(c.AlphaPattern) > 0 {
		alphas := map[string]json.RawMessage{}
		for k, v := range c.AlphaPattern {
			alphas[k] = json.RawMessage(alphaText(v))
		}
		out["alpha_pattern"] = alphas
	}
	if list, ok := c.Tokens[""]; ok && len(c.Tokens) == 1 {
		out["trainable_token_indices"] = list
	} else if len(c.Tokens) > 0 {
		out["trainable_token_indices"] = c.Tokens
	}
	if c.Init == InitGaussian || c.Init == InitOrthogonal {
		out["init_lora_weights"] = c.Init
	}
	return out
}

// fanInFanOut reports whether an adapted layer stores its weight (in, out), which PEFT says of all or none. It is not read: layers know how they
// are stored.
func (a *Adapter) fanInFanOut() bool {
	return slices.ContainsFunc(a.Modules, func(m *Module) bool {
		if m.linear == nil {
			return false
		}
		_, ok := m.linear.Base.(*layers.Conv1D)
		return ok
	})
}

// converts reports whether the adapter took a part of the base over, so that it fits the base model as it was only with that part taken off
// again. One alternation of LoftQ leaves what plain quantization gives.
func (a *Adapter) converts() bool {
	c := a.Config
	return c.Init.moves() && (c.Init != InitLoftQ || c.LoftQSteps > 1)
}

// convertNumbers makes the configuration that of the converted adapter: twice the rank at the same scale.
func (a *Adapter) convertNumbers(f fields) error {
	c := a.Config
	grow := 2.0
	if c.RSLoRA {
		grow = math.Sqrt2
	}
	f["r"] = json.RawMessage(strconv.Itoa(2 * c.Rank))
	f["lora_alpha"] = json.RawMessage(alphaText(grow * c.Alpha))
	f["init_lora_weights"] = json.RawMessage("true")
	ranks, alphas := map[string]int{}, map[string]json.RawMessage{}
	for k, v := range c.RankPattern {
		ranks[k] = 2 * v
	}
	for k, v := range c.AlphaPattern {
		alphas[k] = json.RawMessage(alphaText(grow * v))
	}
	for key, v := range map[string]any{"rank_pattern": ranks, "alpha_pattern": alphas} {
		raw, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("lora: %s: %w", key, err)
		}
		f[key] = raw
	}
	return nil
}
