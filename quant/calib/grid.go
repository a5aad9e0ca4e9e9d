package calib

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/quant"
)

// Params places a grid: code c stands for (c - Zero)·Step.
type Params struct {
	Step float32
	Zero uint8
}

// Affine is a grid of 2^Bits evenly spaced values, 2 to 8 bits, for activations: what quant.AffineFormat is for weights, with the same
// arithmetic. Symmetric, Zero is the middle, 2^(Bits-1), so that there is one more negative value than positive ones.
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
// width 0 gives Step 0.
func (a Affine) Params(r Range) Params {
	if a.Symmetric {
		return Params{r.AbsMax() / float32(int(1)<<(a.Bits-1)-1), 1 << (a.Bits - 1)}
	}
	step, zero := quant.AffineParams(r.Lo, r.Hi, a.Bits)
	return Params{step, zero}
}

// Round returns the code of the value next to x (half to even, saturating) and that value.
func (a Affine) Round(x float32, p Params) (code uint8, value float32) {
	q := 0.0
	if p.Step > 0 {
		q = math.RoundToEven(float64(x) / float64(p.Step))
	}
	code = uint8(min(max(q+float64(p.Zero), 0), float64(int(1)<<a.Bits-1)))
	return code, (float32(code) - float32(p.Zero)) * p.Step
}

// roundAll rounds values in place on a grid placed by their extremes.
func (a Affine) roundAll(x []float32) {
	lo, hi := float32(0), float32(0)
	for _, v := range x {
		lo, hi = min(lo, v), max(hi, v)
	}
	p := a.Params(Range{lo, hi})
	for i, v := range x {
		_, x[i] = a.Round(v, p)
	}
}
