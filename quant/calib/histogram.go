package calib

import (
	"fmt"
	"math"
	"slices"
)

// Histogram counts values in bins of equal width, a power of two, and bin k holds the values of [k·width, (k+1)·width). When a value
// falls outside, the width doubles and neighbours are added up, so no count is ever split. The width is a function of the extremes
// alone: the order of batches and merges does not matter. Memory is bounded by the number of bins.
type Histogram struct {
	bins   int
	zero   bool // bins begin at 0, whatever the smallest value
	seen   extent
	exp    int // width = 2^exp
	first  int64
	counts []uint64 // of bins first, first+1, ...
}

// minWidthShift bounds how fine bins get below the largest magnitude, where all values are alike: indices then fit 2^41.
const minWidthShift = 40

// NewHistogram returns a histogram of at most bins bins (at least 2).
func NewHistogram(bins int) *Histogram { return &Histogram{bins: max(bins, 2)} }

// Add counts a batch. NaN and infinities are refused and leave the histogram as it was.
func (h *Histogram) Add(batch []float32) error {
	e := h.seen
	if _, _, err := e.add(batch); err != nil || e.n == h.seen.n {
		return err
	}
	if h.zero {
		e.lo = min(e.lo, 0)
	}
	h.grow(e)
	for _, v := range batch {
		h.counts[h.index(v)-h.first]++
	}
	return nil
}

// Merge adds the counts of o, which must have as many bins.
func (h *Histogram) Merge(o *Histogram) error {
	if o.bins != h.bins {
		return fmt.Errorf("calib: a histogram of at most %d bins cannot take in one of at most %d: make both alike", h.bins, o.bins)
	}
	if o.seen.n == 0 {
		return nil
	}
	e := h.seen
	e.join(o.seen)
	h.grow(e)
	for i, c := range o.counts {
		h.counts[(o.first+int64(i))>>(h.exp-o.exp)-h.first] += c
	}
	return nil
}

// Width is the width of a bin.
func (h *Histogram) Width() float64 { return math.Ldexp(1, h.exp) }

// Len is the number of values counted.
func (h *Histogram) Len() int64 { return h.seen.n }

// Each calls f for every bin that holds something, in ascending order, with its borders.
func (h *Histogram) Each(f func(lo, hi float64, count uint64)) {
	w := h.Width()
	for i, c := range h.counts {
		if c > 0 {
			lo := float64(h.first+int64(i)) * w
			f(lo, lo+w, c)
		}
	}
}

func (h *Histogram) index(v float32) int64 { return floorIndex(v, h.exp) }

func floorIndex(v float32, exp int) int64 { return int64(math.Floor(math.Ldexp(float64(v), -exp))) }

// grow makes room for an extent that contains what was seen.
func (h *Histogram) grow(e extent) {
	exp := widthFor(e, h.bins)
	if h.seen.n > 0 {
		exp = max(exp, h.exp)
	}
	first := floorIndex(e.lo, exp)
	n := floorIndex(e.hi, exp) - first + 1
	if h.seen.n == 0 || exp != h.exp || first != h.first || int(n) != len(h.counts) {
		counts := make([]uint64, n)
		for i, c := range h.counts {
			counts[(h.first+int64(i))>>(exp-h.exp)-first] += c
		}
		h.counts = counts
	}
	h.seen, h.exp, h.first = e, exp, first
}

// widthFor returns the smallest exponent with which bins of width 2^exp cover an extent.
func widthFor(e extent, bins int) int {
	peak := math.Max(math.Abs(float64(e.lo)), math.Abs(float64(e.hi)))
	if peak == 0 {
		return -149 - minWidthShift // below every float32
	}
	_, top := math.Frexp(peak)
	for exp := top - minWidthShift; ; exp++ {
		if floorIndex(e.hi, exp)-floorIndex(e.lo, exp) < int64(bins) {
			return exp
		}
	}
}

// exactValues is how many values an observer keeps as they are before it turns to a histogram.
const exactValues = 8192

// sample is the values seen: themselves while they are few, then a histogram.
type sample struct {
	exact []float32
	hist  *Histogram
	seen  extent
}

func newSample(bins int) sample { return sample{hist: NewHistogram(bins)} }

func (s *sample) add(batch []float32) error {
	e := s.seen
	if _, _, err := e.add(batch); err != nil || e.n == s.seen.n {
		return err
	}
	s.seen = e
	if s.hist.Len() == 0 && len(s.exact)+len(batch) <= exactValues {
		s.exact = append(s.exact, batch...)
		return nil
	}
	return s.spill(batch)
}

func (s *sample) spill(batch []float32) error {
	if err := s.hist.Add(s.exact); err != nil {
		return err
	}
	s.exact = nil
	return s.hist.Add(batch)
}

func (s *sample) merge(o *sample) error {
	if o.hist.Len() == 0 {
		return s.add(o.exact)
	}
	s.seen.join(o.seen)
	if err := s.spill(nil); err != nil {
		return err
	}
	return s.hist.Merge(o.hist)
}

// each calls f with values in ascending order: bins by their centre, kept within the extremes.
func (s *sample) each(f func(v float64, count uint64)) {
	if s.hist.Len() == 0 {
		slices.Sort(s.exact) // their order means nothing
		for _, v := range s.exact {
			f(float64(v), 1)
		}
		return
	}
	s.hist.Each(func(lo, hi float64, count uint64) {
		f(min(max((lo+hi)/2, float64(s.seen.lo)), float64(s.seen.hi)), count)
	})
}

// quantile returns the value below which a share q of the values lies, interpolated between neighbours (inside a bin: evenly).
func (s *sample) quantile(q float64) float64 {
	at := q * float64(s.seen.n-1)
	if s.hist.Len() == 0 {
		slices.Sort(s.exact)
		i := int(at)
		lo, hi := float64(s.exact[i]), float64(s.exact[min(i+1, len(s.exact)-1)])
		return lo + (at-float64(i))*(hi-lo)
	}
	switch { // the extremes are known exactly
	case at <= 0:
		return float64(s.seen.lo)
	case at >= float64(s.seen.n-1):
		return float64(s.seen.hi)
	}
	below, out, done := 0.0, float64(s.seen.hi), false
	s.hist.Each(func(lo, hi float64, count uint64) {
		if c := float64(count); !done && at < below+c {
			out, done = lo+(hi-lo)*(at-below+0.5)/c, true
		} else {
			below += c
		}
	})
	return min(max(out, float64(s.seen.lo)), float64(s.seen.hi))
}
