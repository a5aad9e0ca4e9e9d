package checkpoint

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"
	"unicode/utf8"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// WriteSafetensors writes a file in the byte layout of the reference library, replacing what had the name: after a crash the old
// or the new file is there, whole. Errors of the disk match ErrDisk.
func WriteSafetensors(fsys vfs.FS, path string, tensors []Named, metadata map[string]string) error {
	specs, byName, err := specsOf(path, tensors)
	if err != nil {
		return err
	}
	return StreamSafetensors(fsys, path, specs, metadata, func(s Spec) (*tensor.Tensor, error) { return byName[s.Name], nil })
}

// StreamSafetensors is WriteSafetensors for tensors that are made one at a time: produce is called once for each, in file order.
func StreamSafetensors(fsys vfs.FS, path string, specs []Spec, metadata map[string]string, produce func(Spec) (*tensor.Tensor, error)) error {
	w, err := NewSafetensorsWriter(fsys, path, specs, metadata)
	if err != nil {
		return err
	}
	for _, s := range w.Order() {
		t, err := produce(s)
		if err == nil {
			err = w.WriteTensor(s.Name, t)
		}
		if err != nil {
			w.Abort()
			return err
		}
	}
	return w.Commit()
}

// SafetensorsWriter writes a file whose tensors arrive in pieces, in the order of Order. The file gets its name at Commit; until
// then it is the sibling ".NAME.tmp". One writer at a time may work on a name. Not for concurrent use.
type SafetensorsWriter struct {
	path string
	file *vfs.Atomic
	body *body
	err  error
	done bool
}

// NewSafetensorsWriter makes the temporary file and writes the header.
func NewSafetensorsWriter(fsys vfs.FS, path string, specs []Spec, metadata map[string]string) (*SafetensorsWriter, error) {
	fsys = vfs.Or(fsys)
	head, order, err := encodeHeader(path, specs, metadata)
	if err != nil {
		return nil, err
	}
	f, err := vfs.NewAtomic(fsys, path)
	if err != nil {
		return nil, diskError(path, err)
	}
	w := &SafetensorsWriter{path: path, file: f, body: &body{path: path, order: order, w: f}}
	if _, err := f.Write(head); err != nil {
		w.Abort()
		return nil, diskError(path, err)
	}
	return w, nil
}

// Order lists the tensors in the order in which their bytes must be written.
func (w *SafetensorsWriter) Order() []Spec { return slices.Clone(w.body.order) }

// Write appends raw bytes (row-major, little-endian); tensors follow each other without gaps.
func (w *SafetensorsWriter) Write(p []byte) (int, error) {
	if w.err == nil {
		w.err = w.body.bytes(p)
	}
	if w.err != nil {
		return 0, w.err
	}
	return len(p), nil
}

// WriteTensor appends a whole tensor, which must be the next one of Order.
func (w *SafetensorsWriter) WriteTensor(name string, t *tensor.Tensor) error {
	if w.err == nil {
		w.err = w.body.tensor(name, t)
	}
	return w.err
}

// Commit syncs the file, gives it its name and syncs the folder. After an error the temporary file is removed and what had the
// name before is untouched.
func (w *SafetensorsWriter) Commit() error {
	if w.done {
		return fmt.Errorf("%s: already committed or aborted", w.path)
	}
	err := w.err
	if err == nil {
		err = w.body.end()
	}
	if err != nil {
		w.Abort()
		return err
	}
	w.done = true
	return diskError(w.path, w.file.Commit())
}

// Abort drops the file; after Commit it does nothing.
func (w *SafetensorsWriter) Abort() {
	w.done = true
	w.file.Abort()
}

// body checks that tensor data arrive whole and in order.
type body struct {
	path  string
	order []Spec
	next  int
	part  int64 // bytes of order[next] already written
	w     io.Writer
}

func (b *body) bytes(p []byte) error {
	for len(p) > 0 {
		b.skipFull()
		if b.next == len(b.order) {
			return fmt.Errorf("%s: %d bytes more than the tensors hold", b.path, len(p))
		}
		n := min(int64(len(p)), b.order[b.next].Type.Bytes()-b.part)
		if _, err := b.w.Write(p[:n]); err != nil {
			return diskError(b.path, err)
		}
		b.part += n
		p = p[n:]
	}
	return nil
}

// skipFull moves on from tensors all of whose bytes are written.
func (b *body) skipFull() {
	for b.next < len(b.order) && b.part == b.order[b.next].Type.Bytes() {
		b.next, b.part = b.next+1, 0
	}
}

