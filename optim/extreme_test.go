package optim

import (
	"context"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// extreme are gradients of every size, next to the ends of float32 and of what its squares can hold, and some that are not finite.
var extreme = rapid.OneOf(
	rapid.SampledFrom([]float64{0, math.MaxFloat32, -math.MaxFloat32, 0x1p63, -0x1p64, 0x1p126, 0x1p-126, 0x1p-149, -0x1p-149, 0x1p-75, 1e18, math.Inf(1), math.NaN()}),
	rapid.Float64Range(-1, 1), rapid.Map(rapid.IntRange(-149, 127), func(e int) float64 { return math.Ldexp(1, e) }))

// clippedUpdate is a step as a trainer makes it: the norm decides whether the step is taken, and what the gradients are multiplied by.
func clippedUpdate(t *testing.T, name string, p *graph.Var) (u *updater, norm graph.Value) {
	u = &updater{}
	opt, err := New(name, Config{Min8bitSize: 1, WeightDecay: 0.01, Momentum: 0.9})
	require.NoError(t, err, name)
	u.group, err = NewGroup([]*graph.Var{p}, Options{Optimizer: opt})
	require.NoError(t, err)
	dev := device(t, 1)
	u.store = plan.NewStore(dev)
	g := graph.New("apply")
	u.lr = g.Input("lr", tensor.T(tensor.F32))
	norm = ops.Sqrt(u.group.GradNormSquared(g))
	u.group.Apply(g, Scalars{LR: u.lr, GScale: ClipFactor(norm, 1), OK: Finite(norm)})
	u.plan, err = plan.Compile([]graph.Value{norm}, plan.Options{Device: dev, Store: u.store, Verify: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, u.plan.Close()) })
	return u, norm
}

// TestExtremeGradients: whatever the gradients, a clipped step leaves parameters and states finite, and one whose norm is not finite leaves them as they
// are.
func TestExtremeGradients(t *testing.T) {
	const n = 300
	for _, name := range Names() {
		t.Run(name, func(t *testing.T) {
			p := graph.NewVar("p", tensor.T(tensor.F32, n))
			u, sum := clippedUpdate(t, name, p)
			held := append([]*graph.Var{p}, u.group.StateVars()...)
			rapid.Check(t, func(r *rapid.T) {
				for _, v := range held {
					require.NoError(r, u.store.Set(v, tensor.New(v.Type)))
				}
				u.set(t, p, repeated(0.5, n))
				for range rapid.IntRange(1, 3).Draw(r, "steps") {
					few := rapid.SliceOfN(extreme, 1, 5).Draw(r, "few")
					grad, bad := make([]float64, n), false
					for i := range grad {
						grad[i] = few[i*i%len(few)]
						bad = bad || grad[i]-grad[i] != 0
					}
					u.set(t, u.group.GradVars()[0], grad)
					before := u.bytes(t, held)
					out, err := u.plan.Run(context.Background(), plan.Feed{u.lr: 1e-3})
					require.NoError(r, err)
					norm := out.Float(sum)
					if bad {
						require.NotZero(r, norm-norm)
					}
					if norm-norm != 0 {
						require.Equal(r, before, u.bytes(t, held))
						continue
					}
					for _, v := range held {
						for i, x := range u.get(t, v) {
							require.Zero(r, x-x, "%s: element %d of %s is %v after gradients %v", name, i, v.Name, x, few)
						}
					}
				}
			})
		})
	}
}

// bytes are the values of variables.
func (u *updater) bytes(t testing.TB, of []*graph.Var) (out [][]byte) {
	t.Helper()
	for _, v := range of {
		x, err := u.store.Get(v)
		require.NoError(t, err)
		out = append(out, x.Clone().Bytes())
	}
	return out
}
