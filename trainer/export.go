package trainer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/checkpoint/gguf"
	"github.com/bitsandbyes/bitsandbyes/checkpoint/llamacpp"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/quant/ggml"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/tokenizer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/spool"
)

// ExportOptions says what to write as a GGUF file. Model and Out are required.
type ExportOptions struct {
	FS      vfs.FS // nil: the operating system's
	Model   string // as in a configuration
	Adapter string // directory of a LoRA adapter; "" = none
	Out     string // file to make; it must not exist
	Type    string // f32, bf16, f16, q8_0, q4_1, q4_0; "" = f16, for adapters f32
	Name    string // general.name; "" = that of the model's file or folder
	LoRA    bool   // write the adapter alone, which llama.cpp puts on the model
}

// Export writes a model as a GGUF file, with its adapter merged into it if one is given, or the adapter alone. One tensor at a time is in
// memory; weights that an adapter changes are spooled in float32 beside the output. Quantized folders are dequantized.
func Export(ctx context.Context, o ExportOptions) (*llamacpp.Report, error) {
	r, err := export(ctx, o)
	return r, classify(err)
}

func export(ctx context.Context, o ExportOptions) (r *llamacpp.Report, err error) {
	o.FS = vfs.Or(o.FS)
	t, err := o.check()
	if err != nil {
		return nil, err
	}
	x, err := openExport(o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, x.close()) }()
	keys, err := x.keys()
	if err != nil {
		return nil, err
	}
	if o.LoRA {
		return x.adapter(o, keys, t)
	}
	reader := checkpoint.Reader(&halfSplit{x.weights, x.model})
	if o.Adapter != "" {
		if reader, err = x.merged(o); err != nil {
			return nil, err
		}
		if keys, err = x.keys(); err != nil { // a head of its own may have come with the adapter
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	out := llamacpp.ExportOptions{Type: t, Name: o.Name}
	if err := x.vocabulary(&out); err != nil {
		return nil, err
	}
	r, err = llamacpp.Export(o.FS, o.Out, reader, keys, out)
	return r, refused(err)
}

// refused gives an error of the model, and not of the disk, its exit code.
func refused(err error) error {
	if errors.Is(err, checkpoint.ErrDisk) {
		return err
	}
	return withCode(config.ExitInput, err)
}

// check fills in defaults and parses the type.
func (o *ExportOptions) check() (ggml.Type, error) {
	switch {
	case o.Model == "":
		return 0, badConfig("model", "is missing")
	case o.Out == "":
		return 0, badConfig("out", "is missing; name the GGUF file to make")
	case o.LoRA && o.Adapter == "":
		return 0, badConfig("lora", "writes an adapter; name its directory with --adapter")
	}
	if o.Type == "" {
		if o.Type = "f16"; o.LoRA {
			o.Type = "f32"
		}
	}
	allowed, what := llamacpp.ExportTypes(), "models"
	if o.LoRA {
		allowed, what = llamacpp.LoRATypes(), "adapters"
	}
	t, ok := ggml.ParseType(o.Type)
	if !ok || !slices.Contains(allowed, t) {
		return 0, badConfig("type", "%s are not written in %q, but in %s", what, o.Type, strings.ToLower(ggml.Names(allowed)))
	}
	if o.Name == "" {
		from := o.Model
		if o.LoRA {
			from = o.Adapter
		}
		o.Name = strings.TrimSuffix(filepath.Base(filepath.Clean(from)), ".gguf")
	}
	if _, err := o.FS.Stat(o.Out); err == nil {
		return 0, badConfig("out", "%s exists already; choose another name or remove it", o.Out)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	return t, nil
}

// exported is a model on its way out.
type exported struct {
	*Model
	weights checkpoint.Reader // in full precision
	model   *models.Model
	spool   *spool.Spool // nil unless an adapter is merged
}

// openExport opens the model in full precision.
func openExport(o ExportOptions) (*exported, error) {
	var policy layers.Policy
	if o.Adapter != "" && !o.LoRA {
		policy.Param = tensor.F32 // a sum is rounded once, to what is written
	}
	m, err := OpenModel(o.Model, ModelOptions{FS: o.FS, Beside: o.Adapter, Policy: policy})
	if err != nil {
		return nil, err
	}
	x := &exported{Model: m, model: m.Model, weights: m.weights}
	if m.weights == nil {
		return nil, errors.Join(badConfig("model", "%s has no weights to export", o.Model), x.close())
	}
	z, ok := m.weights.(*checkpoint.Quantized)
	if !ok {
		return x, nil
	}
	if x.weights, err = z.Dequantized(); err != nil {
		return nil, errors.Join(err, x.close())
	}
	c := m.Config()
	c.Quantization = nil
	m.Source = layers.NewSource(layers.Options{Policy: policy, Weights: x.weights, Grow: models.OfVocabulary})
	if x.model, err = models.New(c, m.Source); err != nil {
		return nil, errors.Join(err, x.close())
	}
	return x, nil
}

func (x *exported) close() error {
	var errs []error
	if x.spool != nil {
		errs = append(errs, x.spool.Close())
	}
	return errors.Join(append(errs, x.Model.Close())...)
}

// keys is a config.json that leaves nothing to defaults.
func (x *exported) keys() ([]byte, error) {
	c := x.model.Config()
	c.File = nil
	keys, err := c.HF("float32")
	if err != nil {
		return nil, err
	}
	return json.Marshal(keys)
}

// adapter writes the adapter alone.
func (x *exported) adapter(o ExportOptions, keys []byte, t ggml.Type) (*llamacpp.Report, error) {
	if x.model.Config().Rope.Interleaved {
		return nil, withCode(config.ExitConfig, errors.New("an adapter of a llama2.c model cannot be written alone: merge it into the model and export that"))
	}
	saved, err := lora.Load(o.FS, o.Adapter)
	if err != nil {
		return nil, withCode(config.ExitInput, err)
	}
	pairs, err := saved.Pairs()
	if err != nil {
		return nil, withCode(config.ExitInput, fmt.Errorf("%s: %w", o.Adapter, err))
	}
	var parts []llamacpp.LowRank
	for _, p := range pairs {
		parts = append(parts, llamacpp.LowRank{Path: p.Path, A: p.A, B: p.B, Scale: p.Scale, Embedding: p.Embedding})
	}
	r, err := llamacpp.ExportLoRA(o.FS, o.Out, parts, x.weights, keys, llamacpp.ExportOptions{Type: t, Name: o.Name})
	return r, refused(err)
}

// merged puts the adapter into the weights: sums are formed in float32, and what changed lies on disk beside the output.
func (x *exported) merged(o ExportOptions) (checkpoint.Reader, error) {
	saved, err := lora.Load(o.FS, o.Adapter)
	if err != nil {
		return nil, withCode(config.ExitInput, err)
	}
	if x.spool, err = spool.New(x.Source, o.FS, vfs.TempName(o.Out)+".spool"); err != nil {
		return nil, err
	}
	a, err := lora.AttachSaved(x.model, saved, x.spool)
	if err != nil {
		return nil, withCode(config.ExitInput, err)
	}
	if err := a.Merge(x.spool); err != nil {
		return nil, err
	}
	if err := a.Remove(x.spool); err != nil {
		return nil, err
	}
	return newHeld(x.model, x.spool), nil
}

// ownVocabulary reports whether the model has the vocabulary of its file, and not the longer one of an adapter.
func (x *exported) ownVocabulary(g *llamacpp.Model) bool {
	t, ok := g.File().Tensor("token_embd.weight")
	return ok && t.Shape.Dim(0) == x.model.Config().Vocab
}

// vocabulary describes the tokenizer: as the GGUF file did that the model came from, else anew.
func (x *exported) vocabulary(o *llamacpp.ExportOptions) error {
	if g, ok := x.Model.weights.(*llamacpp.Model); ok && x.ownVocabulary(g) {
		o.Keep = []gguf.KV{}
		for _, kv := range g.File().Metadata() {
			if strings.HasPrefix(kv.Key, "tokenizer.") {
				o.Keep = append(o.Keep, kv)
			}
		}
		return nil
	}
	t, ok := x.Tokenizer.(interface {
		GGUF() (tokenizer.GGUF, error)
	})
	if x.Tokenizer != nil && !ok {
		return fmt.Errorf("the tokenizer of %T cannot be written into a GGUF file", x.Tokenizer)
	}
	if ok {
		g, err := t.GGUF()
		if err != nil {
			return withCode(config.ExitInput, err)
		}
		o.Tokenizer = &g
	}
	template, err := x.ChatTemplate("", nil)
	if template != nil {
		o.Template = template.Source()
	}
	return withCode(config.ExitInput, err)
}

// halfSplit serves weights with rotary pairs in the halves that Hugging Face has.
type halfSplit struct {
	checkpoint.Reader
	model *models.Model
}

func (h *halfSplit) Read(name string) (*tensor.Tensor, error) {
	t, err := h.Reader.Read(name)
	if err != nil {
		return nil, err
	}
	return h.model.ToHalfSplit(name, t)
}

// held serves a model's weights as the tensors that its family's files have, one after the other.
type held struct {
	names  []string
	pieces map[string]piece
	reader weightReader

	name string // of the tensor that was read last
	last *tensor.Tensor
}

func newHeld(m *models.Model, values layers.Reader) *held {
	h := &held{pieces: map[string]piece{}, reader: weightReader{model: m, values: values, held: map[*graph.Var]*tensor.Tensor{}}}
	for _, p := range layers.Params(m) {
		all := m.Pieces(p)
		for _, q := range all {
			h.names = append(h.names, q.Name)
			h.pieces[q.Name] = piece{q, p, len(all) == 1}
		}
	}
	return h
}

func (h *held) Names() []string { return h.names }

func (h *held) Type(name string) (tensor.Type, bool) {
	p, ok := h.pieces[name]
	if !ok {
		return tensor.Type{}, false
	}
	return tensor.Type{DType: p.param.Type.DType, Shape: p.Shape}, true
}

func (h *held) Read(name string) (*tensor.Tensor, error) {
	p, ok := h.pieces[name]
	if !ok {
		return nil, fmt.Errorf("no tensor %q", name)
	}
	if h.last != nil && h.name == name {
		return h.last, nil
	}
	t, err := h.reader.read(p)
	if err == nil {
		h.name, h.last = name, t
	}
	return t, err
}

func (h *held) ReadInto(name string, offset int64, b []byte) error {
	t, err := h.Read(name)
	if err != nil {
		return err
	}
	if n := int64(len(t.Bytes())); offset < 0 || offset > n || int64(len(b)) > n-offset {
		return fmt.Errorf("tensor %q: %d bytes at %d are outside its %d bytes", name, len(b), offset, n)
	}
	copy(b, t.Bytes()[offset:])
	return nil
}

func (h *held) Close() error { return nil }
