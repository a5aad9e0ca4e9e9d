package gguf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"unicode/utf8"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/quant/ggml"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Limits of a header. No real model comes near the first three; the others are the format's.
const (
	maxHeader    = 128 << 20
	maxEntries   = 1 << 16
	maxTensors   = 1 << 20
	maxKey       = 1<<16 - 1
	maxName      = 4096
	maxDims      = 4
	maxAlignment = 1 << 20

	defaultAlignment = 32
	alignmentKey     = "general.alignment"
)

// cursor walks over a file, of which it reads no more than it needs.
type cursor struct {
	r    vfs.Reader
	buf  []byte // the beginning of the file
	at   int
	size int64
}

// need makes n more bytes available.
func (c *cursor) need(n uint64) error {
	if left := uint64(c.size) - uint64(c.at); n > left {
		return fmt.Errorf("%d bytes are needed at offset %d, the file has %d: it is cut short, or a length in it is wrong", n, c.at, c.size)
	}
	end := c.at + int(n)
	if end <= len(c.buf) {
		return nil
	}
	if end > maxHeader {
		return fmt.Errorf("its header is longer than %d bytes", maxHeader)
	}
	grown := make([]byte, min(int64(max(end, 2*len(c.buf), 1<<18)), c.size, maxHeader))
	have := copy(grown, c.buf)
	if got, err := c.r.ReadAt(grown[have:], int64(have)); got < len(grown)-have {
		return fmt.Errorf("reading its header: %w", err)
	}
	c.buf = grown
	return nil
}

func (c *cursor) bytes(n int) ([]byte, error) {
	if err := c.need(uint64(n)); err != nil {
		return nil, err
	}
	c.at += n
	return c.buf[c.at-n : c.at : c.at], nil
}

