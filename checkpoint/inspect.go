package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
)

// Kind is what Inspect found.
type Kind string

// The kinds of file and folder.
const (
	KindSafetensors Kind = "safetensors"
	KindModel       Kind = "model"      // a Hugging Face model folder
	KindAdapter     Kind = "adapter"    // a PEFT adapter folder
	KindLlama2C     Kind = "llama2.c"   // a llama2.c file, or a folder that holds one
	KindGPTNano     Kind = "gpt-nano"   // the JSON of a small GPT-2
	KindGGUF        Kind = "gguf"       // package checkpoint/gguf describes it
	KindRun         Kind = "run"        // the folder of a training run; its tensors are those of the newest intact checkpoint
	KindCheckpoint  Kind = "checkpoint" // one checkpoint of a run
)

// Info describes a file or a folder. It marshals to JSON.
type Info struct {
	Path        string            `json:"path"`
	Kind        Kind              `json:"kind"`
	Metadata    map[string]string `json:"metadata,omitempty"` // of the safetensors or GGUF header
	Config      json.RawMessage   `json:"config,omitempty"`   // config.json, adapter_config.json, state.json or the llama2.c header
	Files       []FileInfo        `json:"files,omitempty"`
	Tensors     []TensorInfo      `json:"tensors"`
	Elements    int64             `json:"elements"` // of all tensors
	Bytes       int64             `json:"bytes"`    // of all tensors
	ByDType     map[string]int64  `json:"bytes_by_dtype"`
	Checkpoints []CheckpointInfo  `json:"checkpoints,omitempty"`
	Quantized   *QuantizedInfo    `json:"quantization,omitempty"`
	Warnings    []string          `json:"warnings,omitempty"`
}

// TensorInfo describes one tensor; DType is a short name such as "bf16", or the file's own for a type that is not supported.
type TensorInfo struct {
	Name  string `json:"name"`
	DType string `json:"dtype"`
	Shape []int  `json:"shape"`
	Bytes int64  `json:"bytes"`
}

// FileInfo is a file that holds tensors.
type FileInfo struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"`
}

// CheckpointInfo is a checkpoint of a run; Problem is empty when it is intact.
type CheckpointInfo struct {
	Name    string `json:"name"`
	Step    int    `json:"step"`
	Intact  bool   `json:"intact"`
	Problem string `json:"problem,omitempty"`
}

// Inspect describes a safetensors or llama2.c file, a model, adapter, run or checkpoint folder. Only headers are read, except that
// the checkpoints of a run are verified whole.
func Inspect(fsys vfs.FS, path string) (Info, error) {
	fsys = vfs.Or(fsys)
	in := Info{Path: path, Tensors: []TensorInfo{}, ByDType: map[string]int64{}}
	st, err := fsys.Stat(path)
	if err != nil {
		return in, err
	}
	if st.IsDir() {
		return in, in.folder(fsys)
	}
	return in, in.file(fsys)
}

// FindLlama2C returns the path of the one llama2.c file of a folder; fs.ErrNotExist when there is none or more than one.
func FindLlama2C(fsys vfs.FS, dir string) (string, error) {
	fsys = vfs.Or(fsys)
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return "", err
	}
	var found []string
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".bin" {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if m, err := OpenLlama2C(fsys, path); err == nil {
			found = append(found, path)
			if err := m.Close(); err != nil {
				return "", err
			}
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%s: %d llama2.c files where one is expected: %w", dir, len(found), fs.ErrNotExist)
	}
	return found[0], nil
}

func (in *Info) file(fsys vfs.FS) error {
	if IsGPTNano(fsys, in.Path) {
		return in.gptNano(fsys, in.Path)
	}
	f, err := OpenSafetensors(fsys, in.Path)
	if err == nil {
		in.Kind, in.Metadata = KindSafetensors, f.Metadata()
		in.add(f, f)
		in.quantization(f, nil)
		return f.Close()
	}
	// A llama2.c file has no magic: the name decides which error the user sees when it is neither.
	m, merr := OpenLlama2C(fsys, in.Path)
	if merr == nil {
		in.llama2c(m)
		return m.Close()
	}
	if filepath.Ext(in.Path) == ".bin" {
		return merr
	}
	if foreign := in.unknown(fsys); foreign != nil && filepath.Ext(in.Path) != ".safetensors" {
		return foreign
	}
	return err
}

// unknown is an error for a file of no known kind; nil for what may be a damaged safetensors file: where the length and the first byte
// of a header stand.
func (in *Info) unknown(fsys vfs.FS) error {
	r, err := fsys.Open(in.Path)
	if err != nil {
		return err
	}
	head, err := readHead(r)
	if err = errors.Join(err, r.Close()); err != nil {
		return err
	}
	if len(head) > 8 && head[8] == '{' || refuseForeign(in.Path, head) != nil {
		return nil
	}
	return &FormatError{File: in.Path, Reason: "this is no file of a known kind",
		Remedy: "inspect reads .safetensors, .gguf, llama2.c and gpt-nano files, and the folders of models, adapters, checkpoints and runs"}
}

