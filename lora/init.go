package lora

import (
	"errors"
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

var errNoStore = errors.New("lora: there is no store of the weights: give the plan.Store that the model was loaded into")

// Init gives the adapter its initial values, or those that were saved. The base weights must be there already: copies and magnitudes
// begin at them, and some initialisations move a part of them into the adapter.
func (a *Adapter) Init(s Store) error { return a.InitFrom(s, nil) }

// InitFrom is Init for a base that was quantized while it was loaded: original returns a linear layer's weight (out, in) in full precision by
// the name of its variable, and initialisations that take a weight apart begin from it. InitLoftQ needs it.
func (a *Adapter) InitFrom(s Store, original func(name string) (*tensor.Tensor, error)) error {
	if s == nil {
		return errNoStore
	}
	if a.saved != nil {
		if err := a.setBases(s); err != nil {
			return err
		}
	} else {
		for _, m := range a.Modules {
			if err := m.begin(s); err != nil {
				return fmt.Errorf("lora: %s: %w", m.Path, err)
			}
		}
	}
	if a.Config.Init.moves() {
		if err := a.takeOver(s, original); err != nil {
			return err
		}
	}
	if a.saved != nil {
		if err := a.setSaved(s); err != nil {
			return err
		}
		return a.measure(s, false)
	}
	if err := a.measure(s, true); err != nil {
		return err
	}
	if err := a.copyWhole(s); err != nil {
		return err
	}
	return a.copyTokens(s)
}

// begin draws A and B so that their product is zero.
func (m *Module) begin(s Store) error {
	seed, kind := m.set.Config.Seed, m.set.Config.Init
	in := m.A.Type.Dim(1)
	ia, ib := layers.LinearInit(in), layers.Zeros()
	switch {
	case m.Embedding():
		ia, ib = layers.Zeros(), layers.Normal(1)
	case kind == InitGaussian:
		ia = layers.Normal(1 / float64(m.Rank()))
	case kind == InitOrthogonal:
		return m.orthogonal(s, seed)
	}
	values := map[*graph.Var]*tensor.Tensor{m.A: ia.Value(seed, m.A), m.B: ib.Value(seed, m.B)}
	if m.BBias != nil {
		values[m.BBias] = tensor.New(m.BBias.Type)
	}
	return set(s, values)
}

// measure keeps the norms of the base weights' rows for the graph of DoRA. In a new adapter B·A is zero, and magnitudes begin as these norms.
func (a *Adapter) measure(s Store, begin bool) error {
	for _, m := range a.Modules {
		if m.Magnitude == nil {
			continue
		}
		if err := m.measure(s, begin); err != nil {
			return fmt.Errorf("lora: %s: %w", m.Path, err)
		}
	}
	return nil
}

func (m *Module) measure(s Store, begin bool) error {
	w, err := m.readBase(s)
	if err != nil {
		return err
	}
	square, norm := tensor.New(m.square.Type), tensor.New(m.Magnitude.Type)
	for i, x := range m.squares(w.Float32s(), m.Magnitude.Type.Dim(0)) {
		square.Set(i, x)
		norm.Set(i, math.Sqrt(x))
	}
	if err := s.Set(m.square, square); err != nil || !begin {
		return err
	}
	return s.Set(m.Magnitude, norm)
}
