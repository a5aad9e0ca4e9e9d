package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/optim"
)

// maxFile bounds a configuration file.
const maxFile = 1 << 20

// Loader reads a configuration. The zero value reads it for fine-tuning.
type Loader struct {
	// Command selects the defaults: Pretrain, or Finetune for every other text.
	Command string
}

// Load reads a configuration for fine-tuning: Loader{}.Load(path, overrides).
func Load(path string, overrides []string) (Config, error) { return Loader{}.Load(path, overrides) }

// Load returns the defaults, changed by the YAML file at path ("" for none, "preset:NAME" for an embedded one), changed by
// the overrides, and validated. Without a model the built-in preset takes the place of the defaults.
//
// Some settings follow others unless they are given: adapter.type none implies quantize.scheme none; train.micro_batch is
// cut to the largest divisor of train.batch; train.betas and train.eps are those of train.optimizer; the rise of the schedule onecycle is
// train.warmup 0.3; an objective of preferences has train.lr 5e-6; a built-in model implies built-in data.
//
// The error joins every problem found; each is an *ErrConfig.
func (l Loader) Load(path string, overrides []string) (Config, error) {
	data, err := readConfig(path)
	if err != nil {
		return Config{}, err
	}
	return l.Parse(path, data, overrides)
}

// Parse is Load for a file already in memory; name stands for it in errors.
func (l Loader) Parse(name string, data []byte, overrides []string) (Config, error) {
	if !utf8.Valid(data) {
		return Config{}, &ErrConfig{File: name, Reason: "is not UTF-8 text; save it as UTF-8"}
	}
	r := reader{file: name, given: map[string]origin{}}
	r.parse(data)
	flags := r.splitOverrides(overrides)
	if len(r.errs) > 0 {
		return Config{}, errors.Join(r.errs...)
	}
	c, err := l.base(r.modelGiven(flags))
	if err != nil {
		return Config{}, err
	}
	model := c.Model
	r.rows = fields(&c)
	r.apply(flags)
	if c.Model == "" {
		c.Model = model
	}
	if len(r.errs) > 0 {
		return Config{}, errors.Join(r.errs...)
	}
	r.imply(&c)
	problems := append(c.problems(), l.problems(c)...)
	for _, p := range problems {
		r.locate(p)
		r.errs = append(r.errs, p)
	}
	return c, errors.Join(r.errs...)
}

// base returns the values that the file and the overrides change.
func (l Loader) base(modelGiven bool) (Config, error) {
	c := Default(l.Command)
	if modelGiven {
		return c, nil
	}
	name := BuiltinPreset
	if l.Command == Pretrain {
		name = BuiltinPretrainPreset
	}
	preset, ok := FindPreset(name)
	if !ok {
		return c, fmt.Errorf("preset %s is missing from the program", name)
	}
	r := reader{file: "preset:" + name, rows: fields(&c), given: map[string]origin{}}
	r.parse(preset.YAML)
	r.apply(nil)
	return c, errors.Join(r.errs...)
}

// origin is where a key was given.
type origin struct {
	line int
	flag bool
}

// setting is one key of the file with its value.
type setting struct {
	key  string
	line int
	node *yaml.Node
}

// reader gathers settings and problems.
type reader struct {
	file     string
	rows     []field
	settings []setting
	given    map[string]origin
	errs     []error
}

func (r *reader) fail(line int, key, format string, args ...any) {
	r.errs = append(r.errs, &ErrConfig{File: r.file, Line: line, Key: key, Reason: fmt.Sprintf(format, args...)})
}

// parse reads one YAML document into settings and reports unknown and repeated keys.
func (r *reader) parse(data []byte) {
	if r.rows == nil {
		r.rows = fields(new(Config))
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	if err := decoder.Decode(&doc); errors.Is(err, io.EOF) {
		return
	} else if err != nil {
		r.syntax(err)
		return
	}
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		r.fail(second.Line, "", "a configuration is one YAML document: remove what follows the line ---")
		return
	}
	if len(doc.Content) == 0 {
		return
	}
	root := resolve(doc.Content[0])
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return
	}
	if root.Kind != yaml.MappingNode {
		r.fail(root.Line, "", "expected keys and values such as \"model: ./Llama-3.2-1B\", got %s", describe(root))
		return
	}
	r.section("", root)
}

