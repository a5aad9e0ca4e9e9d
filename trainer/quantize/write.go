package quantize

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// writer makes the output.
type writer struct {
	*job
	in     *input
	report *Report
	done   int
	index  map[string]string // tensor -> file
	params int64             // elements of all weights
}

// file quantizes a single file.
func (w *writer) file(ctx context.Context) error {
	if err := w.shard(ctx, w.in.file, w.Out, vfs.TempName(w.Out)+".spool"); err != nil {
		return err
	}
	return nil
}

// folder quantizes a model folder: into a sibling that gets the name when everything is in it.
func (w *writer) folder(ctx context.Context) error {
	return inNewFolder(w.FS, w.Out, func(dir string) error {
		w.index = map[string]string{}
		for _, f := range w.in.shards() {
			name := filepath.Base(f.Path())
			if err := w.shard(ctx, f, filepath.Join(dir, name), filepath.Join(dir, ".spool")); err != nil {
				return err
			}
		}
		if len(w.in.shards()) > 1 {
			if err := checkpoint.WriteIndex(w.FS, dir, w.index, w.params, w.report.Total.BytesAfter); err != nil {
				return err
			}
		}
		if w.config.Compute == tensor.Invalid {
			w.config.Compute = modelDType(w.in.config)
		}
		raw, err := setQuantization(w.in.config, w.config)
		if err != nil {
			return inputError{fmt.Errorf("%s: %w", w.In, err)}
		}
		if err := vfs.WriteFile(w.FS, filepath.Join(dir, "config.json"), raw); err != nil {
			return onDisk(err)
		}
		return copySmall(w.in, w.FS, dir)
	})
}

// inNewFolder calls fill with a temporary folder beside out, which takes the name of out when fill is done.
func inNewFolder(fsys vfs.FS, out string, fill func(dir string) error) error {
	tmp := vfs.TempName(out)
	if err := fsys.RemoveAll(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return onDisk(err)
	}
	if err := vfs.MkdirDurable(fsys, tmp); err != nil {
		return onDisk(err)
	}
	err := fill(tmp)
	if err == nil {
		err = onDisk(fsys.SyncDir(tmp))
	}
	if err == nil {
		err = onDisk(fsys.Rename(tmp, out))
	}
	if err != nil {
		_ = fsys.RemoveAll(tmp) // the first error is the one to report
		return err
	}
	return onDisk(fsys.SyncDir(filepath.Dir(out)))
}

// shard quantizes the weights of one file.
func (w *writer) shard(ctx context.Context, f *checkpoint.File, path, spoolPath string) (err error) {
	s, err := newSpool(w.FS, spoolPath)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.drop()) }()
	for _, name := range f.Names() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.tensor(s, f, name); err != nil {
			return err
		}
	}
	for _, spec := range s.specs {
		w.report.Total.BytesAfter += spec.Type.Bytes()
		if w.index != nil {
			w.index[spec.Name] = filepath.Base(path)
		}
	}
	metadata := f.Metadata()
	if metadata == nil {
		metadata = map[string]string{"format": "pt"}
	}
	return s.write(path, f, metadata)
}

// tensor passes one tensor of the input on, quantized or as it is.
func (w *writer) tensor(s *spool, f *checkpoint.File, name string) error {
	t, ok := f.Type(name)
	if !ok || t.DType == tensor.Invalid {
		return inputError{&checkpoint.FormatError{File: f.Path(), Tensor: name, Reason: "dtype " + f.DTypeName(name) + " is not supported",
			Remedy: "convert the tensor to BF16, F16 or F32"}}
	}
	w.params += int64(t.Size())
	w.report.Total.BytesBefore += t.Bytes()
	if w.weights[name] {
		if w.Progress != nil {
			w.Progress(w.done, len(w.weights), name)
		}
		w.done++
		return w.quantize(s, f, name)
	}
	w.report.Kept = append(w.report.Kept, Kept{name, t.DType.String(), t.Bytes()})
	w.report.Total.Kept += int64(t.Size())
	if x, ok := w.dense[name]; ok {
		if x.Type().Shape != t.Shape {
			return fmt.Errorf("tensor %q: calibration gave %v for %v", name, x.Type(), t)
		}
		x, err := x.Narrow(t.DType)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", name, err)
		}
		return s.put(name, x)
	}
	s.keep(name, t)
	return nil
}

func (w *writer) quantize(s *spool, f *checkpoint.File, name string) error {
	x, err := f.Read(name)
	if err != nil {
		return inputError{err}
	}
	if w.bnb && w.in.inOut(name) {
		if x, err = x.Transpose(); err != nil {
			return inputError{fmt.Errorf("tensor %q: %w", name, err)}
		}
	}
	original := x
	if w.Change != nil {
		if x, err = w.Change(name, x); err != nil {
			return err
		}
	}
	st, ok := w.states[name]
	if !ok {
		if st, err = w.round(name, x); err != nil {
			return inputError{&checkpoint.FormatError{File: f.Path(), Tensor: name, Reason: strings.TrimPrefix(err.Error(), "quant: "),
				Remedy: "repair the weight, or keep its module with --exclude"}}
		}
	}
	if st.Shape != original.Shape() {
		return fmt.Errorf("tensor %q: calibration gave %v for %v", name, st.Shape, original.Type())
	}
	if w.bnb && st.Scheme.FourBit() {
		st.Storage = w.Storage
	}
	dict, err := st.StateDict(name)
	if err != nil {
		return err
	}
	note, ok := w.notes[name]
	l, err := compare(name, original, st, st.Bytes(), note.Unscale)
	if err != nil {
		return err
	}
	if ok {
		l.calibrated(note)
	}
	w.report.Layers = append(w.report.Layers, l)
	for _, part := range slices.Sorted(maps.Keys(dict)) {
		if err := s.put(part, dict[part]); err != nil {
			return err
		}
	}
	return nil
}

// round quantizes to the nearest codes. int8 takes weights through float16, as the library does.
func (w *writer) round(name string, x *tensor.Tensor) (*quant.State, error) {
	if c, ok := w.format.(quant.Config); ok && c.Scheme == quant.Int8 && x.DType() != tensor.F16 {
		half, err := x.Narrow(tensor.F16)
		if err != nil {
			return nil, fmt.Errorf("int8 takes weights through float16: %w", err)
		}
		x = half
	}
	return quant.QuantizeTensor(x, w.format, quant.Options{Parallel: quant.Parallel})
}
