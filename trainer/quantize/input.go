package quantize

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/builtin"
	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// input is an open model.
type input struct {
	fsys   vfs.FS // of what is read
	path   string
	file   *checkpoint.File // a single file, or
	dir    *checkpoint.Dir  // a folder
	config []byte           // its config.json

	routers []string               // modules that send tokens to experts
	inOut   func(name string) bool // whether a weight is (in, out) in full precision and (out, in) in the layout of bitsandbytes
}

// maxConfig bounds config.json, maxSmall any other file that is copied.
const (
	maxConfig = 16 << 20
	maxSmall  = 256 << 20
)

func openInput(fsys vfs.FS, path string) (in *input, err error) {
	in = &input{fsys: fsys, path: path}
	if name, ok := strings.CutPrefix(path, builtin.Prefix); ok {
		dir, err := builtin.Dir(name)
		if err != nil {
			return nil, bad("", "%v", err)
		}
		in.fsys, in.path = builtin.FS{}, dir
	} else if in.path, err = checkpoint.Locate(fsys, path); err != nil {
		return nil, inputError{err}
	}
	info, err := in.fsys.Stat(in.path)
	if err != nil {
		return nil, inputError{err}
	}
	if !info.IsDir() {
		if in.file, err = checkpoint.OpenSafetensors(in.fsys, in.path); err != nil {
			return nil, inputError{err}
		}
		return in, nil
	}
	if in.dir, err = checkpoint.OpenDir(in.fsys, in.path); err != nil {
		return nil, inputError{err}
	}
	if in.config, err = in.dir.Config(); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%s: it holds weights and no config.json; fetch the whole model, or give its safetensors file alone", path)
		}
		return nil, errors.Join(inputError{err}, in.close())
	}
	return in, nil
}

func (in *input) close() error { return in.reader().Close() }

func (in *input) reader() checkpoint.Reader {
	if in.dir != nil {
		return in.dir
	}
	return in.file
}

// shards are the files of the input.
func (in *input) shards() []*checkpoint.File {
	if in.dir != nil {
		return in.dir.Shards()
	}
	return []*checkpoint.File{in.file}
}

// linears lists the weights that are those of linear layers. A folder of a known architecture says so itself; elsewhere names decide, which
// guessed tells.
func (in *input) linears() (out map[string]bool, guessed bool, err error) {
	if in.dir != nil {
		if c, err := models.ParseConfig(in.config); err == nil {
			out, err = in.declared(in.dir, c)
			return out, false, err
		}
	}
	in.inOut = func(string) bool { return false }
	out = map[string]bool{}
	for _, name := range in.reader().Names() {
		t, ok := in.reader().Type(name)
		out[name] = ok && looksLinear(name, t)
	}
	return out, true, nil
}

// declared asks the model.
func (in *input) declared(w layers.Weights, c models.Config) (map[string]bool, error) {
	src := layers.NewSource(layers.Options{Weights: w})
	m, err := models.New(c, src)
	if err != nil {
		return nil, inputError{err}
	}
	in.inOut = src.StoredInOut
	out := map[string]bool{}
	routers := map[string]bool{}
	layers.Mixtures(m, func(path string, _ *layers.MoE) { routers[path+".gate"] = true })
	layers.Modules(m, func(path string, p layers.Projection, _ func(layers.Projection)) {
		if l, ok := p.(*layers.Linear); ok && routers[path] {
			in.routers = append(in.routers, strings.TrimSuffix(src.File(l.Weight.Name), ".weight"))
			return
		}
		switch l := p.(type) {
		case *layers.Linear:
			out[src.File(l.Weight.Name)] = true
		case *layers.Conv1D:
			out[src.File(l.Weight.Name)] = true
		}
	})
	layers.GroupedModules(m, func(path string, p layers.Grouped, _ func(layers.Grouped)) {
		l, ok := p.(*layers.GroupedLinear)
		if !ok {
			return
		}
		for _, piece := range m.Pieces(layers.Param{Name: path, Type: l.Weight.Type}) {
			if t, ok := w.Type(piece.Name); ok && t.Rank() == 2 { // experts in one tensor have no form that bitsandbytes knows
				out[piece.Name] = true
			}
		}
	})
	return out, nil
}

