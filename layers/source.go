package layers

import (
	"errors"
	"fmt"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Policy is the precision of a model. Param is the dtype that weights are stored in; Invalid (the zero value) keeps what the
// file has, and float32 for initialised weights. Compute is the dtype of activations; Invalid means float32.
type Policy struct{ Param, Compute tensor.DType }

// ComputeType returns the dtype of activations.
func (p Policy) ComputeType() tensor.DType {
	if p.Compute == tensor.Invalid {
		return tensor.F32
	}
	return p.Compute
}

// Weights is where values come from: a checkpoint. checkpoint.Dir and checkpoint.File satisfy it.
type Weights interface {
	// Type returns the type stored under a name; ok is false when there is none.
	Type(name string) (tensor.Type, bool)
	// Read returns a tensor; the caller may keep it.
	Read(name string) (*tensor.Tensor, error)
}

// Values is where values go as they are loaded, one tensor at a time: a plan.Store.
type Values interface {
	Set(v *graph.Var, t *tensor.Tensor) error
}

// Options configures a Source. The zero value initialises float32 weights and keeps no values, which is enough to plan a step.
type Options struct {
	Policy  Policy
	Weights Weights // nil: initialise
	Values  Values  // nil: symbols only
	Seed    uint64  // of the initialisers
	// Quantize says whether and how the weight of a linear layer is quantized as it is loaded. nil: none is.
	Quantize func(name string) (quant.Config, bool)
	// Rename maps the model's name of a tensor to the file's. nil: they are the same.
	Rename func(name string) string
}

// Source supplies the weights of a model under construction, by name, from a file or an initialiser, one tensor at a time: a
// quantized model never sits in memory in full precision. Errors are collected and returned by Err, so that constructors read
// without plumbing.
type Source struct {
	prefix string
	shared *sourceState
}

type sourceState struct {
	opts Options
	errs []error
	used map[string]bool
}

// NewSource starts a source at the root of the name space.
func NewSource(o Options) Source { return Source{shared: &sourceState{opts: o, used: map[string]bool{}}} }

// Sub returns a source whose names start with "name.".
func (s Source) Sub(format string, args ...any) Source {
	return Source{s.path(fmt.Sprintf(format, args...)), s.shared}
}

// Policy returns the model's precision.
func (s Source) Policy() Policy { return s.shared.opts.Policy }

// Err returns what went wrong while weights were supplied, the first ten joined.
func (s Source) Err() error { return errors.Join(s.shared.errs...) }

// Used reports whether a tensor of the file was asked for.
func (s Source) Used(name string) bool { return s.shared.used[name] }

// Has reports whether the file holds a tensor under this name; false without a file.
func (s Source) Has(name string) bool {
	o := &s.shared.opts
	if o.Weights == nil {
		return false
	}
	_, ok := o.Weights.Type(s.fileName(name))
	return ok
}

func (s Source) path(name string) string {
	if s.prefix == "" {
		return name
	}
	return s.prefix + "." + name
}

func (s Source) fileName(name string) string {
	full := s.path(name)
	if r := s.shared.opts.Rename; r != nil {
		full = r(full)
	}
	return full
}

func (s Source) fail(err error) {
	if len(s.shared.errs) < 10 {
		s.shared.errs = append(s.shared.errs, err)
	}
}

// Var supplies a weight of the given shape.
func (s Source) Var(name string, init Init, dims ...int) *graph.Var {
	shape := tensor.S(dims...)
	o := &s.shared.opts
	v := graph.NewVar(s.path(name), tensor.Type{DType: s.paramType(name), Shape: shape})
	if o.Values == nil && o.Weights == nil {
		return v
	}
	t, err := s.value(name, v, init)
	if err == nil && o.Values != nil {
		err = o.Values.Set(v, t)
	}
	if err != nil {
		s.fail(err)
	}
	return v
}

// paramType is the dtype a weight is stored in.
func (s Source) paramType(name string) tensor.DType {
	o := &s.shared.opts
	if o.Policy.Param != tensor.Invalid {
		return o.Policy.Param
	}
	if o.Weights != nil {
		if t, ok := o.Weights.Type(s.fileName(name)); ok {
			return t.DType
		}
	}
	return tensor.F32
}

func (s Source) value(name string, v *graph.Var, init Init) (*tensor.Tensor, error) {
	o := &s.shared.opts
	if o.Weights == nil {
		return init.tensor(o.Seed, v), nil
	}
	t, err := s.read(name, v.Type.Shape)
	if err != nil || o.Values == nil {
		return nil, err
	}
	return t.Convert(v.Type.DType)
}

// read loads a tensor of the file and checks its shape. Without a place for values only the type is checked.
func (s Source) read(name string, want tensor.Shape) (*tensor.Tensor, error) {
	o := &s.shared.opts
	file := s.fileName(name)
	s.shared.used[file] = true
	t, ok := o.Weights.Type(file)
	switch {
	case !ok:
		return nil, fmt.Errorf("tensor %q is missing from the checkpoint; does config.json belong to these weights?", file)
	case t.Shape != want:
		return nil, fmt.Errorf("tensor %q is %v, the configuration needs shape %v; does config.json belong to these weights?", file, t, want)
	case !t.DType.IsFloat():
		return nil, fmt.Errorf("tensor %q has dtype %v, a floating-point weight is needed", file, t.DType)
	case o.Values == nil:
		return nil, nil
	}
	return o.Weights.Read(file)
}

// Linear supplies a linear layer, quantized while it is loaded if the options say so.
func (s Source) Linear(name string, in, out int, bias bool) Projection {
	sub := s.Sub("%s", name)
	var b *graph.Var
	if bias {
		b = sub.Var("bias", Zeros(), out)
	}
	if q := s.shared.opts.Quantize; q != nil {
		if cfg, ok := q(sub.path("weight")); ok {
			return &Linear4bit{Weight: sub.quantized("weight", cfg, out, in), Bias: b}
		}
	}
	return &Linear{Weight: sub.Var("weight", LinearInit(in), out, in), Bias: b}
}

// quantized reads (or initialises) a weight, quantizes it and lets the full-precision tensor go.
func (s Source) quantized(name string, cfg quant.Config, rows, cols int) *Quantized {
	q := newQuantized(s.path(name), cfg, rows, cols)
	o := &s.shared.opts
	var t *tensor.Tensor
	var err error
	if o.Weights != nil {
		t, err = s.read(name, tensor.S(rows, cols))
	} else if o.Values != nil {
		t = LinearInit(cols).tensor(o.Seed, graph.NewVar(s.path(name), tensor.T(tensor.F32, rows, cols)))
	}
	if err == nil && t != nil {
		q.DType = t.DType()
		err = q.store(t, cfg, o.Values)
	}
	if err != nil {
		s.fail(err)
	}
	return q
}

// Unused lists the tensors of names that no constructor asked for, leaving out those with one of the suffixes.
func (s Source) Unused(names []string, ignoreSuffix ...string) []string {
	var out []string
next:
	for _, n := range names {
		for _, suf := range ignoreSuffix {
			if strings.HasSuffix(n, suf) {
				continue next
			}
		}
		if !s.shared.used[n] {
			out = append(out, n)
		}
	}
	return out
}