func (b *body) tensor(name string, t *tensor.Tensor) error {
	if b.next < len(b.order) && b.part == b.order[b.next].Type.Bytes() && b.order[b.next].Name != name {
		b.next, b.part = b.next+1, 0
	}
	if b.next >= len(b.order) || b.part != 0 || b.order[b.next].Name != name {
		return fmt.Errorf("%s: tensor %s is not the next one: write them in the order of Order", b.path, quoted(name))
	}
	want := b.order[b.next].Type
	if t == nil || t.Type() != want {
		return fmt.Errorf("%s: tensor %s was announced as %v and given as %v", b.path, quoted(name), want, typeOf(t))
	}
	b.next++
	if _, err := b.w.Write(t.Bytes()); err != nil {
		return diskError(b.path, err)
	}
	return nil
}

func (b *body) end() error {
	b.skipFull()
	if b.next < len(b.order) {
		s := b.order[b.next]
		return fmt.Errorf("%s: tensor %s is not complete: %d of %d bytes were written", b.path, quoted(s.Name), b.part, s.Type.Bytes())
	}
	return nil
}

// encodeHeader returns the length, the JSON and its padding, and the order of the data: by element type, widest first, then by
// name, which keeps every tensor aligned.
func encodeHeader(path string, specs []Spec, metadata map[string]string) ([]byte, []Spec, error) {
	order := slices.Clone(specs)
	for _, s := range order {
		if err := checkSpec(s); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	slices.SortFunc(order, func(x, y Spec) int {
		return cmp.Or(cmp.Compare(dtypeRank(y.Type.DType), dtypeRank(x.Type.DType)), cmp.Compare(x.Name, y.Name))
	})
	out := append(make([]byte, 8), '{')
	if metadata != nil {
		out = appendMetadata(out, metadata)
	}
	seen := make(map[string]bool, len(order))
	offset := int64(0)
	for _, s := range order {
		if seen[s.Name] {
			return nil, nil, fmt.Errorf("%s: tensor %s is given twice", path, quoted(s.Name))
		}
		seen[s.Name] = true
		if len(out) > 9 {
			out = append(out, ',')
		}
		end := offset + s.Type.Bytes()
		if end < offset {
			return nil, nil, fmt.Errorf("%s: more than 2^63 bytes of tensors", path)
		}
		out = appendTensor(out, s, offset, end)
		offset = end
	}
	out = append(out, '}')
	for len(out)%8 != 0 {
		out = append(out, ' ')
	}
	if len(out)-8 > maxHeader {
		return nil, nil, fmt.Errorf("%s: a header of %d bytes, the format's limit is %d; split the model into shards", path, len(out)-8, maxHeader)
	}
	binary.LittleEndian.PutUint64(out, uint64(len(out)-8))
	return out, order, nil
}

func appendMetadata(out []byte, metadata map[string]string) []byte {
	out = append(out, `"__metadata__":{`...)
	for i, k := range slices.Sorted(maps.Keys(metadata)) {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(appendJSONString(out, k), ':')
		out = appendJSONString(out, metadata[k])
	}
	return append(out, '}')
}

func appendTensor(out []byte, s Spec, begin, end int64) []byte {
	out = appendJSONString(out, s.Name)
	out = fmt.Appendf(out, `:{"dtype":"%s","shape":[`, dtypeNames[dtypeRank(s.Type.DType)].name)
	for i, d := range s.Type.Shape.Dims() {
		if i > 0 {
			out = append(out, ',')
		}
		out = fmt.Append(out, d)
	}
	return fmt.Appendf(out, `],"data_offsets":[%d,%d]}`, begin, end)
}

func checkSpec(s Spec) error {
	switch _, ok := byteSize(s.Type); {
	case s.Name == "" || s.Name == "__metadata__" || len(s.Name) > maxName || !utf8.ValidString(s.Name):
		return fmt.Errorf("%s cannot be the name of a tensor: it must be UTF-8 of 1 to %d bytes other than __metadata__", quoted(s.Name), maxName)
	case !ok:
		return fmt.Errorf("tensor %s has no valid type: %v", quoted(s.Name), s.Type)
	}
	return nil
}

func dtypeRank(d tensor.DType) int {
	for i := range dtypeNames {
		if dtypeNames[i].dtype == d {
			return i
		}
	}
	return -1
}

func specsOf(path string, tensors []Named) ([]Spec, map[string]*tensor.Tensor, error) {
	specs := make([]Spec, len(tensors))
	byName := make(map[string]*tensor.Tensor, len(tensors))
	for i, n := range tensors {
		if n.Tensor == nil {
			return nil, nil, fmt.Errorf("%s: tensor %s is nil", path, quoted(n.Name))
		}
		specs[i] = Spec{n.Name, n.Tensor.Type()}
		byName[n.Name] = n.Tensor
	}
	return specs, byName, nil
}

func typeOf(t *tensor.Tensor) tensor.Type {
	if t == nil {
		return tensor.Type{}
	}
	return t.Type()
}
