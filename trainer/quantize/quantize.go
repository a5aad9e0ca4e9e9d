// Package quantize turns models on disk into quantized ones and back: a safetensors file, or a Hugging Face folder as transformers with
// bitsandbytes would have saved it. Weights are read, quantized, compared with what they were and written one at a time, so that memory
// stays at the largest weight however large the model is; what is written appears under its name when it is whole.
package quantize

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer/calibrate"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// Options says what to quantize and how. In, Out and Scheme are required.
type Options struct {
	FS  vfs.FS // nil: the operating system's
	In  string // safetensors file, Hugging Face folder, or builtin:NAME
	Out string // file or folder to make; it must not exist

	Scheme    string       // a name of quant.ParseFormat: nf4, fp4, int8, int4:group=128, fp8_e4m3, ...
	Blocksize int          // of nf4 and fp4; 0 = 64
	Double    bool         // quantize the scales too; nf4 and fp4
	Storage   tensor.DType // element type under which 4-bit codes are stored; Invalid = U8
	Compute   tensor.DType // bnb_4bit_compute_dtype to write; Invalid = the dtype of the model
	Threshold float32      // llm_int8_threshold to write; 0 = 6, negative = off
	Exclude   []string     // patterns of modules to keep in full precision, by the rule of checkpoint.Quantization.Skips

	// Change alters a weight before it is quantized, such as by pruning; nil: none is. It gets a copy in the weight's own dtype.
	Change func(name string, w *tensor.Tensor) (*tensor.Tensor, error)
	// Calibration says how data helps to find the codes; the zero value is round to nearest.
	Calibration Calibration
	// Progress is called before each weight; nil: nobody is told.
	Progress func(done, total int, name string)
}

// Run quantizes In into Out and reports on every weight.
func Run(ctx context.Context, o Options) (*Report, error) {
	r, err := run(ctx, o)
	return r, classify(err)
}

// Check refuses what Run would refuse before it reads a weight: options, names that exist already, models that cannot be quantized. folder
// tells whether the input is a model folder, which can be run, and not a file of weights.
func Check(o Options) (folder bool, err error) {
	_, in, err := prepare(o)
	if err != nil {
		return false, classify(err)
	}
	return in.dir != nil, in.close()
}

// prepare opens the input and decides what is quantized.
func prepare(o Options) (*job, *input, error) {
	p, err := newPlan(o)
	if err != nil {
		return nil, nil, err
	}
	if err := refuseExisting(p.FS, p.Out); err != nil {
		return nil, nil, err
	}
	in, err := openInput(p.FS, p.In)
	if err != nil {
		return nil, nil, err
	}
	if _, err = p.method(in); err == nil {
		err = p.choose(in)
	}
	if err != nil {
		return nil, nil, errors.Join(err, in.close())
	}
	return p, in, nil
}

func run(ctx context.Context, o Options) (r *Report, err error) {
	p, in, err := prepare(o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, in.close()) }()
	if p.Calibration.Data != "" {
		if err := p.calibrate(ctx, in); err != nil {
			return nil, err
		}
		if err := p.refuseUnplaced(in); err != nil {
			return nil, err
		}
	}
	w := &writer{job: p, in: in, report: &Report{Source: o.In, Out: o.Out, Scheme: p.format.Name(), Method: p.Method, Layers: []Layer{}, Kept: []Kept{}}}
	if in.dir == nil {
		err = w.file(ctx)
	} else {
		err = w.folder(ctx)
	}
	if err != nil {
		return nil, err
	}
	w.report.total()
	return w.report, nil
}

// job is Options with what follows from them.
type job struct {
	Options
	format  quant.Format
	bnb     bool // the format is one of bitsandbytes
	config  *checkpoint.Quantization
	weights map[string]bool // names of the tensors to quantize

	// Of calibration: the weights that it quantized, those that it changed and that stay in full precision (norms that took over a
	// scale), and what it says of each; none without data.
	Method string
	states map[string]*quant.State
	dense  map[string]*tensor.Tensor
	notes  map[string]calibrate.Layer
}

