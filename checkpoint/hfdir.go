package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// The names of a Hugging Face model folder.
const (
	modelFile  = "model.safetensors"
	indexFile  = "model.safetensors.index.json"
	configFile = "config.json"
)

const (
	maxIndex  = 64 << 20
	maxConfig = 16 << 20
	maxShards = 10_000
)

// Dir is an open Hugging Face model folder: model.safetensors, or shards listed in model.safetensors.index.json.
type Dir struct {
	fsys   vfs.FS
	path   string
	shards []*File
	names  []string
	where  map[string]*File
}

// OpenDir opens a model folder and checks its index and the headers of all shards; tensor data stay on disk. A shard must be a
// regular file of the folder itself, or a link from a Hugging Face cache snapshot to its blobs. As in transformers, tensors of a
// shard that the index does not list belong to the model too.
func OpenDir(fsys vfs.FS, dir string) (*Dir, error) {
	fsys = vfs.Or(fsys)
	d := &Dir{fsys: fsys, path: dir, where: map[string]*File{}}
	if err := d.open(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// Path is the folder.
func (d *Dir) Path() string { return d.path }

// Names lists the tensors, shard by shard, in file order.
func (d *Dir) Names() []string { return slices.Clone(d.names) }

// Type returns a tensor's element type and shape.
func (d *Dir) Type(name string) (tensor.Type, bool) {
	if f := d.where[name]; f != nil {
		return f.Type(name)
	}
	return tensor.Type{}, false
}

// Read loads one tensor.
func (d *Dir) Read(name string) (*tensor.Tensor, error) {
	f, err := d.shard(name)
	if err != nil {
		return nil, err
	}
	return f.Read(name)
}

// ReadInto fills p with the bytes of a tensor from the given byte offset inside it.
func (d *Dir) ReadInto(name string, offset int64, p []byte) error {
	f, err := d.shard(name)
	if err != nil {
		return err
	}
	return f.ReadInto(name, offset, p)
}

// Shards returns the open files in the order of their names.
func (d *Dir) Shards() []*File { return slices.Clone(d.shards) }

// Config returns the bytes of config.json (at most 16 MiB); fs.ErrNotExist when there is none.
func (d *Dir) Config() ([]byte, error) { return d.File(configFile, maxConfig) }

// File returns the bytes of another file of the folder, at most limit; name must be a plain file name.
func (d *Dir) File(name string, limit int64) ([]byte, error) {
	if err := plainName(name); err != nil {
		return nil, fmt.Errorf("%s: %w", d.path, err)
	}
	return readSmall(d.fsys, filepath.Join(d.path, name), limit)
}

// Close closes all shards.
func (d *Dir) Close() error {
	var errs []error
	for _, f := range d.shards {
		errs = append(errs, f.Close())
	}
	d.shards = nil
	return errors.Join(errs...)
}

func (d *Dir) open() error {
	single := filepath.Join(d.path, modelFile)
	if _, err := d.fsys.Stat(single); err == nil {
		return d.add(modelFile)
	}
	path := filepath.Join(d.path, indexFile)
	raw, err := readSmall(d.fsys, path, maxIndex)
	if errors.Is(err, fs.ErrNotExist) {
		return d.nothing()
	}
	if err != nil {
		return err
	}
	weights, err := parseIndex(raw)
	if err != nil {
		return &FormatError{File: path, Reason: err.Error(), Remedy: "fetch the index again, or write it again with the shards"}
	}
	var files []string
	for _, file := range weights {
		files = append(files, file)
	}
	slices.Sort(files)
	files = slices.Compact(files)
	if len(files) > maxShards {
		return &FormatError{File: path, Reason: fmt.Sprintf("%d shards, more than %d", len(files), maxShards)}
	}
	for _, file := range files {
		if err := d.inside(path, file); err != nil {
			return err
		}
		if err := d.add(file); err != nil {
			return err
		}
	}
	return d.compare(path, weights)
}

// add opens one file and takes over its tensors.
func (d *Dir) add(file string) error {
	f, err := OpenSafetensors(d.fsys, filepath.Join(d.path, file))
	if err != nil {
		return err
	}
	d.shards = append(d.shards, f)
	for i := range f.entries {
		name := f.entries[i].name
		if other := d.where[name]; other != nil {
			return &FormatError{File: f.path, Tensor: name, Reason: "it is also in " + filepath.Base(other.path),
				Remedy: "remove the shards of another version from the folder, or fetch the model again"}
		}
		d.where[name] = f
		d.names = append(d.names, name)
	}
	return nil
}

// compare checks that each listed tensor lies in the shard that the index names.
func (d *Dir) compare(path string, weights map[string]string) error {
	for name, file := range weights {
		f := d.where[name]
		if f == nil {
			return &FormatError{File: path, Tensor: name, Reason: "the index places it in " + file + ", which does not hold it",
				Remedy: "index and shards are not of one version: fetch the model again"}
		}
		if filepath.Base(f.path) != file {
			return &FormatError{File: path, Tensor: name, Reason: "the index places it in " + file + ", it is in " + filepath.Base(f.path),
				Remedy: "index and shards are not of one version: fetch the model again"}
		}
	}
	return nil
}

// inside checks that a shard named by the index is a file of the folder, also after following links. The cache of the Hugging
// Face hub keeps files as links from snapshots/REVISION to ../../blobs.
func (d *Dir) inside(index, file string) error {
	path := filepath.Join(d.path, file)
	info, err := d.fsys.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &FormatError{File: index, Reason: "shard " + quoted(file) + " does not exist", Remedy: "fetch the missing shard"}
	}
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return &FormatError{File: index, Reason: "shard " + quoted(file) + " is not a regular file", Remedy: "replace it by the file itself"}
	}
	r, ok := d.fsys.(vfs.Resolver)
	if !ok {
		return nil
	}
	root, err := r.Resolve(d.path)
	if err != nil {
		return err
	}
	real, err := r.Resolve(path)
	if err != nil {
		return err
	}
	blobs := filepath.Join(filepath.Dir(filepath.Dir(root)), "blobs")
	if filepath.Dir(real) == root || (filepath.Dir(real) == blobs && filepath.Base(filepath.Dir(root)) == "snapshots") {
		return nil
	}
	return &FormatError{File: index, Reason: "shard " + quoted(file) + " is a link out of the model folder, to " + real,
		Remedy: "copy the file into the folder, or open the folder it lies in"}
}

