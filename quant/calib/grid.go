package calib

import (
	"fmt"
	"math"
)

// Params places a grid: a code stands for (code - Zero)·Scale on an integer grid, for table[code]·Scale on a table.
type Params struct {
	Scale float32
	Zero  int32
}

// Grid is a family of sets of values, one for each Params: what the elements that share a scale can become. A Grid has no state and
// may be used by several goroutines.
type Grid interface {
	// Fit returns the parameters that round-to-nearest uses for a group of weights.
	Fit(group []float32) Params
	// Round returns the code of the value next to x, and that value in float32 as dequantization gives it.
	Round(x float32, p Params) (code uint8, value float32)
}

// Affine is a grid of 2^Bits evenly spaced values, 2 to 8 bits, with codes from 0. Symmetric, Zero is always the middle, 2^(Bits-1), so
// that there is one more negative value than positive ones; else it is the code of 0.
type Affine struct {
	Bits      int
	Symmetric bool
}

func (a Affine) check() error {
	if a.Bits < 2 || a.Bits > 8 {
		return fmt.Errorf("calib: a grid of %d bits: must be from 2 to 8", a.Bits)
	}
	return nil
}

// Params places the grid so that it spans a range; symmetric, so that its largest positive value is the range's AbsMax. A range of
// width 0 gives Scale 1.
func (a Affine) Params(r Range) Params {
	top, middle := int32(1)<<a.Bits-1, int32(1)<<(a.Bits-1)
	if a.Symmetric {
		return Params{positive(r.AbsMax() / float32(top-middle)), middle}
	}
	scale := positive((r.Hi - r.Lo) / float32(top))
	zero := math.RoundToEven(float64(-r.Lo) / float64(scale))
	return Params{scale, int32(min(max(zero, 0), float64(top)))}
}

// positive replaces a scale that nothing can be divided by.
func positive(scale float32) float32 {
	if scale < math.SmallestNonzeroFloat32*(1<<23) || scale-scale != 0 {
		return 1
	}
	return scale
}

// Fit implements Grid: the extremes of the group are spanned.
func (a Affine) Fit(group []float32) Params {
	lo, hi := float32(0), float32(0)
	for _, v := range group {
		lo, hi = min(lo, v), max(hi, v)
	}
	return a.Params(Range{lo, hi})
}

// Round implements Grid: half to even, saturating.
func (a Affine) Round(x float32, p Params) (code uint8, value float32) {
	q := math.RoundToEven(float64(x/p.Scale)) + float64(p.Zero)
	k := int32(min(max(q, 0), float64(int32(1)<<a.Bits-1)))
	return uint8(k), float32(k-p.Zero) * p.Scale
}
