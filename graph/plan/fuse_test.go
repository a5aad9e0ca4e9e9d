package plan_test

import (
	"context"
	"math"

	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestPairs: chains that read the same are one kernel with several results, which are the same bits as one by one.
func TestPairs(t *testing.T) {
	for _, d := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F64, tensor.I32} {
		t.Run(d.String(), func(t *testing.T) {
			g := graph.New("pairs")
			typ := tensor.T(d, 5, 700)
			x, y, z := g.Input("x", typ), g.Input("y", typ), g.Input("z", tensor.T(d, 700))
			outs := []graph.Value{
				ops.Mul(ops.Add(x, y), z), ops.Less(ops.Mul(x, x), y), ops.Cast(ops.Sub(x, z), tensor.F32),
				ops.Sum(ops.Mul(z, z)), // another shape
			}
			outs = append(outs, ops.Mul(outs[0], y)) // of the first
			require.NoError(t, g.Err())
			dev, err := device.Open("cpu:threads=2")
			require.NoError(t, err)
			defer dev.Close()
			feed := plan.Feed{}
			for i, v := range []graph.Value{x, y, z} {
				in := tensor.New(v.Type())
				for j := range v.Type().Size() {
					in.Set(j, float64((j*31+i*17)%23)-11+0.25)
				}
				feed[v] = in
			}
			var want []*tensor.Tensor
			for _, noFuse := range []bool{true, false} {
				p, err := plan.Compile(outs, plan.Options{Device: dev, Verify: true, NoFuse: noFuse})
				require.NoError(t, err)
				res, err := p.Run(context.Background(), feed)
				require.NoError(t, err)
				for i, v := range outs {
					if noFuse {
						want = append(want, res.Tensor(v))
						continue
					}
					require.Equal(t, want[i].Bytes(), res.Tensor(v).Bytes(), "output %d", i)
				}
				if !noFuse {
					require.Equal(t, [][]tensor.DType{{d, tensor.Bool, tensor.F32, d}}, several(p))
				}
				require.NoError(t, p.Close())
			}
		})
	}
}

// several lists the dtypes of the results of each kernel of a plan that has more than one.
func several(p *plan.Plan) (out [][]tensor.DType) {
	for _, l := range p.Launches() {
		if _, ok := l.Node.Op.(graph.Fused); ok && len(l.Node.Out) > 1 {
			var types []tensor.DType
			for _, t := range l.Node.Out {
				types = append(types, t.DType)
			}
			out = append(out, types)
		}
	}
	return out
}

// TestPairsStayApart: results of different scopes are not made together, nor with one whose result comes back by another kernel.
func TestPairsStayApart(t *testing.T) {
	g := graph.New("apart")
	typ := tensor.T(tensor.F32, 3, 400)
	x := g.Input("x", typ)
	leave := g.Scope("a")
	a := ops.Exp(x)
	leave()
	leave = g.Scope("b")
	b := ops.Neg(x)
	c := ops.Mul(ops.Transpose(ops.Reshape(b, 400, 3)), x)
	leave()
	require.NoError(t, g.Err())
	dev, err := device.Open("cpu:threads=1")
	require.NoError(t, err)
	defer dev.Close()
	p, err := plan.Compile([]graph.Value{a, b, c}, plan.Options{Device: dev, Verify: true})
	require.NoError(t, err)
	require.NoError(t, p.Close())
	require.Empty(t, several(p))
}

// TestPairsWithin: what only chains of one kernel read is not stored.
func TestPairsWithin(t *testing.T) {
	g := graph.New("within")
	x := g.Input("x", tensor.T(tensor.F32, 3, 400))
	angle := ops.Mul(x, x)
	outs := []graph.Value{ops.Cos(angle), ops.Sin(angle)}
	require.NoError(t, g.Err())
	dev, err := device.Open("cpu:threads=1")
	require.NoError(t, err)
	defer dev.Close()
	p, err := plan.Compile(outs, plan.Options{Device: dev, Verify: true})
	require.NoError(t, err)
	require.Equal(t, [][]tensor.DType{{tensor.F32, tensor.F32}}, several(p))
	require.Equal(t, 1, p.Report().Launches)
	in := tensor.New(x.Type())
	in.Set(7, 0.5)
	res, err := p.Run(context.Background(), plan.Feed{x: in})
	require.NoError(t, err)
	require.InDelta(t, math.Sin(0.25), res.Tensor(outs[1]).At(7), 1e-6)
	require.InDelta(t, math.Cos(0.25), res.Tensor(outs[0]).At(7), 1e-6)
	require.NoError(t, p.Close())
}
