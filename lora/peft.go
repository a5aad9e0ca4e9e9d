package lora

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// The files of an adapter folder, and how PEFT names a tensor in them: keyPrefix + module path + ".lora_A.weight".
const (
	configFile  = "adapter_config.json"
	weightsFile = "adapter_model.safetensors"
	keyPrefix   = "base_model.model."
	suffixA     = ".lora_A.weight"
	suffixB     = ".lora_B.weight"
)

// SaveInfo is what the files say beside the adapter itself.
type SaveInfo struct {
	// BaseModel is the path or hub name of the model that the adapter belongs to. Empty: what an adapter that was loaded said
	// before, null for a new one.
	BaseModel string
}

// Save writes the adapter in PEFT's layout into a folder, which is made if it does not exist: adapter_model.safetensors with A
// and B of every module in float32, and adapter_config.json. Each file is replaced whole or not at all, the configuration
// last, so that a new folder without one is recognised as unfinished. A configuration that was loaded keeps the keys that this
// package does not know. Values come from s.
func (a *Adapter) Save(fs vfs.FS, dir string, s layers.Reader, info SaveInfo) error {
	fs = vfs.Or(fs)
	config, err := a.peftConfig(info)
	if err != nil {
		return err
	}
	var weights []checkpoint.Named
	for _, m := range a.Modules {
		at, err := s.Get(m.Linear.A)
		if err != nil {
			return fmt.Errorf("lora: %s: %w", m.Path, err)
		}
		bt, err := s.Get(m.Linear.B)
		if err != nil {
			return fmt.Errorf("lora: %s: %w", m.Path, err)
		}
		weights = append(weights, checkpoint.Named{Name: keyPrefix + m.Path + suffixA, Tensor: at},
			checkpoint.Named{Name: keyPrefix + m.Path + suffixB, Tensor: bt})
	}
	if err := vfs.MkdirDurable(fs, dir); err != nil {
		return &checkpoint.DiskError{Path: dir, Err: err}
	}
	if err := checkpoint.WriteSafetensors(fs, filepath.Join(dir, weightsFile), weights, map[string]string{"format": "pt"}); err != nil {
		return err
	}
	path := filepath.Join(dir, configFile)
	if err := vfs.WriteAtomic(fs, path, config); err != nil {
		return &checkpoint.DiskError{Path: path, Err: err}
	}
	return nil
}

// Saved is an adapter read from PEFT's files, not yet part of a model.
type Saved struct {
	// Config is what the files say. Dropout may be changed before AttachSaved; rank and alpha belong to the weights.
	Config Config
	// BaseModel is base_model_name_or_path, "" when the file has none.
	BaseModel string

	dir     string
	fields  fields
	ranks   patterns
	alphas  patterns
	modules []savedModule
}

// savedModule is the adapter of one module, in float32.
type savedModule struct {
	path  string
	a, b  *tensor.Tensor // (r, in), (out, r)
	scale float64
}

// Modules lists the paths of the adapted modules, sorted.
func (s *Saved) Modules() []string {
	var out []string
	for _, m := range s.modules {
		out = append(out, m.path)
	}
	return out
}

// Load reads an adapter folder in PEFT's layout and checks it. Features of PEFT that change the numbers and are not
// implemented here are refused by name. Memory is bounded by the size of the weights file. Errors of the contents match
// checkpoint.ErrFormat.
func Load(fs vfs.FS, dir string) (*Saved, error) {
	fs = vfs.Or(fs)
	s, err := loadConfig(fs, dir)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, weightsFile)
	f, err := checkpoint.OpenSafetensors(fs, path)
	if err != nil {
		return nil, notAdapter(fs, dir, err)
	}
	err = s.readWeights(path, f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return s, nil
}

