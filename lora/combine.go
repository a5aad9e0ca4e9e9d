package lora

import (
	"fmt"
	"math"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/internal/linalg"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Kind is how adapters are combined.
type Kind string

const (
	// Cat puts A below A and B beside B: exactly the weighted sum, with the sum of the ranks.
	Cat Kind = "cat"
	// LinearSum adds √w·A to √w·A and √w·B to √w·B, for adapters of one rank. With several adapters it is no sum of their outputs: products of
	// one's A with another's B come in (PEFT's "linear").
	LinearSum Kind = "linear"
	// SVD is the best approximation of the weighted sum by a rank that is given.
	SVD Kind = "svd"
)

// Combination says what is combined.
type Combination struct {
	Adapters []*Adapter
	Weights  []float64 // of each; may be negative
	Kind     Kind      // "" = Cat
	Rank     int       // of SVD; 0 = the largest rank among the adapters
}

// Combine adds an adapter to the model that is a weighted combination of others on it, as PEFT's add_weighted_adapter makes it: α equals r,
// and the adapters' scales are in its numbers. A module that only some of them have gets theirs. The adapters stay as they are; what they
// train whole, biases and DoRA cannot be combined.
func Combine(model any, name string, c Combination, s Store) (*Adapter, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	parts := map[string][]weighted{}
	for i, a := range c.Adapters {
		for _, m := range a.Modules {
			parts[m.Path] = append(parts[m.Path], weighted{m, c.Weights[i]})
		}
	}
	var chosen []*layer
	all := layersOf(model)
	for _, l := range all {
		if parts[l.path] != nil {
			chosen = append(chosen, l)
		}
	}
	out := &Adapter{Name: name, experts: slices.ContainsFunc(all, (*layer).param), parameters: parametersOf(chosen, all)}
	if err := out.free(chosen); err != nil {
		return nil, err
	}
	rank := c.rank()
	out.Config = Config{Rank: rank, Alpha: float64(rank)}.withDefaults()
	out.freeze(model)
	for _, l := range chosen {
		if err := out.add(l, rank, 1); err != nil {
			return nil, out.undo(err)
		}
	}
	out.targets = commonNames(chosen, all)
	out.setTrainable(true)
	for _, m := range out.Modules {
		if err := m.combine(parts[m.Path], c.Kind, s); err != nil {
			return nil, out.undo(fmt.Errorf("lora: combining %s: %w", m.Path, err))
		}
	}
	return out, nil
}

// weighted is a module with its weight in a combination.
type weighted struct {
	*Module
	w float64
}

func (c Combination) check() error {
	switch {
	case len(c.Adapters) == 0 || len(c.Adapters) != len(c.Weights):
		return fmt.Errorf("lora: %d adapters are combined with %d weights; give each a weight", len(c.Adapters), len(c.Weights))
	case c.Kind != "" && c.Kind != Cat && c.Kind != LinearSum && c.Kind != SVD:
		return fmt.Errorf("lora: combination %q is not known; known are cat, linear, svd", c.Kind)
	case c.Rank != 0 && c.Kind != SVD:
		return fmt.Errorf("lora: the rank of a combination is chosen with svd only")
	}
	for i, a := range c.Adapters {
		switch {
		case math.IsNaN(c.Weights[i]) || math.IsInf(c.Weights[i], 0):
			return fmt.Errorf("lora: the weight of adapter %q is %v", a.Name, c.Weights[i])
		case a.merged:
			return fmt.Errorf("lora: the adapter %q is merged; unmerge it to combine it", a.Name)
		case len(a.Modules) == 0:
			return fmt.Errorf("lora: the adapter %q has no modules; one that was removed cannot be combined", a.Name)
		case a.Config.DoRA || a.Config.BBias || len(a.whole)+len(a.tokens) > 0:
			return fmt.Errorf("lora: the adapter %q has magnitudes, biases or weights of its own beside A and B, which cannot be added up", a.Name)
		}
		for _, m := range a.Modules {
			if m.group != nil {
				return fmt.Errorf("lora: %s of adapter %q belongs to experts, whose adapters cannot be combined", m.Path, a.Name)
			}
			if r := c.Adapters[0].Modules[0].Rank(); c.Kind == LinearSum && m.Rank() != r {
				return fmt.Errorf("lora: %s of adapter %q has rank %d, others %d; linear adds matrices of one rank, use cat or svd", m.Path, a.Name, m.Rank(), r)
			}
		}
	}
	return nil
}

// rank is that of the combination.
func (c Combination) rank() int {
	largest, sum := 0, 0
	for _, a := range c.Adapters {
		most := 0
		for _, m := range a.Modules {
			most = max(most, m.Rank())
		}
		largest, sum = max(largest, most), sum+most
	}
	switch {
	case c.Kind == "" || c.Kind == Cat:
		return sum
	case c.Rank > 0:
		return c.Rank
	}
	return largest
}

// combine fills A and B of a module.
func (m *Module) combine(parts []weighted, kind Kind, s Store) error {
	if kind == SVD {
		return m.combineSVD(parts, s)
	}
	r, in, out := m.Rank(), m.A.Type.Dim(1), m.B.Type.Dim(0)
	at, bt := tensor.New(m.A.Type), tensor.New(m.B.Type)
	row := 0
	for _, p := range parts {
		a, err := wide(s, p.A)
		if err != nil {
			return err
		}
		b, err := wide(s, p.B)
		if err != nil {
			return err
		}
		f := p.w * p.Scale
		fa, fb := f, 1.0
		if kind == LinearSum { // the sign stands on one side
			fb = math.Sqrt(math.Abs(f))
			fa, row = math.Copysign(fb, f), 0
		}
		n := p.Rank()
		for k := range n {
			for i := range in {
				at.Set((row+k)*in+i, at.At((row+k)*in+i)+fa*a.At(k*in+i))
			}
			for o := range out {
				bt.Set(o*r+row+k, bt.At(o*r+row+k)+fb*b.At(o*n+k))
			}
		}
		row += n
	}
	return set(s, map[*graph.Var]*tensor.Tensor{m.A: at, m.B: bt})
}

// combineSVD takes the sum of the outputs apart.
func (m *Module) combineSVD(parts []weighted, s Store) error {
	in, out := m.A.Type.Dim(1), m.B.Type.Dim(0)
	sum := linalg.New(out, in)
	for _, p := range parts {
		delta, err := p.Delta(s)
		if err != nil {
			return err
		}
		for i, d := range delta {
			at := i
			if m.Embedding() { // (vocabulary, features)
				at = i%out*in + i/out
			}
			sum.Data[at] += p.w * float64(d)
		}
	}
	r := min(m.Rank(), in, out)
	svd, err := linalg.TopSVD(sum, r)
	if err != nil {
		return err
	}
	a, b := linalg.New(m.Rank(), in), linalg.New(out, m.Rank())
	copy(a.Data, svd.V.Data)
	for o := range out {
		for k := range r {
			b.Data[o*m.Rank()+k] = svd.U.Data[o*r+k] * svd.S[k]
		}
	}
	return m.setPair(s, a, b)
}
