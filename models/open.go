package models

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/checkpoint/gguf"
	"github.com/bitsandbyes/bitsandbyes/checkpoint/llamacpp"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
)

// OpenWeights opens a model on disk: a Hugging Face directory, a GGUF, llama2.c or gpt-nano file, or the folder that holds one. The reader serves its tensors under Hugging Face names; it must be closed by the caller. That of a GGUF file is a *llamacpp.Model,
// that of a quantized directory a *checkpoint.Quantized, from
// which a layers.Source takes weights as they are stored.
func OpenWeights(fsys vfs.FS, path string) (checkpoint.Reader, Config, error) {
	fsys = vfs.Or(fsys)
	info, err := fsys.Stat(path)
	if err != nil {
		return nil, Config{}, fmt.Errorf("model %s: %w", path, err)
	}
	if !info.IsDir() {
		return openFile(fsys, path)
	}
	if _, err := fsys.Stat(filepath.ToSlash(filepath.Join(path, "config.json"))); errors.Is(err, fs.ErrNotExist) {
		if file, err := checkpoint.FindLlama2C(fsys, path); err == nil {
			return openLlama2C(fsys, file)
		}
		if file, err := checkpoint.FindGPTNano(fsys, path); err == nil {
			return openGPTNano(fsys, file)
		}
		if file, ok := onlyBin(fsys, path); ok {
			return openLlama2C(fsys, file) // damaged: its own error says how
		}
	}
	d, err := checkpoint.OpenDir(fsys, path)
	if err != nil {
		if file, ferr := gguf.Find(fsys, path); ferr == nil {
			return openGGUF(fsys, file)
		} else if errors.Is(ferr, checkpoint.ErrFormat) {
			return nil, Config{}, ferr
		}
		return nil, Config{}, err
	}
	raw, err := d.Config()
	if err != nil {
		return nil, Config{}, errors.Join(err, d.Close())
	}
	c, err := ParseConfig(raw)
	if err != nil {
		return nil, Config{}, errors.Join(fmt.Errorf("%s: %w", path, err), d.Close())
	}
	r, err := asStored(d, c)
	if err != nil {
		return nil, Config{}, errors.Join(err, d.Close())
	}
	return r, c, nil
}

// asStored gives the reader of a quantized folder, which keeps weights in their codes.
func asStored(d *checkpoint.Dir, c Config) (checkpoint.Reader, error) {
	z, err := checkpoint.OpenQuantized(d, d.Path(), c.Quantization)
	switch {
	case err != nil:
		return nil, err
	case c.Quantization != nil:
		return z, nil
	}
	for _, name := range d.Names() {
		if len(z.Parts(name)) > 0 {
			return nil, &checkpoint.FormatError{File: d.Path(), Tensor: name, Reason: "it is stored quantized, but config.json has no quantization_config",
				Remedy: "use the config.json that was written with these weights"}
		}
	}
	return d, nil
}

// onlyBin returns the one .bin file of a folder that is not a tokenizer.
func onlyBin(fsys vfs.FS, dir string) (file string, ok bool) {
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return "", false
	}
	n := 0
	for _, e := range entries {
		if name := e.Name(); filepath.Ext(name) == ".bin" && !strings.HasPrefix(name, "tok") {
			file = filepath.Join(dir, name)
			n++
		}
	}
	return file, n == 1
}

// openFile opens a model that is one file.
func openFile(fsys vfs.FS, path string) (checkpoint.Reader, Config, error) {
	switch {
	case gguf.Is(fsys, path):
		return openGGUF(fsys, path)
	case checkpoint.IsGPTNano(fsys, path):
		return openGPTNano(fsys, path)
	case checkpoint.IsPickle(path):
		return nil, Config{}, checkpoint.RefusePickle(path)
	}
	return openLlama2C(fsys, path)
}

func openGPTNano(fsys vfs.FS, path string) (checkpoint.Reader, Config, error) {
	m, err := checkpoint.OpenGPTNano(fsys, path)
	if err != nil {
		return nil, Config{}, err
	}
	h := m.Config()
	c := Config{Type: "gpt2", Vocab: h.Vocab, Hidden: h.Embd, Intermediate: 4 * h.Embd, Layers: h.Layers, Heads: h.Heads, KVHeads: h.Heads,
		HeadDim: h.Embd / h.Heads, MaxPositions: h.Block, Eps: 1e-5, Act: "gelu_new", InitStd: 0.02, Pad: -1}
	return m, c, nil
}

func openGGUF(fsys vfs.FS, path string) (checkpoint.Reader, Config, error) {
	m, err := llamacpp.Open(fsys, path)
	if err != nil {
		return nil, Config{}, err
	}
	c, err := ParseConfig(m.Config())
	if err != nil {
		return nil, Config{}, errors.Join(&checkpoint.FormatError{File: path, Reason: "its metadata, as " + err.Error(), Remedy: "use a model that is supported"}, m.Close())
	}
	return m, c, nil
}

func openLlama2C(fsys vfs.FS, path string) (checkpoint.Reader, Config, error) {
	l, err := checkpoint.OpenLlama2C(fsys, path)
	if err != nil {
		return nil, Config{}, err
	}
	return l, llama2cConfig(l.Header()), nil
}

// llama2cConfig is the architecture of a llama2.c file: interleaved rotary pairs, theta 10,000, epsilon 1e-5.
func llama2cConfig(h checkpoint.Llama2CHeader) Config {
	return Config{
		Vocab: h.VocabSize, Hidden: h.Dim, Intermediate: h.HiddenDim, Layers: h.Layers, Heads: h.Heads, KVHeads: h.KVHeads,
		HeadDim: h.HeadDim(), MaxPositions: h.SeqLen, Eps: 1e-5, Rope: Rope{Theta: 10000, Interleaved: true}, Tied: h.Tied,
		InitStd: 0.02, BOS: []int32{1}, EOS: []int32{2}, Pad: -1,
	}
}

// OfVocabulary reports whether a weight of any family has a row for each token: the embedding, and a head that is not it. See
// layers.Options.Grow.
func OfVocabulary(name string) bool {
	return strings.HasSuffix(name, "embed_tokens.weight") || strings.HasSuffix(name, "wte.weight") || name == "lm_head.weight"
}

// CheckUnused refuses weights that a model leaves unread: the configuration is then not theirs. A tied
// model may come with a copy of its embedding as the head; buffers that are computed (inverse frequencies) are no weights.
func CheckUnused(r checkpoint.Reader, src layers.Source, m *Model) error {
	f, err := familyOf(m.config.Type)
	if err != nil {
		return err
	}
	for _, name := range src.Unused(r.Names(), append([]string{"rotary_emb.inv_freq"}, f.buffers...)...) {
		if m.config.Tied && name == "lm_head.weight" && sameTensor(r, name, m.Body.Table().Name) {
			continue
		}
		return fmt.Errorf("tensor %q: config.json describes a model without it; use the config.json that belongs to these weights", name)
	}
	return nil
}

func sameTensor(r checkpoint.Reader, a, b string) bool {
	x, err := r.Read(a)
	if err != nil {
		return false
	}
	y, err := r.Read(b)
	return err == nil && x.Type() == y.Type() && bytes.Equal(x.Bytes(), y.Bytes())
}