// notAdapter explains a missing file by what the folder holds instead.
func notAdapter(fs vfs.FS, dir string, err error) error {
	entries, readErr := fs.ReadDir(dir)
	if readErr != nil {
		return err
	}
	has := func(name string) bool {
		for _, e := range entries {
			if e.Name() == name {
				return true
			}
		}
		return false
	}
	switch {
	case has(weightsFile) && has(configFile):
		return err
	case has("adapter_model.bin"):
		return &checkpoint.FormatError{File: filepath.Join(dir, "adapter_model.bin"), Reason: "the weights are a PyTorch pickle, which can run code",
			Remedy: "load the adapter with PEFT and save it again: it then writes " + weightsFile}
	case has(weightsFile):
		return &checkpoint.FormatError{File: dir, Reason: configFile + " is missing", Remedy: "fetch it from where the adapter came from; a save that was interrupted must be repeated"}
	case has(configFile):
		return &checkpoint.FormatError{File: dir, Reason: weightsFile + " is missing", Remedy: "fetch it from where the adapter came from"}
	case has("config.json"):
		return &checkpoint.FormatError{File: dir, Reason: "the folder holds a model, not an adapter", Remedy: "give it as the model"}
	}
	return err
}

// readWeights takes the pairs A, B out of the weights file.
func (s *Saved) readWeights(path string, f *checkpoint.File) error {
	index := map[string]int{}
	for _, key := range f.Names() {
		bad := func(reason, remedy string) error {
			return &checkpoint.FormatError{File: path, Tensor: key, Reason: reason, Remedy: remedy}
		}
		module, isA, reason := splitKey(key)
		if reason != "" {
			return bad(reason, "merge the adapter into its base model with PEFT, or train one of plain LoRA on linear layers")
		}
		typ, _ := f.Type(key)
		if typ.Rank() != 2 || !typ.DType.IsFloat() {
			return bad(fmt.Sprintf("it is %v; an adapter's weight is a floating-point matrix", typ), "")
		}
		t, err := f.Read(key)
		if err == nil {
			t, err = t.Convert(tensor.F32)
		}
		if err != nil {
			return err
		}
		i, ok := index[module]
		if !ok {
			i = len(s.modules)
			index[module] = i
			s.modules = append(s.modules, savedModule{path: module})
		}
		if isA {
			s.modules[i].a = t
		} else {
			s.modules[i].b = t
		}
	}
	if len(s.modules) == 0 {
		return &checkpoint.FormatError{File: path, Reason: "it holds no adapter weights", Remedy: "fetch the adapter again"}
	}
	slices.SortFunc(s.modules, func(x, y savedModule) int { return strings.Compare(x.path, y.path) })
	return s.checkModules(path)
}

// splitKey takes a tensor's name apart, or says what kind of foreign tensor it is.
func splitKey(key string) (module string, isA bool, reason string) {
	rest, ok := strings.CutPrefix(key, keyPrefix)
	if !ok {
		return "", false, fmt.Sprintf("the name does not begin with %q", keyPrefix)
	}
	if m, ok := strings.CutSuffix(rest, suffixA); ok && m != "" {
		return m, true, ""
	}
	if m, ok := strings.CutSuffix(rest, suffixB); ok && m != "" {
		return m, false, ""
	}
	switch {
	case strings.Contains(rest, ".lora_embedding_"):
		return "", false, "it adapts an embedding, which is not supported"
	case strings.HasSuffix(rest, ".lora_magnitude_vector"):
		return "", false, "it is a DoRA magnitude, which is not supported"
	case strings.HasSuffix(rest, ".lora_B.bias"):
		return "", false, "it is a bias of an adapter, which is not supported"
	case !strings.Contains(rest, "lora_"):
		return "", false, "it is a whole weight saved beside the adapter, which is not supported"
	}
	return "", false, "it is not a weight of a LoRA adapter"
}

