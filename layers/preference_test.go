package layers_test

import (
	"context"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// onePair evaluates a loss of one pair in float64 with its gradients by the two log-probabilities of the policy.
func onePair(t require.TestingT, x [4]float64, build func(g *graph.Graph, p layers.PairLogps) layers.PairLoss) (loss, dc, dr float64) {
	g := graph.New("pair")
	one := tensor.T(tensor.F64, 1)
	policy, rejected := graph.NewVar("chosen", one), graph.NewVar("rejected", one)
	policy.Trainable, rejected.Trainable = true, true
	p := layers.PairLogps{Chosen: g.Read(policy), Rejected: g.Read(rejected), RefChosen: g.Input("rc", one), RefRejected: g.Input("rr", one)}
	l := ops.Sum(build(g, p).Loss)
	grads, err := autograd.Grad(l, policy, rejected)
	require.NoError(t, err)
	dev := cpu.New(cpu.Options{Threads: 1})
	store := plan.NewStore(dev)
	fill := func(v float64) *tensor.Tensor {
		out := tensor.New(one)
		out.Set(0, v)
		return out
	}
	require.NoError(t, store.Set(policy, fill(x[0])))
	require.NoError(t, store.Set(rejected, fill(x[1])))
	c, err := plan.Compile(append([]graph.Value{l}, grads...), plan.Options{Device: dev, Store: store})
	require.NoError(t, err)
	feed := plan.Feed{}
	for v, at := range map[graph.Value]int{p.RefChosen: 2, p.RefRejected: 3} {
		feed[v] = fill(x[at])
	}
	res, err := c.Run(context.Background(), feed)
	require.NoError(t, err)
	loss, dc, dr = res.Float(l), res.Tensor(grads[0]).At(0), res.Tensor(grads[1]).At(0)
	require.NoError(t, c.Close())
	require.NoError(t, store.Close())
	require.NoError(t, dev.Close())
	return loss, dc, dr
}

func logSigmoid(x float64) float64 { return -math.Log1p(math.Exp(-x)) }

// TestPreferenceFormulas compares the losses with their formulas written out, and gradients with differences.
func TestPreferenceFormulas(t *testing.T) {
	counts := func(g *graph.Graph, n float64) graph.Value { return ops.BroadcastTo(ops.Fill(g, tensor.F64, n), 1) }
	losses := map[string]struct {
		build func(g *graph.Graph, p layers.PairLogps) layers.PairLoss
		want  func(c, r, rc, rr float64) float64
	}{
		"dpo": {func(_ *graph.Graph, p layers.PairLogps) layers.PairLoss {
			return layers.DPO{Beta: 0.3, Smoothing: 0.2}.Loss(p)
		},
			func(c, r, rc, rr float64) float64 {
				x := 0.3 * (c - r - (rc - rr))
				return -0.8*logSigmoid(x) - 0.2*logSigmoid(-x)
			}},
		"orpo": {func(g *graph.Graph, p layers.PairLogps) layers.PairLoss {
			return layers.ORPO{Beta: 0.5}.Loss(p, counts(g, 4), counts(g, 8))
		}, func(c, r, _, _ float64) float64 {
			odds := func(a float64) float64 { return a - math.Log(-math.Expm1(a)) }
			return -0.5 * logSigmoid(odds(c/4)-odds(r/8))
		}},
		"simpo": {func(g *graph.Graph, p layers.PairLogps) layers.PairLoss {
			return layers.SimPO{Gamma: 0.5}.Loss(p, counts(g, 4), counts(g, 8))
		}, func(c, r, _, _ float64) float64 { return -logSigmoid(2*(c/4-r/8) - 0.5) }},
		"kto": {func(g *graph.Graph, p layers.PairLogps) layers.PairLoss {
			return layers.KTO{Beta: 0.2, Desired: 1.5, Undesired: 0.5}.Loss(p, ops.Fill(g, tensor.F64, 0.7))
		}, func(c, r, rc, rr float64) float64 {
			s := func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }
			return 1.5*(1-s(0.2*(c-rc-0.7))) + 0.5*(1-s(0.2*(0.7-(r-rr))))
		}},
	}
	for name, l := range losses {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				var x [4]float64
				for i := range x {
					x[i] = rapid.Float64Range(-40, -0.5).Draw(t, "logp")
				}
				got, dc, dr := onePair(t, x, l.build)
				require.InEpsilon(t, l.want(x[0], x[1], x[2], x[3]), got, 1e-9)
				const h = 1e-5
				require.InDelta(t, (l.want(x[0]+h, x[1], x[2], x[3])-l.want(x[0]-h, x[1], x[2], x[3]))/(2*h), dc, 1e-6)
				require.InDelta(t, (l.want(x[0], x[1]+h, x[2], x[3])-l.want(x[0], x[1]-h, x[2], x[3]))/(2*h), dr, 1e-6)
			})
			for _, x := range [][4]float64{{-3000, -1, -1, -3000}, {-1, -3000, -3000, -1}, {0, -1, 0, 0}, {-1, 0, 0, 0}} {
				got, dc, dr := onePair(t, x, l.build)
				for _, v := range []float64{got, dc, dr} {
					require.False(t, math.IsNaN(v) || math.IsInf(v, 0), "at %v: loss %v, gradients %v and %v", x, got, dc, dr)
				}
			}
		})
	}
	require.Error(t, layers.DPO{Smoothing: 0.5}.Check())
	require.Error(t, layers.DPO{Beta: -1}.Check())
	require.NoError(t, layers.DPO{Beta: 0.1, Smoothing: 0.1}.Check())
}
