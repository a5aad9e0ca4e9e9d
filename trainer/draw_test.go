package trainer

import (
	"context"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestDraw: what the device draws is distributed as the host's, each weight otherwise, in parts or whole, and quantizes to it.
func TestDraw(t *testing.T) {
	dev := cpu.New(cpu.Options{})
	store := plan.NewStore(dev)
	d := deviceDrawer{Store: store, ctx: context.Background(), dev: dev, seed: 7}
	moments := func(x *tensor.Tensor) (mean, std float64) {
		n := x.Type().Size()
		for i := range n {
			mean += x.At(i) / float64(n)
		}
		for i := range n {
			std += (x.At(i) - mean) * (x.At(i) - mean) / float64(n)
		}
		return mean, math.Sqrt(std)
	}
	draw := func(name string, in layers.Init, dt tensor.DType) *tensor.Tensor {
		v := graph.NewVar(name, tensor.T(dt, 512, 256))
		require.NoError(t, d.Draw(v, in))
		x, err := store.Get(v)
		require.NoError(t, err)
		return x
	}
	normal := draw("a", layers.Normal(0.02), tensor.F32)
	mean, std := moments(normal)
	require.InDelta(t, 0, mean, 3e-4)
	require.InDelta(t, 0.02, std, 3e-4)
	require.NotEqual(t, normal.Bytes(), draw("b", layers.Normal(0.02), tensor.F32).Bytes())
	require.Equal(t, normal.Bytes(), draw("a", layers.Normal(0.02), tensor.F32).Bytes())
	mean, std = moments(draw("u", layers.Uniform(3), tensor.BF16))
	require.InDelta(t, 0, mean, 3e-2)
	require.InDelta(t, math.Sqrt(3), std, 3e-2)

	q, err := layers.NewQuantized("q.weight", quant.Config{Scheme: quant.NF4, Blocksize: 64, Double: true}, 512, 256)
	require.NoError(t, err)
	require.NoError(t, d.DrawQuantized(q, layers.Normal(0.5)))
	st, err := q.State(store)
	require.NoError(t, err)
	back, err := st.Dequantize(tensor.F32)
	require.NoError(t, err)
	_, std = moments(back)
	require.InDelta(t, 0.5, std, 0.02)
}

// TestDrawInParts: a large weight is drawn through views of it, row by row as it would be whole.
func TestDrawInParts(t *testing.T) {
	dev := cpu.New(cpu.Options{})
	store := plan.NewStore(dev)
	d := deviceDrawer{Store: store, ctx: context.Background(), dev: dev, seed: 7}
	v := graph.NewVar("big", tensor.T(tensor.BF16, 40, drawnOnce/32))
	require.NoError(t, d.Draw(v, layers.Normal(1)))
	x, err := store.Get(v)
	require.NoError(t, err)
	cols := drawnOnce / 32
	for _, row := range []int{0, 31, 32, 39} {
		sum := 0.0
		for i := range cols {
			sum += x.At(row*cols+i) * x.At(row*cols+i)
		}
		require.InDelta(t, 1, sum/float64(cols), 0.02, "row %d", row)
	}
	require.NotEqual(t, x.Bytes()[:2*cols], x.Bytes()[2*32*cols:2*33*cols])
}
