package merge

import (
	"errors"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// spool is a store on disk: what was set lies in a temporary file, everything else is read from the model's source each time, so that no more
// of a model is in memory than the tensor at hand. It implements layers.Memory.
type spool struct {
	src  layers.Reader
	fsys vfs.FS
	path string
	file vfs.File
	size int64
	at   map[*graph.Var]int64
}

func newSpool(src layers.Reader, fsys vfs.FS, path string) (*spool, error) {
	f, err := fsys.Create(path)
	if err != nil {
		return nil, err
	}
	return &spool{src: src, fsys: fsys, path: path, file: f, at: map[*graph.Var]int64{}}, nil
}

// Set implements layers.Values. The bytes of a value that is set again are left behind.
func (s *spool) Set(v *graph.Var, t *tensor.Tensor) error {
	if t.Type() != v.Type {
		return fmt.Errorf("%s is %v, it cannot hold %v", v.Name, v.Type, t.Type())
	}
	if _, err := s.file.Write(t.Bytes()); err != nil {
		return diskError{err}
	}
	s.at[v] = s.size
	s.size += int64(len(t.Bytes()))
	return nil
}

// Get implements layers.Reader.
func (s *spool) Get(v *graph.Var) (*tensor.Tensor, error) {
	at, ok := s.at[v]
	if !ok {
		return s.src.Get(v)
	}
	t := tensor.New(v.Type)
	if _, err := s.file.ReadAt(t.Bytes(), at); err != nil {
		return nil, diskError{err}
	}
	return t, nil
}

// Drop implements layers.Memory. What was set stays until the end: it may have become a part of the model.
func (s *spool) Drop(*graph.Var) error { return nil }

// changed reports whether a variable was set.
func (s *spool) changed(v *graph.Var) bool {
	_, ok := s.at[v]
	return ok
}

func (s *spool) close() error {
	return errors.Join(s.file.Close(), s.fsys.Remove(s.path))
}
