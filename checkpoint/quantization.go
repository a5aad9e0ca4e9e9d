package checkpoint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/bitsandbyes/bitsandbyes/internal/regex"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// The values of quant_method that are read.
const (
	MethodBNB = "bitsandbytes" // nf4, fp4 and int8, as transformers and bitsandbytes write them
	MethodOwn = "bitsandbyes"  // formats that bitsandbytes does not have, see docs/guides/quantization.md
)

// Quantization is the quantization_config of a config.json: how the linear layers of a model folder are stored.
type Quantization struct {
	Method    string
	Scheme    string       // nf4, fp4, int8, or with MethodOwn the name of a format of package quant
	Compute   tensor.DType // dtype that products with 4-bit weights are computed in
	Double    bool         // scales in 8 bits
	Storage   tensor.DType // element type under which 4-bit codes are shown: U8, F16, BF16 or F32
	Threshold float32      // magnitude from which on a column of activations is kept out of int8; 0 = none is
	// Skip lists patterns of modules that are kept in full precision, see Skips. nil is the default of transformers: the output head.
	Skip []string

	skip *skipPatterns
}

// bnbConfig is the JSON that transformers writes, in its order, which is that of the alphabet.
type bnbConfig struct {
	Load4     bool      `json:"_load_in_4bit"`
	Load8     bool      `json:"_load_in_8bit"`
	Compute   string    `json:"bnb_4bit_compute_dtype"`
	Storage   string    `json:"bnb_4bit_quant_storage"`
	Type      string    `json:"bnb_4bit_quant_type"`
	Double    bool      `json:"bnb_4bit_use_double_quant"`
	Offload   bool      `json:"llm_int8_enable_fp32_cpu_offload"`
	FP16      bool      `json:"llm_int8_has_fp16_weight"`
	Skip      []string  `json:"llm_int8_skip_modules"`
	Threshold pyFloat64 `json:"llm_int8_threshold"`
	Plain4    bool      `json:"load_in_4bit"`
	Plain8    bool      `json:"load_in_8bit"`
	Method    string    `json:"quant_method"`
}

// ownConfig is the JSON of formats that bitsandbytes does not have.
type ownConfig struct {
	Version int      `json:"format_version"`
	Skip    []string `json:"modules_to_not_convert"`
	Method  string   `json:"quant_method"`
	Scheme  string   `json:"scheme"`
}

// ownVersion is the version of the layout with MethodOwn.
const ownVersion = 1

const maxSkip = 2000 // more patterns than any model has modules of a kind

// pyFloat64 is written as Python writes a float, with a point.
type pyFloat64 float64

// MarshalJSON implements json.Marshaler.
func (f pyFloat64) MarshalJSON() ([]byte, error) {
	b, err := json.Marshal(float64(f))
	if err == nil && !bytes.ContainsAny(b, ".e") {
		b = append(b, ".0"...)
	}
	return b, err
}

// ParseQuantization reads a quantization_config; nil when there is none (no bytes, or null). A method, key or value that is not known
// is refused by name: it would change numbers in a way that nobody asked for.
func ParseQuantization(raw []byte) (*Quantization, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	q, err := parseQuantization(raw)
	if err != nil {
		return nil, fmt.Errorf("quantization_config: %w", err)
	}
	return q, q.compile()
}

func parseQuantization(raw []byte) (*Quantization, error) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(raw, &keys); err != nil {
		return nil, fmt.Errorf("it is not a JSON object; fetch config.json again")
	}
	method := MethodBNB // files older than the key
	if m, ok := keys["quant_method"]; ok {
		if err := json.Unmarshal(m, &method); err != nil {
			return nil, fmt.Errorf("quant_method is not a string")
		}
	} else if keys["load_in_4bit"] == nil && keys["load_in_8bit"] == nil {
		return nil, fmt.Errorf("it names no quant_method; known ones: %s, %s", MethodBNB, MethodOwn)
	}
	switch method {
	case MethodBNB:
		c := bnbConfig{Compute: "float32", Storage: "uint8", Type: "fp4", Threshold: 6}
		if err := decodeKnown(keys, &c); err != nil {
			return nil, err
		}
		return c.quantization()
	case MethodOwn:
		var c ownConfig
		if err := decodeKnown(keys, &c); err != nil {
			return nil, err
		}
		return c.quantization()
	}
	return nil, fmt.Errorf("quant_method %s cannot be read; known ones: %s, %s. Load the full-precision model and set quantize.scheme",
		quoted(method), MethodBNB, MethodOwn)
}

