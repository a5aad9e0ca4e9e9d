package cpu

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestConvolutionByLoops: any geometry gives what the definition says, written out as loops in float64.

func TestConvolutionByLoops(t *testing.T) {
	dev := New(Options{Threads: 2})
	defer func() { require.NoError(t, dev.Close()) }()
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string, lo, hi int) int { return rapid.IntRange(lo, hi).Draw(t, name) }
		groups := draw("groups", 1, 3)
		n, c, o := draw("n", 1, 2), groups*draw("c", 1, 2), groups*draw("o", 1, 2)
		opts := ops.ConvOptions{Groups: groups}
		var kernel, in []int
		for range 2 {
			kernel, in = append(kernel, draw("k", 1, 3)), append(in, draw("in", 1, 14))
			opts.Stride, opts.Dilation = append(opts.Stride, draw("s", 1, 3)), append(opts.Dilation, draw("d", 1, 2))
			opts.Pad, opts.PadEnd = append(opts.Pad, draw("lo", 0, 3)), append(opts.PadEnd, draw("hi", 0, 3))
		}
		win, err := opts.Window(kernel...)
		require.NoError(t, err)
		var out []int
		for i := range 2 {
			p, err := win.Out(i, in[i])
			if err != nil {
				t.Skip("the kernel does not fit")
			}
			out = append(out, p)
		}
		x, w := randomF64(t, n, c, in[0], in[1]), randomF64(t, o, c/groups, kernel[0], kernel[1])
		want := convLoops(x, w, win, groups, out)
		g := graph.New("conv")
		y := ops.Conv(g.Input("x", x.Type()), g.Input("w", w.Type()), opts)
		require.NoError(t, g.Err())
		got, err := plan.Eval(dev, plan.Feed{g.Input("x", x.Type()): x, g.Input("w", w.Type()): w}, y)
		require.NoError(t, err)
		require.Equal(t, want.Shape(), got[0].Shape())
		require.InDeltaSlice(t, tensor.Data[float64](want), tensor.Data[float64](got[0]), 1e-12)
	})
}

func randomF64(t *rapid.T, dims ...int) *tensor.Tensor {
	x := tensor.New(tensor.T(tensor.F64, dims...))
	r := nnRand(rapid.Uint64().Draw(t, "seed"))
	for i := range x.Type().Size() {
		x.Set(i, r.NormFloat64())
	}
	return x
}

func convLoops(x, w *tensor.Tensor, win ops.Window, groups int, out []int) *tensor.Tensor {
	n, c, h, v := x.Shape().Dim(0), x.Shape().Dim(1), x.Shape().Dim(2), x.Shape().Dim(3)
	o, cg, kh, kw := w.Shape().Dim(0), w.Shape().Dim(1), w.Shape().Dim(2), w.Shape().Dim(3)
	y := tensor.New(tensor.T(tensor.F64, n, o, out[0], out[1]))
	for at := range y.Type().Size() {
		q, p, ch, row := at%out[1], at/out[1]%out[0], at/out[1]/out[0]%o, at/out[1]/out[0]/o
		var sum float64
		for j := range cg * kh * kw {
			b, a, k := j%kw, j/kw%kh, j/kw/kh
			i0 := p*int(win.Stride[0]) + a*int(win.Dilation[0]) - int(win.Lo[0])
			i1 := q*int(win.Stride[1]) + b*int(win.Dilation[1]) - int(win.Lo[1])
			if i0 >= 0 && i0 < h && i1 >= 0 && i1 < v {
				from := ch/(o/groups)*cg + k
				sum += x.At(((row*c+from)*h+i0)*v+i1) * w.At(((ch*cg+k)*kh+a)*kw+b)
			}
		}
		y.Set(at, sum)
	}
	return y
}

// TestPoolingByLoops: the same for sums and largest elements of windows with padding and rounding up.
func TestPoolingByLoops(t *testing.T) {
	dev := New(Options{Threads: 2})
	defer func() { require.NoError(t, dev.Close()) }()
	ran := 0
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string, lo, hi int) int { return rapid.IntRange(lo, hi).Draw(t, name) }
		n, k, s, d := draw("n", 1, 20), draw("k", 1, 4), draw("s", 1, 4), draw("d", 1, 3)
		o := ops.PoolOptions{WindowOptions: ops.WindowOptions{Stride: []int{s}, Dilation: []int{d}, Pad: []int{draw("lo", 0, 4)}, PadEnd: []int{draw("hi", 0, 4)}},
			Ceil: rapid.Bool().Draw(t, "ceil"), CountPad: rapid.Bool().Draw(t, "count")}
		x := randomF64(t, 1, 2, n)
		g := graph.New("pool")
		in := g.Input("x", x.Type())
		y, idx := ops.MaxPoolIndices(in, []int{k}, o)
		avg := ops.AvgPool(in, []int{k}, o)
		if g.Err() != nil {
			t.Skip("a window that does not fit or sees only padding")
		}
		got, err := plan.Eval(dev, plan.Feed{in: x}, y, idx, avg)
		require.NoError(t, err)
		ran++
		lo, hi := o.Pad[0], o.PadEnd[0]
		for at := range got[0].Type().Size() {
			p, ch := at%y.Dim(2), at/y.Dim(2)
			best, where, sum, seen, counted := math.Inf(-1), -1, 0.0, 0, 0
			for j := range k {
				i := p*s + j*d - lo
				if i < n+hi {
					counted++
				}
				if i >= 0 && i < n {
					v := x.At(ch*n + i)
					sum, seen = sum+v, seen+1
					if v > best {
						best, where = v, i
					}
				}
			}
			if o.CountPad {
				seen = counted
			}
			require.Equal(t, best, got[0].At(at))
			require.Equal(t, float64(where), got[1].At(at))
			require.InDelta(t, sum/float64(seen), got[2].At(at), 1e-12)
		}
		if last := (y.Dim(2) - 1) * s; last >= n+lo {
			t.Fatalf("the last window starts at %d, in the padding behind %d elements", last-lo, n)
		}
	})
	require.Positive(t, ran)
}
