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

// TestScale: a number is taken into the product before it, through views, unless something else needs the product or values must be rounded
// as the graph says.
func TestScale(t *testing.T) {
	dev := cpu.New(cpu.Options{Threads: 1})
	for name, c := range map[string]struct {
		build func(x, w graph.Value) []graph.Value
		taken int // products that took the number in
		exact bool
	}{
		"adapter": {func(x, w graph.Value) []graph.Value {
			return []graph.Value{ops.Sigmoid(ops.Linear(ops.Scale(ops.Linear(x, w), 2), w))}
		}, 1, false},
		"exact": {func(x, w graph.Value) []graph.Value { return []graph.Value{ops.Scale(ops.Linear(x, w), 2)} }, 0, true},
		"shared": {func(x, w graph.Value) []graph.Value {
			y := ops.Linear(x, w)
			return []graph.Value{ops.Scale(y, 2), ops.Exp(y)}
		}, 0, false},
		"by itself": {func(x, w graph.Value) []graph.Value { return []graph.Value{ops.Scale(x, 2)} }, 0, false},
	} {
		g := graph.New("g")
		x, w := g.Input("x", tensor.T(tensor.F32, 2, 3, 4)), g.Input("w", tensor.T(tensor.F32, 4, 4))
		outs := c.build(x, w)
		in, by := tensor.New(x.Type()), tensor.New(w.Type())
		for i := range in.Type().Size() {
			in.Set(i, float64(i%5)/4-0.5)
		}
		for i := range 16 {
			by.Set(i, float64(i%3)/2)
		}
		var got [2]*tensor.Tensor
		for k, o := range []plan.Options{{NoFuse: true}, {Exact: c.exact, Verify: true}} {
			o.Device = dev
			p, err := plan.Compile(outs, o)
			require.NoError(t, err)
			taken := 0
			for _, l := range p.Launches() {
				if l.Node.Op.Name() == "scale_matmul" {
					taken++
				}
			}
			if k == 1 {
				require.Equal(t, c.taken, taken, name)
			}
			r, err := p.Run(t.Context(), plan.Feed{x: in, w: by})
			require.NoError(t, err)
			got[k] = r.Tensor(outs[0])
			require.NoError(t, p.Close())
		}
		require.Equal(t, got[0].Float32s(), got[1].Float32s(), name)
	}
}
