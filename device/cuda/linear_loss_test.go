package cuda

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/optest"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// lossSizes reach one piece, and several pieces of tokens or classes with a smaller last one, at odd rows of logits.
var lossSizes = []struct{ n, c, v int }{{5, 8, 11}, {300, 24, 37}, {21, 16, 290}}

// cut builds a kernel of the loss over a vocabulary for a budget of one byte: pieces are of the least size, and a head of 16 bits is
// written in float32.
func cut(t *testing.T, op device.Op) func(s device.Spec) (device.Kernel, error) {
	return func(s device.Spec) (device.Kernel, error) {
		d, small := testDevice(t), lossCut{budget: 1, widen: true}
		var k *Kernel
		var err error
		switch op := op.(type) {
		case ops.LinearCrossEntropyOp:
			k, err = buildLinearLoss(d, s, small, 0)
		case ops.LinearHitsOp:
			k, err = buildLinearLoss(d, s, small, 1)
		case ops.LinearLossUnitOp:
			k, err = buildLinearLossUnit(d, s, small)
		case ops.LinearCrossEntropyGradOp:
			k, err = buildLinearLossGrad(d, op, s, small)
		}
		if err != nil {
			return nil, err
		}
		return k.bind(d, s), nil
	}
}

func TestLinearLoss(t *testing.T) {
	for _, dt := range optest.Floats {
		for _, size := range lossSizes {
			t.Run(fmt.Sprintf("%v/%d", dt, size.n), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(9, uint64(size.n)))
				sum := tensor.F32
				if dt == tensor.F64 {
					sum = dt
				}
				x, w, y := normal(dt, rng, size.n, size.c), normal(dt, rng, size.v, size.c), classLabels(rng, size.n, size.v)
				in, row := []*tensor.Tensor{x, w, y}, tensor.T(sum, size.n)
				limit := 2 * max(optest.Limits[dt], 5e-6*float64(min(dt.Size()%8, 1)))
				check := func(op device.Op, out []tensor.Type, more ...*tensor.Tensor) []*tensor.Tensor {
					l := kernelRun{op: op, in: append(in[:3:3], more...), out: out}
					l.check(t, limit, cut(t, op))
					return l.run(t, testDevice(t), nil) // in one piece
				}
				out := check(ops.LinearCrossEntropyOp{}, []tensor.Type{row, row})
				if dt.Size() > 2 { // rounded logits may meet
					check(ops.LinearHitsOp{}, []tensor.Type{row, row})
				}
				gloss, glse := normal(sum, rng, size.n), normal(sum, rng, size.n)
				check(ops.LinearCrossEntropyGradOp{NeedX: true}, []tensor.Type{x.Type()}, out[1], gloss, glse)
				check(ops.LinearCrossEntropyGradOp{NeedW: true}, []tensor.Type{w.Type()}, out[1], gloss, nil)
				check(ops.LinearCrossEntropyGradOp{NeedX: true, NeedW: true}, []tensor.Type{x.Type(), w.Type()}, out[1], gloss, glse)
				unit := kernelRun{op: ops.LinearLossUnitOp{}, in: in, out: []tensor.Type{row, row, x.Type()}}.run(t, testDevice(t), cut(t, ops.LinearLossUnitOp{}))
				ones := tensor.New(row)
				for i := range size.n {
					ones.Set(i, 1)
				}
				grad := kernelRun{op: ops.LinearCrossEntropyGradOp{NeedX: true}, in: append(in[:3:3], out[1], ones, nil), out: []tensor.Type{x.Type()}}.run(t, testDevice(t), nil)
				require.NoError(t, optest.Compare(unit[0], out[0], limit))
				require.NoError(t, optest.Compare(unit[1], out[1], limit))
				require.NoError(t, optest.Compare(unit[2], grad[0], limit))
			})
		}
	}
}

