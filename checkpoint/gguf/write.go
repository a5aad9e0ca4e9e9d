package gguf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/quant/ggml"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Spec announces a tensor. Shape is rows first.
type Spec struct {
	Name  string
	Type  ggml.Type
	Shape tensor.Shape
}

// Writer writes a file of version 3 whose tensors arrive one after the other, in the order in which they were announced. The file gets
// its name at Commit, whole. Not for concurrent use.
type Writer struct {
	path  string
	file  *vfs.Atomic
	align int64
	specs []Info
	next  int
	part  int64 // bytes of specs[next] already written
	raw   []byte
}

// maxWrittenName is the longest name that llama.cpp reads (GGML_MAX_NAME with its zero).
const maxWrittenName = 63

// NewWriter makes the temporary file and writes metadata and descriptions, in the order given. general.alignment, if it is there, must be
// a uint32 and is kept to. Errors of the disk match checkpoint.ErrDisk.
func NewWriter(fsys vfs.FS, path string, metadata []KV, specs []Spec) (*Writer, error) {
	w := &Writer{path: path, align: defaultAlignment}
	head, err := w.header(metadata, specs)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if w.file, err = vfs.NewAtomic(vfs.Or(fsys), path); err != nil {
		return nil, w.disk(err)
	}
	if _, err := w.file.Write(head); err != nil {
		w.file.Abort()
		return nil, w.disk(err)
	}
	return w, nil
}

func (w *Writer) header(metadata []KV, specs []Spec) ([]byte, error) {
	out := append([]byte(Magic), 3, 0, 0, 0)
	out = binary.LittleEndian.AppendUint64(out, uint64(len(specs)))
	out = binary.LittleEndian.AppendUint64(out, uint64(len(metadata)))
	keys := map[string]bool{}
	for _, kv := range metadata {
		if kv.Key == "" || len(kv.Key) > maxKey || !utf8.ValidString(kv.Key) || keys[kv.Key] {
			return nil, fmt.Errorf("metadata key %q is empty, no text, too long or given twice", kv.Key)
		}
		keys[kv.Key] = true
		if kv.Key == alignmentKey {
			n, ok := kv.Value.(uint32)
			if !ok || n == 0 || n > maxAlignment || n&(n-1) != 0 {
				return nil, fmt.Errorf("%s is %v: it must be a uint32, a power of two and at most %d", alignmentKey, kv.Value, maxAlignment)
			}
			w.align = int64(n)
		}
		var err error
		if out, err = appendValue(appendString(out, kv.Key), kv.Value); err != nil {
			return nil, fmt.Errorf("metadata key %q: %w", kv.Key, err)
		}
	}
	out, err := w.describe(out, specs)
	if err != nil {
		return nil, err
	}
	return append(out, make([]byte, alignUp(int64(len(out)), w.align)-int64(len(out)))...), nil
}

func (w *Writer) describe(out []byte, specs []Spec) ([]byte, error) {
	at := int64(0)
	names := map[string]bool{}
	for _, s := range specs {
		if s.Name == "" || len(s.Name) > maxWrittenName || !utf8.ValidString(s.Name) || names[s.Name] {
			return nil, fmt.Errorf("%q cannot be the name of a tensor: it must be given once, of 1 to %d bytes", s.Name, maxWrittenName)
		}
		names[s.Name] = true
		n, err := sizeOf(s.Type, s.Shape)
		switch {
		case err != nil:
			return nil, fmt.Errorf("tensor %q: %w", s.Name, err)
		case s.Shape.Rank() > maxDims:
			return nil, fmt.Errorf("tensor %q has %d axes, at most %d are allowed", s.Name, s.Shape.Rank(), maxDims)
		case alignUp(at+n, w.align) < at:
			return nil, errors.New("more bytes of tensors than a file can hold")
		}
		out = appendU32(appendString(out, s.Name), uint32(s.Shape.Rank()))
		for i := range s.Shape.Rank() {
			out = binary.LittleEndian.AppendUint64(out, uint64(s.Shape.Dim(-1-i)))
		}
		out = binary.LittleEndian.AppendUint64(appendU32(out, uint32(s.Type)), uint64(at))
		w.specs = append(w.specs, Info{Name: s.Name, Type: s.Type, Shape: s.Shape, Offset: at, Bytes: n})
		at = alignUp(at+n, w.align)
	}
	return out, nil
}

// Write appends blocks as they are, of the next tensors in turn.
func (w *Writer) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if err := w.advance(); err != nil {
			return n - len(p), err
		}
		if w.next == len(w.specs) {
			return n - len(p), fmt.Errorf("%s: %d bytes more than the tensors hold", w.path, len(p))
		}
		m := min(int64(len(p)), w.specs[w.next].Bytes-w.part)
		if _, err := w.file.Write(p[:m]); err != nil {
			return n - len(p), w.disk(err)
		}
		w.part += m
		p = p[m:]
	}
	return n, nil
}

// WriteFloats encodes the next elements of a tensor, which must be whole blocks of it; name must be that of the tensor in turn.
func (w *Writer) WriteFloats(name string, src []float32) error {
	if len(src) == 0 {
		return nil
	}
	if err := w.advance(); err != nil {
		return err
	}
	if w.next == len(w.specs) || w.specs[w.next].Name != name {
		return fmt.Errorf("%s: tensor %q is not the next one: write them in the order in which they were announced", w.path, name)
	}
	t := w.specs[w.next].Type
	block, _ := t.Block()
	for len(src) > 0 {
		n := min(len(src), chunk)
		if n%block != 0 {
			return fmt.Errorf("%s: tensor %q: %d elements are no whole number of %v's blocks", w.path, name, len(src), t)
		}
		size, _ := t.Size(n)
		if int64(cap(w.raw)) < size {
			w.raw = make([]byte, size)
		}
		raw := w.raw[:size]
		if err := ggml.Encode(raw, src[:n], t); err != nil {
			return fmt.Errorf("%s: tensor %q: %w", w.path, name, err)
		}
		if _, err := w.Write(raw); err != nil {
			return err
		}
		src = src[n:]
	}
	return nil
}

// advance goes on from tensors all of whose bytes are written, filling up to the alignment.
func (w *Writer) advance() error {
	for w.next < len(w.specs) && w.part == w.specs[w.next].Bytes {
		end := w.specs[w.next].Offset + w.part
		if _, err := w.file.Write(make([]byte, alignUp(end, w.align)-end)); err != nil {
			return w.disk(err)
		}
		w.next, w.part = w.next+1, 0
	}
	return nil
}

// Commit checks that every tensor is complete, syncs the file and gives it its name. After an error nothing of it remains.
func (w *Writer) Commit() error {
	err := w.advance()
	if err == nil && w.next < len(w.specs) {
		s := w.specs[w.next]
		err = fmt.Errorf("%s: tensor %q is not complete: %d of %d bytes were written", w.path, s.Name, w.part, s.Bytes)
	}
	if err != nil {
		w.file.Abort()
		return err
	}
	return w.disk(w.file.Commit())
}

// Abort drops the file; after Commit it does nothing.
func (w *Writer) Abort() { w.file.Abort() }

func (w *Writer) disk(err error) error {
	if err == nil {
		return nil
	}
	return &checkpoint.DiskError{Path: w.path, Err: err}
}

var _ io.Writer = (*Writer)(nil)
