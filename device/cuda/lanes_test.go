package cuda

import (
	"context"
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/emulator"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestMovesToHost: inputs of recomputed blocks wait in pinned memory, copied by a stream of their own, plainly and within a recording, where copies are
// branches of the graph. The numbers are those without, to the bit.
func TestMovesToHost(t *testing.T) {
	dev := testDevice(t)
	const blocks, rows, width = 6, 96, 64
	steps := func(o plan.Options) (sums []float64, r plan.Report) {
		g := graph.New("tower")
		first := g.Input("x", tensor.T(tensor.F32, rows, width))
		weight := graph.NewVar("w", tensor.T(tensor.F32, width))
		x := first
		for range blocks {
			autograd.Checkpoint(g, func() {
				for range 3 {
					x = ops.Add(x, ops.Mul(ops.RMSNorm(ops.Tanh(x), g.Read(weight), 1e-6), ops.Sigmoid(x)))
				}
			})
		}
		loss := ops.Sum(ops.Square(x))
		grads, err := autograd.Grad(loss, weight)
		require.NoError(t, err)
		norm := ops.Sum(ops.Square(grads[0]))
		store := plan.NewStore(dev)
		ones := tensor.New(weight.Type)
		for i := range width {
			ones.Set(i, 1+float64(i)/width)
		}
		require.NoError(t, store.Set(weight, ones))
		o.Device, o.Store = dev, store
		p, err := plan.Compile([]graph.Value{loss, norm}, o)
		require.NoError(t, err)
		in := tensor.New(first.Type())
		for run := range 4 {
			for i := range in.Type().Size() {
				in.Set(i, math.Sin(float64(i*(run+1))))
			}
			res, err := p.Run(context.Background(), plan.Feed{first: in})
			require.NoError(t, err)
			sums = append(sums, res.Float(loss), res.Float(norm))
		}
		r = p.Report()
		require.NoError(t, p.Close())
		require.NoError(t, store.Close())
		return sums, r
	}
	want, plain := steps(plan.Options{})
	orders := []string{""} // of a GPU
	if onEmulator() {
		orders = []string{"late", "1", "2", "3"}
		t.Cleanup(func() { require.NoError(t, emulator.Reset()) })
	}
	for _, order := range orders {
		if order != "" {
			require.NoError(t, emulator.Set("streams="+order))
		}
		for way := range plan.Launchings {
			got, r := steps(plan.Options{Move: plan.MoveInputs, Launch: plan.Launching(way)})
			require.Equal(t, want, got, "%s, order %s", plan.Launchings[way], order)
			require.Positive(t, r.Away)
			require.Less(t, r.Arena, plain.Arena)
		}
	}
	require.Greater(t, device.Parallel(dev).Lanes(), int(graph.Copy))
}

// adapted is the loss of products of weights in 4 bits with adapters, whose gradients are added to variables.
func adapted(t *testing.T, g *graph.Graph, store *plan.Store, x graph.Value) (loss graph.Value, sums []*graph.Var) {
	const layers, width = 3, 256
	q := ops.QuantMatMul{Scheme: quant.NF4, Blocksize: 64, N: width, K: width}
	read := func(name string, typ tensor.Type) (*graph.Var, graph.Value) {
		v, values := graph.NewVar(name, typ), tensor.New(typ)
		for i := range typ.Size() {
			values.Set(i, math.Abs(math.Round(100*math.Sin(float64(i+len(name))))))
		}
		require.NoError(t, store.Set(v, values))
		return v, g.Read(v)
	}
	var weights []*graph.Var
	for i := range layers {
		_, codes := read(fmt.Sprint("codes", i), tensor.T(tensor.U8, width*width/2))
		_, absmax := read(fmt.Sprint("absmax", i), tensor.T(tensor.F32, width*width/64))
		a, down := read(fmt.Sprint("a", i), tensor.T(tensor.F32, 4, width))
		b, up := read(fmt.Sprint("b", i), tensor.T(tensor.F32, width, 4))
		weights = append(weights, a, b)
		y := ops.Scale(ops.QuantLinear(q, x, codes, absmax), 1e-5)
		x = ops.Tanh(ops.Add(x, ops.Add(y, ops.Scale(ops.Linear(ops.Linear(x, down), up), 1e-5))))
	}
	loss = ops.Sum(ops.Square(x))
	grads, err := autograd.Grad(loss, weights...)
	require.NoError(t, err)
	for i, v := range weights {
		sum := graph.NewVar("sum "+v.Name, v.Type)
		g.Write(sum, ops.Add(g.Read(sum), grads[i]))
		sums = append(sums, sum)
	}
	return loss, sums
}

// runAdapted does three steps and returns losses and sums of gradients, as bytes, and how many launches each lane has.
func runAdapted(t *testing.T, o plan.Options) (out []byte, lanes [graph.Aside + 1]int) {
	g := graph.New("adapted")
	x := g.Input("x", tensor.T(tensor.F32, 128, 256))
	o.Store, o.Verify = plan.NewStore(o.Device), true
	loss, sums := adapted(t, g, o.Store, x)
	p, err := plan.Compile([]graph.Value{loss}, o)
	require.NoError(t, err)
	for _, l := range p.Launches() {
		lanes[l.Lane]++
	}
	in := tensor.New(x.Type())
	for step := range 3 {
		for i := range in.Type().Size() {
			in.Set(i, math.Sin(float64(i*(step+1))))
		}
		r, err := p.Run(context.Background(), plan.Feed{x: in})
		require.NoError(t, err)
		out = append(out, r.Tensor(loss).Bytes()...)
	}
	for _, v := range sums {
		x, err := o.Store.Get(v)
		require.NoError(t, err)
		out = append(out, x.Bytes()...)
	}
	require.NoError(t, p.Close())
	require.NoError(t, o.Store.Close())
	return out, lanes
}

// TestSide: weights in 4 bits are decoded ahead and gradients of adapters computed aside, in streams that give way, with the bits of one stream.
func TestSide(t *testing.T) {
	dev := testDevice(t)
	want, n := runAdapted(t, plan.Options{Device: dev, Side: plan.SideOff})
	require.Zero(t, n[graph.Ahead]+n[graph.Aside])
	orders := []string{""} // of a GPU
	if onEmulator() {
		orders = []string{"late", "1", "2"}
		t.Cleanup(func() { require.NoError(t, emulator.Reset()) })
	}
	for _, order := range orders {
		if order != "" {
			require.NoError(t, emulator.Set("streams="+order))
		}
		for _, launch := range []plan.Launching{plan.Captured, plan.Plain} {
			got, n := runAdapted(t, plan.Options{Device: dev, Side: plan.SideAll, Launch: launch})
			require.Equal(t, want, got, "%s, order %s", plan.Launchings[launch], order)
			require.Greater(t, n[graph.Ahead], 2, n)
			require.Greater(t, n[graph.Aside], 2, n)
		}
	}
	arithmetic, err := dev.priority(int(graph.Compute))
	require.NoError(t, err)
	for _, lane := range []graph.Lane{graph.Ahead, graph.Aside} {
		side, err := dev.priority(int(lane))
		require.NoError(t, err)
		require.Greater(t, side, arithmetic, "a greater number gives way")
	}
}
