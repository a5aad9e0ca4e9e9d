package plan_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/device/devicetest/queued"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// dividing is a device that computes products of 4-bit weights from the decoded weight, as GPUs do with many rows.
type dividing struct{ device.Device }

// Kernel implements device.Device.
func (d dividing) Kernel(s device.Spec) (device.Kernel, error) {
	o, ok := s.Op.(ops.QuantMatMul)
	if !ok {
		if _, added := s.Op.(ops.AddQuantMatMul); added {
			return nil, device.ErrNoKernel
		}
		return d.Device.Kernel(s)
	}
	weight := tensor.T(s.In[0].DType, o.N, o.K)
	decode, err := d.Device.Kernel(device.Spec{Op: ops.Dequantize{Scheme: o.Scheme, Blocksize: o.Blocksize, Rows: o.N, Cols: o.K, Nested: o.Nested, To: weight.DType},
		In: s.In[1:], Out: []tensor.Type{weight}})
	if err != nil {
		return nil, err
	}
	multiply, err := d.Device.Kernel(device.Spec{Op: ops.MatMul{TransB: !o.Trans}, In: []tensor.Type{s.In[0], weight}, Out: s.Out})
	return divided{decode, multiply, weight.Bytes()}, err
}

// divided has the weight at the beginning of its scratch.
type divided struct {
	decode, multiply device.Kernel
	bytes            int64
}

func (k divided) Scratch() int64 { return k.bytes + k.multiply.Scratch() }

func (k divided) Launch(s device.Stream, in, out []device.Ptr, scratch device.Ptr) error {
	if err := (first{k}).Launch(s, append([]device.Ptr{{}}, in[1:]...), nil, scratch); err != nil {
		return err
	}
	return second{k}.Launch(s, in, out, scratch)
}

func (k divided) Divide() (device.Kernel, device.Kernel, []int) {
	return first{k}, second{k}, []int{1, 2}
}

type first struct{ divided }

func (k first) Scratch() int64 { return k.bytes }

func (k first) Launch(s device.Stream, in, _ []device.Ptr, scratch device.Ptr) error {
	if in[0].Buf != nil {
		return fmt.Errorf("the first part is given x")
	}
	return k.decode.Launch(s, in[1:], []device.Ptr{scratch}, device.Ptr{})
}

type second struct{ divided }

func (k second) Launch(s device.Stream, in, out []device.Ptr, scratch device.Ptr) error {
	return k.multiply.Launch(s, []device.Ptr{in[0], scratch}, out, scratch.Add(k.bytes))
}

// adapted is residual products of weights in 4 bits, each with an adapter whose gradients are added to variables.
type adapted struct {
	x, loss graph.Value
	sums    []*graph.Var
	plan    *plan.Plan
	store   *plan.Store
}

const (
	adaptedLayers = 5
	adaptedRows   = 128
	adaptedWidth  = 256
)

