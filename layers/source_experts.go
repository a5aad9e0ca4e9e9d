package layers

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// ExpertPart is some rows of every expert's matrix, as files hold them that have one tensor an expert.
type ExpertPart struct {
	Name string // of the tensor, from the root, with one %d for the number of the expert
	Rows int
}

// Experts supplies a weight (experts, out, in), out being the rows of all parts: from one tensor of the source's name, or from one tensor
// (rows, in) for each expert and part, whose rows lie one behind the other. Like Linear it is quantized if the file stores it so, or while
// it is loaded, expert by expert, if the options say so.
func (s Source) Experts(name string, experts, in int, parts ...ExpertPart) Grouped {
	l := &expertLoader{s: s, name: name, in: in, experts: experts, parts: parts}
	for _, p := range parts {
		l.rows += p.Rows
	}
	o := &s.state().opts
	l.whole = o.Weights == nil || s.Has(name)
	if stored := l.stored(); stored != nil {
		return stored
	}
	if l.find(); l.dtype == tensor.Invalid {
		l.dtype = tensor.F32
	}
	if o.Quantize != nil {
		if cfg, ok := o.Quantize(s.path(name)); ok {
			return l.quantized(cfg)
		}
	}
	d := l.dtype
	if o.Policy.Param != tensor.Invalid {
		d = o.Policy.Param
	}
	v := graph.NewVar(s.path(name), tensor.T(d, experts, l.rows, in))
	s.later(func(values Values) error {
		t, err := l.all(d)
		if err != nil {
			return err
		}
		return values.Set(v, t)
	}, v)
	return &GroupedLinear{Weight: v}
}

// expertLoader reads the matrices of experts.
type expertLoader struct {
	s                 Source
	name              string
	whole             bool // one tensor holds all, or weights are drawn
	experts, rows, in int
	parts             []ExpertPart
	dtype             tensor.DType // in the file
}

// file is the name of an expert's part in the file.
func (l *expertLoader) file(p ExpertPart, e int) string {
	name := fmt.Sprintf(p.Name, e)
	if r := l.s.state().opts.Rename; r != nil {
		return r(name)
	}
	return name
}

// each calls f for the tensors of the file, in the order of the rows.
func (l *expertLoader) each(f func(file string, rows int)) {
	for e := range l.experts {
		for _, p := range l.parts {
			f(l.file(p, e), p.Rows)
		}
	}
}

// find checks that the file has what is needed.
func (l *expertLoader) find() {
	w := l.s.state().opts.Weights
	if w == nil {
		return
	}
	if l.whole {
		file, _ := l.s.check(l.name, tensor.S(l.experts, l.rows, l.in))
		t, _ := w.Type(file)
		l.dtype = t.DType
		return
	}
	l.each(func(file string, rows int) {
		if l.s.checkFile(file, tensor.S(rows, l.in)) {
			if t, _ := w.Type(file); l.dtype == tensor.Invalid || t.DType.Size() > l.dtype.Size() {
				l.dtype = t.DType
			}
		}
	})
}

// all reads (or draws) the whole weight in a dtype.
func (l *expertLoader) all(d tensor.DType) (*tensor.Tensor, error) {
	out := tensor.New(tensor.T(d, l.experts, l.rows, l.in))
	n := len(out.Bytes()) / max(l.experts, 1)
	for e := range l.experts {
		t, err := l.one(e)
		if err == nil {
			t, err = converted(l.file(l.parts[0], e), t, d)
		}
		if err != nil {
			return nil, err
		}
		copy(out.Bytes()[e*n:(e+1)*n], t.Bytes())
	}
	return out, nil
}

// ranger is implemented by Weights that can read a part of a tensor: checkpoint.Reader.
type ranger interface {
	ReadInto(name string, offset int64, p []byte) error
}

// one reads (or draws) the matrix of an expert in the file's dtype.
func (l *expertLoader) one(e int) (*tensor.Tensor, error) {
	o := &l.s.state().opts
	if o.Weights == nil {
		v := graph.NewVar(fmt.Sprintf("%s.%d", l.s.path(l.name), e), tensor.T(tensor.F32, l.rows, l.in))
		return l.s.linearInit(l.in).tensor(o.Seed, v), nil
	}
	out := tensor.New(tensor.T(l.dtype, l.rows, l.in))
	if l.whole {
		file, n := l.s.fileName(l.name), len(out.Bytes())
		if r, ok := o.Weights.(ranger); ok {
			return out, r.ReadInto(file, int64(e)*int64(n), out.Bytes())
		}
		t, err := o.Weights.Read(file)
		if err == nil {
			copy(out.Bytes(), t.Bytes()[e*n:])
		}
		return out, err
	}
	at := 0
	for _, p := range l.parts {
		t, err := o.Weights.Read(l.file(p, e))
		if err == nil {
			t, err = converted(l.file(p, e), t, l.dtype)
		}
		if err != nil {
			return nil, err
		}
		at += copy(out.Bytes()[at:], t.Bytes())
	}
	return out, nil
}

