package trainer

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/builtin"
	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/checkpoint/llamacpp"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/tokenizer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// Model is an opened model: its parts as symbols, and where their values come from. Load fills a store.
type Model struct {
	*models.Model
	Name      string // as it was opened
	Source    layers.Source
	Tokenizer tokenizer.Tokenizer // nil when the model has none beside it
	TokFiles  map[string][]byte   // the tokenizer's files by name, for copies beside what is written
	New       []int               // ids that ModelOptions.NewTokens got, ascending

	weights checkpoint.Reader // nil for initialised weights
}

// ModelOptions says how a model is opened.
type ModelOptions struct {
	FS       vfs.FS // nil: the operating system's
	Policy   layers.Policy
	Quantize config.Quantize // Scheme "" keeps weights as they are stored
	Seed     uint64          // of initialised weights
	// Tables is the dtype, of 16 bits, of the table of tokens and the output head where the file has them in float32; Invalid keeps that. Not
	// for models whose tables are trained.
	Tables tensor.DType

	NewTokens []string // special tokens that tokenizer and vocabulary gain; their rows begin as the mean of the others
	Beside    string   // folder of an adapter, whose tokenizer, if there is one, takes the place of the model's
}

// OpenModel opens "builtin:NAME", a Hugging Face directory or the name of one in the local cache ("org/name", "org/name@revision"), a
// GGUF file, a llama2.c or gpt-nano file or the folder that holds one, or, for weights that are initialised, a config.json.
func OpenModel(path string, o ModelOptions) (*Model, error) {
	if o.FS == nil {
		o.FS = vfs.OS{}
	}
	if path == "" {
		return nil, badConfig("model", "is not given: a Hugging Face directory, a llama2.c or GGUF file, or builtin:tiny")
	}
	c := config.Config{Model: path}
	m := &Model{Name: path}
	var mc models.Config
	var err error
	if name, ok := c.Builtin(); ok {
		mc, err = m.openBuiltin(name)
	} else if file, ok := c.Architecture(); ok && !checkpoint.IsGPTNano(o.FS, file) {
		mc, err = m.openArchitecture(o.FS, file)
	} else {
		mc, err = m.openPath(o.FS, path)
	}
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	stored := mc.Vocab
	if err = errors.Join(m.takeTokenizer(o.FS, o.Beside, &mc), m.addTokens(o.NewTokens, &mc)); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	so := layers.Options{Policy: o.Policy, Seed: o.Seed}
	if mc.Vocab > stored { // else a config.json of another model would get rows of noise
		so.Grow = models.OfVocabulary
	}
	if m.weights != nil {
		so.Weights = m.weights
	}
	if o.Tables != tensor.Invalid {
		so.Narrow = func(name string) tensor.DType {
			if models.OfVocabulary(name) {
				return o.Tables
			}
			return tensor.Invalid
		}
	}
	if so.Quantize, err = m.quantizeRule(o.Quantize); err == nil {
		so.Compute4bit, err = m.compute4bit(o.Quantize)
	}
	if err == nil {
		m.Source = layers.NewSource(so)
		m.Model, err = models.New(mc, m.Source)
	}
	if err == nil && m.weights != nil {
		err = models.CheckUnused(m.weights, m.Source, m.Model)
	}
	if err == nil {
		_, err = m.generation()
	}
	if err != nil {
		return nil, errors.Join(withCode(config.ExitInput, fmt.Errorf("model %s: %w", path, err)), m.Close())
	}
	return m, nil
}

// Close closes the files of the weights.
func (m *Model) Close() error {
	if m.weights == nil {
		return nil
	}
	return m.weights.Close()
}

func (m *Model) openBuiltin(name string) (models.Config, error) {
	dir, err := builtin.Dir(name)
	if err != nil {
		return models.Config{}, badConfig("model", "%v", err)
	}
	r, c, err := models.OpenWeights(builtin.FS{}, dir)
	if err != nil {
		return c, err
	}
	m.weights = r
	return c, m.readTokenizer(builtin.FS{}, dir)
}

func (m *Model) openArchitecture(fsys vfs.FS, file string) (models.Config, error) {
	raw, err := vfs.ReadFile(fsys, file, maxConfigFile)
	if err != nil {
		return models.Config{}, withCode(config.ExitInput, err)
	}
	c, err := models.ParseConfig(raw)
	if err == nil && c.Quantization != nil {
		err = errors.New("quantization_config describes stored weights, and there are none to load; remove it")
	}
	if err != nil {
		return c, withCode(config.ExitInput, fmt.Errorf("%s: %w", file, err))
	}
	return c, m.readTokenizer(fsys, filepath.Dir(file))
}

