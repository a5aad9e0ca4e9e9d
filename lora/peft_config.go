package lora

import (
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
)

// maxConfig is the size in bytes of the largest adapter_config.json that is read.
const maxConfig = 4 << 20

// maxRank is far above any useful rank.
const maxRank = 1 << 20

// peftDefaults are the keys of a LoRA configuration of PEFT 0.21 with the values that they have when nothing is asked for.
var peftDefaults = map[string]string{
	"alora_invocation_tokens": "null", "alpha_pattern": "{}", "arrow_config": "null", "auto_mapping": "null",
	"base_model_name_or_path": "null", "bias": `"none"`, "corda_config": "null", "ensure_weight_tying": "false",
	"eva_config": "null", "exclude_modules": "null", "fan_in_fan_out": "false", "inference_mode": "true",
	"init_lora_weights": "true", "kasa_config": "null", "layer_replication": "null", "layers_pattern": "null",
	"layers_to_transform": "null", "loftq_config": "{}", "lora_alpha": "8", "lora_bias": "false", "lora_dropout": "0.0",
	"lora_ga_config": "null", "megatron_config": "null", "megatron_core": `"megatron.core"`, "modules_to_save": "null",
	"monteclora_config": "null", "peft_type": `"LORA"`, "peft_version": `"0.21.2"`, "qalora_group_size": "16", "r": "8",
	"rank_pattern": "{}", "revision": "null", "target_modules": "null", "target_parameters": "null",
	"task_type": `"CAUSAL_LM"`, "trainable_token_indices": "null", "use_bdlora": "null", "use_dora": "false",
	"use_qalora": "false", "use_rslora": "false", "velora_config": "null",
}

// refused are the keys that change what an adapter computes and are not implemented, unless their value is an empty one.
var refused = []struct{ key, what, remedy string }{
	{"use_dora", "DoRA", ""},
	{"lora_bias", "a bias on lora_B", ""},
	{"modules_to_save", "training modules whole beside the adapter", ""},
	{"layer_replication", "layer replication", ""},
	{"alora_invocation_tokens", "activated LoRA (aLoRA)", ""},
	{"use_qalora", "QALoRA", ""},
	{"use_bdlora", "block-diagonal LoRA", ""},
	{"trainable_token_indices", "trained tokens of the embedding", ""},
	{"target_parameters", "adapters on parameters that are not linear layers", ""},
	{"megatron_config", "Megatron's parallel layers", ""},
	{"loftq_config", "LoftQ, which changes the base model", ""},
	{"corda_config", "CorDA, which changes the base model", ""},
	{"lora_ga_config", "LoRA-GA, which changes the base model", ""},
}

// plainInits are the values of init_lora_weights that leave the base model as it is.
var plainInits = []string{"", "true", "false", `"gaussian"`, `"eva"`, `"orthogonal"`}

const refusedRemedy = "merge the adapter into its base model with PEFT, or train one without it"

// loadConfig reads adapter_config.json.
func loadConfig(fs vfs.FS, dir string) (*Saved, error) {
	path := filepath.Join(dir, configFile)
	data, err := vfs.ReadFile(fs, path, maxConfig)
	if err != nil {
		return nil, notAdapter(fs, dir, err)
	}
	s, err := parseConfig(data)
	if err != nil {
		return nil, &checkpoint.FormatError{File: path, Reason: err.Error(), Remedy: remedyOf(err)}
	}
	s.dir = dir
	return s, nil
}

// featureError is a feature of PEFT that is not implemented.
type featureError struct{ key, value, what, remedy string }

func (e *featureError) Error() string { return fmt.Sprintf("%s is %s: %s", e.key, e.value, e.what) }

func remedyOf(err error) string {
	if f, ok := err.(*featureError); ok {
		return f.remedy
	}
	return "correct the file, or fetch the adapter again"
}

// parseConfig reads and checks a configuration. Only peft_type is required: other keys have PEFT's defaults.
func parseConfig(data []byte) (*Saved, error) {
	f, err := parseFields(data)
	if err != nil {
		return nil, err
	}
	if err := f.refuse(); err != nil {
		return nil, err
	}
	s := &Saved{fields: f}
	r, alpha, dropout := 8.0, 8.0, 0.0
	for _, x := range []struct {
		key string
		v   any
	}{{"r", &r}, {"lora_alpha", &alpha}, {"lora_dropout", &dropout}, {"use_rslora", &s.Config.RSLoRA}, {"base_model_name_or_path", &s.BaseModel}} {
		if err := f.read(x.key, x.v); err != nil {
			return nil, err
		}
	}
	switch {
	case !(r >= 1 && r <= maxRank) || r != math.Trunc(r):
		return nil, fmt.Errorf("r is %v, it must be a whole number from 1 to %d", r, maxRank)
	case !(alpha > 0):
		return nil, fmt.Errorf("lora_alpha is %v, it must be positive", alpha)
	case !(dropout >= 0 && dropout < 1):
		return nil, fmt.Errorf("lora_dropout is %v, it must be at least 0 and below 1", dropout)
	}
	s.Config.Rank, s.Config.Alpha, s.Config.Dropout = int(r), alpha, float32(dropout)
	if s.ranks, err = f.pairs("rank_pattern"); err != nil {
		return nil, err
	}
	if s.alphas, err = f.pairs("alpha_pattern"); err != nil {
		return nil, err
	}
	s.Config.Targets, err = f.targets()
	return s, err
}

