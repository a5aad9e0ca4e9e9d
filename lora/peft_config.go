package lora

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
)

// maxConfig is the size in bytes of the largest adapter_config.json that is read.
const maxConfig = 4 << 20

// maxRank is far above any useful rank.
const maxRank = 1 << 20

// peftVersion is the version of PEFT whose files these are.
const peftVersion = "0.21.2"

// peftDefaults are the keys of a LoRA configuration of PEFT 0.21 with the values that they have when nothing is asked for.
var peftDefaults = map[string]string{
	"alora_invocation_tokens": "null", "alpha_pattern": "{}", "arrow_config": "null", "auto_mapping": "null",
	"base_model_name_or_path": "null", "bias": `"none"`, "corda_config": "null", "ensure_weight_tying": "false",
	"eva_config": "null", "exclude_modules": "null", "fan_in_fan_out": "false", "inference_mode": "true",
	"init_lora_weights": "true", "kasa_config": "null", "layer_replication": "null", "layers_pattern": "null",
	"layers_to_transform": "null", "loftq_config": "{}", "lora_alpha": "8", "lora_bias": "false", "lora_dropout": "0.0",
	"lora_ga_config": "null", "megatron_config": "null", "megatron_core": `"megatron.core"`, "modules_to_save": "null",
	"monteclora_config": "null", "peft_type": `"LORA"`, "peft_version": `"` + peftVersion + `"`, "qalora_group_size": "16", "r": "8",
	"rank_pattern": "{}", "revision": "null", "target_modules": "null", "target_parameters": "null",
	"task_type": `"CAUSAL_LM"`, "trainable_token_indices": "null", "use_bdlora": "null", "use_dora": "false",
	"use_qalora": "false", "use_rslora": "false", "velora_config": "null",
}

// refused are the keys that change what an adapter computes and are not implemented, unless their value is an empty one.
var refused = []struct{ key, what string }{
	{"layer_replication", "layer replication"},
	{"alora_invocation_tokens", "activated LoRA (aLoRA)"},
	{"use_qalora", "QALoRA"},
	{"use_bdlora", "block-diagonal LoRA"},
	{"ensure_weight_tying", "adapters that are shared by tied weights"},
	{"megatron_config", "Megatron's parallel layers"},
	{"arrow_config", "Arrow, which routes between adapters"},
	{"corda_config", "CorDA, which changes the base model"},
	{"eva_config", "EVA, which gives ranks by data"},
	{"lora_ga_config", "LoRA-GA, which changes the base model"},
}

// initKinds are the values of init_lora_weights. Those that leave the base as it is need nothing when the values are there; PiSSA and OLoRA
// take the base apart as they did at first.
var initKinds = map[string]Init{"": InitDefault, "null": InitDefault, "true": InitDefault, "false": InitDefault, `"gaussian"`: InitDefault,
	`"eva"`: InitDefault, `"orthogonal"`: InitDefault, `"pissa"`: InitPiSSA, `"olora"`: InitOLoRA}

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
	c := &s.Config
	r, dropout := 8.0, 0.0
	c.Alpha, c.Bias = 8, BiasNone
	for _, x := range []struct {
		key string
		v   any
	}{{"r", &r}, {"lora_alpha", &c.Alpha}, {"lora_dropout", &dropout}, {"use_rslora", &c.RSLoRA}, {"use_dora", &c.DoRA}, {"lora_bias", &c.BBias},
		{"bias", &c.Bias}, {"base_model_name_or_path", &s.BaseModel}} {
		if err := f.read(x.key, x.v); err != nil {
			return nil, err
		}
	}
	switch {
	case !(r >= 1 && r <= maxRank) || r != math.Trunc(r):
		return nil, fmt.Errorf("r is %v, it must be a whole number from 1 to %d", r, maxRank)
	case !(c.Alpha > 0):
		return nil, fmt.Errorf("lora_alpha is %v, it must be positive", c.Alpha)
	case !(dropout >= 0 && dropout < 1):
		return nil, fmt.Errorf("lora_dropout is %v, it must be at least 0 and below 1", dropout)
	}
	c.Rank, c.Dropout = int(r), float32(dropout)
	c.Init = initKinds[brief(f["init_lora_weights"])]
	if err := s.readPatterns(); err != nil {
		return nil, err
	}
	if err := s.readSelection(); err != nil {
		return nil, err
	}
	return s, c.checkKind() // which modules are meant the weights say, in whatever patterns that was written
}