func (m *Model) openPath(fsys vfs.FS, name string) (models.Config, error) {
	path, err := checkpoint.Locate(fsys, name)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("model %s: %w; give a Hugging Face directory, a llama2.c or GGUF file, or builtin:tiny", name, err)
		}
		return models.Config{}, withCode(config.ExitInput, err)
	}
	r, c, err := models.OpenWeights(fsys, path)
	if err != nil {
		return c, withCode(config.ExitInput, err)
	}
	m.weights = r
	if g, ok := r.(*llamacpp.Model); ok {
		return c, m.ggufTokenizer(g)
	}
	dir := path
	if info, serr := fsys.Stat(path); serr == nil && !info.IsDir() {
		dir = filepath.Dir(path)
	}
	return c, m.readTokenizer(fsys, dir)
}

// maxConfigFile bounds a config.json.
const maxConfigFile = 16 << 20

// tokenizerFiles are what belongs to a tokenizer, copied beside models and adapters.
var tokenizerFiles = append(tokenizer.FileNames(), generationFile)

// maxTokenizerFile bounds one file of a tokenizer.
const maxTokenizerFile = 256 << 20

// readTokenizer finds the tokenizer beside a model: tokenizer.json or another vocabulary with its companions, or the .bin of a llama2.c
// model. A model without one can still be trained on token ids.
func (m *Model) readTokenizer(fsys vfs.FS, dir string) error {
	m.TokFiles = map[string][]byte{}
	for _, name := range tokenizerFiles {
		raw, err := vfs.ReadFile(fsys, filepath.ToSlash(filepath.Join(dir, name)), maxTokenizerFile)
		switch {
		case err == nil:
			m.TokFiles[name] = raw
		case !errors.Is(err, fs.ErrNotExist):
			return withCode(config.ExitInput, err)
		}
	}
	if tokenizer.HasVocabulary(m.TokFiles) {
		files := maps.Clone(m.TokFiles)
		if raw, err := vfs.ReadFile(fsys, filepath.ToSlash(filepath.Join(dir, "config.json")), maxConfigFile); err == nil {
			files["config.json"] = raw // may name special tokens too
		}
		tok, err := tokenizer.LoadFiles(files)
		if err != nil {
			return withCode(config.ExitInput, fmt.Errorf("%s: %w", dir, err))
		}
		m.Tokenizer = tok
		return m.addTokenizerJSON(tok)
	}
	return m.readLlama2CTokenizer(fsys, dir)
}

// addTokenizerJSON writes a tokenizer of another format as a tokenizer.json too, which is what most readers of a result look for.
func (m *Model) addTokenizerJSON(tok tokenizer.Tokenizer) error {
	hf, ok := tok.(*tokenizer.HF)
	if !ok || len(m.TokFiles["tokenizer.json"]) > 0 {
		return nil
	}
	files, err := hf.Files()
	if err != nil {
		return err
	}
	for name, raw := range files {
		if m.TokFiles[name] == nil {
			m.TokFiles[name] = raw
		}
	}
	return nil
}

// ggufTokenizer takes the tokenizer and the chat template of a GGUF file, as files too.
func (m *Model) ggufTokenizer(g *llamacpp.Model) error {
	m.TokFiles = map[string][]byte{}
	if template := g.ChatTemplate(); template != "" {
		m.TokFiles["chat_template.jinja"] = []byte(template)
	}
	tok, err := g.Tokenizer()
	if err != nil || tok == nil {
		return withCode(config.ExitInput, err)
	}
	m.Tokenizer = tok
	return m.addTokenizerJSON(tok)
}

// readLlama2CTokenizer reads the first tok*.bin of a folder, if there is one.
func (m *Model) readLlama2CTokenizer(fsys vfs.FS, dir string) error {
	entries, err := fsys.ReadDir(filepath.ToSlash(dir))
	if err != nil {
		return withCode(config.ExitInput, err)
	}
	for _, e := range entries {
		if e.IsDir() || !strings.HasPrefix(e.Name(), "tok") || !strings.HasSuffix(e.Name(), ".bin") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		raw, err := vfs.ReadFile(fsys, path, maxTokenizerFile)
		if err != nil {
			return withCode(config.ExitInput, err)
		}
		if m.Tokenizer, err = tokenizer.ParseLlama2C(raw, 0); err != nil {
			return withCode(config.ExitInput, fmt.Errorf("%s: %w", path, err))
		}
		m.TokFiles[e.Name()] = raw
		return nil
	}
	return nil
}