// quantized declares the weight as one that is quantized while it is loaded.
func (l *expertLoader) quantized(cfg quant.Config) Grouped {
	path := l.s.path(l.name)
	q, err := NewQuantized(path, cfg, l.experts, l.rows, l.in)
	if err != nil {
		l.s.fail(err)
		return &GroupedQuantized{Weight: newQuantized(path, quant.Config{}, 1, 1, 1)} // never loaded: Err tells why
	}
	if q.Scheme.FourBit() {
		if q.DType = l.dtype; q.DType == tensor.F64 {
			q.DType = tensor.F32
		}
	}
	l.s.later(func(values Values) error {
		if q.Scheme.FourBit() && l.rows*l.in%q.Blocksize != 0 { // a block may span experts
			t, err := l.all(q.DType)
			if err != nil {
				return err
			}
			return q.Quantize(t, values)
		}
		return l.quantize(q, values)
	}, q.Vars()...)
	return &GroupedQuantized{Weight: q, Compute: l.s.state().opts.Compute4bit}
}

// quantize quantizes expert by expert: the bytes of quantizing all at once.
func (l *expertLoader) quantize(q *Quantized, values Values) error {
	cfg := q.Config()
	cfg.Double = false
	states := make([]*quant.State, l.experts)
	for e := range states {
		t, err := l.one(e)
		if err == nil {
			t, err = converted(q.Name, t, q.DType)
		}
		if err != nil {
			return err
		}
		if states[e], err = quant.QuantizeTensor(t, cfg, quant.Options{Parallel: quant.Parallel}); err != nil {
			return fmt.Errorf("tensor %q, expert %d: %w", q.Name, e, err)
		}
	}
	st, err := quant.Join(q.Shape, states...)
	if err == nil && q.Nested() {
		err = st.Nest()
	}
	if err != nil {
		return fmt.Errorf("tensor %q: %w", q.Name, err)
	}
	st.Storage = q.Storage
	return q.SetState(st, values)
}

// stored declares a weight whose parts lie quantized in the file; nil when they do not. Scales of a second level are restored: each part has
// its own.
func (l *expertLoader) stored() Grouped {
	w, ok := l.s.state().opts.Weights.(QuantizedWeights)
	if !ok || l.whole || l.experts == 0 {
		return nil
	}
	first, err := w.Header(l.file(l.parts[0], 0))
	if first == nil && err == nil {
		return nil
	}
	l.each(func(file string, rows int) {
		for _, part := range append(w.Parts(file), file) {
			l.s.state().used[part] = true
		}
		h, herr := w.Header(file)
		switch {
		case err != nil:
		case herr != nil:
			err = herr
		case h == nil:
			err = fmt.Errorf("tensor %q is stored in full precision, others of its layer are quantized; use the config.json that belongs to these weights", file)
		case h.Type.Shape != tensor.S(rows, l.in):
			err = fmt.Errorf("tensor %q is quantized from %v, the configuration needs shape %v; does config.json belong to these weights?",
				file, h.Type, tensor.S(rows, l.in))
		}
	})
	path := l.s.path(l.name)
	if err != nil {
		l.s.fail(err)
		return &GroupedQuantized{Weight: newQuantized(path, quant.Config{}, 1, 1, 1)} // never loaded: Err tells why
	}
	cfg := first.Config
	cfg.Double = false
	q := newQuantized(path, cfg, l.experts, l.rows, l.in)
	q.DType = first.Type.DType
	l.s.later(func(values Values) error {
		var states []*quant.State
		var err error
		l.each(func(file string, _ int) {
			if err == nil {
				var st *quant.State
				st, err = w.State(file)
				states = append(states, st)
			}
		})
		if err != nil {
			return err
		}
		st, err := quant.Join(q.Shape, states...)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", path, err)
		}
		return q.SetState(st, values)
	}, q.Vars()...)
	return &GroupedQuantized{Weight: q, Compute: l.s.state().opts.Compute4bit}
}
