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
	// Read returns a tensor that is the caller's: it may be kept and changed.
	Read(name string) (*tensor.Tensor, error)
}

// QuantizedWeights is implemented by Weights whose linear weights may be stored quantized. checkpoint.Quantized satisfies it.
type QuantizedWeights interface {
	Weights
	// Header describes a weight that is stored quantized; nil when it is rightly stored in full precision, an error when it ought to be
	// quantized and is not or its parts are wrong.
	Header(name string) (*quant.Header, error)
	// State reads a weight that Header describes.
	State(name string) (*quant.State, error)
	// Parts lists the tensors that a quantized weight is made of.
	Parts(name string) []string
}

// Values is where values go as they are loaded, one tensor at a time: a plan.Store.
type Values interface {
	Set(v *graph.Var, t *tensor.Tensor) error
}

// Options configures a Source. The zero value initialises float32 weights.
type Options struct {
	Policy  Policy
	Weights Weights // nil: initialise
	Seed    uint64  // of the initialisers
	// Quantize says whether and how the weight of a linear layer is quantized as it is loaded. nil: none is.
	Quantize func(name string) (quant.Config, bool)
	// Compute4bit is the dtype of products with 4-bit weights, see Linear4bit.Compute. Invalid: that of the activations.
	Compute4bit tensor.DType
	// Grow says, by the model's name, whether a matrix may have fewer rows in the file than the model needs: the table of tokens and the
	// output head of a vocabulary that has gained some. New rows are the mean of the others and a little noise. nil: none may.
	Grow func(name string) bool
	// Narrow is the dtype, of 16 bits, that a weight of that name is stored in where the file has it in float32; Invalid: as it is. It is for
	// weights that are read and not trained, and comes after Policy.Param. nil: every weight as it is.
	Narrow func(name string) tensor.DType
	// Rename maps the model's name of a tensor to the file's. nil: they are the same.
	Rename func(name string) string
}

// Source supplies the weights of a model under construction, by name, from a file or an initialiser. Constructors only declare:
// names, shapes and dtypes are checked against the file at once, values are read by Load, one tensor at a time, so that a step
// can be planned before anything is allocated and a quantized model never sits in memory in full precision. Errors are collected
// and returned by Err, so that constructors read without plumbing. NewSource makes one; of the zero Source, Err says that it is none.
type Source struct {
	prefix string
	linear *Init // of linear weights; nil = LinearInit
	rename func(name string) string
	shared *sourceState
}

type sourceState struct {
	opts  Options
	errs  []error
	used  map[string]bool
	files map[string]string // name in the file by that of the model
	inOut map[string]bool   // names in the file of weights of Conv1D layers
	// originals read weights that are quantized as they are loaded, by their names in the model.
	originals map[string]func() (*tensor.Tensor, error)
	loads     []load
	byVar     map[*graph.Var]int // the load that sets a variable, of those that say
	declared  map[string]string  // where a variable of that name was declared
}

// load puts one declared weight into values.
type load func(values Values) error

// NewSource starts a source at the root of the name space.
func NewSource(o Options) Source {
	return Source{shared: &sourceState{opts: o, used: map[string]bool{}, files: map[string]string{}, inOut: map[string]bool{},
		originals: map[string]func() (*tensor.Tensor, error){}, byVar: map[*graph.Var]int{}, declared: map[string]string{}}}
}

// state is what the source shares with those made from it. The zero Source has none, and each call makes one whose error says so.
func (s Source) state() *sourceState {
	if s.shared != nil {
		return s.shared
	}
	lost := NewSource(Options{}).shared
	lost.errs = []error{errors.New("the layers.Source is the zero value, from which no weight can come: make it with layers.NewSource")}
	return lost
}

// Load reads or draws every weight declared so far and hands it to values, in order of declaration.
func (s Source) Load(values Values) error {
	if err := s.Err(); err != nil {
		return err
	}
	if values == nil {
		return errors.New("there is nothing to load the weights into: give Load a plan.Store")
	}
	for _, l := range s.state().loads {
		if err := l(values); err != nil {
			return err
		}
	}
	return nil
}

// Sub returns a source whose names start with "name.".
func (s Source) Sub(format string, args ...any) Source {
	s.prefix = s.path(fmt.Sprintf(format, args...))
	return s
}

// WithLinear returns a source whose linear weights begin as init says instead of LinearInit.
func (s Source) WithLinear(init Init) Source {
	s.linear = &init
	return s
}

