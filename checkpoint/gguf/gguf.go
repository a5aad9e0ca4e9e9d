// Package gguf reads and writes GGUF files, the container of llama.cpp: typed metadata in an order that is kept, then tensors in the block
// formats of package ggml (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). What architectures, names and vocabularies mean is
// the business of package llamacpp.
//
// Every file may come from a stranger: counts, lengths, offsets and the alignment are checked against the length of the file before
// anything is allocated, and tensor data stay on disk until they are asked for.
package gguf

import (
	"errors"
	"fmt"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/quant/ggml"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// KV is an entry of the metadata. Value is a uint8, int8, uint16, int16, uint32, int32, uint64, int64, float32, float64, bool or string,
// or a slice of one of these.
type KV struct {
	Key   string
	Value any
}

// Info says what a tensor is and where its blocks lie. Shape is rows first, as everywhere here; the file lists it the other way round.
type Info struct {
	Name   string
	Type   ggml.Type
	Shape  tensor.Shape
	Offset int64 // from the beginning of the file
	Bytes  int64

	from vfs.Reader // the file, which may be one of several
}

// File is an open file. Read, ReadInto, ReadRaw and Decode may be called from several goroutines.
type File struct {
	path    string
	r       vfs.Reader
	version uint32
	align   int64
	base    int64 // where tensor data begin
	kvs     []KV
	keys    map[string]int
	tensors []Info
	index   map[string]int
	parts   []*File // the others of a model in several files
}

var _ checkpoint.Reader = (*File)(nil)

// Magic is what a file begins with.
const Magic = "GGUF"

// Is reports whether a file begins as a GGUF file does. A folder does not, nor does what cannot be read.
func Is(fsys vfs.FS, path string) bool {
	fsys = vfs.Or(fsys)
	if info, err := fsys.Stat(path); err != nil || !info.Mode().IsRegular() {
		return false
	}
	r, err := fsys.Open(path)
	if err != nil {
		return false
	}
	var head [len(Magic)]byte
	n, _ := r.ReadAt(head[:], 0)
	return r.Close() == nil && string(head[:n]) == Magic
}

// Open opens a file of version 2 or 3 and checks its header. If it is the first of a model in several files, the others are opened too
// and their tensors belong to it. Errors of the contents match checkpoint.ErrFormat.
func Open(fsys vfs.FS, path string) (*File, error) {
	f, err := openPart(fsys, path)
	if err != nil {
		return nil, err
	}
	if err := f.join(fsys); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func openPart(fsys vfs.FS, path string) (*File, error) {
	r, err := vfs.Or(fsys).Open(path)
	if err != nil {
		return nil, err
	}
	f, err := newFile(path, r)
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return f, nil
}

// Path is the file.
func (f *File) Path() string { return f.path }

// Version is that of the format.
func (f *File) Version() int { return int(f.version) }

// Alignment is the multiple, in bytes, at which tensors begin.
func (f *File) Alignment() int64 { return f.align }

// Metadata returns all entries in the order of the file. Slices are shared: they must not be changed.
func (f *File) Metadata() []KV { return slices.Clone(f.kvs) }

// Value returns the value of a key.
func (f *File) Value(key string) (v any, ok bool) {
	i, ok := f.keys[key]
	if !ok {
		return nil, false
	}
	return f.kvs[i].Value, true
}

// Tensors lists the tensors in file order.
func (f *File) Tensors() []Info { return slices.Clone(f.tensors) }

// Tensor returns what is known of a tensor.
func (f *File) Tensor(name string) (t Info, ok bool) {
	i, ok := f.index[name]
	if !ok {
		return Info{}, false
	}
	return f.tensors[i], true
}

// Names lists the tensors in file order.
func (f *File) Names() []string {
	out := make([]string, len(f.tensors))
	for i := range f.tensors {
		out[i] = f.tensors[i].Name
	}
	return out
}

// Type returns the element type and shape of what Read gives: blocks are decoded to float32. The element type is Invalid for block
// formats that package ggml does not decode.
func (f *File) Type(name string) (tensor.Type, bool) {
	t, ok := f.Tensor(name)
	if !ok {
		return tensor.Type{}, false
	}
	return t.Decoded(), true
}

// Decoded is the type of the values, see File.Type.
func (t Info) Decoded() tensor.Type {
	d := t.Type.Stored()
	if d == tensor.Invalid && t.Type.CanDecode() {
		d = tensor.F32
	}
	return tensor.Type{DType: d, Shape: t.Shape}
}

// Read loads one tensor, decoded.
func (f *File) Read(name string) (*tensor.Tensor, error) {
	t, err := f.decodable(name)
	if err != nil {
		return nil, err
	}
	out := tensor.New(t.Decoded())
	if t.Type.Stored() != tensor.Invalid {
		return out, f.ReadRaw(name, 0, out.Bytes())
	}
	return out, f.Decode(name, tensor.Data[float32](out), 0)
}

// ReadInto fills p with bytes of the decoded tensor (row-major, little-endian) from the given byte offset inside it.
func (f *File) ReadInto(name string, offset int64, p []byte) error {
	t, err := f.decodable(name)
	if err != nil {
		return err
	}
	if size := t.Decoded().Bytes(); offset < 0 || offset > size || int64(len(p)) > size-offset {
		return fmt.Errorf("%s: tensor %q: %d bytes at %d are outside its %d bytes", f.path, name, len(p), offset, size)
	}
	if t.Type.Stored() != tensor.Invalid {
		return f.ReadRaw(name, offset, p)
	}
	const float = 4
	var values []float32
	for len(p) > 0 {
		first, skip := int(offset/float), int(offset%float)
		n := min((skip+len(p)+float-1)/float, chunk)
		values = slices.Grow(values[:0], n)[:n]
		if err := f.Decode(name, values, first); err != nil {
			return err
		}
		done := copy(p, tensor.AsBytes(values)[skip:])
		p, offset = p[done:], offset+int64(done)
	}
	return nil
}

// Decode fills dst with elements of a floating-point tensor from flat, row-major index lo on. Memory beside dst stays small.
func (f *File) Decode(name string, dst []float32, lo int) error {
	t, err := f.decodable(name)
	if err != nil {
		return err
	}
	if n := t.Shape.Size(); lo < 0 || lo > n || len(dst) > n-lo {
		return fmt.Errorf("%s: tensor %q: %d elements from %d on are outside its %d", f.path, name, len(dst), lo, n)
	}
	if !t.Type.CanDecode() {
		return fmt.Errorf("%s: tensor %q: %v holds no floating-point weights", f.path, name, t.Type)
	}
	block, bytes := t.Type.Block()
	var edge []float32 // a block that dst begins or ends inside of
	raw := make([]byte, min(chunk/block+1, len(dst)/block+2)*bytes)
	for len(dst) > 0 {
		at, skip := lo/block, lo%block
		n := min(len(dst)/block, len(raw)/bytes)
		out := dst[:n*block]
		if skip != 0 || n == 0 {
			n = 1
			if edge == nil {
				edge = make([]float32, block)
			}
			out = edge
		}
		if err := f.ReadRaw(name, int64(at)*int64(bytes), raw[:n*bytes]); err != nil {
			return err
		}
		if err := ggml.Decode(out, raw[:n*bytes], t.Type); err != nil {
			return f.bad(name, err.Error(), "")
		}
		done := len(out)
		if skip != 0 || done > len(dst) {
			done = copy(dst, out[skip:])
		}
		dst, lo = dst[done:], lo+done
	}
	return nil
}

// chunk is the elements that are decoded at once.
const chunk = 1 << 20

// ReadRaw fills p with the bytes of a tensor as they lie in the file, from the given offset inside it.
func (f *File) ReadRaw(name string, offset int64, p []byte) error {
	t, ok := f.Tensor(name)
	if !ok {
		return f.missing(name)
	}
	if offset < 0 || offset > t.Bytes || int64(len(p)) > t.Bytes-offset {
		return fmt.Errorf("%s: tensor %q: %d bytes at %d are outside its %d bytes", f.path, name, len(p), offset, t.Bytes)
	}
	if n, err := t.from.ReadAt(p, t.Offset+offset); n < len(p) {
		return f.bad(name, fmt.Sprintf("the file became shorter while it was open, or cannot be read: %v", err),
			"do not change a model's files in place: write a new file and rename it")
	}
	return nil
}

// Close closes the file and its other parts; tensors already read stay valid.
func (f *File) Close() error {
	errs := []error{f.r.Close()}
	for _, p := range f.parts {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

// decodable finds a tensor whose values can be read.
func (f *File) decodable(name string) (Info, error) {
	t, ok := f.Tensor(name)
	if !ok {
		return t, f.missing(name)
	}
	if t.Decoded().DType == tensor.Invalid {
		return t, f.bad(name, fmt.Sprintf("format %v is not supported", t.Type),
			"use a file in "+ggml.Names(ggml.Decoded())+", or convert this one with llama-quantize --allow-requantize")
	}
	return t, nil
}

func (f *File) missing(name string) error {
	return fmt.Errorf("%s: no tensor %q among its %d", f.path, name, len(f.tensors))
}

// bad is an error of the contents; tensor is "" where it is of none.
func (f *File) bad(tensor, reason, remedy string) error {
	return badFile(f.path, tensor, reason, remedy)
}

func badFile(path, tensor, reason, remedy string) error {
	if remedy == "" {
		remedy = "the file is damaged or was not written by a GGUF library: fetch or write it again"
	}
	return &checkpoint.FormatError{File: path, Tensor: tensor, Reason: reason, Remedy: remedy}
}