// quantizeRule says which linear layers are quantized: all that a model declares through Source.Linear, which leaves out
// embeddings, norms and the output head. Weights that are stored quantized stay as they are, and a setting that says otherwise is
// refused.
func (m *Model) quantizeRule(q config.Quantize) (func(string) (quant.Config, bool), error) {
	if z, ok := m.weights.(*checkpoint.Quantized); ok {
		return nil, m.stored(z, q)
	}
	if q.Scheme == "" || q.Scheme == "none" {
		return nil, nil
	}
	s, ok := quant.ParseScheme(q.Scheme)
	if !ok {
		return nil, badConfig("quantize.scheme", "%s is not supported; supported: none, nf4, fp4, int8", q.Scheme)
	}
	c := quant.Config{Scheme: s, Blocksize: q.Blocksize, Double: q.Double}
	if s == quant.Int8 {
		c = quant.Config{Scheme: s, Threshold: int8Threshold}
	}
	return func(string) (quant.Config, bool) { return c, true }, nil
}

// int8Threshold is the magnitude from which on activations are kept out of int8: the default of transformers (llm_int8_threshold).
const int8Threshold = 6

// compute4bit is the dtype of products with 4-bit weights: the setting, else what a quantized directory says, else that of activations.
func (m *Model) compute4bit(q config.Quantize) (tensor.DType, error) {
	if q.Compute != "" {
		d, ok := tensor.ParseDType(q.Compute)
		if !ok || !d.IsFloat() {
			return d, badConfig("quantize.compute", "%q is not a dtype; f32, bf16 and f16 are", q.Compute)
		}
		return d, nil
	}
	if z, ok := m.weights.(*checkpoint.Quantized); ok && z.Config().FourBit() {
		return z.Config().Compute, nil
	}
	return tensor.Invalid, nil
}

// stored compares the settings with how the weights are stored.
func (m *Model) stored(z *checkpoint.Quantized, q config.Quantize) error {
	have := z.Config().Scheme
	if z.Config().Method == checkpoint.MethodOwn {
		if q.Scheme != "" && q.Scheme != "none" {
			return badConfig("quantize.scheme", "is %s, but the weights of the model are stored in %s and are dequantized as they are loaded; leave it out, or give the full-precision model",
				q.Scheme, have)
		}
		return nil
	}
	if q.Scheme != "" && q.Scheme != have {
		return badConfig("quantize.scheme", "is %s, but the weights of the model are stored in %s; set it to %s or leave it out, or give the full-precision model",
			q.Scheme, have, have)
	}
	if q.Blocksize == 0 || !z.Config().FourBit() {
		return nil
	}
	// A directory may mix blocks of several sizes: a setting contradicts it when it is true of no weight.
	var wrong error
	for _, name := range z.Names() {
		if len(z.Parts(name)) == 0 {
			continue
		}
		h, err := z.Header(name)
		switch {
		case err != nil:
			return err
		case q.Blocksize == h.Config.Blocksize && q.Double == h.Config.Double:
			return nil
		case wrong != nil:
		case q.Blocksize != h.Config.Blocksize:
			wrong = badConfig("quantize.blocksize", "is %d, but %s is stored in blocks of %d; leave the setting out, or give the full-precision model",
				q.Blocksize, name, h.Config.Blocksize)
		default:
			wrong = badConfig("quantize.double", "is %v, but %s is stored with %v; leave the setting out, or give the full-precision model",
				q.Double, name, h.Config.Double)
		}
	}
	return wrong
}

// BOS returns the id of the token that stands for the beginning of a text, from the tokenizer or the model's configuration. Begin says whether
// texts do begin with it.
func (m *Model) BOS() (int32, bool) {
	if m.Tokenizer != nil {
		if id, ok := m.Tokenizer.BOS(); ok {
			return id, true
		}
	}
	if b := m.Config().BOS; len(b) > 0 {
		return b[0], true
	}
	return 0, false
}

// Begin returns what the tokenizer puts before every text: the BOS token, or nothing where the tokenizer has one but does not add it, as
// those of Qwen and SmolLM do not.
func (m *Model) Begin() []int32 {
	id, ok := m.BOS()
	if !ok || m.Tokenizer == nil {
		return nil
	}
	if ids, err := m.Tokenizer.Encode("a"); err != nil || len(ids) == 0 || ids[0] != id {
		return nil
	}
	return []int32{id}
}
