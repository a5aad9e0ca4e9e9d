package plan_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestRecompute: the activation of a gated layer is not kept for the backward pass, which has its argument; one whose argument would
// have to live longer for it is.
func TestRecompute(t *testing.T) {
	dev := cpu.New(cpu.Options{Threads: 1})
	gated := func(x, y graph.Value) graph.Value { return ops.Mul(ops.SiLU(ops.Dot(x, y)), ops.Dot(y, x)) }
	for name, c := range map[string]struct {
		build func(x, y graph.Value) graph.Value
		want  int // results of silu that are kept
	}{
		"gated": {gated, 0},
		"squared": {func(x, y graph.Value) graph.Value {
			p := ops.Dot(x, y)
			s := ops.SiLU(p)
			return ops.Sub(ops.Dot(ops.Mul(s, s), y), ops.Add(ops.Mul(s, x), p))
		}, 0},
		"needed whole": {func(x, y graph.Value) graph.Value { return ops.Dot(ops.SiLU(ops.Dot(x, y)), y) }, 1},
		"argument dies": {func(x, y graph.Value) graph.Value {
			s := ops.SiLU(ops.Dot(x, y))
			return ops.Add(ops.Dot(ops.Mul(s, x), y), ops.Mul(s, y))
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			var live [2]int64
			var got [2][]*tensor.Tensor
			for i, noFuse := range []bool{false, true} {
				g := graph.New("recompute")
				x, y := g.Input("x", tensor.T(tensor.F32, 40, 40)), g.Input("y", tensor.T(tensor.F32, 40, 40))
				outs := []graph.Value{c.build(x, y)}
				if name == "gated" {
					grads, err := autograd.GradValues(ops.Sum(outs[0]), x, y)
					require.NoError(t, err)
					outs = grads
				}
				p, err := plan.Compile(outs, plan.Options{Device: dev, Verify: true, NoFuse: noFuse, Exact: true})
				require.NoError(t, err)
				require.NoError(t, p.CheckArena())
				if !noFuse {
					require.Equal(t, c.want, keptSiLU(p))
				}
				res, err := p.Run(t.Context(), plan.Feed{x: filled(x.Type(), 1), y: filled(y.Type(), 2)})
				require.NoError(t, err)
				for _, v := range outs {
					got[i] = append(got[i], res.Tensor(v))
				}
				live[i] = p.Report().Live
				require.NoError(t, p.Close())
			}
			for i, x := range got[0] {
				for j := range x.Type().Size() {
					require.Equal(t, got[1][i].At(j), x.At(j), "computed again to the bit")
				}
			}
			require.LessOrEqual(t, live[0], live[1])
		})
	}
}

// keptSiLU counts the launches that store the result of a silu.
func keptSiLU(p *plan.Plan) (count int) {
	for _, l := range p.Launches() {
		if f, ok := l.Node.Op.(graph.Fused); ok {
			for _, i := range f.Prog.Results() {
				if f.Prog.Instrs[i].Op.Name() == "silu" {
					count++
				}
			}
		} else if l.Node.Op.Name() == "silu" {
			count++
		}
	}
	return count
}
