package ops_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestLabelsOutsideTheClasses: a label that is no class never gives a plausible loss, unless it is listed as ignored.
func TestLabelsOutsideTheClasses(t *testing.T) {
	dev := cpu.New(cpu.Options{Threads: 1})
	for name, f := range map[string]func(s, y graph.Value, o ops.ClassLossOptions) graph.Value{
		"class": ops.ClassLoss, "nll": ops.NLLLoss,
		"smooth": func(s, y graph.Value, o ops.ClassLossOptions) graph.Value {
			o.Smoothing = 0.1
			return ops.ClassLoss(s, y, o)
		},
	} {
		for _, ignored := range []bool{false, true} {
			labels, err := tensor.Of([]int32{1, 3}, 2)
			require.NoError(t, err)
			g := graph.New(name)
			var o ops.ClassLossOptions
			if ignored {
				o.Ignore = []int{3}
			}
			scores := g.Const(tensor.New(tensor.T(tensor.F32, 2, 3)))
			got, err := plan.Eval(dev, nil, f(scores, g.Const(labels), o))
			switch {
			case ignored:
				require.NoError(t, err, name)
				require.False(t, math.IsNaN(got[0].At(0)), name)
			case err == nil:
				require.True(t, math.IsNaN(got[0].At(0)), name)
			}
		}
	}
}