func newPlan(o Options) (*job, error) {
	o.FS = vfs.Or(o.FS)
	if o.In == "" || o.Out == "" {
		return nil, bad("", "what to quantize and where to write it are needed: trainer quantize IN OUT --scheme nf4")
	}
	o.Out = filepath.Clean(o.Out) // a slash at the end would make it the folder of its own temporary file
	p := &job{Options: o, weights: map[string]bool{}, Method: "rtn"}
	if o.Calibration.Method != "" && o.Calibration.Method != "rtn" && o.Calibration.Data == "" {
		return nil, bad("method", "%s needs data to run the model on: name a file with --calibrate", o.Calibration.Method)
	}
	if err := p.parse(); err != nil {
		return nil, err
	}
	p.config = &checkpoint.Quantization{Method: checkpoint.MethodOwn, Scheme: p.format.Name(), Skip: p.Exclude}
	if c, ok := p.format.(quant.Config); ok {
		p.bnb = true
		p.config = &checkpoint.Quantization{Method: checkpoint.MethodBNB, Scheme: c.Scheme.String(), Double: c.Double, Storage: p.Storage,
			Compute: p.Compute, Threshold: c.Threshold, Skip: p.Exclude}
	}
	if len(p.Exclude) > 0 && !slices.Contains(p.Exclude, "lm_head") { // a list replaces the default of transformers
		p.config.Skip = append([]string{"lm_head"}, p.Exclude...)
	}
	return p, nil
}

// parse makes the format of the scheme and its options.
func (p *job) parse() error {
	f, err := quant.ParseFormat(p.Scheme)
	if err != nil {
		return bad("scheme", "%s", strings.TrimPrefix(err.Error(), "quant: "))
	}
	c, ok := f.(quant.Config)
	fourBit := ok && c.Scheme.FourBit()
	if !fourBit && (p.Blocksize != 0 || p.Double) {
		return bad("scheme", "%s takes neither a blocksize nor double quantization by flag: nf4 and fp4 do; others have options in their names, such as int4:group=64", p.Scheme)
	}
	if !fourBit && p.Storage != tensor.Invalid && p.Storage != tensor.U8 {
		return bad("storage", "%v is for the codes of nf4 and fp4; %s is stored in bytes", p.Storage, p.Scheme)
	}
	if ok {
		if p.Blocksize != 0 {
			c.Blocksize = p.Blocksize
		}
		c.Double = c.Double || p.Double
		if c.Scheme == quant.Int8 {
			c.Threshold = threshold(p.Threshold, c.Threshold)
		}
		f = c
	}
	if err := p.refuseUnread(fourBit, ok && c.Scheme == quant.Int8); err != nil {
		return err
	}
	if p.Storage == tensor.Invalid {
		p.Storage = tensor.U8
	}
	p.format = f
	// What no weight could take is refused before anything is read.
	if _, err := f.New(tensor.T(tensor.F32, 1, 2)); err != nil {
		return bad("scheme", "%s", strings.TrimPrefix(err.Error(), "quant: "))
	}
	return nil
}

// refuseUnread refuses options that say nothing of the scheme, and thresholds that config.json cannot hold.
func (p *job) refuseUnread(fourBit, int8 bool) error {
	switch {
	case !fourBit && p.Compute != tensor.Invalid:
		return bad("compute", "it is the dtype of products with nf4 and fp4; %s has none", p.Scheme)
	case !int8 && p.Threshold != 0:
		return bad("threshold", "it is for the outlier columns of int8; %s has none", p.Scheme)
	case p.Threshold-p.Threshold != 0:
		return bad("threshold", "%v cannot be written to config.json: 6 is usual, 0 switches outlier columns off", p.Threshold)
	}
	return nil
}

// threshold is llm_int8_threshold: the option, else the format's, else that of transformers.
func threshold(option, format float32) float32 {
	switch {
	case option < 0:
		return 0
	case option > 0:
		return option
	case format > 0:
		return format
	}
	return 6
}

// bad is an error of an option: exit code 2.
func bad(key, format string, args ...any) error {
	return &config.ErrConfig{Key: key, Reason: fmt.Sprintf(format, args...), Flag: key != ""}
}

// inputError is an error of the input: exit code 3.
type inputError struct{ error }

// ExitCode is config.ExitInput.
func (inputError) ExitCode() int { return config.ExitInput }

// Unwrap returns the cause.
func (e inputError) Unwrap() error { return e.error }

// diskError is an error of writing: exit code 6.
type diskError struct{ error }

// ExitCode is config.ExitDisk.
func (diskError) ExitCode() int { return config.ExitDisk }

// Unwrap returns the cause.
func (e diskError) Unwrap() error { return e.error }

// classify gives an error the exit code of its kind, unless it has one.
func classify(err error) error {
	var has interface{ ExitCode() int }
	switch {
	case err == nil || errors.As(err, &has):
		return err
	case errors.Is(err, checkpoint.ErrDisk):
		return diskError{err}
	case errors.Is(err, checkpoint.ErrFormat):
		return inputError{err}
	}
	return err
}

func onDisk(err error) error {
	if err == nil {
		return nil
	}
	return diskError{err}
}

func refuseExisting(fsys vfs.FS, path string) error {
	_, err := fsys.Stat(path)
	switch {
	case err == nil:
		return bad("", "%s exists, and nothing is written over it: name another, or remove it", path)
	case !errors.Is(err, fs.ErrNotExist):
		return inputError{err}
	}
	return nil
}