// section walks the keys of the whole file (prefix "") or of one section ("train.").
func (r *reader) section(prefix string, n *yaml.Node) {
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, val := n.Content[i], resolve(n.Content[i+1])
		key := prefix + clip(name.Value)
		if line, twice := seen[key]; twice {
			r.fail(name.Line, key, "given twice, first on line %d: remove one", line)
			continue
		}
		seen[key] = name.Line
		_, known := findField(r.rows, key)
		dotted := strings.Contains(name.Value, ".")
		switch {
		case name.Kind == yaml.ScalarNode && known && !dotted:
			r.settings = append(r.settings, setting{key: key, line: name.Line, node: val})
		case name.Kind == yaml.ScalarNode && known:
			r.fail(name.Line, key, "in a file a section's keys are nested: write %s: …%s", strings.ReplaceAll(name.Value, ".", ": {"),
				strings.Repeat("}", strings.Count(name.Value, ".")))
		case !dotted && isSection(r.rows, key):
			r.subsection(key, name.Line, val)
		default:
			r.fail(name.Line, key, "unknown key%s", suggestKey(key))
		}
	}
}

func (r *reader) subsection(key string, line int, val *yaml.Node) {
	switch {
	case val.Kind == yaml.MappingNode:
		r.section(key+".", val)
	case val.Kind == yaml.ScalarNode && val.Tag == "!!null":
	default:
		r.fail(line, key, "expected a section with keys such as %s, got %s", strings.Join(sectionKeys(key), ", "), describe(val))
	}
}

var yamlLine = regexp.MustCompile(`^yaml: line (\d+): `)

// syntax turns "yaml: line 3: reason" into an error at that line.
func (r *reader) syntax(err error) {
	text, line := err.Error(), 0
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		line, _ = strconv.Atoi(m[1])
		text = text[len(m[0]):]
	}
	text = strings.TrimPrefix(text, "yaml: ")
	if strings.Contains(text, "cannot start any token") {
		text += "; YAML indents with spaces, not with tabs, and a text that begins with one of @ ` % needs quotes"
	}
	r.errs = append(r.errs, &ErrConfig{File: r.file, Line: line, Err: err, Reason: "not valid YAML: " + text})
}

// apply sets the file's values, then the flags'.
func (r *reader) apply(flags []override) {
	for _, s := range r.settings {
		f, _ := findField(r.rows, s.key)
		if err := f.value.set(s.node); err != nil {
			leaf := s.key[strings.LastIndex(s.key, ".")+1:]
			r.fail(s.line, s.key, "%v; for example %s: %s", err, leaf, f.example)
			continue
		}
		r.given[s.key] = origin{line: s.line}
	}
	for _, o := range flags {
		f, _ := findField(r.rows, o.key)
		n, err := o.node(f.value)
		if err == nil {
			err = f.value.set(n)
		}
		if err != nil {
			example := strings.ReplaceAll(f.example, ", ", ",")
			r.errs = append(r.errs, &ErrConfig{Key: o.name, Flag: true, Reason: fmt.Sprintf("%v; for example --%s=%s", err, o.name, example)})
			continue
		}
		r.given[o.key] = origin{flag: true}
	}
}

// modelGiven reports whether the file or a flag names a model.
func (r *reader) modelGiven(flags []override) bool {
	given := false
	for _, s := range r.settings {
		if s.key == "model" {
			given = s.node.Value != ""
		}
	}
	for _, o := range flags {
		if o.key == "model" {
			given = o.text != ""
		}
	}
	return given
}

