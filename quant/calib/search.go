package calib

import (
	"fmt"
	"math"
)

// DefaultBins is how many bins the histograms of observers have.
const DefaultBins = 2048

// Percentile spans all but the outermost values: with p = 99.9, 0.05% are left out at each end. Values are kept exactly while they
// are few, in a histogram afterwards; memory is bounded.
type Percentile struct {
	p float64
	s sample
}

// NewPercentile returns an observer that keeps p percent of the values, 0 < p <= 100, with histograms of the given number of bins
// (0 = DefaultBins).
func NewPercentile(p float64, bins int) (*Percentile, error) {
	if !(p > 0 && p <= 100) {
		return nil, fmt.Errorf("calib: percentile %v: must be above 0 and at most 100 (usual: 99.9 to 99.999)", p)
	}
	bins, err := binsOf(bins)
	return &Percentile{p, newSample(bins)}, err
}

func binsOf(bins int) (int, error) {
	switch {
	case bins == 0:
		return DefaultBins, nil
	case bins < 16 || bins > 1<<24:
		return 0, fmt.Errorf("calib: %d bins: must be from 16 to %d", bins, 1<<24)
	}
	return bins, nil
}

// Observe implements Observer.
func (p *Percentile) Observe(batch []float32) error { return p.s.add(batch) }

// Merge implements Observer.
func (p *Percentile) Merge(o Observer) error {
	other, ok := o.(*Percentile)
	if !ok || other.p != p.p || other.s.hist.bins != p.s.hist.bins {
		return mismatch(p, o)
	}
	return p.s.merge(&other.s)
}

// Range implements Observer.
func (p *Percentile) Range() (Range, error) {
	if p.s.seen.n == 0 {
		return Range{}, ErrNoData
	}
	out := (1 - p.p/100) / 2
	return rangeOf(float32(p.s.quantile(out)), float32(p.s.quantile(1-out))), nil
}

// clipSteps is how many clip factors the MSE observer tries: 1, 1-1/clipSteps, ..., 1/clipSteps.
const clipSteps = 100

// MSE spans the interval that gives the least mean squared error on its grid: both ends of the observed range are moved towards 0 by
// one factor, and every hundredth is tried. Clipping errors and rounding errors are weighed against each other on the values
// themselves (on a histogram when they are many).
type MSE struct {
	grid Affine
	s    sample
}

// NewMSE returns an observer for a grid, with histograms of the given number of bins (0 = DefaultBins).
func NewMSE(grid Affine, bins int) (*MSE, error) {
	if err := grid.check(); err != nil {
		return nil, err
	}
	bins, err := binsOf(bins)
	return &MSE{grid, newSample(bins)}, err
}

// Observe implements Observer.
func (m *MSE) Observe(batch []float32) error { return m.s.add(batch) }

// Merge implements Observer.
func (m *MSE) Merge(o Observer) error {
	other, ok := o.(*MSE)
	if !ok || other.grid != m.grid || other.s.hist.bins != m.s.hist.bins {
		return mismatch(m, o)
	}
	return m.s.merge(&other.s)
}

// Range implements Observer.
func (m *MSE) Range() (Range, error) {
	if m.s.seen.n == 0 {
		return Range{}, ErrNoData
	}
	full := rangeOf(m.s.seen.lo, m.s.seen.hi)
	best, least := full, math.Inf(1)
	for i := clipSteps; i > 0; i-- {
		f := float32(i) / clipSteps
		r := Range{full.Lo * f, full.Hi * f}
		p := m.grid.Params(r)
		sum := 0.0
		m.s.each(func(v float64, count uint64) {
			_, y := m.grid.Round(float32(v), p)
			d := v - float64(y)
			sum += d * d * float64(count)
		})
		if sum < least {
			best, least = r, sum
		}
	}
	return best, nil
}

