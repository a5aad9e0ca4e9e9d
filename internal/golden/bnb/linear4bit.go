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

// Linear4bitCase is a row of linear4bit.json: a layer, its input and what it gives. The strings name tensors, Quantized the beginning of the names of its parts.
type Linear4bitCase struct {
	Name, DType, Weight, Quantized, X, Y, Bias string
	QuantType                                  string `json:"quant_type"`
	GradOut                                    string `json:"grad_out"`
	GradX                                      string `json:"grad_x"`
	Nested                                     bool
	K, N, M, Blocksize                         int
}

// Linear4bit compares outputs and input gradients on a device with those of bitsandbytes' Linear4bit, by the norm of the error.
func Linear4bit(t *testing.T, d device.Device) {
	var cases []Linear4bitCase
	read := Read(t, "linear4bit", &cases)
	g, feed := graph.New("linear4bit"), plan.Feed{}
	var outs []graph.Value // two of each case, all in one graph as in a batch
	for _, c := range cases {
		scheme, ok := quant.ParseScheme(c.QuantType)
		require.True(t, ok)
		input := func(key string) graph.Value { // each case has its own, or products of one input would be joined
			x := read(key)
			v := g.Input(c.Name+"/"+key, x.Type())
			feed[v] = x
			return v
		}
		suffixes := []string{"packed", "absmax"}
		if c.Nested {
			suffixes = []string{"packed", "absmax_u8", "nested_absmax", "offset"}
		}
		var weight []graph.Value
		for _, s := range suffixes {
			weight = append(weight, input(c.Quantized+"."+s))
		}
		x := input(c.X)
		y := ops.QuantLinear(ops.QuantMatMul{Scheme: scheme, Blocksize: c.Blocksize, N: c.N, K: c.K, Nested: c.Nested}, x, weight...)
		if c.Bias != "" {
			y = ops.Cast(ops.Add(ops.Cast(y, tensor.F32), ops.Cast(input(c.Bias), tensor.F32)), y.DType())
		}
		gx, err := autograd.VJP([]graph.Value{y}, []graph.Value{input(c.GradOut)}, x)
		require.NoError(t, err, c.Name)
		outs = append(outs, y, gx[0])
	}
	out, err := plan.Eval(d, feed, outs...)
	require.NoError(t, err)
	worst := map[string]float64{}
	for i, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			limit := map[string]float64{"f32": 1e-6, "f16": 1.5e-3, "bf16": 1.2e-2}[c.DType]
			for j, want := range []*tensor.Tensor{read(c.Y), read(c.GradX)} {
				e := NormError(out[2*i+j], want)
				worst[c.DType] = max(worst[c.DType], e)
				require.LessOrEqual(t, e, limit)
			}
		})
	}
	t.Logf("%d cases, relative norm errors %v", len(cases), worst)
}
