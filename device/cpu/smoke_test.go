package cpu

import (
	"testing"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func TestSmoke(t *testing.T) {
	g := graph.New("t")
	x := g.Input("x", tensor.T(tensor.F32, 3))
	y := ops.SiLU(ops.AddScalar(ops.Mul(x, x), 1))
	xt, _ := tensor.Of([]float32{1, 2, 3})
	out, err := plan.Eval(New(Options{}), plan.Feed{x: xt}, y)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(out[0], g)
	bad := ops.Add(x, g.Input("z", tensor.T(tensor.F32, 4)))
	_ = ops.SiLU(bad)
	t.Log(g.Err())
}
