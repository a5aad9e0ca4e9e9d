package ops_test

import (
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// grid lists the non-negative finite values of a format, whose code is its position.
func grid(f ops.MiniFloat) []float64 {
	var out []float64
	bias := 1<<(f.Exponent-1) - 1
	for code := range 1 << (f.Exponent + f.Mantissa) {
		e, m := code>>f.Mantissa, code&(1<<f.Mantissa-1)
		v := math.Ldexp(float64(m), 1-bias-f.Mantissa)
		if e > 0 {
			v = math.Ldexp(float64(m+1<<f.Mantissa), e-bias-f.Mantissa)
		}
		if v <= f.Max {
			out = append(out, v)
		}
	}
	return out
}

// TestRoundFloat: every value of each format, the midpoints between them and the floats beside those, and values beyond the
// largest, against a search of the grid.
func TestRoundFloat(t *testing.T) {
	for name, f := range map[string]ops.MiniFloat{"e4m3": ops.E4M3, "e5m2": ops.E5M2, "e2m1": ops.E2M1} {
		t.Run(name, func(t *testing.T) {
			vals := grid(f)
			require.True(t, slices.IsSorted(vals))
			last := vals[len(vals)-1]
			require.Equal(t, f.Max, last)
			over := last + (last-vals[len(vals)-2])/2 // from here on a value rounds beyond the largest
			var x, want []float64
			add := func(v float64, at int) {
				if float64(float32(v)) == v {
					x, want = append(x, v, -v), append(want, vals[at], -vals[at])
				}
			}
			for i, v := range vals[:len(vals)-1] {
				mid, even := (v+vals[i+1])/2, i
				if i%2 == 1 {
					even = i + 1
				}
				add(v, i)
				add(mid, even)
				add(float64(math.Nextafter32(float32(mid), 0)), i)
				add(float64(math.Nextafter32(float32(mid), 1e9)), i+1)
			}
			add(last, len(vals)-1)
			n := len(x)
			x = append(x, math.Nextafter(over, 1e9)*1.0001, 1e30, math.Inf(1), math.Inf(-1), math.NaN())
			for _, saturate := range []bool{true, false} {
				g := graph.New("g")
				v := g.Input("x", tensor.T(tensor.F32, len(x)))
				out, err := plan.Eval(cpu.New(cpu.Options{Threads: 1}), plan.Feed{v: tensorOf(tensor.F32, x)}, ops.RoundFloat(v, f, saturate))
				require.NoError(t, err)
				for i, w := range want {
					require.Equal(t, w, out[0].At(i), "%v", x[i])
				}
				beyond := f.Beyond
				if saturate {
					beyond = f.Max
				}
				for i, w := range []float64{beyond, beyond, beyond, -beyond} {
					same(t, w, out[0].At(n+i))
				}
				if f.NoNaN {
					require.Zero(t, out[0].At(n+4))
				} else {
					require.True(t, math.IsNaN(out[0].At(n+4)))
				}
			}
		})
	}
}

func same(t *testing.T, want, got float64) {
	t.Helper()
	if math.IsNaN(want) {
		require.True(t, math.IsNaN(got))
		return
	}
	require.Equal(t, want, got)
}
