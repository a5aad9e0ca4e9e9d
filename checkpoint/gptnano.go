package checkpoint

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// GPTNanoConfig is the "config" of a gpt-nano file: the arguments of minGPT (https://github.com/karpathy/minGPT).
type GPTNanoConfig struct {
	Layers int `json:"n_layer"`
	Heads  int `json:"n_head"`
	Embd   int `json:"n_embd"`
	Vocab  int `json:"vocab_size"`
	Block  int `json:"block_size"` // positions
}

// GPTNano is an open gpt-nano file, the JSON in which llm-viz keeps small models of minGPT: {"config": {...}, "transformer.wte.weight":
// {"shape": [...], "dtype": "torch.float32", "data": base64}, ...}. Tensors have the names and the layout of a Hugging Face GPT-2: the
// matrices of c_attn, c_proj and c_fc, stored (out, in), are given (in, out). Causal masks are left out.
type GPTNano struct {
	path   string
	config GPTNanoConfig
	names  []string
	values map[string]*tensor.Tensor
}

var _ Reader = (*GPTNano)(nil)

// maxGPTNano bounds the file, which is read whole: the largest model that its program shows as JSON is far smaller.
const maxGPTNano = 256 << 20

// IsGPTNano reports whether a file begins as a gpt-nano file does.
func IsGPTNano(fsys vfs.FS, path string) bool {
	r, err := vfs.Or(fsys).Open(path)
	if err != nil {
		return false
	}
	head := make([]byte, min(r.Size(), 256))
	_, err = r.ReadAt(head, 0)
	if r.Close() != nil || err != nil && len(head) == 0 {
		return false
	}
	s := &scanner{b: head}
	if s.expect('{') != nil || s.peek() != '"' {
		return false
	}
	key, err := s.str(maxName)
	return err == nil && key == "config" && s.peek() == ':'
}

// FindGPTNano returns the path of the one gpt-nano file of a folder; fs.ErrNotExist when there is none or more than one.
func FindGPTNano(fsys vfs.FS, dir string) (string, error) {
	fsys = vfs.Or(fsys)
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return "", err
	}
	var found []string
	for _, e := range entries {
		if path := filepath.Join(dir, e.Name()); strings.EqualFold(filepath.Ext(path), ".json") && IsGPTNano(fsys, path) {
			found = append(found, path)
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%s: %d gpt-nano files where one is expected: %w", dir, len(found), fs.ErrNotExist)
	}
	return found[0], nil
}

// OpenGPTNano reads a gpt-nano file. Errors of its contents match ErrFormat.
func OpenGPTNano(fsys vfs.FS, path string) (*GPTNano, error) {
	data, err := vfs.ReadFile(vfs.Or(fsys), path, maxGPTNano)
	if err != nil {
		return nil, err
	}
	m := &GPTNano{path: path, values: map[string]*tensor.Tensor{}}
	if err := m.parse(data); err != nil {
		return nil, &FormatError{File: path, Reason: err.Error(), Remedy: "a gpt-nano file has a config and float32 tensors in base64, as llm-viz writes them: fetch it again"}
	}
	return m, nil
}

// Config returns the dimensions of the model.
func (m *GPTNano) Config() GPTNanoConfig { return m.config }

func (m *GPTNano) parse(data []byte) error {
	s := &scanner{b: data}
	seen := map[string]bool{}
	err := s.object(maxName, func(key string) error {
		switch {
		case seen[key]:
			return s.errorf("key %s occurs twice", quoted(key))
		case len(seen) == maxTensors:
			return s.errorf("more than %d tensors", maxTensors)
		}
		seen[key] = true
		if key == "config" {
			return m.parseConfig(s)
		}
		t, err := gptNanoTensor(s)
		if err != nil {
			return fmt.Errorf("tensor %s: %w", quoted(key), err)
		}
		if strings.HasSuffix(key, ".attn.bias") {
			return nil // the causal mask
		}
		if conv1D(key) && t.Shape().Rank() == 2 {
			if t, err = t.Transpose(); err != nil {
				return err
			}
		}
		m.names, m.values[key] = append(m.names, key), t
		return nil
	})
	if err == nil {
		err = s.end()
	}
	if err == nil && !seen["config"] {
		err = errors.New("it has no config")
	}
	return err
}

