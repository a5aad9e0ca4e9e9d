package peers

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// trainers are this framework and the libraries compared with it, by the name that their benchmarks carry.
var trainers = []struct {
	name string
	open func(*Problem) (Trainer, error)
}{
	{"ours", newOurs},
	{"gorgonia", NewGorgonia},
	{"gomlx", NewGoMLX},
}

// tolerance bounds max|a-b| / max|b| of float32 against float64: sums of at most 784 terms.
const tolerance = 2e-5

func TestReferenceGradientsMatchDifferences(t *testing.T) {
	p := NewProblem(3, 7, 6, 4, 5)
	r := Reference(p)
	for _, c := range []struct {
		name string
		grad []float64
		pick func(*wide) []float64
	}{
		{"w1", r.W1, func(w *wide) []float64 { return w.w1 }},
		{"b1", r.B1, func(w *wide) []float64 { return w.b1 }},
		{"w2", r.W2, func(w *wide) []float64 { return w.w2 }},
		{"b2", r.B2, func(w *wide) []float64 { return w.b2 }},
	} {
		w := newWide(p)
		values := c.pick(w)
		require.Len(t, c.grad, len(values), c.name)
		const h = 1e-6
		for i, v := range values {
			values[i] = v + h
			up := w.lossGrad().Loss
			values[i] = v - h
			down := w.lossGrad().Loss
			values[i] = v
			require.InDelta(t, (up-down)/(2*h), c.grad[i], 1e-8, "%s[%d]", c.name, i)
		}
	}
}

func TestLossAndGradients(t *testing.T) {
	for _, p := range []*Problem{NewProblem(2, 5, 3, 4, 6), Standard()} {
		want := Reference(p)
		for _, peer := range trainers {
			t.Run(peer.name+" "+p.String(), func(t *testing.T) {
				tr, err := peer.open(p)
				require.NoError(t, err)
				defer func() { require.NoError(t, tr.Close()) }()
				for range 2 { // the second call must not add to the first
					got, err := tr.LossGrad()
					require.NoError(t, err)
					requireResult(t, want, got)
				}
			})
		}
	}
}

func TestTrainingLosses(t *testing.T) {
	p := NewProblem(4, 20, 16, 5, 8)
	const steps = 20
	want := ReferenceLosses(p, steps)
	require.Less(t, want[steps-1], want[0])
	for _, peer := range trainers {
		t.Run(peer.name, func(t *testing.T) {
			tr, err := peer.open(p)
			require.NoError(t, err)
			defer func() { require.NoError(t, tr.Close()) }()
			for i := range want {
				loss, err := tr.Step()
				require.NoError(t, err)
				require.InEpsilon(t, want[i], loss, tolerance, "step %d", i)
			}
		})
	}
}

func TestProblemDependsOnSeedOnly(t *testing.T) {
	require.Equal(t, NewProblem(5, 4, 3, 2, 2), NewProblem(5, 4, 3, 2, 2))
	require.NotEqual(t, NewProblem(5, 4, 3, 2, 2).W1, NewProblem(6, 4, 3, 2, 2).W1)
}

// BenchmarkMLPStep is one SGD step of the standard problem: forward, backward and update.
func BenchmarkMLPStep(b *testing.B) {
	p := Standard()
	for _, peer := range trainers {
		b.Run(peer.name, func(b *testing.B) {
			tr, err := peer.open(p)
			require.NoError(b, err)
			defer func() { require.NoError(b, tr.Close()) }()
			_, err = tr.Step() // compiles where the peer compiles
			require.NoError(b, err)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := tr.Step(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func requireResult(t *testing.T, want, got Result) {
	t.Helper()
	require.InEpsilon(t, want.Loss, got.Loss, tolerance)
	requireClose(t, "w1", want.W1, got.W1)
	requireClose(t, "b1", want.B1, got.B1)
	requireClose(t, "w2", want.W2, got.W2)
	requireClose(t, "b2", want.B2, got.B2)
}

func requireClose(t *testing.T, name string, want, got []float64) {
	t.Helper()
	require.Len(t, got, len(want), name)
	var diff, top float64
	for i, w := range want {
		require.False(t, math.IsNaN(got[i]), "%s[%d]", name, i)
		diff, top = max(diff, math.Abs(w-got[i])), max(top, math.Abs(w))
	}
	require.LessOrEqual(t, diff, tolerance*top, "%s: max|a-b| %g, max|b| %g", name, diff, top)
}