// TestLinearLossWide: a head of 16 bits under float32 is written in float32 once for all pieces, and gives what it gives as it is stored.
func TestLinearLossWide(t *testing.T) {
	d := testDevice(t)
	for _, size := range lossSizes[1:] {
		rng := rand.New(rand.NewPCG(3, uint64(size.n)))
		x, w, y := normal(tensor.F32, rng, size.n, size.c), normal(tensor.BF16, rng, size.v, size.c), classLabels(rng, size.n, size.v)
		in, row := []*tensor.Tensor{x, w, y}, tensor.T(tensor.F32, size.n)
		check := func(op device.Op, out []tensor.Type, more ...*tensor.Tensor) []*tensor.Tensor {
			r := kernelRun{op: op, in: append(in[:3:3], more...), out: out}
			want, got := r.run(t, d, nil), r.run(t, d, cut(t, op))
			for i := range want {
				require.NoError(t, optest.Compare(got[i], want[i], 1e-5), "%T, output %d", op, i)
			}
			return want
		}
		out := check(ops.LinearCrossEntropyOp{}, []tensor.Type{row, row})
		check(ops.LinearHitsOp{}, []tensor.Type{row, row})
		check(ops.LinearLossUnitOp{}, []tensor.Type{row, row, x.Type()})
		gloss := normal(tensor.F32, rng, size.n)
		for _, both := range []bool{false, true} {
			op, outs := ops.LinearCrossEntropyGradOp{NeedX: true, NeedW: both}, []tensor.Type{x.Type()}
			if both {
				outs = append(outs, tensor.T(tensor.F32, size.v, size.c))
			}
			check(op, outs, out[1], gloss, nil)
		}
		l, err := newLinearLoss(d, spec(ops.LinearLossUnitOp{}, in, row, row, x.Type()))
		require.NoError(t, err)
		g := &linearLossGrad{linearLoss: l, dw: -1}
		scratch, err := g.cutTokens(lossCut{budget: 1, widen: true})
		require.NoError(t, err)
		require.Equal(t, aligned(4*int64(size.v*size.c)), g.head.bytes) // what products need beside it differs between devices
		require.GreaterOrEqual(t, scratch, g.z+g.head.bytes)
	}
}

// TestLinearLossOfNoTokens: a head that has seen no token has no gradient.
func TestLinearLossOfNoTokens(t *testing.T) {
	x, w, y, row := tensor.New(tensor.T(tensor.F32, 0, 8)), tensor.New(tensor.T(tensor.F32, 5, 8)), tensor.New(tensor.T(tensor.I32, 0)), tensor.New(tensor.T(tensor.F32, 0))
	got := kernelRun{op: ops.LinearCrossEntropyGradOp{NeedX: true, NeedW: true}, in: []*tensor.Tensor{x, w, y, row, row, nil}, out: []tensor.Type{x.Type(), w.Type()}}.run(t, testDevice(t), nil)
	require.Equal(t, w, got[1])
}

// TestFrozenHead: a step with a frozen head in bf16 makes the logits once, and its gradient is that of the CPU in float32.
func TestFrozenHead(t *testing.T) {
	const n, c, v = 40, 16, 50
	rng := rand.New(rand.NewPCG(4, 2))
	x, w, y := normal(tensor.BF16, rng, n, c), normal(tensor.BF16, rng, v, c), classLabels(rng, n, v)
	each := normal(tensor.F32, rng, n)
	step := func(dev device.Device, dt tensor.DType) (*tensor.Tensor, map[string]int) {
		g := graph.New("head")
		xs, ws, ys := g.Input("x", tensor.T(dt, n, c)), g.Input("w", tensor.T(dt, v, c)), g.Input("y", y.Type())
		loss := g.Apply(ops.LinearCrossEntropyOp{}, xs, ws, ys)
		grad := g.Apply(ops.LinearCrossEntropyGradOp{NeedX: true}, xs, ws, ys, loss[1], g.Const(each), graph.Value{})
		p, err := plan.Compile([]graph.Value{loss[0], grad[0]}, plan.Options{Device: dev, Verify: true})
		require.NoError(t, err)
		names := map[string]int{}
		for _, l := range p.Launches() {
			names[l.Node.Op.Name()]++
		}
		feed := plan.Feed{ys: y}
		for in, val := range map[graph.Value]*tensor.Tensor{xs: x, ws: w} {
			as, err := val.Convert(dt)
			require.NoError(t, err)
			feed[in] = as
		}
		res, err := p.Run(t.Context(), feed)
		require.NoError(t, err)
		got := res.Tensor(grad[0])
		require.NoError(t, p.Close())
		return got, names
	}
	want, _ := step(cpu.New(cpu.Options{Threads: 1}), tensor.F32)
	got, names := step(testDevice(t), tensor.BF16)
	require.Equal(t, 1, names["linear_loss_unit"])
	require.Zero(t, names["linear_cross_entropy"]+names["linear_cross_entropy_grad"])
	for i := range n * c {
		require.InDelta(t, want.At(i), got.At(i), 5e-2)
	}
}
