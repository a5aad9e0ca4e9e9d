package cpu

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu/step"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// twinStep advances the moments of one element by its gradient x and returns its step over the rate: the equations of ops.Rule, one
// operation after another.
func twinStep(f *step.Factors, x float32, s []float32) float32 {
	ema := func(b, m, n, x float32) float32 { a, c := b*m, n*x; return a + c }
	square := func(b, v, n, x float32) float32 { a, c := b*v, n*x; c *= x; return a + c }
	switch f.Rule {
	case ops.Adam:
		s[0], s[1] = ema(f.B1, s[0], f.N1, x), square(f.B2, s[1], f.N2, x)
		return s[0] / (sqrt32(s[1]) + f.Eps)
	case ops.AdamTorch:
		s[0], s[1] = ema(f.B1, s[0], f.N1, x), square(f.B2, s[1], f.N2, x)
		return s[0] / (sqrt32(s[1])/f.C2 + f.Eps)
	case ops.AdEMAMix:
		s[0], s[1], s[2] = ema(f.B1, s[0], f.N1, x), square(f.B2, s[1], f.N2, x), ema(f.B3, s[2], f.N3, x)
		slow := f.Alpha * s[2]
		return (s[0]/f.C1 + slow) / (sqrt32(s[1])/f.C2 + f.Eps)
	case ops.Lion:
		u := ema(f.B1, s[0], f.N1, x)
		s[0] = ema(f.B2, s[0], f.N2, x)
		if u == 0 || u != u {
			return u
		}
		return float32(math.Copysign(1, float64(u)))
	case ops.RMSprop:
		s[0] = square(f.B1, s[0], f.N1, x)
		return x / (sqrt32(s[0]) + f.Eps)
	case ops.Adagrad:
		s[0] = square(1, s[0], 1, x)
		return x / (sqrt32(s[0]) + f.Eps)
	}
	if f.Moments == 0 {
		return x
	}
	m := ema(f.B1, s[0], f.N1, x)
	if f.First {
		m = x
	}
	s[0] = m
	if f.Nesterov {
		ahead := f.B1 * m
		return x + ahead
	}
	return m
}

// twinUpdate runs an update in 32 bits element by element and returns parameters and moments.
func twinUpdate(o ops.Update, in []*tensor.Tensor, at, lr, gscale float32) [][]float32 {
	k := len(o.Moments())
	out := make([][]float32, 1+k)
	for j, x := range append([]*tensor.Tensor{in[0]}, in[2:2+k]...) {
		out[j] = append(out[j], tensor.Data[float32](x)...)
	}
	p, g := out[0], tensor.Data[float32](in[1])
	f := step.NewFactors(o.Hyper, float64(at))
	for t, at := range o.Layout.Offsets {
		_, size, wd := o.Layout.Tensor(t, o.WeightDecay)
		rate := o.Layout.Rate(t, float64(lr))
		by, decay := float32(rate*f.Scale), float32(1-rate*wd)
		for i := at; i < at+size; i++ {
			x := g[i] * gscale
			if o.SkipZeros && x == 0 {
				continue
			}
			if !o.DecayFirst() && !o.DecayLast() && wd != 0 {
				coupled := float32(wd) * p[i]
				x += coupled
			}
			s := make([]float32, k)
			for j := range s {
				s[j] = out[1+j][i]
			}
			d := by * twinStep(&f, x, s)
			if o.DecayFirst() {
				p[i] *= decay
			}
			p[i] -= d
			if o.DecayLast() {
				p[i] *= decay
			}
			for j := range s {
				out[1+j][i] = s[j]
			}
		}
	}
	return out
}

// TestUpdateTwin compares updates in 32 bits with the twin bit by bit, some gradients being zeros of both signs, infinite or NaN. NaNs
// are alike.
func TestUpdateTwin(t *testing.T) {
	d := New(Options{Threads: 2})
	defer func() { require.NoError(t, d.Close()) }()
	special := []float64{0, math.Copysign(0, -1), 1e-40, 3e38, math.Inf(1), math.Inf(-1), math.NaN()}
	for lname, l := range layouts() {
		for name, op := range updateOps(l) {
			o, wide := op.(ops.Update)
			if !wide || o.MaxUnorm > 0 || l.DType == tensor.F16 {
				continue
			}
			for _, o.SkipZeros = range []bool{false, true} {
				for _, step := range []float32{1, 7} {
					in := updateInputs(nnRand(uint64(step)), o, l, step, 1)
					for i, at := range l.Offsets {
						for j := 3; j < l.Sizes[i]; j += 7 {
							in[1].Set(at+j, special[j/7%len(special)])
						}
					}
					g := graph.New("update")
					vals, feed := nnFeed(g, in)
					got, err := plan.Eval(d, feed, g.Apply(o, vals...)...)
					require.NoError(t, err)
					for i, want := range twinUpdate(o, in, step, 0.02, 0.7) {
						for j, x := range tensor.Data[float32](got[i]) {
							if w := want[j]; math.Float32bits(x) != math.Float32bits(w) && (x == x || w == w) {
								require.Failf(t, "bits differ", "%s/%s step %v skip %v: output %d, element %d is %v, not %v", lname, name, step, o.SkipZeros, i, j, x, w)
							}
						}
					}
				}
			}
		}
	}
}
