package ops_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// extremes are finite float32 numbers of every size.
var extremes = rapid.OneOf(
	rapid.SampledFrom([]float32{0, math.MaxFloat32, -math.MaxFloat32, math.SmallestNonzeroFloat32, 0x1p-126, -0x1p-126, 88.8, -88.8, 104, -104, 0x1p127, -0x1p127, 65504}),
	rapid.Float32Range(-200, 200), rapid.Float32Range(-math.MaxFloat32, math.MaxFloat32))

// TestLossOfExtremes: whatever finite logits a model gives, a loss is a number, infinite only where it is beyond float32, and loss and gradient are those of the
// formula in float64 up to what the rounding of lse costs. Elements of the gradient stay within -1 and 1.
func TestLossOfExtremes(t *testing.T) {
	dev := cpu.New(cpu.Options{Threads: 1})
	rapid.Check(t, func(t *rapid.T) {
		rows, classes := rapid.IntRange(1, 3).Draw(t, "rows"), rapid.IntRange(1, 70).Draw(t, "classes")
		few := rapid.SliceOfN(extremes, 1, 6).Draw(t, "few")
		x := tensor.New(tensor.T(tensor.F32, rows, classes))
		for i := range rows * classes {
			x.Set(i, float64(few[rapid.IntRange(0, len(few)-1).Draw(t, "which")]))
		}
		labels := tensor.New(tensor.T(tensor.I32, rows))
		for r := range rows {
			labels.Set(r, float64(rapid.IntRange(0, classes-1).Draw(t, "label")))
		}
		g := graph.New("loss")
		logits, want := g.Input("logits", x.Type()), g.Input("labels", labels.Type())
		loss := ops.TokenLoss(logits, want)
		grads, err := autograd.GradValues(ops.Sum(loss), logits)
		require.NoError(t, err)
		out, err := plan.Eval(dev, plan.Feed{logits: x, want: labels}, loss, grads[0])
		require.NoError(t, err)
		for r := range rows {
			exact, p, lse := exactLoss(x.Float32s()[r*classes:(r+1)*classes], int(labels.At(r)))
			slack := 1e-5 + math.Abs(lse)*0x1p-23
			got := out[0].At(r)
			if math.IsInf(float64(float32(exact)), 1) {
				require.Equal(t, math.Inf(1), got)
			} else {
				require.InDelta(t, exact, got, slack+1e-5*exact)
			}
			for c, want := range p {
				require.InDelta(t, want, out[1].At(r*classes+c), min(2*slack, 1))
				require.LessOrEqual(t, math.Abs(out[1].At(r*classes+c)), 1.)
			}
		}
	})
}

// exactLoss is the cross-entropy of one row, its gradient, and log Σ e^x.
func exactLoss(x []float32, label int) (loss float64, grad []float64, lse float64) {
	top, sum := math.Inf(-1), 0.0
	for _, v := range x {
		top = max(top, float64(v))
	}
	grad = make([]float64, len(x))
	for i, v := range x {
		grad[i] = math.Exp(float64(v) - top)
		sum += grad[i]
	}
	for i := range grad {
		grad[i] /= sum
	}
	grad[label]--
	return math.Log(sum) + (top - float64(x[label])), grad, math.Log(sum) + top
}
