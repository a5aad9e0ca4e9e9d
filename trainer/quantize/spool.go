package quantize

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// spool collects the tensors of one output file. The parts of quantized weights come in the order of the weights, but a safetensors file
// has all tensors of an element type together and its header first; so they wait in a temporary file, and tensors that are kept are
// copied from the input at the end. Memory holds names and places only.
type spool struct {
	fsys  vfs.FS
	path  string // of the temporary file
	f     vfs.File
	off   int64
	specs []checkpoint.Spec
	at    map[string]int64 // where a spooled tensor begins
}

func newSpool(fsys vfs.FS, path string) (*spool, error) {
	if err := fsys.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, onDisk(err)
	}
	f, err := fsys.Create(path)
	if err != nil {
		return nil, onDisk(err)
	}
	return &spool{fsys: fsys, path: path, f: f, at: map[string]int64{}}, nil
}

// put adds a tensor.
func (s *spool) put(name string, t *tensor.Tensor) error {
	s.specs = append(s.specs, checkpoint.Spec{Name: name, Type: t.Type()})
	s.at[name] = s.off
	n, err := s.f.Write(t.Bytes())
	s.off += int64(n)
	return onDisk(err)
}

// keep adds a tensor of the input.
func (s *spool) keep(name string, t tensor.Type) {
	s.specs = append(s.specs, checkpoint.Spec{Name: name, Type: t})
}

// copyBuffer is how many bytes are copied at once.
const copyBuffer = 4 << 20

// write makes the output file.
func (s *spool) write(path string, in checkpoint.Reader, metadata map[string]string) (err error) {
	if err := s.f.Close(); err != nil {
		return onDisk(err)
	}
	s.f = nil
	r, err := s.fsys.Open(s.path)
	if err != nil {
		return onDisk(err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	w, err := checkpoint.NewSafetensorsWriter(s.fsys, path, s.specs, metadata)
	if err != nil {
		return err
	}
	buf := make([]byte, min(copyBuffer, max(s.off, 1<<16)))
	for _, spec := range w.Order() {
		if err := s.copy(w, spec, r, in, buf); err != nil {
			w.Abort()
			return err
		}
	}
	return w.Commit()
}

func (s *spool) copy(w *checkpoint.SafetensorsWriter, spec checkpoint.Spec, r vfs.Reader, in checkpoint.Reader, buf []byte) error {
	at, spooled := s.at[spec.Name]
	size := spec.Type.Bytes()
	for off := int64(0); off < size; off += int64(len(buf)) {
		b := buf[:min(int64(len(buf)), size-off)]
		if !spooled {
			if err := in.ReadInto(spec.Name, off, b); err != nil {
				return inputError{err}
			}
		} else if n, err := r.ReadAt(b, at+off); n < len(b) {
			return onDisk(fmt.Errorf("%s: %w", s.path, err))
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// drop removes the temporary file.
func (s *spool) drop() error {
	if s.f != nil {
		_ = s.f.Close() // nothing of the file is kept
	}
	if err := s.fsys.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return onDisk(err)
	}
	return nil
}