func newAdapted(t require.TestingT, o plan.Options, recomputed bool) *adapted {
	g := graph.New("adapted")
	w := &adapted{x: g.Input("x", tensor.T(tensor.F32, adaptedRows, adaptedWidth)), store: plan.NewStore(o.Device)}
	q := ops.QuantMatMul{Scheme: quant.NF4, Blocksize: 64, N: adaptedWidth, K: adaptedWidth}
	var weights []*graph.Var
	x := w.x
	for i := range adaptedLayers {
		codes, absmax := graph.NewVar(fmt.Sprint("codes", i), tensor.T(tensor.U8, q.N*q.K/2)), graph.NewVar(fmt.Sprint("absmax", i), tensor.T(tensor.F32, q.N*q.K/64))
		down, up := graph.NewVar(fmt.Sprint("a", i), tensor.T(tensor.F32, 4, adaptedWidth)), graph.NewVar(fmt.Sprint("b", i), tensor.T(tensor.F32, adaptedWidth, 4))
		raw := tensor.New(codes.Type)
		for k := range raw.Bytes() {
			raw.Bytes()[k] = byte(k*7 + k/256 + i)
		}
		require.NoError(t, w.store.Set(codes, raw))
		for k, v := range []*graph.Var{absmax, down, up} {
			require.NoError(t, w.store.Set(v, filled(v.Type, uint64(4*i+k))))
		}
		weights = append(weights, down, up)
		layer := func() {
			y := ops.QuantLinear(q, x, g.Read(codes), g.Read(absmax))
			x = ops.Tanh(ops.Add(x, ops.Add(y, ops.Linear(ops.Linear(x, g.Read(down)), g.Read(up)))))
		}
		if recomputed {
			autograd.Checkpoint(g, layer)
		} else {
			layer()
		}
	}
	w.loss = ops.Sum(ops.Square(x))
	grads, err := autograd.Grad(w.loss, weights...)
	require.NoError(t, err)
	for i, v := range weights {
		sum := graph.NewVar("sum "+v.Name, v.Type)
		g.Write(sum, ops.Add(g.Read(sum), grads[i]))
		w.sums = append(w.sums, sum)
	}
	o.Store, o.Verify = w.store, true
	w.plan, err = plan.Compile([]graph.Value{w.loss}, o)
	require.NoError(t, err)
	require.NoError(t, w.plan.CheckArena())
	require.Zero(t, w.plan.EarlyWaits())
	return w
}

// run does n steps and returns all losses and sums of gradients, as bytes.
func (w *adapted) run(t require.TestingT, n int) (out []byte) {
	for i := range n {
		r, err := w.plan.Run(context.Background(), plan.Feed{w.x: filled(w.x.Type(), uint64(50+i))})
		require.NoError(t, err)
		out = append(out, r.Tensor(w.loss).Bytes()...)
	}
	for _, v := range w.sums {
		x, err := w.store.Get(v)
		require.NoError(t, err)
		out = append(out, x.Bytes()...)
	}
	return out
}

// lanes counts the launches of each lane.
func (w *adapted) lanes() (n [graph.Aside + 1]int) {
	for _, l := range w.plan.Launches() {
		n[l.Lane]++
	}
	return n
}

// TestSide: weights are decoded ahead and gradients of adapters computed aside, with the same bits in whatever order the lanes run, in hardly more memory.
func TestSide(t *testing.T) {
	for order := range uint64(6) {
		dev := queued.New(dividing{cpu.New(cpu.Options{Threads: 1})}, queued.Options{Total: 64 << 20, Order: order})
		for _, recomputed := range []bool{false, true} {
			var move func([]plan.Saved) []bool
			if recomputed && order%2 == 1 {
				move = plan.MoveInputs
			}
			plain := newAdapted(t, plan.Options{Device: dev, Side: plan.SideOff, Move: move}, recomputed)
			want, base := plain.run(t, 4), plain.plan.Report()
			require.Zero(t, plain.lanes()[graph.Ahead]+plain.lanes()[graph.Aside])
			for side := plan.SideDecode; side <= plan.SideAll; side++ {
				for _, launch := range []plan.Launching{plan.Captured, plan.Plain, plan.Synced} {
					w := newAdapted(t, plan.Options{Device: dev, Side: side, Launch: launch, Move: move}, recomputed)
					r, n := w.plan.Report(), w.lanes()
					if move == nil { // in an arena of a few values, moved ones may leave no room
						require.Equal(t, side != plan.SideGradients, n[graph.Ahead] > adaptedLayers, n)
						require.Equal(t, side != plan.SideDecode, n[graph.Aside] > adaptedLayers, n)
					}
					require.Equal(t, base.Launches+n[graph.Ahead], r.Launches)
					require.Equal(t, base.Flops, r.Flops)
					require.LessOrEqual(t, r.Arena, base.Arena+base.Arena/100)
					beside := dev.Beside
					require.True(t, bytes.Equal(want, w.run(t, 4)), "%s, %v, order %d", plan.Sides[side], launch, order)
					require.Equal(t, launch != plan.Synced && n[graph.Compute] < r.Launches, dev.Beside > beside)
					require.NoError(t, w.plan.Close())
					require.NoError(t, w.store.Close())
				}
			}
		}
	}
}
