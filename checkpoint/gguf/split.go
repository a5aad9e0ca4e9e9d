package gguf

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
)

// The keys of a model in several files, each of which has its own tensors and only the first the model's metadata
// (llama.cpp, gguf-split).
const (
	splitNo      = "split.no"
	splitCount   = "split.count"
	splitTensors = "split.tensors.count"
)

// maxParts bounds the files that one of them can make the program open.
const maxParts = 1000

// partName is how gguf-split names parts, counted from 1.
var partName = regexp.MustCompile(`^(.*)-(\d{5})-of-(\d{5})\.gguf$`)

// small reads a key that holds a small count; 0 where there is none.
func (f *File) small(key string) (int, error) {
	v, ok := f.Value(key)
	if !ok {
		return 0, nil
	}
	n := -1
	switch v := v.(type) {
	case uint16:
		n = int(v)
	case uint32:
		n = int(min(v, 1<<30))
	case int32:
		n = int(v)
	}
	if n < 0 {
		return 0, f.bad("", fmt.Sprintf("metadata key %q is %v, which is no count", key, v), "")
	}
	return n, nil
}

// join takes the tensors of the other parts of a model in several files, which lie beside the first.
func (f *File) join(fsys vfs.FS) error {
	count, err := f.small(splitCount)
	if err != nil || count <= 1 {
		return err
	}
	const remedy = "keep the parts under the names that gguf-split gives, NAME-00001-of-00003.gguf, in one folder and name the first, or join them with llama-gguf-split --merge"
	m := partName.FindStringSubmatch(filepath.Base(f.path))
	switch {
	case count > maxParts:
		return f.bad("", fmt.Sprintf("it says that it is one of %d parts, more than %d", count, maxParts), "")
	case m == nil || m[3] != fmt.Sprintf("%05d", count):
		return f.bad("", fmt.Sprintf("it is one of %d parts, which its name does not say", count), remedy)
	case m[2] != "00001":
		return f.bad("", "it is part "+strings.TrimLeft(m[2], "0")+" of a model", remedy)
	}
	for no := 1; no < count; no++ {
		path := filepath.Join(filepath.Dir(f.path), fmt.Sprintf("%s-%05d-of-%s.gguf", m[1], no+1, m[3]))
		if err := f.take(fsys, path, no, count); err != nil {
			return err
		}
	}
	if n, err := f.small(splitTensors); err != nil || n != 0 && n != len(f.tensors) {
		return errors.Join(err, f.bad("", fmt.Sprintf("its parts hold %d tensors, it says %d", len(f.tensors), n), "fetch all parts again, of one version"))
	}
	return nil
}

// take adds the tensors of a part.
func (f *File) take(fsys vfs.FS, path string, no, count int) error {
	p, err := openPart(fsys, path)
	if errors.Is(err, fs.ErrNotExist) {
		return f.bad("", "part "+strconv.Quote(filepath.Base(path))+" is missing beside it", "fetch it too")
	}
	if err != nil {
		return err
	}
	f.parts = append(f.parts, p)
	gotNo, err := p.small(splitNo)
	if err != nil {
		return err
	}
	if gotCount, err := p.small(splitCount); err != nil || gotNo != no || gotCount != count {
		return errors.Join(err, p.bad("", fmt.Sprintf("it says that it is part %d of %d, its name says %d of %d", gotNo+1, gotCount, no+1, count), "fetch all parts again, of one version"))
	}
	for _, t := range p.tensors {
		if err := f.add(t); err != nil {
			return p.wrap(err)
		}
	}
	return nil
}
