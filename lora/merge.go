package lora

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Store reads and writes the values of variables: a plan.Store.
type Store interface {
	layers.Values
	layers.Reader
}

// Merge adds every adapter into its base weight, W + s·B·A, and switches the adapters off. A quantized base is dequantized, added
// to, and quantized again with its own scheme, which rounds. A weight that would become non-finite is left alone and named. Plans
// compiled earlier still add the adapter: compile them again.
func (a *Adapter) Merge(s Store) error { return a.fold(s, 1) }

// Unmerge takes merged adapters out of their base weights again, up to rounding, and switches them on.
func (a *Adapter) Unmerge(s Store) error { return a.fold(s, -1) }

func (a *Adapter) fold(s Store, sign float64) error {
	for _, m := range a.Modules {
		if m.Linear.merged == (sign > 0) {
			continue
		}
		delta, err := m.Linear.Delta(s)
		if err != nil {
			return fmt.Errorf("lora: %s: %w", m.Path, err)
		}
		for i := range delta {
			delta[i] *= float32(sign)
		}
		if err := addTo(m.Linear.Base, delta, s); err != nil {
			return fmt.Errorf("lora: %s: %w", m.Path, err)
		}
		m.Linear.merged = sign > 0
	}
	return nil
}

// Delta returns s·B·A as (out, in) row-major float32 values, accumulated in float64.
func (l *Linear) Delta(s layers.Reader) ([]float32, error) {
	at, err := wide(s, l.A)
	if err != nil {
		return nil, err
	}
	bt, err := wide(s, l.B)
	if err != nil {
		return nil, err
	}
	a, b := tensor.Data[float32](at), tensor.Data[float32](bt)
	r, in, out := l.A.Type.Dim(0), l.A.Type.Dim(1), l.B.Type.Dim(0)
	delta := make([]float32, out*in)
	row := make([]float64, in)
	for o := range out {
		clear(row)
		for k := range r {
			f := l.Scale * float64(b[o*r+k])
			for i, x := range a[k*in : (k+1)*in] {
				row[i] += f * float64(x)
			}
		}
		for i, x := range row {
			delta[o*in+i] = float32(x)
		}
	}
	return delta, nil
}

// wide reads a variable as float32.
func wide(s layers.Reader, v *graph.Var) (*tensor.Tensor, error) {
	t, err := s.Get(v)
	if err != nil {
		return nil, err
	}
	return t.Convert(tensor.F32)
}

// addTo adds delta to the weight of a projection.
func addTo(p layers.Projection, delta []float32, s Store) error {
	switch p := p.(type) {
	case *layers.Linear:
		return addToVar(p.Weight, delta, s)
	case *layers.Conv1D:
		w, err := p.ReadWeight(s)
		if err != nil {
			return err
		}
		if err := addFinite(w, delta); err != nil {
			return err
		}
		return p.WriteWeight(w, s)
	case *layers.Linear4bit:
		return addToQuantized(p.Weight, delta, s)
	case *layers.Linear8bitLt:
		if p.Master != nil {
			return addToVar(p.Master, delta, s)
		}
		return addToQuantized(p.Weight, delta, s)
	case *layers.SwitchBack:
		return addToVar(p.Weight, delta, s)
	}
	return fmt.Errorf("cannot merge into a %T", p)
}

func addToVar(v *graph.Var, delta []float32, s Store) error {
	w, err := s.Get(v)
	if err != nil {
		return err
	}
	if err := addFinite(w, delta); err != nil {
		return err
	}
	return s.Set(v, w)
}

func addFinite(w *tensor.Tensor, delta []float32) error {
	for i, d := range delta {
		x := w.At(i) + float64(d)
		w.Set(i, x)
		if y := w.At(i); y-y != 0 {
			return fmt.Errorf("merging makes element %d %v; nothing was changed", i, y)
		}
	}
	return nil
}

func addToQuantized(q *layers.Quantized, delta []float32, s Store) error {
	st, err := q.State(s)
	if err != nil {
		return err
	}
	w, err := st.Dequantize(tensor.F32)
	if err != nil {
		return err
	}
	if err := addFinite(w, delta); err != nil {
		return err
	}
	return q.Quantize(w, s)
}