// notLinear are parts of names of matrices that are no linear layers.
var notLinear = []string{"embed", "wte", "wpe", "norm", "ln_", "lora_", "shared.weight", "rotary", "position", "router", "relative_attention_bias"}

// looksLinear judges by name and shape.
func looksLinear(name string, t tensor.Type) bool {
	if t.Rank() != 2 || !t.DType.IsFloat() || t.DType == tensor.F64 || !strings.HasSuffix(name, ".weight") && name != "weight" {
		return false
	}
	for _, part := range notLinear {
		if strings.Contains(strings.ToLower(name), part) {
			return false
		}
	}
	return true
}

// choose decides what is quantized.
func (p *job) choose(in *input) error {
	for _, name := range in.reader().Names() {
		for _, mark := range []string{".quant_state.", ".SCB"} {
			if strings.Contains("."+name, mark) {
				return inputError{&checkpoint.FormatError{File: p.In, Tensor: name, Reason: "the model is quantized already",
					Remedy: "quantize the full-precision model, or `trainer dequantize` it first"}}
			}
		}
	}
	linear, guessed, err := in.linears()
	if err != nil {
		return err
	}
	excluded := map[string]bool{}
	for name, is := range linear {
		module := strings.TrimSuffix(name, ".weight")
		if is && !p.config.Skips(module) {
			p.weights[name] = true
		}
		for _, e := range p.Exclude {
			if (&checkpoint.Quantization{Skip: []string{e}}).Skips(module) {
				excluded[e] = true
			}
		}
	}
	for _, e := range p.Exclude {
		if !excluded[e] {
			return bad("exclude", "%q matches no linear layer of %s", e, p.In)
		}
	}
	if len(p.weights) == 0 {
		return inputError{fmt.Errorf("%s: it holds no weight of a linear layer that is left to quantize", p.In)}
	}
	if guessed && p.bnb {
		p.skipKept(in)
	}
	p.skip(in.routers)
	return nil
}

// skip names modules that stay in full precision in the configuration.
func (p *job) skip(modules []string) {
	if len(modules) == 0 {
		return
	}
	c := *p.config
	if c.Skip = slices.Clone(c.Skip); c.Skip == nil && p.bnb {
		c.Skip = []string{"lm_head"}
	}
	c.Skip = append(c.Skip, modules...)
	p.config = &c
}

// skipKept names every matrix that stays in full precision in the configuration: what transformers takes for a linear layer it expects to be
// quantized unless it is listed, whatever its name.
func (p *job) skipKept(in *input) {
	var skip []string
	for _, name := range in.reader().Names() {
		module, ok := strings.CutSuffix(name, ".weight")
		if t, _ := in.reader().Type(name); ok && t.Rank() == 2 && !p.weights[name] && !p.config.Skips(module) {
			skip = append(skip, module)
		}
	}
	p.skip(skip)
}

// copied are the endings of files that belong to a model beside its weights.
func copied(name string) bool {
	if strings.HasPrefix(name, ".") || name == "config.json" || strings.HasSuffix(name, ".safetensors.index.json") || strings.HasSuffix(name, ".bin.index.json") {
		return false
	}
	switch strings.ToLower(filepath.Ext(name)) {
	case ".json", ".txt", ".model", ".jinja", ".md", ".tiktoken":
		return true
	}
	return strings.HasPrefix(name, "LICENSE")
}

// quantization is how the input says that it is stored. A file has no configuration: what its weights hold counts.
func (in *input) quantization() (*checkpoint.Quantization, error) {
	if in.dir == nil {
		return &checkpoint.Quantization{Method: checkpoint.MethodBNB}, nil
	}
	var c struct {
		Quantization json.RawMessage `json:"quantization_config"`
	}
	if err := json.Unmarshal(in.config, &c); err != nil {
		return nil, inputError{fmt.Errorf("%s: config.json: %w", in.path, err)}
	}
	q, err := checkpoint.ParseQuantization(c.Quantization)
	if err != nil {
		return nil, inputError{fmt.Errorf("%s: config.json: %w", in.path, err)}
	}
	if q == nil {
		return nil, inputError{fmt.Errorf("%s: config.json has no quantization_config, so the model is in full precision", in.path)}
	}
	return q, nil
}
