package cuda

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// stackingFrom stacks products however little that saves.
type stackingFrom struct {
	*Device
	from int64
}

func (d stackingFrom) StackFrom() int64 { return d.from }

// adapterStep runs two steps of three adapters that read one input and returns how often each op is launched, and all results.
func adapterStep(t *testing.T, dev device.Device, dt tensor.DType, launch plan.Launching) (names map[string]int, got []*tensor.Tensor) {
	const rows, in, out, rank = 512, 256, 64, 8
	g := graph.New("adapters")
	store := plan.NewStore(dev)
	value := func(typ tensor.Type, seed int) *tensor.Tensor {
		x := tensor.New(typ)
		for i := range typ.Size() {
			x.Set(i, math.Sin(float64(i*(2*seed+3)+seed))/4)
		}
		return x
	}
	variable := func(name string, seed int, dims ...int) *graph.Var {
		v := graph.NewVar(name, tensor.T(tensor.F32, dims...))
		require.NoError(t, store.Set(v, value(v.Type, seed)))
		return v
	}
	x := g.Input("x", tensor.T(dt, rows, in))
	sum := graph.Value{}
	var params, kept []*graph.Var
	for i := range 3 {
		a, b := variable(fmt.Sprint("a", i), 3*i, rank, in), variable(fmt.Sprint("b", i), 3*i+1, out, rank)
		params = append(params, a, b)
		s := ops.Linear(x, ops.Cast(g.Read(a), dt))
		y := ops.Tanh(ops.Linear(s, ops.Cast(ops.Scale(g.Read(b), 2), dt)))
		if sum.Absent() {
			sum = y
		} else {
			sum = ops.Add(sum, ops.Mul(y, y))
		}
	}
	loss := ops.Sum(ops.Cast(sum, tensor.F32))
	grads, err := autograd.Grad(loss, params...)
	require.NoError(t, err)
	dx, err := autograd.GradValues(loss, x)
	require.NoError(t, err)
	for i, v := range params {
		acc := variable(v.Name+".grad", i, v.Type.Shape.Dims()...)
		kept = append(kept, acc)
		g.Write(acc, ops.Add(g.Read(acc), ops.Cast(grads[i], tensor.F32)))
	}
	outs := []graph.Value{sum, dx[0]}
	p, err := plan.Compile(outs, plan.Options{Device: dev, Store: store, Verify: true, Launch: launch})
	require.NoError(t, err)
	names = map[string]int{}
	for _, l := range p.Launches() {
		names[l.Node.Op.Name()]++
	}
	for range 3 { // the third is a replay where launches are recorded
		res, err := p.Run(t.Context(), plan.Feed{x: value(x.Type(), 9)})
		require.NoError(t, err)
		got = got[:0]
		for _, v := range outs {
			got = append(got, res.Tensor(v))
		}
	}
	for _, v := range kept {
		acc, err := store.Get(v)
		require.NoError(t, err)
		got = append(got, acc)
	}
	require.NoError(t, p.Close())
	return names, got
}

// TestStackedAdapters: adapters with one input multiply it once, forward and backward, and each still reads the gradient of its output once; results
// are those of the processor within rounding, and the same each time.
func TestStackedAdapters(t *testing.T) {
	d := pairDevice(t)
	for _, dt := range []tensor.DType{tensor.BF16, tensor.F16} {
		_, want := adapterStep(t, cpu.New(cpu.Options{Threads: 1}), dt, plan.Plain)
		apart, _ := adapterStep(t, stackingFrom{d, 1 << 40}, dt, plan.Plain)
		names, got := adapterStep(t, stackingFrom{d, 1}, dt, plan.Plain)
		require.Equal(t, 3, names["matmul_pair"], "%v", names)
		require.Equal(t, apart["matmul_pair"], names["matmul_pair"])
		require.Equal(t, 1, names["add_matmul_parts"])
		require.Equal(t, 2, names["concat"])
		require.Equal(t, 5, names["matmul"], "s, three y, and the gradient of x: %v, before %v", names, apart)
		require.Zero(t, names["add_matmul"])
		for i := range want {
			most := 0.0
			for k := range want[i].Type().Size() {
				most = max(most, math.Abs(want[i].At(k)))
			}
			for k := range want[i].Type().Size() {
				require.InDelta(t, want[i].At(k), got[i].At(k), most/map[tensor.DType]float64{tensor.BF16: 50, tensor.F16: 400}[dt], "value %d, element %d of %v", i, k, dt)
			}
		}
		_, again := adapterStep(t, stackingFrom{d, 1}, dt, plan.Captured)
		require.Equal(t, got, again)
	}
}
