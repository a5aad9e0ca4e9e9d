// Package checkpoint reads and writes models on disk: safetensors files, Hugging Face model folders, llama2.c files, and the
// crash-safe checkpoints of a training run.
//
// Every file may come from a stranger. Readers check all counts, sizes and offsets against the length of the file before they
// allocate, and never load tensor data at open: a tensor is read with pread when it is asked for, into a buffer of exactly its
// size. Files are not mapped, because a mapped file that another process truncates kills the program.
//
// Functions that touch files take a file system first, so that tests can let it fail; nil is the operating system's.
//
// Errors of a file's contents match ErrFormat; errors of the disk while writing match ErrDisk.
package checkpoint

import (
	"fmt"
	"io"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Reader gives access to named tensors in a file or a folder. Read and ReadInto may be called from several goroutines.
type Reader interface {
	// Names lists the tensors in file order.
	Names() []string
	// Type returns a tensor's element type and shape; ok is false when there is no such tensor. The element type is Invalid when
	// package tensor does not have it (8-bit floats): such a tensor cannot be Read, but ReadInto gives its bytes.
	Type(name string) (t tensor.Type, ok bool)
	// Read loads one tensor.
	Read(name string) (*tensor.Tensor, error)
	// ReadInto fills p with the bytes of a tensor from the given byte offset inside it (row-major, little-endian).
	ReadInto(name string, offset int64, p []byte) error
	// Close closes the files; tensors already read stay valid.
	Close() error
}

var (
	_ Reader = (*File)(nil)
	_ Reader = (*Dir)(nil)
	_ Reader = (*Llama2C)(nil)
)

// Named is a tensor with its name in a file.
type Named struct {
	Name   string
	Tensor *tensor.Tensor
}

// Spec is the name and type of a tensor whose contents come later.
type Spec struct {
	Name string
	Type tensor.Type
}

// entry is where a tensor lies: bytes begin..end of the file's data section.
type entry struct {
	name       string
	typ        tensor.Type
	foreign    string // the file's name of an element type that package tensor does not have; typ.DType is then Invalid
	begin, end int64
}

// store is the part that the one-file readers share: entries over an open file whose data section starts at base.
type store struct {
	path    string
	r       vfs.Reader
	base    int64
	entries []entry
	index   map[string]int
}

// Names lists the tensors in file order.
func (s *store) Names() []string {
	out := make([]string, len(s.entries))
	for i := range s.entries {
		out[i] = s.entries[i].name
	}
	return out
}

// Type returns a tensor's element type and shape.
func (s *store) Type(name string) (tensor.Type, bool) {
	e, ok := s.lookup(name)
	return e.typ, ok
}

// Read loads one tensor. A bool other than 0 and 1 is an error.
func (s *store) Read(name string) (*tensor.Tensor, error) {
	e, err := s.entry(name)
	if err != nil {
		return nil, err
	}
	if e.foreign != "" {
		return nil, &FormatError{File: s.path, Tensor: name, Reason: "dtype " + e.foreign + " is not supported", Remedy: "convert the tensor to BF16, F16 or F32"}
	}
	t := tensor.New(e.typ)
	if err := s.ReadInto(name, 0, t.Bytes()); err != nil {
		return nil, err
	}
	if e.typ.DType == tensor.Bool {
		for i, b := range t.Bytes() {
			if b > 1 {
				return nil, &FormatError{File: s.path, Tensor: name, Reason: fmt.Sprintf("element %d of a BOOL tensor is %d", i, b),
					Remedy: "only 0 and 1 are booleans: write the tensor as U8"}
			}
		}
	}
	return t, nil
}

// ReadInto fills p with the bytes of a tensor from the given byte offset inside it.
func (s *store) ReadInto(name string, offset int64, p []byte) error {
	e, err := s.entry(name)
	if err != nil {
		return err
	}
	size := e.end - e.begin
	if offset < 0 || offset > size || int64(len(p)) > size-offset {
		return fmt.Errorf("%s: tensor %q: %d bytes at %d are outside its %d bytes", s.path, name, len(p), offset, size)
	}
	if len(p) == 0 {
		return nil
	}
	n, err := s.r.ReadAt(p, s.base+e.begin+offset)
	if n == len(p) {
		return nil
	}
	if err == io.EOF {
		return &FormatError{File: s.path, Tensor: name, Reason: "the file became shorter while it was open",
			Remedy: "do not change a model's files in place: write a new file and rename it"}
	}
	return fmt.Errorf("%s: tensor %q: %w", s.path, name, err)
}

// Close closes the file.
func (s *store) Close() error { return s.r.Close() }

func (s *store) lookup(name string) (entry, bool) {
	i, ok := s.index[name]
	if !ok {
		return entry{}, false
	}
	return s.entries[i], true
}

func (s *store) entry(name string) (entry, error) {
	e, ok := s.lookup(name)
	if !ok {
		return e, fmt.Errorf("%s: no tensor %s among its %d", s.path, quoted(name), len(s.entries))
	}
	return e, nil
}
