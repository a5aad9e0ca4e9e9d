package bnb

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Linear4bit compares outputs and input gradients on a device with those of bitsandbytes' Linear4bit, by the norm of the error.
func Linear4bit(t *testing.T, d device.Device) {
	var cases []struct {
		Name, DType, Quantized, X, Y, Bias string
		QuantType                          string `json:"quant_type"`
		GradOut                            string `json:"grad_out"`
		GradX                              string `json:"grad_x"`
		Nested                             bool
		K, N, M, Blocksize                 int
	}
	read := Read(t, "linear4bit", &cases)
	worst := map[string]float64{}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			scheme, ok := quant.ParseScheme(c.QuantType)
			require.True(t, ok)
			suffixes := []string{"packed", "absmax"}
			if c.Nested {
				suffixes = []string{"packed", "absmax_u8", "nested_absmax", "offset"}
			}
			in := []*tensor.Tensor{read(c.X), read(c.GradOut)}
			for _, s := range suffixes {
				in = append(in, read(c.Quantized+"."+s))
			}
			g := graph.New("linear4bit")
			vals, feed := inputs(g, in)
			y := ops.QuantLinear(ops.QuantMatMul{Scheme: scheme, Blocksize: c.Blocksize, N: c.N, K: c.K, Nested: c.Nested}, vals[0], vals[2:]...)
			if c.Bias != "" {
				bias := read(c.Bias)
				b := g.Input("bias", bias.Type())
				feed[b] = bias
				y = ops.Cast(ops.Add(ops.Cast(y, tensor.F32), ops.Cast(b, tensor.F32)), y.DType())
			}
			gx, err := autograd.VJP([]graph.Value{y}, []graph.Value{vals[1]}, vals[0])
			require.NoError(t, err)
			out, err := plan.Eval(d, feed, y, gx[0])
			require.NoError(t, err)
			limit := map[string]float64{"f32": 1e-6, "f16": 1.5e-3, "bf16": 1.2e-2}[c.DType]
			for i, want := range []*tensor.Tensor{read(c.Y), read(c.GradX)} {
				e := NormError(out[i], want)
				worst[c.DType] = max(worst[c.DType], e)
				require.LessOrEqual(t, e, limit)
			}
		})
	}
	t.Logf("%d cases, relative norm errors %v", len(cases), worst)
}