// imply fills settings that follow others, see Loader.Load.
func (r *reader) imply(c *Config) {
	free := func(key string) bool { _, given := r.given[key]; return !given }
	if c.Adapter.Type == "none" && free("quantize.scheme") {
		c.Quantize.Scheme = "none"
	}
	r.implyStored(c, free)
	if free("train.micro_batch") && c.Train.Batch > 0 && c.Train.MicroBatch > 0 {
		for c.Train.MicroBatch > c.Train.Batch || c.Train.Batch%c.Train.MicroBatch != 0 {
			c.Train.MicroBatch--
		}
	}
	if d, err := optim.Defaults(c.Train.Optimizer); err == nil {
		if free("train.betas") && d.Betas != [2]float64{} {
			c.Train.Betas = d.Betas[:]
			if d.Beta3 != 0 {
				c.Train.Betas = append(c.Train.Betas, d.Beta3)
			}
		}
		if free("train.eps") && d.Eps != 0 {
			c.Train.Eps = d.Eps
		}
	}
	if c.Train.Schedule == "onecycle" && free("train.warmup") {
		c.Train.Warmup = 0.3
	}
	if c.Train.Preferences() && free("train.lr") {
		c.Train.LR = preferenceLR
	}
	if _, builtin := c.Builtin(); builtin && free("data.path") {
		c.Data.Path = []Source{{Path: BuiltinData, Weight: 1}}
	}
}

// implyStored takes over how a quantized model directory is stored, where the configuration does not say it. A directory that cannot
// be read is left to the command that opens it.
func (r *reader) implyStored(c *Config, free func(key string) bool) {
	q, h, err := checkpoint.StoredAs(nil, c.Model)
	if q == nil {
		return
	}
	if err != nil {
		h = nil
	}
	if free("quantize.scheme") {
		c.Quantize.Scheme = q.Scheme
		if q.Method == checkpoint.MethodOwn {
			c.Quantize.Scheme = "none" // there are no layers for these formats: the weights are dequantized as they are loaded
		}
	}
	if h == nil || c.Quantize.Scheme != q.Scheme || !q.FourBit() {
		return
	}
	if free("quantize.compute") {
		c.Quantize.Compute = q.Compute.String()
	}
	if free("quantize.blocksize") {
		c.Quantize.Blocksize = h.Config.Blocksize
	}
	if free("quantize.double") {
		c.Quantize.Double = h.Config.Double
	}
}

// preferenceLR is the learning rate of preference objectives unless it is given: larger ones make a model forget how to speak before it
// has learnt what is preferred.
const preferenceLR = 5e-6

// locate adds the file and line, or the flag, that gave the key of a problem.
func (r *reader) locate(p *ErrConfig) {
	at, given := r.given[p.Key]
	switch {
	case !given:
	case at.flag:
		p.Flag = true
	default:
		p.File, p.Line = r.file, at.line
	}
}

func readConfig(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	if name, ok := strings.CutPrefix(path, "preset:"); ok {
		if p, ok := FindPreset(name); ok {
			return p.YAML, nil
		}
		return nil, &ErrConfig{File: path, Reason: "there is no such preset" + didYouMean(name, presetNames(), "")}
	}
	for _, ext := range []string{".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".gz", ".zst", ".txt"} {
		if strings.HasSuffix(strings.ToLower(path), ext) {
			return nil, &ErrConfig{File: path, Reason: "holds rows by its name and no settings; name it by --data.path"}
		}
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil, &ErrConfig{File: path, Reason: "is a folder and no file of settings; a model is named by --model, a run to go on with by --out and --resume"}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, &ErrConfig{File: path, Reason: "cannot be read: " + err.Error(), Err: err}
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, &ErrConfig{File: path, Reason: "cannot be read: " + err.Error(), Err: err}
	}
	if len(data) > maxFile {
		return nil, &ErrConfig{File: path, Reason: "is larger than 1 MiB and so is no configuration"}
	}
	return data, nil
}