func (c *cursor) u32() (uint32, error) {
	b, err := c.bytes(4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

func (c *cursor) u64() (uint64, error) {
	b, err := c.bytes(8)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

// str reads a length and that many bytes.
func (c *cursor) str(limit uint64) (string, error) {
	n, err := c.u64()
	if err != nil {
		return "", err
	}
	if n > limit {
		return "", fmt.Errorf("a text of %d bytes at offset %d, at most %d are allowed", n, c.at, limit)
	}
	if err := c.need(n); err != nil {
		return "", err
	}
	b, err := c.bytes(int(n))
	return string(b), err
}

func newFile(path string, r vfs.Reader) (*File, error) {
	f := &File{path: path, r: r, align: defaultAlignment, keys: map[string]int{}, index: map[string]int{}}
	c := &cursor{r: r, size: r.Size()}
	nTensors, nEntries, err := f.begin(c)
	if err == nil {
		err = f.metadata(c, nEntries)
	}
	if err != nil {
		return nil, f.wrap(err)
	}
	for i := range nTensors {
		t, err := readInfo(c)
		if err == nil {
			err = f.add(t)
		}
		if err != nil {
			var te *tensorError
			if !errors.As(err, &te) {
				err = fmt.Errorf("tensor %d of %d: %w", i, nTensors, err)
			}
			return nil, f.wrap(err)
		}
	}
	f.base = alignUp(int64(c.at), f.align)
	return f, f.layout()
}

// tensorError is an error of one tensor.
type tensorError struct{ tensor, reason, remedy string }

func (e *tensorError) Error() string { return "tensor " + strconv.Quote(e.tensor) + ": " + e.reason }

func (f *File) wrap(err error) error {
	var te *tensorError
	if errors.As(err, &te) {
		return f.bad(te.tensor, te.reason, te.remedy)
	}
	return f.bad("", err.Error(), "")
}

// begin reads magic, version and counts.
func (f *File) begin(c *cursor) (tensors, entries uint64, err error) {
	head, err := c.bytes(24)
	if err != nil {
		return 0, 0, fmt.Errorf("%d bytes are too few for a GGUF file", c.size)
	}
	if string(head[:4]) != Magic {
		return 0, 0, fmt.Errorf("it begins with %q, a GGUF file with %q", head[:4], Magic)
	}
	f.version = binary.LittleEndian.Uint32(head[4:])
	switch v := f.version; {
	case v == 1:
		return 0, 0, errors.New("version 1 of the format is not supported, versions 2 and 3 are: convert the original model again")
	case v > 3 && bits.ReverseBytes32(v) <= 3:
		return 0, 0, errors.New("the file is big-endian, which is not supported: convert it with gguf-convert-endian FILE little")
	case v != 2 && v != 3:
		return 0, 0, fmt.Errorf("version %d of the format is not supported, versions 2 and 3 are", v)
	}
	tensors, entries = binary.LittleEndian.Uint64(head[8:]), binary.LittleEndian.Uint64(head[16:])
	const leastEntry, leastTensor = 8 + 1 + 4 + 1, 8 + 1 + 4 + 4 + 8 // bytes of the shortest of each
	left := uint64(c.size) - uint64(c.at)
	switch {
	case entries > maxEntries || entries > left/leastEntry:
		return 0, 0, fmt.Errorf("it says that it has %d entries of metadata: more than %d, or than its %d bytes can hold", entries, maxEntries, c.size)
	case tensors > maxTensors || tensors > left/leastTensor:
		return 0, 0, fmt.Errorf("it says that it has %d tensors: more than %d, or than its %d bytes can hold", tensors, maxTensors, c.size)
	}
	return tensors, entries, nil
}

func (f *File) metadata(c *cursor, n uint64) error {
	for i := range n {
		key, err := c.str(maxKey)
		if err != nil {
			return fmt.Errorf("metadata entry %d of %d: %w", i, n, err)
		}
		if key == "" || !utf8.ValidString(key) {
			return fmt.Errorf("metadata entry %d of %d has the key %q, which is no text", i, n, key)
		}
		if _, twice := f.keys[key]; twice {
			return fmt.Errorf("metadata key %q occurs twice", key)
		}
		v, err := readValue(c)
		if err != nil {
			return fmt.Errorf("metadata key %q: %w", key, err)
		}
		f.keys[key] = len(f.kvs)
		f.kvs = append(f.kvs, KV{key, v})
	}
	v, ok := f.Value(alignmentKey)
	if !ok {
		return nil
	}
	align, ok := v.(uint32)
	if !ok || align == 0 || align > maxAlignment || align&(align-1) != 0 {
		return fmt.Errorf("%s is %v: it must be a uint32, a power of two and at most %d", alignmentKey, v, maxAlignment)
	}
	f.align = int64(align)
	return nil
}

// readInfo reads the description of a tensor; Offset counts from the beginning of the data.
func readInfo(c *cursor) (Info, error) {
	var t Info
	name, err := c.str(maxName)
	if err != nil {
		return t, err
	}
	t.Name = name
	if name == "" || !utf8.ValidString(name) {
		return t, fmt.Errorf("%q is not the name of a tensor", name)
	}
	rank, err := c.u32()
	if err != nil {
		return t, err
	}
	if rank > maxDims {
		return t, &tensorError{tensor: name, reason: fmt.Sprintf("it has %d axes, at most %d are allowed", rank, maxDims)}
	}
	raw, err := c.bytes(int(rank)*8 + 4 + 8)
	if err != nil {
		return t, err
	}
	dims := make([]int, rank)
	for i := range dims {
		d := binary.LittleEndian.Uint64(raw[8*i:])
		if d > math.MaxInt {
			return t, &tensorError{tensor: name, reason: fmt.Sprintf("extent %d is too large", d)}
		}
		dims[int(rank)-1-i] = int(d)
	}
	t.Type = ggml.Type(binary.LittleEndian.Uint32(raw[8*rank:]))
	offset := binary.LittleEndian.Uint64(raw[8*rank+4:])
	if offset > math.MaxInt64 {
		return t, &tensorError{tensor: name, reason: fmt.Sprintf("its data begin at %d, beyond any file", offset)}
	}
	t.Shape, t.Offset = tensor.S(dims...), int64(offset)
	if t.Bytes, err = sizeOf(t.Type, t.Shape); err != nil {
		return t, &tensorError{tensor: name, reason: err.Error()}
	}
	return t, nil
}

// sizeOf is the bytes of a tensor, whose rows must be whole blocks.
func sizeOf(t ggml.Type, s tensor.Shape) (int64, error) {
	block, _ := t.Block()
	switch {
	case block == 0:
		return 0, fmt.Errorf("format %d is unknown", uint32(t))
	case !s.Valid():
		return 0, errors.New("its shape has more elements than a file can hold")
	case s.Rank() > 0 && s.Dim(-1)%block != 0:
		return 0, fmt.Errorf("its rows of %d elements are no whole number of %v's blocks of %d", s.Dim(-1), t, block)
	}
	n, ok := t.Size(s.Size())
	if !ok {
		return 0, fmt.Errorf("%v%v has more bytes than a file can hold, or no whole number of blocks", t, s)
	}
	return n, nil
}

func (f *File) add(t Info) error {
	if _, twice := f.index[t.Name]; twice {
		return &tensorError{tensor: t.Name, reason: "the name occurs twice"}
	}
	f.index[t.Name] = len(f.tensors)
	f.tensors = append(f.tensors, t)
	return nil
}

// layout checks that tensors follow each other in the order of their descriptions, each at the next multiple of the alignment, as
// llama.cpp demands, and makes their offsets those of the file. Bytes after the last one are passed over.
func (f *File) layout() error {
	want := int64(0)
	for i := range f.tensors {
		t := &f.tensors[i]
		if t.Offset != want {
			return f.bad(t.Name, fmt.Sprintf("its data are at offset %d of the tensor data, and belong at %d", t.Offset, want), "")
		}
		if t.Bytes > f.r.Size()-f.base-t.Offset {
			return f.bad(t.Name, fmt.Sprintf("%v%v needs %d bytes at offset %d, the file has %d bytes: it is cut short", t.Type, t.Shape, t.Bytes,
				f.base+t.Offset, f.r.Size()), "fetch or write the file again")
		}
		want = alignUp(t.Offset+t.Bytes, f.align)
		t.Offset += f.base
		t.from = f.r
	}
	return nil
}

// alignUp is the next multiple of a power of two; n is far from overflow, as every offset is checked against the file.
func alignUp(n, align int64) int64 { return (n + align - 1) &^ (align - 1) }
