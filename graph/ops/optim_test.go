package ops_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestBetaPower compares with __powf(beta, t) for t = 1 to 8, read on an H100.
func TestBetaPower(t *testing.T) {
	for beta, want := range map[float32][8]uint32{
		0.9:    {0x3f666666, 0x3f4f5c29, 0x3f3a9fbe, 0x3f27f62b, 0x3f172a5a, 0x3f080c85, 0x3ef4e353, 0x3edc6632},
		0.95:   {0x3f733333, 0x3f670a3e, 0x3f5b7cee, 0x3f50837c, 0x3f461683, 0x3f3c2efc, 0x3f32c63c, 0x3f29d5ed},
		0.99:   {0x3f7d70a5, 0x3f7ae7d6, 0x3f786586, 0x3f75e9a2, 0x3f737418, 0x3f7104dd, 0x3f6e9bda, 0x3f6c3905},
		0.999:  {0x3f7fbe78, 0x3f7f7d01, 0x3f7f3b9a, 0x3f7efa44, 0x3f7eb8fe, 0x3f7e77cb, 0x3f7e36a6, 0x3f7df594},
		0.9999: {0x3f7ff973, 0x3f7ff2e6, 0x3f7fec59, 0x3f7fe5cc, 0x3f7fdf40, 0x3f7fd8b3, 0x3f7fd227, 0x3f7fcb9b},
	} {
		for i, bits := range want {
			got := ops.BetaPower(beta, float64(i+1))
			require.InDelta(t, int32(bits), int32(math.Float32bits(got)), 2, "%v^%d", beta, i+1)
		}
	}
	require.InEpsilon(t, math.Pow(float64(float32(0.9123)), 7), float64(ops.BetaPower(0.9123, 7)), 1e-6, "not in the table")
	require.Zero(t, ops.BetaPower(0, 1))
}

func TestUpdateRefuses(t *testing.T) {
	good := ops.Hyper{Rule: ops.AdEMAMix, Beta1: 0.9, Beta2: 0.999, Beta3: 0.9999, Alpha: 5, Eps: 1e-8}
	require.NoError(t, good.Check())
	for want, change := range map[string]func(h *ops.Hyper){
		"unknown":       func(h *ops.Hyper) { h.Rule = 200 },
		"rounding":      func(h *ops.Hyper) { h.Rounding = 9 },
		"beta 3":        func(h *ops.Hyper) { h.Beta3 = 1 },
		"eps 1e-60":     func(h *ops.Hyper) { h.Eps = 1e-60 },
		"eps 1e-44":     func(h *ops.Hyper) { h.Eps = 1e-44 }, // times sqrt(1-beta2) it would be 0, and 0/0 the first step of a zero gradient
		"a normal":      func(h *ops.Hyper) { h.Eps = 0 },
		"weight decay":  func(h *ops.Hyper) { h.WeightDecay = math.Inf(1) },
		"max_unorm":     func(h *ops.Hyper) { h.MaxUnorm = math.NaN() },
		"alpha":         func(h *ops.Hyper) { h.Alpha = -1 },
		"t_alpha":       func(h *ops.Hyper) { h.TAlpha = -1 },
		"t_beta3 needs": func(h *ops.Hyper) { h.TBeta3, h.Beta1 = 10, 0 },
		"dampening":     func(h *ops.Hyper) { *h = ops.Hyper{Rule: ops.Momentum, Dampening: 2} },
		"nesterov":      func(h *ops.Hyper) { *h = ops.Hyper{Rule: ops.Momentum, Nesterov: true} },
	} {
		h := good
		change(&h)
		require.ErrorContains(t, h.Check(), want)
	}
	plain := ops.Update8bit{Hyper: ops.Hyper{Rule: ops.Momentum}, Layout: ops.NewLayout(3)}
	_, err := plain.Infer(nil)
	require.ErrorContains(t, err, "no state")
	for want, change := range map[string]func(l *ops.Layout){
		"differ in length":  func(l *ops.Layout) { l.LR = []float64{1} },
		"cannot have":       func(l *ops.Layout) { l.Rows = []int{2, 5} },
		"cannot be updated": func(l *ops.Layout) { l.DType = tensor.F64 },
	} {
		l := ops.NewLayout(4, 6)
		change(l)
		require.ErrorContains(t, l.Check(), want)
	}
}
