package layers

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// NamedVar is a variable under its name in a checkpoint.
type NamedVar struct {
	Name string
	Var  *graph.Var
}

// Namer is a layer whose variables are not fields with a fixed name. Walk asks it instead of looking at its fields.
type Namer interface {
	// NamedVars returns the variables with their names below the layer's own path.
	NamedVars() []NamedVar
}

// Buffer declares state that is saved with a model and is no parameter, such as running statistics: a tensor of dtype d. A file
// may hold another dtype of its kind. If optional, a file need not have it, and it begins as init says.
func (s Source) Buffer(name string, d tensor.DType, optional bool, init Init, dims ...int) *graph.Var {
	v := graph.NewVar(s.path(name), tensor.T(d, dims...))
	o := &s.state().opts
	if o.Weights == nil || (optional && !s.Has(name)) {
		s.later(func(values Values) error { return values.Set(v, init.tensor(o.Seed, v)) }, v)
		return v
	}
	file := s.fileName(name)
	s.state().used[file] = true
	switch t, found := o.Weights.Type(file); {
	case !found:
		s.fail(fmt.Errorf("tensor %q is missing from the checkpoint; does config.json belong to these weights?", file))
		return v
	case t.Shape != v.Type.Shape || t.DType.IsFloat() != d.IsFloat():
		s.fail(fmt.Errorf("tensor %q is %v, the configuration needs %v; does config.json belong to these weights?", file, t, v.Type))
		return v
	}
	s.later(func(values Values) error {
		t, err := o.Weights.Read(file)
		if err != nil {
			return err
		}
		if t, err = t.Convert(d); err != nil {
			return err
		}
		return values.Set(v, t)
	}, v)
	return v
}
