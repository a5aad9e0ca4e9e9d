// Package merge makes one model of a base and an adapter: in full precision, or quantized again. Weights pass through one at a time: sums are
// formed in float32 and rounded once, to the dtype that is written.
package merge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/quantize"
	"github.com/bitsandbyes/bitsandbyes/trainer/spool"
)

// Options say what is merged into what. Model, Adapter and Out are required.
type Options struct {
	FS        vfs.FS       // nil: the operating system's
	Model     string       // as in a configuration
	Adapter   string       // directory of a LoRA adapter in PEFT's layout
	Out       string       // folder to make; it must not exist
	DType     tensor.DType // of the weights that are written; Invalid = as the base has them
	ShardSize int64        // bytes of a file; 0 = checkpoint.DefaultShardSize

	// Quantize, if its Scheme is set, quantizes the merged model; In and Out are filled in.
	Quantize quantize.Options
	Progress func(done, total int, name string)
}

// Report says what merging did.
type Report struct {
	Model   string  `json:"model"`
	Adapter string  `json:"adapter"`
	Out     string  `json:"out"`
	Base    string  `json:"base"` // how the base's weights were stored: a dtype or a scheme
	DType   string  `json:"dtype"`
	Layers  []Layer `json:"layers"` // weights that the adapter changed

	Quantized *quantize.Report `json:"quantized,omitempty"`
}

// Layer is a weight W that the adapter changed by D, and was written as Q.
type Layer struct {
	Name    string  `json:"name"`
	Change  float64 `json:"relative_change"`   // |D| / |W| in the Frobenius norm
	Loss    float64 `json:"relative_rounding"` // |Q - (W+D)| / |D|, rounding of the base included; of a weight that did not change, 0
	MaxAbs  float64 `json:"max_abs_rounding"`  // largest |q - (w+d)|
	changed float64 // |D|²
	lost    float64 // |Q - (W+D)|²
}

type diskError struct{ error }

// ExitCode is config.ExitDisk.
func (diskError) ExitCode() int { return config.ExitDisk }

// Unwrap returns the cause.
func (e diskError) Unwrap() error { return e.error }

type inputError struct{ error }

// ExitCode is config.ExitInput.
func (inputError) ExitCode() int { return config.ExitInput }

// Unwrap returns the cause.
func (e inputError) Unwrap() error { return e.error }

func bad(key, format string, args ...any) error {
	return &config.ErrConfig{Key: key, Reason: fmt.Sprintf(format, args...)}
}

// Run merges. What it makes appears under its name when it is whole.
func Run(ctx context.Context, o Options) (r *Report, err error) {
	o.FS = vfs.Or(o.FS)
	if o.Model == "" || o.Adapter == "" || o.Out == "" {
		return nil, bad("", "a model, an adapter and a folder to write are needed: trainer merge --model DIR --adapter DIR --out DIR")
	}
	if o.DType != tensor.Invalid && o.DType != tensor.F32 && o.DType != tensor.BF16 && o.DType != tensor.F16 {
		return nil, bad("dtype", "is %v, expected f32, bf16 or f16", o.DType)
	}
	o.Out = filepath.Clean(o.Out)
	if _, err := o.FS.Stat(o.Out); !errors.Is(err, fs.ErrNotExist) {
		if err != nil {
			return nil, diskError{err}
		}
		return nil, bad("out", "%s exists already; name a new folder, or remove it", o.Out)
	}
	tmp := fmt.Sprintf("%s.tmp-%d", o.Out, os.Getpid())
	if err := o.FS.MkdirAll(tmp); err != nil {
		return nil, diskError{err}
	}
	defer func() { err = errors.Join(err, o.FS.RemoveAll(tmp)) }()
	r = &Report{Model: o.Model, Adapter: o.Adapter, Out: o.Out}
	made := filepath.Join(tmp, "model")
	if err := r.merge(ctx, o, tmp, made); err != nil {
		return nil, err
	}
	if o.Quantize.Scheme != "" {
		q := o.Quantize
		q.FS, q.In, q.Out, q.Progress = o.FS, made, filepath.Join(tmp, "quantized"), o.Progress
		if r.Quantized, err = quantize.Run(ctx, q); err != nil {
			return nil, err
		}
		r.Quantized.Source, r.Quantized.Out = o.Model, o.Out
		made = q.Out
	}
	if err := o.FS.Rename(made, o.Out); err != nil {
		return nil, diskError{err}
	}
	return r, o.FS.SyncDir(filepath.Dir(o.Out))
}

