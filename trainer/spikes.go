package trainer

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// How a spike is told from the noise of training: steps that are looked back on, those needed before anything is said, and how many
// standard deviations above their mean a value is.
const (
	spikeWindow = 100
	spikeAfter  = 20
	spikeSigmas = 6
)

// spikes watches a series for values far above those before.
type spikes struct{ last []float64 }

// add takes the next value and returns how many standard deviations it lies above the mean of those before, 0 while there are too few.
func (s *spikes) add(v float64) (z float64) {
	if n := float64(len(s.last)); len(s.last) >= spikeAfter {
		var sum, square float64
		for _, x := range s.last {
			sum += x
		}
		mean := sum / n
		for _, x := range s.last {
			square += (x - mean) * (x - mean)
		}
		// A series that hardly moves has no spikes of rounding.
		deviation := max(math.Sqrt(square/n), 1e-3*math.Abs(mean))
		if deviation > 0 {
			z = (v - mean) / deviation
		}
	}
	if s.last = append(s.last, v); len(s.last) > spikeWindow {
		s.last = s.last[1:]
	}
	return z
}

// recallSpikes takes the rows before a resumed step, so that a spike is told as in a run that was never stopped.
func (j *job) recallSpikes() error {
	if j.state.Step == 0 {
		return nil
	}
	rows, err := report.ReadMetricsFile(j.path("metrics.jsonl"))
	for _, r := range rows[max(len(rows)-2*spikeWindow, 0):] { // twice: some may be of steps that were left out
		j.noteSpikes(r.Loss, r.GradNorm)
	}
	return err
}

// noteSpikes takes the numbers of a step; one that float16 leaves out has no norm and is none.
func (j *job) noteSpikes(loss, norm float64) (lossSigmas, normSigmas float64) {
	if !finite(loss) || !finite(norm) {
		return 0, 0
	}
	return j.losses.add(loss), j.norms.add(norm)
}

// watchSpikes warns of a step whose loss or gradient stands out, with its rows: bad data is found by them.
func (j *job) watchSpikes(step int, r stepResult, buf []data.Batch) {
	loss, norm := j.noteSpikes(r.loss, r.norm)
	if loss > spikeSigmas || norm > 2*spikeSigmas {
		j.log.Warn("a spike: look at these rows if it comes again", "step", step, "loss", r.loss, "loss_sigmas", math.Round(loss), "grad_norm", r.norm,
			"norm_sigmas", math.Round(norm), "rows", j.sources(buf))
	}
}
