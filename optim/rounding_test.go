package optim

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// updater is a group whose gradients are set by hand.
type updater struct {
	store *plan.Store
	group *Group
	plan  *plan.Plan
	lr    graph.Value
}

func newUpdater(t testing.TB, name string, c Config, threads int, params ...*graph.Var) *updater {
	t.Helper()
	opt, err := New(name, c)
	require.NoError(t, err)
	u := &updater{}
	u.group, err = NewGroup(params, Options{Optimizer: opt})
	require.NoError(t, err)
	dev := device(t, threads)
	u.store = plan.NewStore(dev)
	g := graph.New("apply")
	u.lr = g.Input("lr", tensor.T(tensor.F32))
	u.group.Apply(g, Scalars{LR: u.lr})
	u.plan, err = plan.Compile([]graph.Value{u.lr}, plan.Options{Device: dev, Store: u.store, Verify: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, u.plan.Close()) })
	return u
}

func (u *updater) set(t testing.TB, v *graph.Var, x []float64) {
	t.Helper()
	w := tensor.New(v.Type)
	for i := range x {
		w.Set(i, x[i])
	}
	require.NoError(t, u.store.Set(v, w))
}

func (u *updater) step(t testing.TB, lr float64) {
	t.Helper()
	_, err := u.plan.Run(context.Background(), plan.Feed{u.lr: lr})
	require.NoError(t, err)
}

func (u *updater) get(t testing.TB, v *graph.Var) []float64 {
	t.Helper()
	x, err := u.store.Get(v)
	require.NoError(t, err)
	out := make([]float64, v.Type.Size())
	for i := range out {
		out[i] = x.At(i)
	}
	return out
}

func repeated(v float64, n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = v
	}
	return out
}

func mean(x []float64) (s float64) {
	for _, v := range x {
		s += v / float64(len(x))
	}
	return s
}

// TestSmallDecay: a decay whose factor 1 - lr·wd is nearer to 1 than bfloat16 can tell is lost by rounding to the nearest, as in
// bitsandbytes, happens on average with stochastic rounding and exactly with Kahan's sum.
func TestSmallDecay(t *testing.T) {
	const n, steps, lr, wd = 4096, 300, 1e-2, 0.05 // lr·wd = 2⁻¹¹
	want := math.Pow(1-lr*wd, steps)
	for _, name := range []string{"adamw", "adamw8bit", "lion8bit"} {
		for _, d := range []tensor.DType{tensor.BF16, tensor.F16} {
			for rounding, k := range map[Rounding]struct{ low, high, each float64 }{
				Nearest: {1, 1, 0}, Stochastic: {want - 2e-3, want + 2e-3, 0.2}, Kahan: {want - 2e-3, want + 2e-3, 4e-3},
			} {
				t.Run(fmt.Sprint(name, d, rounding), func(t *testing.T) {
					if d == tensor.F16 && rounding == Nearest {
						t.Skip("float16 has three more digits")
					}
					p := graph.NewVar("p", tensor.T(d, n))
					u := newUpdater(t, name, Config{WeightDecay: wd, Rounding: rounding, Seed: 3}, 1, p)
					u.set(t, p, repeated(1, n))
					for range steps {
						u.step(t, lr)
					}
					got := u.get(t, p)
					require.GreaterOrEqual(t, mean(got), k.low)
					require.LessOrEqual(t, mean(got), k.high)
					for _, v := range got {
						require.InDelta(t, mean(got), v, k.each)
					}
				})
			}
		}
	}
}

// TestRoundingUnbiased: over many elements the mean step is that of float32, and only the two neighbours occur.
func TestRoundingUnbiased(t *testing.T) {
	const n = 1 << 16
	p := graph.NewVar("p", tensor.T(tensor.BF16, n))
	u := newUpdater(t, "sgd", Config{Rounding: Stochastic, Seed: 9}, 2, p)
	u.set(t, p, repeated(1, n))
	u.set(t, u.group.GradVars()[0], repeated(1, n))
	const move = 1.0 / 1024 // a quarter of the unit below 1
	u.step(t, move)
	got := u.get(t, p)
	down := 0
	for _, v := range got {
		require.Contains(t, []float64{1, 1 - 1.0/256}, v)
		if v < 1 {
			down++
		}
	}
	sigma := math.Sqrt(n * 0.25 * 0.75)
	require.InDelta(t, n/4, down, 5*sigma)
}

