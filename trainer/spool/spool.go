// Package spool keeps what changes of a model on disk while the rest is read from its files.
package spool

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Spool is a store on disk: what was set lies in a temporary file, everything else is read from the model's source each time, so that no more
// of a model is in memory than the tensor at hand. It implements layers.Memory. Not for concurrent use.
type Spool struct {
	src  layers.Reader
	fsys vfs.FS
	path string
	file vfs.File
	size int64
	at   map[*graph.Var]int64
}

var _ layers.Memory = (*Spool)(nil)

// New makes the temporary file, replacing one that a crash left. Errors of the disk match checkpoint.ErrDisk.
func New(src layers.Reader, fsys vfs.FS, path string) (*Spool, error) {
	if err := fsys.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, disk(path, err)
	}
	f, err := fsys.Create(path)
	if err != nil {
		return nil, disk(path, err)
	}
	return &Spool{src: src, fsys: fsys, path: path, file: f, at: map[*graph.Var]int64{}}, nil
}

// Set implements layers.Values. The bytes of a value that is set again are left behind.
func (s *Spool) Set(v *graph.Var, t *tensor.Tensor) error {
	if t.Type() != v.Type {
		return fmt.Errorf("%s is %v, it cannot hold %v", v.Name, v.Type, t.Type())
	}
	if _, err := s.file.Write(t.Bytes()); err != nil {
		return disk(s.path, err)
	}
	s.at[v] = s.size
	s.size += int64(len(t.Bytes()))
	return nil
}

// Get implements layers.Reader.
func (s *Spool) Get(v *graph.Var) (*tensor.Tensor, error) {
	at, ok := s.at[v]
	if !ok {
		return s.src.Get(v)
	}
	t := tensor.New(v.Type)
	if _, err := s.file.ReadAt(t.Bytes(), at); err != nil {
		return nil, disk(s.path, err)
	}
	return t, nil
}

// Drop implements layers.Memory. What was set stays until the end: it may have become a part of the model.
func (s *Spool) Drop(*graph.Var) error { return nil }

// Original reads a variable from the source, whatever was set.
func (s *Spool) Original(v *graph.Var) (*tensor.Tensor, error) { return s.src.Get(v) }

// Changed reports whether a variable was set.
func (s *Spool) Changed(v *graph.Var) bool {
	_, ok := s.at[v]
	return ok
}

// Close removes the file.
func (s *Spool) Close() error {
	return errors.Join(s.file.Close(), s.fsys.Remove(s.path))
}

func disk(path string, err error) error { return &checkpoint.DiskError{Path: path, Err: err} }
