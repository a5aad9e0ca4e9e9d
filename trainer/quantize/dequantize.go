package quantize

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// DequantizeOptions says what to write in full precision. In and Out are required.
type DequantizeOptions struct {
	FS    vfs.FS       // nil: the operating system's
	In    string       // quantized safetensors file or folder
	Out   string       // file or folder to make; it must not exist
	DType tensor.DType // of the weights that were quantized; Invalid = what each was quantized from, for int8 that of config.json, else F16
}

// Dequantized says what Dequantize did. It marshals to JSON.
type Dequantized struct {
	Source      string `json:"source"`
	Out         string `json:"out"`
	Weights     int    `json:"weights"` // that were quantized
	BytesBefore int64  `json:"bytes_before"`
	BytesAfter  int64  `json:"bytes_after"`
}

// Dequantize is the inverse of Run, up to the rounding of quantization: weights in full precision, no quantization_config.
func Dequantize(ctx context.Context, o DequantizeOptions) (*Dequantized, error) {
	d, err := dequantize(ctx, o)
	return d, classify(err)
}

func dequantize(ctx context.Context, o DequantizeOptions) (d *Dequantized, err error) {
	o.FS = vfs.Or(o.FS)
	switch {
	case o.In == "" || o.Out == "":
		return nil, bad("", "what to dequantize and where to write it are needed: trainer dequantize IN OUT")
	case o.DType != tensor.Invalid && o.DType != tensor.F32 && o.DType != tensor.F16 && o.DType != tensor.BF16:
		return nil, bad("dtype", "%v is not a dtype of weights; use f32, f16 or bf16", o.DType)
	}
	o.Out = filepath.Clean(o.Out) // a slash at the end would make it the folder of its own temporary file
	if err := refuseExisting(o.FS, o.Out); err != nil {
		return nil, err
	}
	in, err := openInput(o.FS, o.In)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, in.close()) }()
	w := &restorer{DequantizeOptions: o, in: in, out: &Dequantized{Source: o.In, Out: o.Out}, index: map[string]string{}}
	q, err := in.quantization()
	if err != nil {
		return nil, err
	}
	if w.stored, err = checkpoint.OpenQuantized(in.reader(), o.In, q); err == nil {
		err = w.stored.Complete()
	}
	if err != nil {
		return nil, inputError{err}
	}
	if !slices.ContainsFunc(in.reader().Names(), func(n string) bool { return len(w.stored.Parts(n)) > 0 }) {
		return nil, inputError{fmt.Errorf("%s: it holds no quantized weight", o.In)}
	}
	in.inOut = func(string) bool { return false }
	if in.dir != nil && q.Method == checkpoint.MethodBNB {
		if c, err := models.ParseConfig(in.config); err == nil { // else of an unknown architecture: as it is stored
			if _, err := in.declared(w.stored, c); err != nil {
				return nil, err
			}
		}
	}
	if in.dir == nil {
		err = w.shard(ctx, in.file, o.Out, vfs.TempName(o.Out)+".spool")
	} else {
		err = inNewFolder(o.FS, o.Out, func(dir string) error { return w.folder(ctx, dir) })
	}
	if err != nil {
		return nil, err
	}
	return w.out, nil
}

// restorer writes the output of Dequantize.
type restorer struct {
	DequantizeOptions
	in     *input
	stored *checkpoint.Quantized
	out    *Dequantized
	index  map[string]string
	params int64
}

func (w *restorer) folder(ctx context.Context, dir string) error {
	for _, f := range w.in.shards() {
		name := filepath.Base(f.Path())
		if err := w.shard(ctx, f, filepath.Join(dir, name), filepath.Join(dir, ".spool")); err != nil {
			return err
		}
	}
	if len(w.in.shards()) > 1 {
		if err := checkpoint.WriteIndex(w.FS, dir, w.index, w.params, w.out.BytesAfter); err != nil {
			return err
		}
	}
	raw, err := setQuantization(w.in.config, nil)
	if err != nil {
		return inputError{fmt.Errorf("%s: %w", w.In, err)}
	}
	if w.DType != tensor.Invalid {
		if raw, err = setDType(raw, w.DType); err != nil {
			return err
		}
	}
	if err := vfs.WriteFile(w.FS, filepath.Join(dir, "config.json"), raw); err != nil {
		return onDisk(err)
	}
	return copySmall(w.in, w.FS, dir)
}

// shard restores the weights whose codes lie in one file.
func (w *restorer) shard(ctx context.Context, f *checkpoint.File, path, spoolPath string) (err error) {
	s, err := newSpool(w.FS, spoolPath)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.drop()) }()
	part := map[string]bool{} // of the weights, by tensor
	for _, name := range w.in.reader().Names() {
		for _, p := range w.stored.Parts(name) {
			part[p] = true
		}
	}
	for _, name := range f.Names() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.tensor(s, f, name, part[name]); err != nil {
			return err
		}
	}
	for _, spec := range s.specs {
		w.out.BytesAfter += spec.Type.Bytes()
		w.params += int64(spec.Type.Size())
		w.index[spec.Name] = filepath.Base(path)
	}
	metadata := f.Metadata()
	if metadata == nil {
		metadata = map[string]string{"format": "pt"}
	}
	return s.write(path, f, metadata)
}

func (w *restorer) tensor(s *spool, f *checkpoint.File, name string, part bool) error {
	t, ok := f.Type(name)
	if !ok || t.DType == tensor.Invalid {
		return inputError{&checkpoint.FormatError{File: f.Path(), Tensor: name, Reason: "dtype " + f.DTypeName(name) + " is not supported",
			Remedy: "convert the tensor to BF16, F16 or F32"}}
	}
	w.out.BytesBefore += t.Bytes()
	switch {
	case len(w.stored.Parts(name)) > 0:
		st, err := w.stored.State(name)
		if err != nil {
			return inputError{err}
		}
		d := w.DType
		if d == tensor.Invalid && st.Scheme == quant.Int8 && w.in.dir != nil { // which does not say what the weight was
			d = modelDType(w.in.config)
		}
		x, err := st.Dequantize(d)
		if err != nil {
			return inputError{fmt.Errorf("tensor %q: %w", name, err)}
		}
		if w.in.inOut(name) {
			if x, err = x.Transpose(); err != nil {
				return inputError{fmt.Errorf("tensor %q: %w", name, err)}
			}
		}
		w.out.Weights++
		return s.put(name, x)
	case !part:
		s.keep(name, t)
	}
	return nil
}