// WithNames returns a source that looks tensors up in the file under rename(name), for a family whose checkpoints come with other
// names than its model has. Options.Rename still comes after it.
func (s Source) WithNames(rename func(name string) string) Source {
	s.rename = rename
	return s
}

func (s Source) linearInit(in int) Init {
	if s.linear != nil {
		return *s.linear
	}
	return LinearInit(in)
}

// Policy returns the model's precision.
func (s Source) Policy() Policy { return s.state().opts.Policy }

// Err returns the first thing that went wrong while weights were declared, with the number of further ones.
func (s Source) Err() error {
	switch errs := s.state().errs; len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	default:
		return fmt.Errorf("%w (and %d more like it)", errs[0], len(errs)-1)
	}
}

// Has reports whether the file holds a tensor under this name; false without a file.
func (s Source) Has(name string) bool {
	o := &s.state().opts
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
	if s.rename != nil {
		full = s.rename(full)
	}
	if r := s.state().opts.Rename; r != nil {
		full = r(full)
	}
	return full
}

func (s Source) fail(err error) {
	if len(s.state().errs) < maxErrors {
		s.state().errs = append(s.state().errs, err)
	}
}

// maxErrors bounds how many errors are counted.
const maxErrors = 10

// Var declares a weight of the given shape.
func (s Source) Var(name string, init Init, dims ...int) *graph.Var {
	v := graph.NewVar(s.path(name), tensor.Type{DType: s.paramType(name), Shape: tensor.S(dims...)})
	o := &s.state().opts
	if !v.Type.Shape.Valid() || !v.Type.DType.IsFloat() {
		s.fail(fmt.Errorf("tensor %q cannot be %v with axes %v: at most %d axes of no negative length, of a floating-point type", v.Name, v.Type.DType, dims, tensor.MaxRank))
		return v
	}
	if o.Weights == nil {
		s.later(func(values Values) error {
			if d, ok := values.(Drawer); ok {
				return d.Draw(v, init)
			}
			return values.Set(v, init.tensor(o.Seed, v))
		}, v)
		return v
	}
	file, ok := s.check(name, v.Type.Shape)
	if !ok {
		return v
	}
	s.later(func(values Values) error {
		t, err := o.Weights.Read(file)
		if err != nil {
			return err
		}
		if s.grows(name, t.Type(), v.Type.Shape) {
			t = grown(t, v.Type.Dim(0), v.Name)
		}
		t, err = converted(v.Name, t, v.Type.DType)
		var large *tensor.RangeError
		if errors.As(err, &large) && s.narrow(name) == v.Type.DType {
			err = fmt.Errorf("tensor %q holds %v, %w: %v; keep it as it is stored", v.Name, large.Value, ErrRange, v.Type.DType)
		}
		if err != nil {
			return err
		}
		return values.Set(v, t)
	}, v)
	return v
}

// later adds a load that sets the given variables. Names are declared once: of two weights that share one, a file could keep only one.
func (s Source) later(l load, vars ...*graph.Var) {
	at := graph.Caller()
	for _, v := range vars {
		if first, twice := s.state().declared[v.Name]; twice {
			s.fail(fmt.Errorf("tensor %q is declared twice, at %s and at %s: give each weight a name of its own (Source.Sub); a weight that two layers share is declared once, and a second copy of a model has a source of its own",
				v.Name, first, at))
			return
		}
		s.state().declared[v.Name] = at
	}
	for _, v := range vars {
		s.state().byVar[v] = len(s.state().loads)
		v.Supplied = true
	}
	s.state().loads = append(s.state().loads, l)
}

// Get reads or draws the value of one variable that was declared here, without keeping it: for those who need each once. It implements
// Reader.
func (s Source) Get(v *graph.Var) (*tensor.Tensor, error) {
	if err := s.Err(); err != nil {
		return nil, err
	}
	i, ok := s.state().byVar[v]
	if !ok {
		return nil, fmt.Errorf("%s is not a variable of this source", v.Name)
	}
	one := single{v: v}
	if err := s.state().loads[i](&one); err != nil {
		return nil, err
	}
	if one.t == nil {
		return nil, fmt.Errorf("%s was not set by its load", v.Name)
	}
	return one.t, nil
}

// single keeps the value of one variable.
type single struct {
	v *graph.Var
	t *tensor.Tensor
}

// Set implements Values.
func (s *single) Set(v *graph.Var, t *tensor.Tensor) error {
	if v == s.v {
		s.t = t
	}
	return nil
}

