package flash

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/internal/isa"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

var inf = float32(math.Inf(1))

// some are random numbers in slices that are no multiple of a cache line apart.
func some(r *rand.Rand, n int) []float32 {
	x := make([]float32, n+r.IntN(5))[:]
	x = x[len(x)-n:]
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x
}

func near(t *testing.T, want, got []float32, tol float64, what string) {
	t.Helper()
	for i, w := range want {
		g := got[i]
		if w == g || w != w && g != g {
			continue
		}
		if !(math.Abs(float64(w)-float64(g)) <= tol*max(1, math.Abs(float64(w)))) {
			require.Failf(t, "differs", "%s: element %d is %v, want %v", what, i, g, w)
		}
	}
}

// eachKernel runs f for the kernels of this processor beside their twins.
func eachKernel(t *testing.T, f func(t *testing.T, k, twin *kernel)) {
	for l, k := range kernels {
		if k != nil {
			t.Run(isa.Level(l).String(), func(t *testing.T) { f(t, k, twin(k.mr, k.nr)) })
		}
	}
}

func TestProducts(t *testing.T) {
	eachKernel(t, func(t *testing.T, k, tw *kernel) {
		r := rand.New(rand.NewPCG(1, 1))
		for _, kc := range []int{1, 2, 3, 4, 5, 7, 8, 13, 64, 127} {
			for _, strips := range []int{1, 2, 5} {
				lda := k.mr + r.IntN(3)
				astep := kc*lda + r.IntN(20)
				a, b, shrink := some(r, strips*astep+k.mr), some(r, kc*k.nr), some(r, k.nr)
				c := some(r, strips*k.mr*k.nr)
				for _, by := range []*float32{nil, &shrink[0]} {
					want, got := append([]float32(nil), c...), append([]float32(nil), c...)
					tw.outer(kc, strips, &a[0], lda, astep, &b[0], &want[0], by)
					k.outer(kc, strips, &a[0], lda, astep, &b[0], &got[0], by)
					near(t, want, got, 1e-5, fmt.Sprint("outer ", kc, strips, by == nil))
				}
			}
		}
		for groups := range 3 {
			for _, strips := range []int{1, 3} {
				rows, ld := strips*k.mr, k.nr+r.IntN(9)
				agroup := rows*k.nr + r.IntN(9)
				a, b, c := some(r, (groups+1)*agroup), some(r, (groups+1)*k.nr*ld+k.nr), some(r, rows*ld+k.nr)
				got := append([]float32(nil), c...)
				tw.inner(groups+1, agroup, strips, &a[0], &b[0], ld, &c[0], ld)
				k.inner(groups+1, agroup, strips, &a[0], &b[0], ld, &got[0], ld)
				near(t, c, got, 2e-5, fmt.Sprint("inner ", groups, strips))
			}
		}
	})
}

// scores are of every kind: ordinary, far apart, hidden, infinite, not a number.
func scores(r *rand.Rand, n int) []float32 {
	x := some(r, n)
	for i := range x {
		switch r.IntN(12) {
		case 0:
			x[i] *= 1e4
		case 1:
			x[i] = -inf
		case 2:
			x[i] = lowest
		case 3:
			x[i] = -125 - float32(r.IntN(30))
		case 4:
			x[i] *= 1e-40
		}
	}
	return x
}

func TestRowsOfScores(t *testing.T) {
	eachKernel(t, func(t *testing.T, k, tw *kernel) {
		r := rand.New(rand.NewPCG(2, 2))
		for _, keys := range []int{4, 8, 12, 64, 128} {
			for round := range 6 {
				s, dp, state := scores(r, keys*k.nr), scores(r, keys*k.nr), some(r, 3*k.nr)
				for i := range k.nr {
					if i%3 == 0 {
						state[i], state[k.nr+i] = lowest, 0
					}
					if round == 4 {
						s[i*keys] = float32(math.NaN())
					}
					state[k.nr+i] = greater(state[k.nr+i], -state[k.nr+i])
				}
				s2, state2 := append([]float32(nil), s...), append([]float32(nil), state...)
				tw.softmax(keys, &s[0], &state[0])
				k.softmax(keys, &s2[0], &state2[0])
				for i, sum := range state[k.nr : 2*k.nr] {
					for j := i; sum != sum && j < len(s); j += k.nr { // the sum is what must be a NaN then; the rest follows
						s[j], state[i], state[2*k.nr+i] = 0, 0, 0
						s2[j], state2[i], state2[2*k.nr+i] = 0, 0, 0
					}
				}
				near(t, s, s2, 3e-7, "exponentials")
				near(t, state[:2*k.nr], state2[:2*k.nr], 3e-6, "top and sum")
				near(t, state[2*k.nr:], state2[2*k.nr:], 3e-7, "shrink")
				state[1], state[k.nr], state[k.nr+1], state[k.nr+2] = 3e5, float32(math.NaN()), 1e-30, 5e30
				want, got := make([]float32, k.nr), make([]float32, k.nr)
				tw.lse(&state[0], &want[0])
				k.lse(&state[0], &got[0])
				for i := range want {
					if state[k.nr+i] == 0 {
						got[i] = want[i]
					}
				}
				near(t, want, got, 3e-7, "lse")

				s = scores(r, keys*k.nr)
				for i := range s {
					s[i] = min(s[i], 20)
				}
				s2, dp2 := append([]float32(nil), s...), append([]float32(nil), dp...)
				tw.slopes(keys, &s[0], &dp[0], &state[0])
				k.slopes(keys, &s2[0], &dp2[0], &state[0])
				near(t, s, s2, 3e-7, "probabilities")
				near(t, dp, dp2, 2e-6, "their gradient")
			}
		}
	})
}

