package plan_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestChain: a sum of sums of products is one product and additions of the others to it; a term that is no product leaves the sum as it is.
func TestChain(t *testing.T) {
	dev := cpu.New(cpu.Options{Threads: 1})
	for _, other := range []bool{false, true} {
		g := graph.New("g")
		x, w := g.Input("x", tensor.T(tensor.F32, 8, 16)), g.Input("w", tensor.T(tensor.F32, 16, 16))
		y, z := g.Input("y", tensor.T(tensor.F32, 8, 4)), g.Input("z", tensor.T(tensor.F32, 4, 16))
		last := ops.Dot(ops.Sin(y), z)
		if other {
			last = ops.Sigmoid(x)
		}
		outs := []graph.Value{ops.Add(ops.Add(ops.Dot(x, w), ops.Dot(ops.Tanh(x), w)), ops.Reshape(ops.Add(ops.Reshape(ops.Dot(y, z), 4, 32), ops.Reshape(last, 4, 32)), 8, 16))}
		feed := plan.Feed{}
		for _, v := range []graph.Value{x, w, y, z} {
			in := tensor.New(v.Type())
			for i := range in.Type().Size() {
				in.Set(i, float64(i*7%11)/8-0.6)
			}
			feed[v] = in
		}
		var got [2]*tensor.Tensor
		for k, o := range []plan.Options{{NoFuse: true}, {Verify: true}} {
			o.Device = dev
			p, err := plan.Compile(outs, o)
			require.NoError(t, err)
			added, sums := 0, 0
			for _, l := range p.Launches() {
				switch l.Node.Op.Name() {
				case "add_matmul":
					added++
				case "add":
					sums++
				}
			}
			if k == 1 && !other {
				require.Equal(t, []int{3, 0}, []int{added, sums})
			}
			r, err := p.Run(t.Context(), feed)
			require.NoError(t, err)
			got[k] = r.Tensor(outs[0])
			require.NoError(t, p.Close())
		}
		require.InDeltaSlice(t, got[0].Float32s(), got[1].Float32s(), 1e-5)
	}
}
