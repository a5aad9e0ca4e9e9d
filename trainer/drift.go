package trainer

import (
	"context"

	"github.com/bitsandbyes/bitsandbyes/data"
)

// drift estimates how far the policy is from the reference, as kto has it: the mean difference of their log-probabilities of answers that
// belong to other prompts. Each prompt of the step gets the chosen answer of the next pair, the last one that of the first.
type drift struct{ policy, reference *answerScorer }

// measure returns z of a step, not below 0.
func (d *drift) measure(ctx context.Context, step []data.Batch) (float64, error) {
	pairs := chosenOf(step)
	crossed := make([]scored, len(pairs))
	for i, p := range pairs {
		next := pairs[(i+1)%len(pairs)]
		at, from := answerAt(p), answerAt(next)
		crossed[i].id = p.id
		crossed[i].ids = append(append(crossed[i].ids, p.ids[:at]...), next.ids[from:]...)
		crossed[i].labels = append(append(crossed[i].labels, p.labels[:at]...), next.labels[from:]...)
	}
	var sum float64
	if err := d.policy.score(ctx, crossed, func(_ int, logp float32) { sum += float64(logp) }); err != nil {
		return 0, err
	}
	if err := d.reference.score(ctx, crossed, func(_ int, logp float32) { sum -= float64(logp) }); err != nil {
		return 0, err
	}
	return max(sum/float64(max(len(crossed), 1)), 0), nil
}

// chosenOf lists the chosen rows of a step.
func chosenOf(step []data.Batch) (out []scored) {
	for i := range step {
		b := &step[i]
		for r := range b.Pairs {
			lo, hi := r*b.T, r*b.T
			for hi < lo+b.T && b.Sample[hi] != data.PadSample {
				hi++
			}
			out = append(out, scored{b.Sample[lo], b.Tokens[lo:hi], b.Labels[lo:hi]})
		}
	}
	return out
}

// answerAt is the index of the first labelled token.
func answerAt(s scored) int {
	for i, l := range s.labels {
		if l != data.Ignore {
			return i
		}
	}
	return len(s.labels)
}
