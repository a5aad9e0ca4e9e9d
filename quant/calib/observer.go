package calib

import (
	"fmt"
	"math"
)

// Range is the interval of values that a grid should span. It contains 0, which every grid must hold exactly.
type Range struct{ Lo, Hi float32 }

// AbsMax is the half width of the smallest interval around 0 that holds the range: what a symmetric grid spans.
func (r Range) AbsMax() float32 { return max(-r.Lo, r.Hi) }

// Observer watches batches of a tensor's values and says which range a grid should span. What it saw may be merged with what
// another of the same kind and options saw, in other batches or on another machine. It is not safe for concurrent use.
type Observer interface {
	// Observe adds a batch. NaN and infinities are refused and leave the observer as it was; an empty batch is none.
	Observe(batch []float32) error
	// Merge adds what o saw, as if its batches had followed this observer's own.
	Merge(o Observer) error
	// Range returns the interval; ErrNoData when nothing was observed.
	Range() (Range, error)
}

// extent is what every observer keeps.
type extent struct {
	lo, hi float32
	n      int64 // values
}

func (e *extent) add(batch []float32) (lo, hi float32, err error) {
	if i := firstNonFinite(batch); i >= 0 {
		return 0, 0, fmt.Errorf("calib: value %d of a batch is %v: find the layer that overflows before calibrating", i, batch[i])
	}
	for i, v := range batch {
		if i == 0 {
			lo, hi = v, v
		}
		lo, hi = min(lo, v), max(hi, v)
	}
	if len(batch) > 0 {
		e.join(extent{lo, hi, int64(len(batch))})
	}
	return lo, hi, nil
}

func (e *extent) join(o extent) {
	switch {
	case o.n == 0:
	case e.n == 0:
		*e = o
	default:
		e.lo, e.hi, e.n = min(e.lo, o.lo), max(e.hi, o.hi), e.n+o.n
	}
}

// rangeOf is an interval widened to contain 0.
func rangeOf(lo, hi float32) Range { return Range{min(lo, 0), max(hi, 0)} }

// MinMax spans everything it saw.
type MinMax struct{ seen extent }

// NewMinMax returns an observer of the extremes.
func NewMinMax() *MinMax { return &MinMax{} }

// Observe implements Observer.
func (m *MinMax) Observe(batch []float32) error {
	_, _, err := m.seen.add(batch)
	return err
}

// Merge implements Observer.
func (m *MinMax) Merge(o Observer) error {
	other, ok := o.(*MinMax)
	if !ok {
		return mismatch(m, o)
	}
	m.seen.join(other.seen)
	return nil
}

// Range implements Observer.
func (m *MinMax) Range() (Range, error) {
	if m.seen.n == 0 {
		return Range{}, ErrNoData
	}
	return rangeOf(m.seen.lo, m.seen.hi), nil
}

func mismatch(a, b Observer) error {
	return fmt.Errorf("calib: a %T cannot take in what a %T saw with other options: make both alike", a, b)
}

// DefaultAveraging is the weight of a new batch in a MovingAverage.
const DefaultAveraging = 0.01

// MovingAverage spans the exponential moving averages of the batches' extremes, so that a single wild batch counts little.
type MovingAverage struct {
	c              float64
	batches        int
	lo, hi         float64
	firstLo, first float64 // of the first batch, which Merge needs
}

// NewMovingAverage returns an observer in which a new batch has weight c, 0 < c <= 1 (0 = DefaultAveraging).
func NewMovingAverage(c float64) (*MovingAverage, error) {
	if c == 0 {
		c = DefaultAveraging
	}
	if !(c > 0 && c <= 1) {
		return nil, fmt.Errorf("calib: averaging constant %v: must be above 0 and at most 1", c)
	}
	return &MovingAverage{c: c}, nil
}

// Observe implements Observer.
func (m *MovingAverage) Observe(batch []float32) error {
	var e extent
	lo, hi, err := e.add(batch)
	if err != nil || e.n == 0 {
		return err
	}
	l, h := float64(lo), float64(hi)
	if m.batches == 0 {
		m.lo, m.hi, m.firstLo, m.first = l, h, l, h
	} else {
		m.lo += m.c * (l - m.lo)
		m.hi += m.c * (h - m.hi)
	}
	m.batches++
	return nil
}

// Merge implements Observer. The average over a's batches and then b's is (1-c)^n·a + b - (1-c)^n·b₁, where b₁ is the first of b's
// n batches: alone, b started from it with full weight.
func (m *MovingAverage) Merge(o Observer) error {
	other, ok := o.(*MovingAverage)
	if !ok || other.c != m.c {
		return mismatch(m, o)
	}
	switch {
	case other.batches == 0:
		return nil
	case m.batches == 0:
		*m = *other
		return nil
	}
	rest := math.Pow(1-m.c, float64(other.batches))
	m.lo = other.lo + rest*(m.lo-other.firstLo)
	m.hi = other.hi + rest*(m.hi-other.first)
	m.batches += other.batches
	return nil
}

// Range implements Observer.
func (m *MovingAverage) Range() (Range, error) {
	if m.batches == 0 {
		return Range{}, ErrNoData
	}
	return rangeOf(float32(m.lo), float32(m.hi)), nil
}