// paramType is the dtype a weight is stored in.
func (s Source) paramType(name string) tensor.DType {
	o := &s.state().opts
	if o.Policy.Param != tensor.Invalid {
		return o.Policy.Param
	}
	if o.Weights != nil {
		if t, ok := o.Weights.Type(s.fileName(name)); ok {
			if d := s.narrow(name); d != tensor.Invalid && t.DType == tensor.F32 {
				return d
			}
			return t.DType
		}
	}
	return tensor.F32
}

func (s Source) narrow(name string) tensor.DType {
	if f := s.state().opts.Narrow; f != nil {
		return f(s.path(name))
	}
	return tensor.Invalid
}

// ErrRange is part of the error for a weight that Options.Narrow cannot store.
var ErrRange = errors.New("more than its narrower type can")

// check looks a tensor up in the file and compares its shape.
func (s Source) check(name string, want tensor.Shape) (file string, ok bool) {
	file = s.fileName(name)
	s.state().files[s.path(name)] = file
	if have, ok := s.state().opts.Weights.Type(file); ok && s.grows(name, have, want) {
		s.state().used[file] = true
		return file, true
	}
	return file, s.checkFile(file, want)
}

// checkFile is check for the file's own name of a tensor.
func (s Source) checkFile(file string, want tensor.Shape) bool {
	s.state().used[file] = true
	t, found := s.state().opts.Weights.Type(file)
	switch {
	case !found:
		s.fail(fmt.Errorf("tensor %q is missing from the checkpoint; does config.json belong to these weights?", file))
	case t.Shape != want:
		s.fail(fmt.Errorf("tensor %q is %v, the configuration needs shape %v; does config.json belong to these weights?", file, t, want))
	case !t.DType.IsFloat():
		s.fail(fmt.Errorf("tensor %q has dtype %v, a floating-point weight is needed", file, t.DType))
	default:
		return true
	}
	return false
}

// Linear supplies a linear layer: quantized if the file stores it so, or while it is loaded if the options say so.
func (s Source) Linear(name string, in, out int, bias bool) Projection {
	sub := s.Sub("%s", name)
	var b *graph.Var
	if bias {
		b = sub.Var("bias", Zeros(), out)
	}
	if p := sub.stored(in, out, b); p != nil {
		return p
	}
	if q := s.state().opts.Quantize; q != nil {
		if cfg, ok := q(sub.path("weight")); ok {
			return s.computing(quantizedLinear(sub.Quantized("weight", cfg, sub.linearInit(in), out, in), b, cfg))
		}
	}
	return &Linear{Weight: sub.Var("weight", sub.linearInit(in), out, in), Bias: b}
}

// Head supplies an output head without bias, (out, in): quantized if the file stores it so, and never by the options.
func (s Source) Head(name string, init Init, in, out int) Projection {
	sub := s.Sub("%s", name)
	if p := sub.stored(in, out, nil); p != nil {
		return p
	}
	return &Linear{Weight: sub.Var("weight", init, out, in)}
}

// stored declares a layer whose weight lies quantized in the file; nil when it does not.
func (s Source) stored(in, out int, bias *graph.Var) Projection {
	w, ok := s.state().opts.Weights.(QuantizedWeights)
	if !ok {
		return nil
	}
	name, file := s.path("weight"), s.fileName("weight")
	h, err := w.Header(file)
	if h == nil && err == nil {
		return nil
	}
	for _, part := range append(w.Parts(file), file) {
		s.state().used[part] = true
	}
	if err == nil && h.Type.Shape != tensor.S(out, in) {
		err = fmt.Errorf("tensor %q is quantized from %v, the configuration needs shape %v; does config.json belong to these weights?",
			file, h.Type, tensor.S(out, in))
	}
	if err == nil && h.Config.Scheme > quant.Int8 {
		err = fmt.Errorf("tensor %q is stored in %v, for which there is no layer; load the full-precision model and quantize it", file, h.Config.Scheme)
	}
	if err != nil {
		s.fail(err)
		return &Linear{Weight: graph.NewVar(name, tensor.T(tensor.F32, out, in)), Bias: bias} // never loaded: Err tells why
	}
	q := newQuantized(name, h.Config, out, in)
	q.DType = h.Type.DType
	s.later(func(values Values) error {
		st, err := w.State(file)
		if err != nil {
			return err
		}
		return q.SetState(st, values)
	}, q.Vars()...)
	return s.computing(quantizedLinear(q, bias, h.Config))
}