// checkModules checks that A and B of each module fit each other and the configuration, and sets the scales.
func (s *Saved) checkModules(path string) error {
	for i := range s.modules {
		m := &s.modules[i]
		bad := func(suffix, reason string) error {
			return &checkpoint.FormatError{File: path, Tensor: keyPrefix + m.path + suffix, Reason: reason, Remedy: "fetch the adapter again, both of its files"}
		}
		switch {
		case m.a == nil:
			return bad(suffixB, "there is no lora_A for it")
		case m.b == nil:
			return bad(suffixA, "there is no lora_B for it")
		}
		rank := m.a.Shape().Dim(0)
		if got := m.b.Shape().Dim(1); got != rank {
			return bad(suffixB, fmt.Sprintf("its rank is %d, that of lora_A is %d", got, rank))
		}
		want, alpha := float64(s.Config.Rank), s.Config.Alpha
		if v, ok := s.ranks.find(m.path); ok {
			want = v
		}
		if v, ok := s.alphas.find(m.path); ok {
			alpha = v
		}
		if float64(rank) != want {
			return bad(suffixA, fmt.Sprintf("its rank is %d, %s says %v", rank, configFile, want))
		}
		c := s.Config
		c.Rank, c.Alpha = rank, alpha
		m.scale = c.Scale()
	}
	return nil
}

// AttachSaved freezes the model and puts a saved adapter on exactly the modules that its weights name. The model is looked
// over first: when a module is missing or has another shape nothing is changed and the error, which matches
// checkpoint.ErrFormat, names the first. The weights go to values; with nil, Init hands them over later.
func AttachSaved(model any, s *Saved, values layers.Values) (*Adapter, error) {
	if err := s.fits(model); err != nil {
		return nil, err
	}
	if d := s.Config.Dropout; !(d >= 0 && d < 1) {
		return nil, fmt.Errorf("lora: dropout %v must satisfy 0 <= dropout < 1", d)
	}
	layers.SetTrainable(model, false)
	byPath := make(map[string]savedModule, len(s.modules))
	for _, m := range s.modules {
		byPath[m.path] = m
	}
	a := &Adapter{Config: s.Config, saved: s}
	layers.Modules(model, func(path string, p layers.Projection, replace func(layers.Projection)) {
		if m, ok := byPath[path]; ok {
			replace(a.newLinear(path, p, m.a.Shape().Dim(0), m.scale))
		}
	})
	if values == nil {
		return a, nil
	}
	return a, a.Init(values)
}

// initSaved hands over the values that were saved.
func (a *Adapter) initSaved(values layers.Values) error {
	byPath := make(map[string]savedModule, len(a.saved.modules))
	for _, m := range a.saved.modules {
		byPath[m.path] = m
	}
	for _, m := range a.Modules {
		saved := byPath[m.Path]
		a, err := saved.a.Convert(m.Linear.A.Type.DType)
		if err == nil {
			err = values.Set(m.Linear.A, a)
		}
		if err != nil {
			return err
		}
		b, err := saved.b.Convert(m.Linear.B.Type.DType)
		if err == nil {
			err = values.Set(m.Linear.B, b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// fits compares the adapter with the linear layers of a model.
func (s *Saved) fits(model any) error {
	found := map[string]layers.Projection{}
	var paths []string
	layers.Modules(model, func(path string, p layers.Projection, _ func(layers.Projection)) {
		if _, ok := found[path]; !ok {
			found[path] = p
			paths = append(paths, path)
		}
	})
	for _, m := range s.modules {
		p, ok := found[m.path]
		if !ok {
			return s.mismatch(m.path+suffixA, fmt.Sprintf("the model has no linear layer %s among its %d", m.path, len(paths)))
		}
		if _, ok := p.(*Linear); ok {
			return fmt.Errorf("lora: %s already has an adapter", m.path)
		}
		in, out := p.Features()
		if got := m.a.Shape().Dim(1); got != in {
			return s.mismatch(m.path+suffixA, fmt.Sprintf("it takes %d features, the model's %s takes %d", got, m.path, in))
		}
		if got := m.b.Shape().Dim(0); got != out {
			return s.mismatch(m.path+suffixB, fmt.Sprintf("it gives %d features, the model's %s gives %d", got, m.path, out))
		}
	}
	return nil
}

func (s *Saved) mismatch(key, reason string) error {
	remedy := "use the model that it was trained on"
	if s.BaseModel != "" {
		remedy += fmt.Sprintf("; its configuration names %q", s.BaseModel)
	}
	return &checkpoint.FormatError{File: filepath.Join(s.dir, weightsFile), Tensor: keyPrefix + key,
		Reason: "this adapter is for another model: " + reason, Remedy: remedy}
}