func TestSlopesOfHiddenScoresAreZero(t *testing.T) {
	eachKernel(t, func(t *testing.T, k, _ *kernel) {
		s, dp, state := make([]float32, k.nr), make([]float32, k.nr), make([]float32, 2*k.nr)
		for i := range s {
			s[i], dp[i] = -inf, []float32{inf, -inf, float32(math.NaN()), 1}[i%4]
		}
		k.slopes(1, &s[0], &dp[0], &state[0])
		require.Equal(t, make([]float32, k.nr), s)
		require.Equal(t, make([]float32, k.nr), dp)
	})
}

func TestHideScaleAndPack(t *testing.T) {
	eachKernel(t, func(t *testing.T, k, tw *kernel) {
		r := rand.New(rand.NewPCG(3, 3))
		for range 20 {
			keys := 1 + r.IntN(30)
			seen := make([]int32, 2*k.nr)
			for i := range seen {
				seen[i] = int32(r.IntN(40) - 3)
			}
			x, by := some(r, keys*k.nr), some(r, k.nr)
			y := append([]float32(nil), x...)
			first := r.IntN(9)
			tw.hide(keys, &x[0], first, &seen[0])
			k.hide(keys, &y[0], first, &seen[0])
			require.Equal(t, x, y)
			tw.scale(keys, &x[0], &by[0])
			k.scale(keys, &y[0], &by[0])
			require.Equal(t, x, y)

			blocks, lds := 1+r.IntN(4), 0
			lds = 8*blocks + r.IntN(5)
			src := some(r, 8*lds)
			for _, f := range []func(*kernel, []float32){
				func(k *kernel, dst []float32) { k.strips(&dst[0], 500, &src[0], lds, blocks) },
				func(k *kernel, dst []float32) { k.transpose(&dst[0], 13, &src[0], lds, blocks) },
				func(k *kernel, dst []float32) { k.cut(7, 8*blocks/k.mr, &dst[0], 61, &src[0], lds) },
			} {
				want, got := make([]float32, 1000), make([]float32, 1000)
				f(tw, want)
				f(k, got)
				require.Equal(t, want, got)
			}
			ldx, ldy := lds, lds-r.IntN(lds-8*blocks+1)
			y = some(r, 8*ldy)
			want, got := make([]float32, 7), make([]float32, 7)
			tw.dotRows(6, blocks, &src[0], ldx, &y[0], ldy, &want[0])
			k.dotRows(6, blocks, &src[0], ldx, &y[0], ldy, &got[0])
			near(t, want, got, 1e-5, "dots of rows")
		}
	})
}

func TestFewKernels(t *testing.T) {
	eachKernel(t, func(t *testing.T, k, _ *kernel) {
		r := rand.New(rand.NewPCG(4, 4))
		for _, f := range k.few {
			for _, keys := range []int{1, 2, 3, 4, 5, 8, 31} {
				for _, blocks := range []int{1, 2, 3, 4, 5, 8, 13, 16} {
					n := f.lanes * blocks
					ld := n + r.IntN(7)
					x, q, p := some(r, keys*ld+n), some(r, n), some(r, keys)
					want, got := make([]float32, keys+1), make([]float32, keys+1)
					dotsGo(keys, n/pad, &x[0], ld, &q[0], &want[0], nil, 0)
					f.dots(keys, blocks, &x[0], ld, &q[0], &got[0], &x[0], 5)
					near(t, want, got, 2e-5, fmt.Sprint("dots ", keys, blocks))
					out := some(r, n+1)
					got = append([]float32(nil), out...)
					weighGo(keys, n/pad, &x[0], ld, &p[0], &out[0], nil, 0)
					f.weigh(keys, blocks, &x[0], ld, &p[0], &got[0], &x[0], 5)
					near(t, out, got, 1e-5, fmt.Sprint("weigh ", keys, blocks))
				}
			}
		}
	})
}

func TestWidenRows(t *testing.T) {
	eachKernel(t, func(t *testing.T, k, _ *kernel) {
		r := rand.New(rand.NewPCG(5, 5))
		for _, f := range k.few {
			for dt, widen := range map[tensor.DType]widenRows{tensor.BF16: f.bf16, tensor.F16: f.f16} {
				for round := 0; widen != nil && round < 20; round++ {
					rows, blocks := 1+r.IntN(9), 1+r.IntN(9)
					n := f.lanes * blocks
					lds, ldd := n+r.IntN(5), n+r.IntN(5)
					src := make([]uint16, rows*lds)
					for i := range src {
						src[i] = uint16(r.Uint32())
					}
					got, want := make([]float32, rows*ldd), make([]float32, n)
					widen(rows, blocks, &got[0], ldd, &src[0], lds)
					for i := range rows {
						vec.Widen(want, tensor.AsBytes(src[i*lds:i*lds+n]), dt)
						require.Equal(t, tensor.AsBytes(want), tensor.AsBytes(got[i*ldd:i*ldd+n]))
					}
				}
			}
		}
	})
}

func TestFunctions(t *testing.T) {
	for x := -124.9; x < 127; x += 0.0137 {
		want := math.Exp2(float64(float32(x)))
		require.InEpsilon(t, want, float64(exp2(float32(x))), 1.8e-7, "2^%v", x)
	}
	require.Zero(t, exp2(-126))
	require.Zero(t, exp2(-inf))
	require.True(t, math.IsNaN(float64(exp2(float32(math.NaN())))))
}
