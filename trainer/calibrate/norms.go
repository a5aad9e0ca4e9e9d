package calibrate

import (
	"context"
	"errors"

	"github.com/bitsandbyes/bitsandbyes/quant"
)

// InputNorms returns, by the path of each linear layer, the norm ‖X_j‖ of each of its inputs over all tokens of the rows: what
// prune.Wanda weighs magnitudes with. Of the options it takes Model, Store, Launch, Rows, Keep and Memory.
func InputNorms(ctx context.Context, o Options) (map[string][]float32, error) {
	if len(o.Rows) == 0 {
		return nil, errors.New("calibrate: InputNorms needs rows of tokens to run the model on")
	}
	r := &run{Options: Options{Model: o.Model, Store: o.Store, Launch: o.Launch, Rows: o.Rows, Keep: o.Keep, Memory: o.Memory, SampleRows: 1,
		Format: quant.Config{}, Method: AWQ}} // AWQ gathers statistics of channels
	if err := r.prepare(); err != nil {
		return nil, err
	}
	if err := r.checkWeights(); err != nil {
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
			for _, l := range s.linears { // a slice each: callers may change one
				out[l.path] = s.stats.Norms()
			}
			s.samples, s.stats = nil, nil
		}
	}
	return out, nil
}