func (in *Info) folder(fsys vfs.FS) error {
	has := func(name string) bool {
		_, err := fsys.Stat(filepath.Join(in.Path, name))
		return err == nil
	}
	steps, err := NewRun(fsys, in.Path).list()
	switch {
	case err == nil && len(steps) > 0:
		return in.run(fsys)
	case has(manifestFile) && has(tensorsFile):
		return in.checkpoint(fsys)
	case has(modelFile) || has(indexFile):
		return in.model(fsys)
	case has("adapter_model.safetensors"):
		in.Kind = KindAdapter
		in.config(fsys, filepath.Join(in.Path, "adapter_config.json"))
		return in.tensors(fsys, filepath.Join(in.Path, "adapter_model.safetensors"))
	}
	if path, err := FindGPTNano(fsys, in.Path); err == nil && !has(configFile) {
		return in.gptNano(fsys, path)
	}
	if path, err := FindLlama2C(fsys, in.Path); err == nil {
		m, err := OpenLlama2C(fsys, path)
		if err != nil {
			return err
		}
		in.llama2c(m)
		return m.Close()
	}
	return in.model(fsys)
}

func (in *Info) model(fsys vfs.FS) error {
	d, err := OpenDir(fsys, in.Path)
	if err != nil {
		return err
	}
	in.Kind = KindModel
	in.config(fsys, filepath.Join(in.Path, configFile))
	files := d.Shards()
	in.Metadata = files[0].Metadata()
	in.add(d, files...)
	in.quantization(d, in.Config)
	return d.Close()
}

func (in *Info) run(fsys vfs.FS) error {
	in.Kind = KindRun
	r := NewRun(fsys, in.Path)
	folders, err := r.list()
	if err != nil {
		return err
	}
	newest := ""
	for _, f := range folders {
		c := CheckpointInfo{Name: f.name, Step: f.step, Intact: true}
		if _, err := r.verify(f.name); err != nil {
			c.Intact, c.Problem = false, err.Error()
		} else if newest == "" {
			newest = filepath.Join(r.dir, f.name)
		}
		in.Checkpoints = append(in.Checkpoints, c)
	}
	if newest == "" {
		in.Warnings = append(in.Warnings, ErrNoneIntact.Error())
		return nil
	}
	in.config(fsys, filepath.Join(newest, stateFile))
	return in.tensors(fsys, filepath.Join(newest, tensorsFile))
}

func (in *Info) checkpoint(fsys vfs.FS) error {
	in.Kind = KindCheckpoint
	m, err := readManifest(fsys, in.Path)
	if err != nil {
		return err
	}
	c := CheckpointInfo{Name: filepath.Base(in.Path), Step: int(m.Step), Intact: true}
	err = m.checkSizes(fsys, in.Path)
	if err == nil {
		err = m.checkDigests(fsys, in.Path)
	}
	if err != nil {
		c.Intact, c.Problem = false, err.Error()
	}
	in.Checkpoints = []CheckpointInfo{c}
	in.config(fsys, filepath.Join(in.Path, stateFile))
	return in.tensors(fsys, filepath.Join(in.Path, tensorsFile))
}

func (in *Info) tensors(fsys vfs.FS, path string) error {
	f, err := OpenSafetensors(fsys, path)
	if err != nil {
		return err
	}
	in.Metadata = f.Metadata()
	in.add(f, f)
	return f.Close()
}

func (in *Info) llama2c(m *Llama2C) {
	in.Kind = KindLlama2C
	if raw, err := json.Marshal(m.Header()); err == nil {
		in.Config = raw
	}
	in.Files = append(in.Files, FileInfo{filepath.Base(m.path), m.r.Size()})
	in.add(m)
}

func (in *Info) gptNano(fsys vfs.FS, path string) error {
	m, err := OpenGPTNano(fsys, path)
	if err != nil {
		return err
	}
	in.Kind = KindGPTNano
	if in.Config, err = json.Marshal(m.Config()); err != nil {
		return err
	}
	in.add(m)
	return nil
}

// config takes over a JSON file; a missing or broken one is a warning.
func (in *Info) config(fsys vfs.FS, path string) {
	raw, err := readSmall(fsys, path, maxConfig)
	if err == nil && !json.Valid(raw) {
		err = errors.New(path + " is not valid JSON")
	}
	if err != nil {
		in.Warnings = append(in.Warnings, err.Error())
		return
	}
	in.Config = raw
}

func (in *Info) add(r lister, files ...*File) {
	for _, name := range r.Names() {
		e, ok := r.lookup(name)
		if !ok {
			continue
		}
		size := e.end - e.begin
		in.Tensors = append(in.Tensors, TensorInfo{name, e.dtype(), e.typ.Shape.Dims(), size})
		in.Elements += int64(e.typ.Size())
		in.Bytes += size
		in.ByDType[e.dtype()] += size
	}
	for _, f := range files {
		in.Files = append(in.Files, FileInfo{filepath.Base(f.path), f.r.Size()})
	}
}

// lister is what Inspect needs of a reader.
type lister interface {
	Names() []string
	lookup(name string) (entry, bool)
}

// printable escapes what could act on a terminal.
func printable(name string) string {
	q := quoted(name)
	if q == `"`+name+`"` {
		return name
	}
	return q
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