// nothing says what the folder holds instead of a model.
func (d *Dir) nothing() error {
	entries, err := d.fsys.ReadDir(d.path)
	if err != nil {
		return err
	}
	for _, result := range []struct{ folder, file, remedy string }{
		{"model", modelFile, "give its model, %s"}, {"model", indexFile, "give its model, %s"},
		{"adapter", "adapter_model.safetensors", "name the base model as the model and %s as the adapter"},
	} {
		at := filepath.Join(d.path, result.folder)
		if _, err := d.fsys.Stat(filepath.Join(at, result.file)); err == nil {
			return &FormatError{File: d.path, Reason: "this is the folder of a run, not of a model", Remedy: fmt.Sprintf(result.remedy, at)}
		}
	}
	for _, e := range entries {
		name := e.Name()
		switch {
		case name == "adapter_model.safetensors":
			return &FormatError{File: d.path, Reason: "this folder holds an adapter, not a model", Remedy: "name the base model as the model and this folder as the adapter"}
		case strings.HasPrefix(name, "pytorch_model") || IsPickle(name):
			return &FormatError{File: filepath.Join(d.path, name), Reason: "the folder holds PyTorch pickles only", Remedy: pickleRemedy}
		case filepath.Ext(name) == ".gguf":
			return &FormatError{File: d.path, Reason: "the folder holds no " + modelFile + " but " + name, Remedy: "give the path of the GGUF file itself"}
		}
	}
	remedy := "give the folder of a Hugging Face model, or download the whole of it"
	if slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == configFile }) {
		remedy += "; pretraining from random weights takes the file " + filepath.Join(d.path, configFile) + " as its model"
	}
	return &FormatError{File: d.path, Reason: "neither " + modelFile + " nor " + indexFile + " is there", Remedy: remedy}
}

func (d *Dir) lookup(name string) (entry, bool) {
	if f := d.where[name]; f != nil {
		return f.lookup(name)
	}
	return entry{}, false
}

func (d *Dir) shard(name string) (*File, error) {
	if f := d.where[name]; f != nil {
		return f, nil
	}
	return nil, fmt.Errorf("%s: no tensor %s among its %d", d.path, quoted(name), len(d.names))
}

// parseIndex reads {"metadata": ..., "weight_map": {tensor: file}}; other keys are passed over.
func parseIndex(b []byte) (map[string]string, error) {
	s := &scanner{b: b}
	var weights map[string]string
	files := map[string]string{} // one string for each file name, whatever the number of tensors
	seen := map[string]bool{}
	err := s.object(maxName, func(key string) error {
		if seen[key] {
			return s.errorf("key %s occurs twice", quoted(key))
		}
		seen[key] = true
		if key != "weight_map" {
			return s.skip(0)
		}
		weights = map[string]string{}
		return s.object(maxName, func(name string) error { return weightEntry(s, weights, files, name) })
	})
	if err == nil {
		err = s.end()
	}
	if err == nil && len(weights) == 0 {
		err = errors.New("it has no weight_map, or an empty one")
	}
	return weights, err
}

func weightEntry(s *scanner, weights, files map[string]string, name string) error {
	if _, dup := weights[name]; dup {
		return s.errorf("tensor %s occurs twice", quoted(name))
	}
	if len(weights) == maxTensors {
		return s.errorf("more than %d tensors", maxTensors)
	}
	file, err := s.str(255)
	if err != nil {
		return err
	}
	if known, ok := files[file]; ok {
		weights[name] = known
		return nil
	}
	if err := plainName(file); err != nil {
		return s.errorf("tensor %s: %v", quoted(name), err)
	}
	if !strings.HasSuffix(file, ".safetensors") {
		return s.errorf("tensor %s: shard %s is not a .safetensors file", quoted(name), quoted(file))
	}
	files[file], weights[name] = file, file
	return nil
}

// plainName refuses what is not the name of a file inside its folder, on any system.
func plainName(name string) error {
	if name == "" || strings.HasPrefix(name, ".") || strings.ContainsAny(name, "/\\:\x00") || !filepath.IsLocal(name) {
		return fmt.Errorf("%s is not a plain file name, and paths out of the folder are refused", quoted(name))
	}
	return nil
}
