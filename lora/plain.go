package lora

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Pair is what a saved adapter adds to one module: Scale·B·A.
type Pair struct {
	Path      string
	A, B      *tensor.Tensor // (r, in), (out, r); of an embedding (r, vocabulary), (features, r)
	Scale     float64
	Embedding bool
}

// Pairs lists a saved adapter module by module, for formats that know nothing but low-rank sums. Whatever else an adapter may hold is refused
// by name: merging it into the model keeps it.
func (s *Saved) Pairs() ([]Pair, error) {
	c := s.Config
	for _, more := range []struct {
		on   bool
		name string
	}{
		{c.DoRA, "DoRA's magnitudes"}, {c.BBias, "a bias on B (lora_bias)"}, {c.Bias != "" && c.Bias != BiasNone, "biases of the model"},
		{len(c.ModulesToSave) > 0, "modules that are trained whole (modules_to_save)"}, {len(c.Tokens) > 0, "tokens that are trained alone"},
		{c.Init.moves(), "an initialisation that changes the base (" + string(c.Init) + ")"},
	} {
		if more.on {
			return nil, fmt.Errorf("lora: the adapter has %s, and A and B alone are not all of it; merge it into the model", more.name)
		}
	}
	var out []Pair
	for _, m := range s.modules {
		a, b := m.tensors[m.a()], m.tensors[m.b()]
		if m.experts > 0 {
			return nil, fmt.Errorf("lora: %s: the adapter has an A and a B for each of %d experts; merge it into the model", m.path, m.experts)
		}
		if a == nil || b == nil || len(m.tensors) != 2 {
			return nil, fmt.Errorf("lora: %s: the adapter holds more than A and B; merge it into the model", m.path)
		}
		out = append(out, Pair{m.path, a, b, m.scale, m.embedding})
	}
	return out, nil
}