// readPatterns reads the ranks and alphas of single modules, which count in the order of the file.
func (s *Saved) readPatterns() error {
	var err error
	if s.ranks, err = s.fields.pairs("rank_pattern", func(key string, v float64) error {
		if v != math.Trunc(v) || v > maxRank {
			return fmt.Errorf("rank_pattern: the value of %q must be a whole number up to %d", key, maxRank)
		}
		if s.Config.RankPattern == nil {
			s.Config.RankPattern = map[string]int{}
		}
		s.Config.RankPattern[key] = int(v)
		return nil
	}); err != nil {
		return err
	}
	s.alphas, err = s.fields.pairs("alpha_pattern", func(key string, v float64) error {
		if s.Config.AlphaPattern == nil {
			s.Config.AlphaPattern = map[string]float64{}
		}
		s.Config.AlphaPattern[key] = v
		return nil
	})
	return err
}

// readSelection reads which modules are meant.
func (s *Saved) readSelection() error {
	f, c := s.fields, &s.Config
	var err error
	if c.Targets.Pattern, c.Targets.Names, err = f.nameList("target_modules"); err != nil {
		return err
	}
	if c.Targets.Pattern == "all-linear" {
		c.Targets.Pattern = ""
	}
	if c.ExcludePattern, c.Exclude, err = f.nameList("exclude_modules"); err != nil {
		return err
	}
	var one string
	if one, c.ModulesToSave, err = f.nameList("modules_to_save"); err != nil {
		return err
	}
	if one != "" {
		c.ModulesToSave = []string{one}
	}
	if one, c.LayersPattern, err = f.nameList("layers_pattern"); err != nil {
		return err
	}
	if one != "" {
		c.LayersPattern = []string{one}
	}
	if one, c.Parameters, err = f.nameList("target_parameters"); err != nil {
		return err
	}
	if err := checkParameters(one, c.Parameters); err != nil {
		return err
	}
	if c.Layers, err = f.numbers("layers_to_transform"); err != nil {
		return err
	}
	return s.readTokens()
}

// readTokens reads trainable_token_indices: rows of the input embedding, or of named embeddings.
func (s *Saved) readTokens() error {
	const key = "trainable_token_indices"
	if s.fields.empty(key) {
		return nil
	}
	if list, err := s.fields.numbers(key); err == nil {
		s.Config.Tokens = map[string][]int{"": list}
		return nil
	}
	if err := s.fields.read(key, &s.Config.Tokens); err != nil {
		return fmt.Errorf("%s: expected a list of token ids, or lists by the names of embeddings, found %s", key, brief(s.fields[key]))
	}
	return nil
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
			return &featureError{r.key, brief(f[r.key]), "not supported: " + r.what, refusedRemedy}
		}
	}
	if w := brief(f["init_lora_weights"]); w != "" {
		if _, ok := initKinds[w]; !ok {
			return &featureError{"init_lora_weights", w, "not supported: an initialisation for which PEFT changes the base model as it loads the adapter",
				"save it with PEFT's path_initial_model_for_weight_conversion, which makes a plain adapter of it"}
		}
	}
	return f.refuseUnknown()
}

// knownSwitches are keys that look like switches of variants and are read, or mean nothing once an adapter is trained.
var knownSwitches = []string{"use_rslora", "use_dora", "loftq_config"}

// refuseUnknown refuses switches that this package has never heard of. Other unknown keys are kept.
func (f fields) refuseUnknown() error {
	var keys []string
	for key := range f {
		if (strings.HasSuffix(key, "_config") || strings.HasPrefix(key, "use_")) && !slices.Contains(knownSwitches, key) && !f.empty(key) {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	slices.Sort(keys)
	return &featureError{keys[0], brief(f[keys[0]]), "not supported: an unknown variant of LoRA", refusedRemedy}
}