// computing gives a 4-bit layer the dtype of its products.
func (s Source) computing(p Projection) Projection {
	if l, ok := p.(*Linear4bit); ok {
		l.Compute = s.state().opts.Compute4bit
	}
	return p
}

// quantizedLinear is the layer that computes with a quantized weight.
func quantizedLinear(q *Quantized, bias *graph.Var, cfg quant.Config) Projection {
	if q.Scheme == quant.Int8 {
		return &Linear8bitLt{Weight: q, Bias: bias, Threshold: cfg.Threshold}
	}
	return &Linear4bit{Weight: q, Bias: bias}
}

// Quantized declares a weight of any rank that is read (or drawn), quantized, and let go of in full precision.
func (s Source) Quantized(name string, cfg quant.Config, init Init, dims ...int) *Quantized {
	return s.quantized(name, cfg, init, dims, s.full(name, init, dims...))
}

// quantizedTransposed is Quantized of a matrix (rows, cols) that is stored (cols, rows).
func (s Source) quantizedTransposed(name string, cfg quant.Config, init Init, rows, cols int) *Quantized {
	full := s.full(name, init, cols, rows)
	return s.quantized(name, cfg, init, []int{rows, cols}, func() (*tensor.Tensor, error) {
		t, err := full()
		if err != nil {
			return nil, err
		}
		return t.Transpose()
	})
}

func (s Source) quantized(name string, cfg quant.Config, init Init, dims []int, full func() (*tensor.Tensor, error)) *Quantized {
	q, err := NewQuantized(s.path(name), cfg, dims...)
	if err != nil {
		s.fail(err)
		return newQuantized(s.path(name), quant.Config{}, 1, 1) // never loaded: Err tells why
	}
	s.state().originals[q.Name] = full
	if q.Scheme.FourBit() {
		q.DType = s.storedType(name)
	}
	s.later(func(values Values) error {
		if d, ok := values.(Drawer); ok && s.state().opts.Weights == nil {
			return d.DrawQuantized(q, init)
		}
		t, err := full()
		if err != nil {
			return err
		}
		return q.Quantize(t, values)
	}, q.Vars()...)
	return q
}

// Original reads a weight that is quantized as it is loaded once more, in full precision, by its name in the model.
func (s Source) Original(name string) (*tensor.Tensor, error) {
	full, ok := s.state().originals[name]
	if !ok {
		return nil, fmt.Errorf("the weight %q is stored quantized, and what it was quantized from is not there; load the full-precision model", name)
	}
	return full()
}

// full returns a function that reads (or draws) a weight in the dtype that the file has, float32 for float64 and without a file.
func (s Source) full(name string, init Init, dims ...int) func() (*tensor.Tensor, error) {
	o := &s.state().opts
	if o.Weights == nil {
		v := graph.NewVar(s.path(name), tensor.T(tensor.F32, dims...))
		return func() (*tensor.Tensor, error) { return init.tensor(o.Seed, v), nil }
	}
	file, _ := s.check(name, tensor.S(dims...)) // a failure is in Err, which Load looks at first
	d := s.storedType(name)
	return func() (*tensor.Tensor, error) {
		t, err := o.Weights.Read(file)
		if err != nil {
			return nil, err
		}
		return converted(file, t, d)
	}
}

// storedType is the dtype of a weight that quantization starts from.
func (s Source) storedType(name string) tensor.DType {
	if o := &s.state().opts; o.Weights != nil {
		if t, ok := o.Weights.Type(s.fileName(name)); ok && t.DType.IsFloat() && t.DType != tensor.F64 {
			return t.DType
		}
	}
	return tensor.F32
}

// File is the name in the file of a tensor that was declared under a name of the model.
func (s Source) File(name string) string {
	if f, ok := s.state().files[name]; ok {
		return f
	}
	return name
}

// StoredInOut reports whether a tensor of the file is the weight of a Conv1D: (in, out) in full precision, (out, in) quantized.
func (s Source) StoredInOut(file string) bool { return s.state().inOut[file] }

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
		if !s.state().used[n] {
			out = append(out, n)
		}
	}
	return out
}

// converted is a tensor in the dtype d, without a copy where it has that already.
func converted(name string, t *tensor.Tensor, d tensor.DType) (*tensor.Tensor, error) {
	if t.DType() == d {
		return t, nil
	}
	out, err := t.Narrow(d)
	if err != nil {
		return nil, fmt.Errorf("tensor %q: %w", name, err)
	}
	return out, nil
}