// decodeKnown decodes an object strictly, but for unknown keys that say nothing (null or false).
func decodeKnown(keys map[string]json.RawMessage, into any) error {
	kept := map[string]json.RawMessage{}
	for k, v := range keys {
		if text := string(bytes.TrimSpace(v)); text != "null" && (text != "false" || known(into, k)) {
			kept[k] = v
		}
	}
	raw, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		if key, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
			return fmt.Errorf("key %s is not known: the file was written by a newer or another library, and what the key says cannot be ignored", key)
		}
		return fmt.Errorf("%s", strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

func known(into any, key string) bool {
	raw, err := json.Marshal(into)
	return err == nil && bytes.Contains(raw, []byte(`"`+key+`":`))
}

func (c bnbConfig) quantization() (*Quantization, error) {
	q := &Quantization{Method: MethodBNB, Threshold: float32(c.Threshold), Skip: c.Skip, Storage: tensor.U8, Compute: tensor.F32}
	four, eight := c.Load4 || c.Plain4, c.Load8 || c.Plain8
	switch {
	case four && eight:
		return nil, fmt.Errorf("load_in_4bit and load_in_8bit are both true; keep the one that the weights are stored in")
	case !four && !eight:
		return nil, fmt.Errorf("neither load_in_4bit nor load_in_8bit is true; set the one that the weights are stored in")
	case !(c.Threshold >= 0):
		return nil, fmt.Errorf("llm_int8_threshold %v is negative; 0 switches it off, 6 is usual", float64(c.Threshold))
	case c.FP16:
		return nil, fmt.Errorf("llm_int8_has_fp16_weight is true: the weights are 16-bit masters and not stored in int8; remove quantization_config and set quantize.scheme int8")
	}
	if eight {
		q.Scheme = "int8"
		return q, nil
	}
	if c.Type != "nf4" && c.Type != "fp4" {
		return nil, fmt.Errorf("bnb_4bit_quant_type %s is not known; bitsandbytes has nf4 and fp4", quoted(c.Type))
	}
	q.Scheme, q.Double, q.Threshold = c.Type, c.Double, 0
	var ok bool
	if q.Compute, ok = torchDTypes[c.Compute]; !ok || !q.Compute.IsFloat() {
		return nil, fmt.Errorf("bnb_4bit_compute_dtype %s is not known; float32, bfloat16 and float16 are", quoted(c.Compute))
	}
	if q.Storage, ok = torchDTypes[c.Storage]; !ok {
		return nil, fmt.Errorf("bnb_4bit_quant_storage %s is not known; uint8, bfloat16, float16 and float32 are", quoted(c.Storage))
	}
	return q, nil
}

func (c ownConfig) quantization() (*Quantization, error) {
	switch {
	case c.Version != ownVersion:
		return nil, fmt.Errorf("format_version %d of quant_method %s is not known, %d is; use a newer version of this program", c.Version, MethodOwn, ownVersion)
	case c.Scheme == "":
		return nil, fmt.Errorf("quant_method %s needs a scheme, such as int4:group=128", MethodOwn)
	}
	return &Quantization{Method: MethodOwn, Scheme: c.Scheme, Skip: c.Skip, Compute: tensor.F32, Storage: tensor.U8}, nil
}

var torchDTypes = map[string]tensor.DType{"float32": tensor.F32, "float16": tensor.F16, "bfloat16": tensor.BF16, "uint8": tensor.U8}

func torchName(d tensor.DType) string {
	for name, known := range torchDTypes {
		if known == d {
			return name
		}
	}
	return "float32"
}

// MarshalJSON writes quantization_config with the keys, values and order of transformers.
func (q *Quantization) MarshalJSON() ([]byte, error) {
	if q.Method == MethodOwn {
		return json.Marshal(ownConfig{ownVersion, q.Skip, MethodOwn, q.Scheme})
	}
	c := bnbConfig{Compute: "float32", Storage: "uint8", Type: "fp4", Skip: q.Skip, Threshold: 6, Method: MethodBNB}
	if q.Scheme == "int8" {
		c.Load8, c.Plain8, c.Threshold = true, true, pyFloat64(q.Threshold)
	} else {
		c.Load4, c.Plain4, c.Double, c.Type = true, true, q.Double, q.Scheme
		c.Compute, c.Storage = torchName(q.Compute), torchName(q.Storage)
	}
	return json.Marshal(c)
}

// FourBit reports whether the weights are nf4 or fp4.
func (q *Quantization) FourBit() bool { return q.Scheme == "nf4" || q.Scheme == "fp4" }

// skipKey is the key of Skip in the file.
func (q *Quantization) skipKey() string {
	if q.Method == MethodOwn {
		return "modules_to_not_convert"
	}
	return "llm_int8_skip_modules"
}

// stateKind ends the name of a weight's description.
func (q *Quantization) stateKind() string {
	if q.Method == MethodOwn {
		return MethodOwn
	}
	return MethodBNB + "__" + q.Scheme
}

// skipPatterns are the expressions of Skip; nil entries match by suffix only.
type skipPatterns struct {
	list []*regex.Regexp
	slow atomic.Int32 // matches that ran out of time
}

// maxSlow is how many matches may run out of time before the patterns are plain names: a hostile list would else be waited for at each
// module. What is then taken for quantized and is not is refused where it is read.
const maxSlow = 3

// match reports whether one of the patterns matches the beginning of a module's path.
func (p *skipPatterns) match(module string) bool {
	for _, re := range p.list {
		if re == nil || p.slow.Load() >= maxSlow {
			continue
		}
		ok, err := re.Match(module)
		if err != nil {
			p.slow.Add(1)
		} else if ok {
			return true
		}
	}
	return false
}

// compile checks the patterns of Skip.
func (q *Quantization) compile() error {
	if len(q.Skip) > maxSkip {
		return fmt.Errorf("quantization_config: %d modules to skip, more than %d", len(q.Skip), maxSkip)
	}
	q.skip = &skipPatterns{}
	for _, pattern := range q.Skip {
		re, err := regex.Compile(`^(?:`+pattern+`)(?:(?<=\.)|(?=\.|$))`, regex.Options{Time: 100 * time.Millisecond})
		if err != nil {
			re = nil // a plain name with characters that mean something in expressions: it matches as a suffix
		}
		q.skip.list = append(q.skip.list, re)
	}
	return nil
}

// Skips reports whether a module is kept in full precision: by the rule of transformers a pattern matches a module whose path begins
// with it up to a border between names, as a regular expression, or ends with it.
func (q *Quantization) Skips(module string) bool {
	if q.Skip == nil {
		return module == "lm_head" || strings.HasSuffix(module, ".lm_head")
	}
	if q.skip == nil || len(q.skip.list) != len(q.Skip) {
		if err := q.compile(); err != nil {
			return false
		}
	}
	return slices.ContainsFunc(q.Skip, func(p string) bool { return strings.HasSuffix(module, p) }) || q.skip.match(module)
}
