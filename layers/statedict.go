package layers

import (
	"fmt"
	"maps"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// StateDict calls f for every tensor that a checkpoint of the model holds, in walking order, one parameter in memory at a time: plain
// parameters under their names, quantized ones as the tensors of quant.State.StateDict. Names come from the model's tags.
func StateDict(model any, values Reader, f func(name string, t *tensor.Tensor) error) error {
	for _, p := range Params(model) {
		if p.Quantized == nil {
			t, err := values.Get(p.Var)
			if err == nil {
				err = f(p.Name, t)
			}
			if err != nil {
				return fmt.Errorf("tensor %q: %w", p.Name, err)
			}
			continue
		}
		st, err := p.Quantized.State(values)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", p.Name, err)
		}
		parts, err := st.StateDict(p.Name)
		if err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(parts)) {
			if err := f(name, parts[name]); err != nil {
				return fmt.Errorf("tensor %q: %w", name, err)
			}
		}
	}
	return nil
}
