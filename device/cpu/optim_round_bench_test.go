package cpu

import (
	"testing"

	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// BenchmarkRounding runs AdamW over 1e6 parameters in each type and rounding.
func BenchmarkRounding(b *testing.B) {
	for _, c := range []struct {
		name string
		d    tensor.DType
		r    ops.Rounding
	}{{"f32", tensor.F32, ops.Nearest}, {"nearest", tensor.BF16, ops.Nearest}, {"stochastic", tensor.BF16, ops.Stochastic}, {"kahan", tensor.BF16, ops.Kahan}} {
		l := ops.NewLayout(1_000_000)
		l.DType = c.d
		op := ops.Update{Hyper: ops.Hyper{Rule: ops.AdamTorch, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.01,
			WeightRounding: ops.WeightRounding{Rounding: c.r, Seed: 1}}, Layout: l}
		in := []tensor.Type{l.Type(), l.TypeOf(tensor.F32)}
		for _, s := range op.States() {
			in = append(in, s.Type)
		}
		one := tensor.T(tensor.F32)
		b.Run(c.name, func(b *testing.B) { benchSlab(b, 1, op, append(in, one, one, one, one)) })
	}
}