// conv1D reports whether GPT-2 stores a weight (in, out).
func conv1D(name string) bool {
	for _, suffix := range []string{".c_attn.weight", ".c_proj.weight", ".c_fc.weight"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}

func (m *GPTNano) parseConfig(s *scanner) error {
	c := &m.config
	known := map[string]*int{"n_layer": &c.Layers, "n_head": &c.Heads, "n_embd": &c.Embd, "vocab_size": &c.Vocab, "block_size": &c.Block}
	err := s.object(maxName, func(key string) error {
		at, ok := known[key]
		if !ok {
			return s.skip(0) // its name, dropout of training
		}
		n, err := s.uint()
		if err == nil && (n < 1 || n > 1<<24) {
			return s.errorf("%s is %d, it must be between 1 and %d", key, n, 1<<24)
		}
		*at = int(n)
		return err
	})
	if err != nil {
		return err
	}
	for _, key := range sortedKeys(known) {
		if *known[key] == 0 {
			return fmt.Errorf("config: %s is missing", key)
		}
	}
	if c.Embd%c.Heads != 0 {
		return fmt.Errorf("config: n_embd %d is not a multiple of n_head %d", c.Embd, c.Heads)
	}
	return nil
}

// gptNanoTensor reads one tensor.
func gptNanoTensor(s *scanner) (*tensor.Tensor, error) {
	var dims []int
	var dtype, data string
	have := map[string]bool{}
	err := s.object(maxName, func(key string) (err error) {
		have[key] = true
		switch key {
		case "shape":
			dims = dims[:0]
			return s.array(func() error {
				n, err := s.uint()
				if err == nil && len(dims) == tensor.MaxRank {
					return s.errorf("more than %d axes", tensor.MaxRank)
				}
				dims = append(dims, int(n))
				return err
			})
		case "dtype":
			dtype, err = s.str(maxName)
			return err
		case "data":
			data, err = s.str(len(s.b))
			return err
		}
		return s.skip(0)
	})
	switch {
	case err != nil:
		return nil, err
	case !have["shape"] || !have["dtype"] || !have["data"]:
		return nil, errors.New("it needs shape, dtype and data")
	case dtype != "torch.float32":
		return nil, fmt.Errorf("its dtype is %s, only torch.float32 is known", quoted(dtype))
	}
	shape := tensor.S(dims...)
	if size := base64.StdEncoding.DecodedLen(len(data)); !shape.Valid() || shape.Size() > size/4 {
		return nil, fmt.Errorf("shape %v does not fit %d characters of data", dims, len(data))
	}
	raw, err := base64.StdEncoding.DecodeString(data)
	if err != nil {
		return nil, fmt.Errorf("its data: %w", err)
	}
	if len(raw) != 4*shape.Size() {
		return nil, fmt.Errorf("shape %v needs %d bytes, the data have %d", dims, 4*shape.Size(), len(raw))
	}
	t := tensor.New(tensor.Type{DType: tensor.F32, Shape: shape})
	copy(t.Bytes(), raw)
	return t, nil
}

// Names lists the tensors in file order.
func (m *GPTNano) Names() []string { return append([]string(nil), m.names...) }

// Type returns a tensor's element type and shape.
func (m *GPTNano) Type(name string) (tensor.Type, bool) {
	t, ok := m.values[name]
	if !ok {
		return tensor.Type{}, false
	}
	return t.Type(), true
}

// Read gives a copy of one tensor.
func (m *GPTNano) Read(name string) (*tensor.Tensor, error) {
	t, ok := m.values[name]
	if !ok {
		return nil, fmt.Errorf("%s: no tensor %s among its %d", m.path, quoted(name), len(m.names))
	}
	return t.Clone(), nil
}

// ReadInto fills p with the bytes of a tensor from the given byte offset inside it.
func (m *GPTNano) ReadInto(name string, offset int64, p []byte) error {
	t, ok := m.values[name]
	if !ok {
		return fmt.Errorf("%s: no tensor %s among its %d", m.path, quoted(name), len(m.names))
	}
	b := t.Bytes()
	if offset < 0 || offset > int64(len(b)) || int64(len(p)) > int64(len(b))-offset {
		return fmt.Errorf("%s: tensor %s: %d bytes at %d are outside its %d bytes", m.path, quoted(name), len(p), offset, len(b))
	}
	copy(p, b[offset:])
	return nil
}

func (m *GPTNano) lookup(name string) (entry, bool) {
	t, ok := m.Type(name)
	return entry{name: name, typ: t, end: t.Bytes()}, ok
}

// Close does nothing: the file was read whole.
func (m *GPTNano) Close() error { return nil }