// merge writes the merged model in full precision into dir.
func (r *Report) merge(ctx context.Context, o Options, tmp, dir string) (err error) {
	base, stored, err := r.plainBase(ctx, o, tmp)
	if err != nil {
		return err
	}
	m, err := trainer.OpenModel(base, trainer.ModelOptions{FS: o.FS, Beside: o.Adapter, Policy: layers.Policy{Param: tensor.F32}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	saved, err := lora.Load(o.FS, o.Adapter)
	if err != nil {
		return inputError{err}
	}
	s, err := spool.New(m.Source, o.FS, filepath.Join(tmp, "spool"))
	if err != nil {
		return diskError{err}
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	before := parameters(m)
	adapter, err := lora.AttachSaved(m.Model, saved, s)
	if err != nil {
		return inputError{err}
	}
	if err := adapter.Merge(s); err != nil {
		return err
	}
	if err := errors.Join(adapter.Remove(s), ctx.Err()); err != nil {
		return err
	}
	d := o.DType
	if d == tensor.Invalid {
		d = stored
	}
	r.DType = d.String()
	if r.Base == "" {
		r.Base = stored.String()
	}
	w := &rounding{Spool: s, report: r, before: before, dtype: d, ctx: ctx, progress: o.Progress, total: len(layers.Params(m.Model))}
	if err := o.FS.MkdirAll(dir); err != nil {
		return diskError{err}
	}
	if err := trainer.SaveModel(o.FS, dir, m.Model, w, trainer.SaveOptions{DType: d, ShardSize: o.ShardSize}); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(m.TokFiles)) {
		if err := vfs.WriteAtomic(o.FS, filepath.Join(dir, name), m.TokFiles[name]); err != nil {
			return diskError{err}
		}
	}
	return nil
}

// parameters are the variables of a model's weights by name.
func parameters(m *trainer.Model) map[string]*graph.Var {
	out := map[string]*graph.Var{}
	for _, p := range layers.Params(m.Model) {
		if p.Var != nil {
			out[p.Name] = p.Var
		}
	}
	return out
}

// plainBase returns a base in full precision and the dtype that most of it has: the given one, or one that is dequantized for the time being.
func (r *Report) plainBase(ctx context.Context, o Options, tmp string) (path string, stored tensor.DType, err error) {
	path = o.Model
	if q, _, err := checkpoint.StoredAs(o.FS, o.Model); err == nil && q != nil {
		path, r.Base = filepath.Join(tmp, "base"), q.Scheme
		if _, err := quantize.Dequantize(ctx, quantize.DequantizeOptions{FS: o.FS, In: o.Model, Out: path}); err != nil {
			return "", stored, err
		}
	}
	m, err := trainer.OpenModel(path, trainer.ModelOptions{FS: o.FS})
	if err != nil {
		return "", stored, err
	}
	bytes := map[tensor.DType]int64{}
	for _, p := range layers.Params(m.Model) {
		if p.Var != nil {
			bytes[p.Var.Type.DType] += p.Var.Type.Bytes()
		}
	}
	stored = tensor.F32
	for _, d := range []tensor.DType{tensor.BF16, tensor.F16} {
		if bytes[d] > bytes[stored] {
			stored = d
		}
	}
	return path, stored, m.Close()
}

// rounding reads merged weights and notes what rounding them does. It implements layers.Reader.
type rounding struct {
	*spool.Spool
	report   *Report
	before   map[string]*graph.Var
	dtype    tensor.DType
	ctx      context.Context
	progress func(done, total int, name string)

	done, total int
}

// Get implements layers.Reader.
func (w *rounding) Get(v *graph.Var) (*tensor.Tensor, error) {
	if err := w.ctx.Err(); err != nil {
		return nil, err
	}
	if w.progress != nil {
		w.progress(w.done, w.total, v.Name)
	}
	w.done++
	t, err := w.Spool.Get(v)
	if err != nil || !w.Changed(v) {
		return t, err
	}
	was := w.before[v.Name]
	if was == nil {
		return t, nil // a head that the base does not have
	}
	old, err := w.Original(was)
	if err != nil {
		return nil, err
	}
	l, err := compare(v.Name, old, t, w.dtype)
	if err != nil {
		return nil, err
	}
	w.report.Layers = append(w.report.Layers, l)
	return t, nil
}

// compare measures a change and its rounding.
func compare(name string, old, merged *tensor.Tensor, d tensor.DType) (l Layer, err error) {
	rounded, err := merged.Convert(d)
	if err != nil {
		return l, err
	}
	w, x, q := old.Float32s(), merged.Float32s(), rounded.Float32s()
	if len(w) != len(x) {
		return l, fmt.Errorf("%s has %d elements, its base has %d", name, len(x), len(w))
	}
	var norm float64
	for i := range x {
		change, lost := float64(x[i])-float64(w[i]), float64(q[i])-float64(x[i])
		norm += float64(w[i]) * float64(w[i])
		l.changed += change * change
		l.lost += lost * lost
		l.MaxAbs = max(l.MaxAbs, math.Abs(lost))
	}
	l.Name = name
	if norm > 0 {
		l.Change = math.Sqrt(l.changed / norm)
	}
	if l.changed > 0 {
		l.Loss = math.Sqrt(l.lost / l.changed)
	}
	return l, nil
}
