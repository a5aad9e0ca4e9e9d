package calibrate

import (
	"context"

	"github.com/bitsandbyes/bitsandbyes/quant"
)

// InputNorms returns, by the path of each linear layer, the norm ‖X_j‖ of each of its inputs over all tokens of the rows: what
// prune.Wanda weighs magnitudes with. Of the options it takes Model, Store, Rows, Keep and Memory.
func InputNorms(ctx context.Context, o Options) (map[string][]float32, error) {
	o.Format, o.Method = quant.Config{}, AWQ // which gathers statistics of channels
	r := &run{Options: o}
	if err := r.prepare(); err != nil {
		return nil, err
	}
	stages, err := r.stages()
	if err != nil {
		return nil, err
	}
	out := map[string][]float32{}
	for _, part := range r.parts(stages) {
		if err := r.gather(ctx, part); err != nil {
			return nil, err
		}
		for _, s := range part {
			norms := s.stats.Norms()
			for _, l := range s.linears {
				out[l.path] = norms
			}
			s.samples, s.stats = nil, nil
		}
	}
	return out, nil
}
