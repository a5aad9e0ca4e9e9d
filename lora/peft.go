package lora

import (
	"errors"
	"path/filepath"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// The files of an adapter folder, and how PEFT names a tensor in them: keyPrefix + module path + ".lora_A.weight".
const (
	configFile  = "adapter_config.json"
	weightsFile = "adapter_model.safetensors"
	keyPrefix   = "base_model.model."
)

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
	modules []*savedModule
	whole   map[string]*tensor.Tensor // by key without the prefix
	tokens  map[string]*tensor.Tensor // by the path of the embedding
	bases   map[string]*tensor.Tensor // weights of adapted embeddings and heads, by path
}

// savedModule is the adapter of one module.
type savedModule struct {
	path      string
	embedding bool
	experts   int                       // 0 = none
	tensors   map[string]*tensor.Tensor // float32, by name below the path
	rank      int
	scale     float64
}

// a and b are the names of A and B.
func (m *savedModule) a() string {
	if m.embedding {
		return "lora_embedding_A"
	}
	return "lora_A.weight"
}

func (m *savedModule) b() string {
	if m.embedding {
		return "lora_embedding_B"
	}
	return "lora_B.weight"
}

// Modules lists the paths of the adapted modules, sorted.
func (s *Saved) Modules() []string {
	var out []string
	for _, m := range s.modules {
		out = append(out, m.path)
	}
	return out
}

// Load reads an adapter folder in PEFT's layout, or the name of one in the local cache (see checkpoint.Locate), and checks it. Features of PEFT that change the numbers and are not
// implemented here are refused by name. Memory is bounded by the size of the weights file. Errors of the contents match
// checkpoint.ErrFormat.
func Load(fs vfs.FS, dir string) (*Saved, error) {
	fs = vfs.Or(fs)
	dir, err := checkpoint.Locate(fs, dir)
	if err != nil {
		return nil, err
	}
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

// adapterFolder is where a run keeps its adapter.
const adapterFolder = "adapter"

// notAdapter explains a missing file by what the folder holds instead.
func notAdapter(fs vfs.FS, dir string, err error) error {
	entries, readErr := fs.ReadDir(dir)
	if readErr != nil {
		return err
	}
	if filepath.Base(dir) != adapterFolder {
		if _, statErr := fs.Stat(filepath.Join(dir, adapterFolder, configFile)); statErr == nil {
			return &checkpoint.FormatError{File: dir, Reason: "the folder is no adapter but holds one, as a run's does", Remedy: "give " + filepath.Join(dir, adapterFolder)}
		}
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