// Entropy spans the interval whose quantized distribution keeps most of the information: the threshold t on |x| that gives the least
// Kullback-Leibler divergence between the histogram clipped at t and the same squeezed into the grid's levels (Migacz 2017, "8-bit
// inference with TensorRT"). The interval is [-t, t] within what was seen.
type Entropy struct {
	levels int
	seen   extent
	hist   *Histogram // of magnitudes
}

// maxEntropyBins bounds a search whose time grows with the square of the bins.
const maxEntropyBins = 1 << 15

// NewEntropy returns an observer for signed codes of some bits (2 to 8; 0 = 8: 128 levels of magnitude) with histograms of the given
// number of bins (0 = DefaultBins, at most 32768: the time of Range grows with their square).
func NewEntropy(bits, bins int) (*Entropy, error) {
	if bits == 0 {
		bits = 8
	}
	if bits < 2 || bits > 8 {
		return nil, fmt.Errorf("calib: entropy for %d bits: must be from 2 to 8", bits)
	}
	if bins > maxEntropyBins {
		return nil, fmt.Errorf("calib: entropy with %d bins: at most %d, or the search takes hours", bins, maxEntropyBins)
	}
	bins, err := binsOf(bins)
	e := &Entropy{levels: 1 << (bits - 1), hist: NewHistogram(bins)}
	e.hist.zero = true
	return e, err
}

// Observe implements Observer.
func (e *Entropy) Observe(batch []float32) error {
	abs := make([]float32, len(batch))
	for i, v := range batch {
		abs[i] = float32(math.Abs(float64(v)))
	}
	if err := e.hist.Add(abs); err != nil {
		return err
	}
	_, _, err := e.seen.add(batch)
	return err
}

// Merge implements Observer.
func (e *Entropy) Merge(o Observer) error {
	other, ok := o.(*Entropy)
	if !ok || other.levels != e.levels || other.hist.bins != e.hist.bins {
		return mismatch(e, o)
	}
	e.seen.join(other.seen)
	return e.hist.Merge(other.hist)
}

// Range implements Observer.
func (e *Entropy) Range() (Range, error) {
	if e.seen.n == 0 {
		return Range{}, ErrNoData
	}
	full := rangeOf(e.seen.lo, e.seen.hi)
	counts := e.magnitudes()
	best := len(counts)
	least := math.Inf(1)
	for i := e.levels; i <= len(counts); i++ {
		if d := divergence(counts, i, e.levels); d < least {
			best, least = i, d
		}
	}
	t := float32(min(float64(best)*e.hist.Width(), float64(full.AbsMax())))
	return Range{max(full.Lo, -t), min(full.Hi, t)}, nil
}

// magnitudes are the counts of the bins from 0 on.
func (e *Entropy) magnitudes() []float64 {
	out := make([]float64, e.hist.first+int64(len(e.hist.counts)))
	for i, c := range e.hist.counts {
		out[e.hist.first+int64(i)] = float64(c)
	}
	return out
}

// divergence is KL(P‖Q) for the first n bins: P has the counts beyond them added to its last bin, Q has the n bins merged into levels
// and each level's count spread evenly over those of its bins that hold something.
func divergence(counts []float64, n, levels int) float64 {
	beyond := 0.0
	for _, c := range counts[n:] {
		beyond += c
	}
	total, inside := beyond, 0.0
	for _, c := range counts[:n] {
		total += c
		inside += c
	}
	if inside == 0 {
		return math.Inf(1)
	}
	kl := 0.0
	for l := range levels {
		lo, hi := l*n/levels, (l+1)*n/levels
		sum, filled := 0.0, 0
		for _, c := range counts[lo:hi] {
			sum += c
			if c > 0 {
				filled++
			}
		}
		for i := lo; i < hi; i++ {
			p := counts[i]
			if i == n-1 {
				p += beyond
			}
			if p == 0 {
				continue
			}
			if counts[i] == 0 {
				return math.Inf(1) // values beyond n fall on a bin that the grid gives nothing
			}
			q := sum / float64(filled) / inside
			p /= total
			kl += p * math.Log(p/q)
		}
	}
	return kl
}
