package layers_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// rowCodes is the definition of quantization with one absmax for each group of n elements.
func rowCodes(x []float64, n int) (codes, stats []float64) {
	for lo := 0; lo < len(x); lo += n {
		top := 0.0
		for _, v := range x[lo : lo+n] {
			top = max(top, math.Abs(v))
		}
		stats = append(stats, top)
		for _, v := range x[lo : lo+n] {
			codes = append(codes, math.RoundToEven(v*127/top))
		}
	}
	return codes, stats
}

func float64s(t *tensor.Tensor) []float64 {
	out := make([]float64, t.Type().Size())
	for i := range out {
		out[i] = t.At(i)
	}
	return out
}

func transposed(x []float64, rows, cols int) []float64 {
	out := make([]float64, len(x))
	for i, v := range x {
		out[i%cols*rows+i/cols] = v
	}
	return out
}

// product is a·bᵀ for a (m, k) and b (n, k).
func product(a, b []float64, m, n, k int) []float64 {
	out := make([]float64, m*n)
	for i := range out {
		for l := range k {
			out[i] += a[i/n*k+l] * b[i%n*k+l]
		}
	}
	return out
}

// quantizedProduct is product of codes, scaled back; group is how many elements of b share an absmax.
func quantizedProduct(a, b []float64, m, n, k, group int) []float64 {
	ac, as := rowCodes(a, k)
	bc, bs := rowCodes(b, group)
	out := product(ac, bc, m, n, k)
	for i := range out {
		out[i] *= as[i/n] * bs[i%n*k/group] / (127 * 127)
	}
	return out
}

// Forward, input gradient and weight gradient follow the paper's algorithms, computed here in float64 from their definition.
func TestSwitchBack(t *testing.T) {
	const m, k, n = 11, 40, 13
	for name, build := range map[string]func(layers.Source, int, int, bool) *layers.SwitchBack{
		"global": layers.NewSwitchBackGlobal, "memory-efficient": layers.NewSwitchBackGlobalMemEfficient, "vector-wise": layers.NewSwitchBackVectorwise,
	} {
		for d, tol := range map[tensor.DType]float64{tensor.F32: 1e-6, tensor.F16: 1e-3, tensor.BF16: 6e-3} {
			t.Run(name+"."+d.String(), func(t *testing.T) {
				src := layers.NewSource(layers.Options{Seed: 4})
				l := build(src, k, n, true)
				store := newStore(t)
				require.NoError(t, src.Load(store))
				require.NoError(t, store.Set(l.Bias, normal(8, tensor.F32, n)))
				require.Equal(t, []string{"weight", "bias"}, names(l))
				x, gy := normal(1, d, m, k), normal(2, d, m, n)
				g := graph.New("switchback")
				xv, w, b := g.Const(x), g.Read(l.Weight), g.Read(l.Bias)
				y := l.Forward(xv)
				gr, err := autograd.VJP([]graph.Value{y}, []graph.Value{g.Const(gy)}, xv, w, b)
				require.NoError(t, err)
				got := evaluate(t, store, y, gr[0], gr[1], gr[2], w, b)
				checkSwitchBack(t, l, x, gy, got, tol)
			})
		}
	}
}

func checkSwitchBack(t *testing.T, l *layers.SwitchBack, x, gy *tensor.Tensor, got []*tensor.Tensor, tol float64) {
	t.Helper()
	k, n := l.Features()
	m := x.Shape().Dim(0)
	xs, gs, ws, bias := float64s(x), float64s(gy), float64s(got[4]), float64s(got[5])
	rowGroup, colGroup := n*k, n*k
	if l.Kind.Vectorwise {
		rowGroup, colGroup = k, n
	}
	y := quantizedProduct(xs, ws, m, n, k, rowGroup)
	for i := range y {
		y[i] += rounded(x.DType(), bias[i%n])
	}
	gx := quantizedProduct(gs, transposed(ws, n, k), m, k, n, colGroup)
	if l.Kind.Saved {
		codes, stats := rowCodes(xs, k)
		for i := range xs {
			xs[i] = rounded(x.DType(), codes[i]*stats[i/k]/127)
		}
	}
	gw := product(transposed(gs, m, n), transposed(xs, m, k), n, k, m)
	gb := make([]float64, n)
	for i, v := range gs {
		gb[i%n] += v
	}
	for i, want := range [][]float64{y, gx, gw, gb} {
		diff, norm := 0.0, 0.0
		for j, w := range want {
			diff += math.Pow(got[i].At(j)-w, 2)
			norm += w * w
		}
		require.Less(t, math.Sqrt(diff/norm), tol, "y, dx, dw, db: %d", i)
	}
}

func rounded(d tensor.DType, x float64) float64 {
	t := tensor.New(tensor.T(d, 1))
	t.Set(0, x)
	return t.At(0)
}
