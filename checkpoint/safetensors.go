package checkpoint

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
)

// File is an open safetensors file: u64 little-endian header length, JSON header, tensor data without gaps
// (https://github.com/huggingface/safetensors). It makes the checks of the reference library and is stricter where that is lax:
// no white space before the header, no key twice, no unknown field, at most 1e6 tensors, names of 1 to 4096 bytes, 8 axes.
type File struct {
	store
	metadata map[string]string
}

// OpenSafetensors opens a file and checks its header; tensor data stay on disk. Errors of the contents match ErrFormat.
func OpenSafetensors(fsys vfs.FS, path string) (*File, error) {
	fsys = vfs.Or(fsys)
	r, err := fsys.Open(path)
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

// Metadata returns a copy of the header's __metadata__; nil when there is none.
func (f *File) Metadata() map[string]string { return maps.Clone(f.metadata) }

// DTypeName returns the element type of a tensor in the words of the file ("BF16", "F8_E4M3"); "" when there is no such tensor.
func (f *File) DTypeName(name string) string {
	e, ok := f.lookup(name)
	switch {
	case !ok:
		return ""
	case e.foreign != "":
		return e.foreign
	}
	return dtypeNames[dtypeRank(e.typ.DType)].name
}

func newFile(path string, r vfs.Reader) (*File, error) {
	head, err := readHead(r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := refuseForeign(path, head); err != nil {
		return nil, err
	}
	if len(head) < 8 {
		return nil, &FormatError{File: path, Reason: fmt.Sprintf("%d bytes are too few for a safetensors file", len(head))}
	}
	n := binary.LittleEndian.Uint64(head)
	if n > maxHeader {
		return nil, &FormatError{File: path, Reason: fmt.Sprintf("it says that its header has %d bytes, the format's limit is %d", n, maxHeader)}
	}
	if int64(n) > r.Size()-8 {
		return nil, &FormatError{File: path, Reason: fmt.Sprintf("it says that its header has %d bytes, only %d follow: it is cut short", n, r.Size()-8)}
	}
	buf := make([]byte, n)
	if got, err := r.ReadAt(buf, 8); got < len(buf) {
		return nil, fmt.Errorf("%s: reading the header: %w", path, err)
	}
	h, err := parseHeader(buf, r.Size()-8-int64(n))
	if err != nil {
		var te *tensorError
		if errors.As(err, &te) {
			return nil, &FormatError{File: path, Tensor: te.tensor, Reason: te.reason, Remedy: te.remedy}
		}
		return nil, &FormatError{File: path, Reason: "header: " + err.Error()}
	}
	return &File{store{path, r, 8 + int64(n), h.entries, h.index}, h.metadata}, nil
}