// TestRoundingKeyed: the bits follow from seed, step, name and element: not from threads, slab or other parameters.
func TestRoundingKeyed(t *testing.T) {
	const n = 3000
	rng := rand.New(rand.NewPCG(1, 2))
	w, d := make([]float64, n), make([]float64, n)
	for i := range w {
		w[i], d[i] = rng.NormFloat64(), rng.NormFloat64()
	}
	train := func(seed uint64, threads int, name string, others ...*graph.Var) []float64 {
		p := graph.NewVar(name, tensor.T(tensor.BF16, n))
		params := append(others, p)
		u := newUpdater(t, "adamw8bit", Config{Rounding: Stochastic, Seed: seed}, threads, params...)
		u.set(t, p, w)
		u.set(t, u.group.GradVars()[len(params)-1], d)
		for range 3 {
			u.step(t, 1e-3)
		}
		return u.get(t, p)
	}
	base := train(1, 1, "p")
	require.Equal(t, base, train(1, 2, "p"), "threads")
	require.Equal(t, base, train(1, 2, "p", graph.NewVar("a", tensor.T(tensor.BF16, 700)), graph.NewVar("b", tensor.T(tensor.BF16, 5))), "place in the slab")
	require.NotEqual(t, base, train(2, 1, "p"), "seed")
	require.NotEqual(t, base, train(1, 1, "q"), "name")
}

// TestKahan follows a float32 run for every rule: parameter and compensation together hold about 16 bits, where bfloat16 alone stands still
// or drifts. The mean of stochastic rounding follows too.
func TestKahan(t *testing.T) {
	const n, steps, lr = 500, 200, 1e-4
	for _, name := range Names() {
		if strings.HasPrefix(name, "lars") || strings.HasPrefix(name, "paged") {
			continue // nearly still at this rate; the same numbers
		}
		t.Run(name, func(t *testing.T) {
			run := func(d tensor.DType, r Rounding) []float64 {
				p := graph.NewVar("p", tensor.T(d, n))
				u := newUpdater(t, name, Config{Rounding: r, Momentum: 0.9, WeightDecay: 0.01, Seed: 1}, 1, p)
				rng := rand.New(rand.NewPCG(8, 8))
				w := make([]float64, n)
				for i := range w {
					w[i] = float64(tensor.ToBF16(float32(1 + rng.Float64())).Float32())
				}
				u.set(t, p, w)
				for range steps {
					d := make([]float64, n)
					for i := range d {
						d[i] = 0.5 + 0.1*rng.NormFloat64()
					}
					u.set(t, u.group.GradVars()[0], d)
					u.step(t, lr)
				}
				out := u.get(t, p)
				for _, s := range u.group.StateVars() {
					if strings.HasSuffix(s.Name, ".comp") {
						for i, c := range u.get(t, s)[:n] {
							out[i] += c
						}
					}
				}
				return out
			}
			want := run(tensor.F32, Nearest)
			off := func(x []float64) (s float64) {
				for i := range x {
					s += math.Abs(x[i]-want[i]) / n
				}
				return s
			}
			nearest, kahan := off(run(tensor.BF16, Nearest)), off(run(tensor.BF16, Kahan))
			t.Logf("mean distance from float32: nearest %.2g, kahan %.2g", nearest, kahan)
			require.LessOrEqual(t, kahan, steps*math.Pow(2, -17), "half a unit of the compensation a step")
			require.Greater(t, nearest, 10*kahan)
			require.Less(t, math.Abs(mean(run(tensor.BF16, Stochastic))-mean(want)), nearest/4)
		})
	}
}
