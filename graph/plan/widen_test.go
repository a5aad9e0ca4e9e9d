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

// TestWiden: products read weights stored in 16 bits as they are, forwards and backwards, and no copy in float32 exists.
func TestWiden(t *testing.T) {
	const rows, dim = 24, 64
	for _, dtype := range []tensor.DType{tensor.BF16, tensor.F16} {
		t.Run(dtype.String(), func(t *testing.T) {
			dev := cpu.New(cpu.Options{Threads: 1})
			step := func(noFuse bool) (loss float64, update *tensor.Tensor, r plan.Report) {
				g := graph.New("half")
				x := g.Input("x", tensor.T(tensor.F32, rows, dim))
				w, b := graph.NewVar("w", tensor.T(dtype, dim, dim)), graph.NewVar("b", tensor.T(tensor.F32, dim))
				wide := ops.Cast(g.Read(w), tensor.F32)
				h := ops.Linear(ops.Tanh(ops.Linear(ops.Add(x, g.Read(b)), wide)), wide)
				out := ops.Sum(ops.Square(h))
				grads, err := autograd.Grad(out, b)
				require.NoError(t, err)
				g.Write(b, grads[0])
				store := plan.NewStore(dev)
				require.NoError(t, store.Set(w, filled(w.Type, 5)))
				p, err := plan.Compile([]graph.Value{out}, plan.Options{Device: dev, Store: store, Verify: true, NoFuse: noFuse})
				require.NoError(t, err)
				require.NoError(t, p.CheckArena())
				for _, l := range p.Launches() {
					require.True(t, noFuse || l.Node.Op.Name() != "cast" && l.Node.Op.Name() != "matmul", "%v", l.Node)
				}
				res, err := p.Run(t.Context(), plan.Feed{x: filled(x.Type(), 1)})
				require.NoError(t, err)
				update, err = store.Get(b)
				require.NoError(t, err)
				r = p.Report()
				require.NoError(t, p.Close())
				return res.Float(out), update, r
			}
			loss, update, r := step(false)
			wantLoss, want, plain := step(true)
			require.InEpsilon(t, wantLoss, loss, 1e-6)
			for i := range dim {
				require.InDelta(t, want.At(i), update.At(i), 1e-5*max(1, wantLoss))
			}
			require.GreaterOrEqual(t, plain.Live-r.Live, int64(dim*dim*4-rows*dim*4), "the weight in float32 lived through the step")
		})
	}
}

// TestWidenHead: the loss over a vocabulary reads a frozen head in 16 bits as it is, and one that is trained through its cast.
func TestWidenHead(t *testing.T) {
	dev := cpu.New(cpu.Options{Threads: 1})
	for _, trained := range []bool{false, true} {
		var got [2]*tensor.Tensor
		for i, noFuse := range []bool{false, true} {
			g := graph.New("head")
			x, labels := g.Input("x", tensor.T(tensor.F32, 6, 16)), g.Input("labels", tensor.T(tensor.I32, 6))
			w, b := graph.NewVar("w", tensor.T(tensor.BF16, 40, 16)), graph.NewVar("b", tensor.T(tensor.F32, 16))
			loss := ops.Sum(ops.LinearCrossEntropy(ops.Add(x, g.Read(b)), ops.Cast(g.Read(w), tensor.F32), labels))
			of := []*graph.Var{b}
			if trained {
				of = append(of, w)
			}
			grads, err := autograd.Grad(loss, of...)
			require.NoError(t, err)
			store := plan.NewStore(dev)
			require.NoError(t, store.Set(w, filled(w.Type, 5)))
			p, err := plan.Compile(append(grads, loss), plan.Options{Device: dev, Store: store, Verify: true, NoFuse: noFuse})
			require.NoError(t, err)
			for _, l := range p.Launches() {
				require.True(t, noFuse || trained || l.Node.Op.Name() != "cast", "%v", l.Node)
			}
			res, err := p.Run(t.Context(), plan.Feed{x: filled(x.Type(), 1), labels: tensor.New(labels.Type())})
			require.NoError(t, err)
			got[i] = res.Tensor(grads[len(grads)-1])
			require.NoError(t, p.Close())
		}
		for j := range got[0].Type().Size() {
			require.InDelta(t, got[1].At(j), got[0].At(j), 1e-6)
		}
	}
}
