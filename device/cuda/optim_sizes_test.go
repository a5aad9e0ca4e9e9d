package cuda

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// leastSize is the exponent of the smallest blocks: denormal numbers are zeros on a GPU and the processor, but not on the emulator.
const leastSize = -90

// sizedGradients are blocks of 256 of all sizes from there to the largest, some with zeros, NaN and infinities.
func sizedGradients(rng *rand.Rand, x *tensor.Tensor) {
	for i := range x.Type().Size() {
		block := i / 256
		v := math.Copysign(math.Ldexp(0.01+rng.Float64(), block*4+leastSize), rng.NormFloat64())
		switch {
		case block%5 == 1 && i%256 == 77:
			v = math.NaN()
		case block%5 == 2 && i%256 == 78:
			v = math.Inf(1 - i%2*2)
		case block%5 == 3 && (i%3 != 0 || block%2 == 0):
			v = math.Copysign(0, v)
		}
		x.Set(i, v)
	}
}

// Moments in 8 bits have the processor's codes and scales, whatever the size of gradients and moments: of blocks that tables encode, and of those that are too small, too large
// or not finite for them, of full blocks and of a short one.
func TestMomentsOfAllSizes(t *testing.T) {
	lion := ops.Hyper{Rule: ops.Lion, Beta1: 0.9, Beta2: 0.99}
	sum := ops.Hyper{Rule: ops.Momentum, Beta1: 0.9}
	adam := ops.Hyper{Rule: ops.Adam, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8}
	for _, dt := range []tensor.DType{tensor.F32, tensor.BF16} {
		for name, h := range map[string]ops.Hyper{"lion": lion, "momentum": sum, "adam": adam} {
			t.Run(fmt.Sprint(name, "/", dt), func(t *testing.T) {
				l := ops.NewLayout(256*54, 131)
				l.DType = dt
				op, states := update8(h)(l)
				rng := rand.New(rand.NewPCG(11, 12))
				in := updateInputs(rng, l, dt, states)
				sizedGradients(rng, in[1])
				for k := range h.Moments() { // scales in the same sizes
					for i := range in[2+len(h.Moments())+k].Type().Size() {
						size := math.Ldexp(1+rng.Float64(), i*4+leastSize)
						if i%10 == 8 { // whose gradients are zeros
							size = 0
						}
						in[2+len(h.Moments())+k].Set(i, size)
					}
				}
				gpu, ref := both(t, op, in...)
				require.Len(t, gpu, 1+2*len(h.Moments()))
				for k := 1; k < len(ref); k++ {
					what := fmt.Sprint("output ", k)
					if name == "lion" { // the others' products and sums are contracted as the library's are
						requireSame(t, ref[k], gpu[k], what)
					}
					momentsAlike(t, ref[k], gpu[k], what)
				}
			})
		}
	}
}

// momentsAlike compares scales but for their last bits, and codes but for a few that these turn.
func momentsAlike(t *testing.T, want, got *tensor.Tensor, what string) {
	t.Helper()
	turned := 0
	for i := range want.Type().Size() {
		w, g := want.At(i), got.At(i)
		switch {
		case want.DType() == tensor.F32:
			require.InDelta(t, w, g, 1e-6*w, "%s: scale %d", what, i)
		case w != g:
			require.InDelta(t, w, g, 1, "%s: code %d", what, i)
			turned++
		}
	}
	require.LessOrEqual(t, turned, 3, what)
}