// refuse names the first feature that is not implemented.
func (f fields) refuse() error {
	switch kind := brief(f["peft_type"]); kind {
	case `"LORA"`:
	case "":
		return fmt.Errorf("peft_type is missing: this is not a configuration of PEFT")
	default:
		return &featureError{"peft_type", kind, "only LORA adapters are supported", refusedRemedy}
	}
	for _, r := range refused {
		if !f.empty(r.key) {
			if r.remedy == "" {
				r.remedy = refusedRemedy
			}
			return &featureError{r.key, brief(f[r.key]), "not supported: " + r.what, r.remedy}
		}
	}
	if b := brief(f["bias"]); b != "" && b != `"none"` && b != "null" {
		return &featureError{"bias", b, "not supported: trained biases of the base model", refusedRemedy}
	}
	if w := brief(f["init_lora_weights"]); w != "null" && !slices.Contains(plainInits, w) {
		return &featureError{"init_lora_weights", w, "not supported: an initialisation for which PEFT changes the base model as it loads the adapter",
			"save it with PEFT's path_initial_model_for_weight_conversion, which makes a plain adapter of it"}
	}
	return f.refuseUnknown()
}

// refuseUnknown refuses switches that this package has never heard of. Other unknown keys are kept.
func (f fields) refuseUnknown() error {
	var keys []string
	for key := range f {
		if (strings.HasSuffix(key, "_config") || strings.HasPrefix(key, "use_")) && key != "use_rslora" && !f.empty(key) {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	slices.Sort(keys)
	return &featureError{keys[0], brief(f[keys[0]]), "not supported: an unknown variant of LoRA", refusedRemedy}
}

// targets reads target_modules: a pattern, a list of names, or "all-linear".
func (f fields) targets() (Targets, error) {
	if f.empty("target_modules") {
		return Targets{}, nil
	}
	var one string
	if json.Unmarshal(f["target_modules"], &one) == nil {
		if one == "all-linear" {
			return Targets{}, nil
		}
		return Targets{Pattern: one}, nil
	}
	var names []string
	if err := json.Unmarshal(f["target_modules"], &names); err != nil {
		return Targets{}, fmt.Errorf("target_modules: expected a pattern or a list of names, found %s", brief(f["target_modules"]))
	}
	slices.Sort(names)
	return Targets{Names: names}, nil
}

// pattern gives a number to the modules whose path it matches, as PEFT's rank_pattern and alpha_pattern do.
type pattern struct {
	re    *regexp.Regexp
	value float64
}

type patterns []pattern

func newPattern(key string, value float64) (pattern, error) {
	re, err := regexp.Compile(`^(?:.*\.)?(?:` + key + `)$`)
	if err != nil {
		return pattern{}, fmt.Errorf("pattern %q: %w", key, err)
	}
	return pattern{re, value}, nil
}

// find returns the value of the first pattern that matches.
func (p patterns) find(path string) (float64, bool) {
	for _, x := range p {
		if x.re.MatchString(path) {
			return x.value, true
		}
	}
	return 0, false
}

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
	if err := a.setTargets(f); err != nil {
		return nil, err
	}
	a.setNumbers(f)
	f["inference_mode"] = json.RawMessage("true")
	if info.BaseModel != "" {
		f["base_model_name_or_path"] = appendString(nil, info.BaseModel)
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
	alpha := pyFloat(c.Alpha, 64)
	if c.Alpha == math.Trunc(c.Alpha) && c.Alpha < 1<<53 {
		alpha = strconv.FormatInt(int64(c.Alpha), 10)
	}
	set("r", float64(c.Rank), strconv.Itoa(c.Rank))
	set("lora_alpha", c.Alpha, alpha)
	if old := json.RawMessage(f["lora_dropout"]); a.saved == nil || !sameFloat32(old, c.Dropout) {
		f["lora_dropout"] = json.RawMessage(pyFloat(float64(c.Dropout), 32))
	}
	if a.saved == nil {
		f["fan_in_fan_out"] = json.RawMessage(strconv.FormatBool(slices.ContainsFunc(a.Modules, storedInOut)))
	}
	f["use_rslora"] = json.RawMessage(strconv.FormatBool(c.RSLoRA))
}

// storedInOut reports a module whose base weight is stored (in, out), which PEFT's fan_in_fan_out says of all or none. It is not read: layers
// know how they are stored.
func storedInOut(m Module) bool {
	_, ok := m.Linear.Base.(*layers.Conv1D)
	return ok
}

func sameFloat32(raw json.RawMessage, x float32) bool {
	var old float64
	return json.Unmarshal(raw, &old) == nil && float32(old) == x
}

// setTargets writes target_modules, sorted, and exclude_modules of a new adapter.
func (a *Adapter) setTargets(f fields) error {
	var targets any = a.targets
	t := a.Config.Targets
	switch {
	case t.Pattern != "":
		targets = t.Pattern
	case len(t.Names) > 0:
		targets = slices.Sorted(slices.Values(t.Names))
	case a.saved != nil:
		return nil
	}
	raw, err := json.Marshal(targets)
	if err != nil {
		return fmt.Errorf("lora: %w", err)
	}
	f["target_modules"] = raw
	if a.saved != nil || len(a.Config.Exclude) == 0 {
		return nil
	}
	raw, err = json.Marshal(slices.Sorted(slices.Values(a.Config.Exclude)))
	f["exclude_modules"] = raw
	return err
}
