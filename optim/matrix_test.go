package optim

import (
	"context"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// replayMatrices updates tensors by an optimizer and, beside it, by a rule in float64, and compares after each of some steps.
func replayMatrices(t *testing.T, name string, c Config, shapes [][]int, rule func(step, i int, p, g []float64)) {
	r := rand.New(rand.NewPCG(1, 7))
	var params []*graph.Var
	store := plan.NewStore(device(t, 2))
	for _, dims := range shapes {
		params = append(params, f32("p", dims...))
	}
	opt, err := New(name, c)
	require.NoError(t, err)
	gr, err := NewGroup(params, Options{Optimizer: opt})
	require.NoError(t, err)
	want := make([][]float64, len(params))
	for i, p := range params {
		x := normal(r, shapes[i]...)
		require.NoError(t, store.Set(p, x))
		want[i] = wide(x)
	}
	g := graph.New("step")
	gr.Apply(g, Scalars{LR: ops.Fill(g, tensor.F32, 0.125), GScale: ops.Fill(g, tensor.F32, 0.5)})
	step, err := plan.Compile([]graph.Value{ops.Fill(g, tensor.F32, 0)}, plan.Options{Device: store.Device(), Store: store, Verify: true})
	require.NoError(t, err)
	for n := 1; n <= 4; n++ {
		for i, v := range gr.GradVars() {
			x := normal(r, shapes[i]...)
			require.NoError(t, store.Set(v, x))
			grad := wide(x)
			for j := range grad {
				grad[j] *= 0.5
			}
			rule(n, i, want[i], grad)
		}
		_, err := step.Run(context.Background(), nil)
		require.NoError(t, err)
		for i, p := range params {
			got, err := store.Get(p)
			require.NoError(t, err)
			require.InDeltaSlice(t, want[i], wide(got), 1e-5, "%s step %d tensor %d", name, n, i)
		}
	}
	require.NoError(t, step.Close())
	require.NoError(t, store.Close())
}

func wide(x *tensor.Tensor) []float64 {
	out := make([]float64, x.Type().Size())
	for i := range out {
		out[i] = x.At(i)
	}
	return out
}

func rootMeanSquare(x []float64) float64 {
	var s float64
	for _, v := range x {
		s += v * v
	}
	return math.Sqrt(s / float64(len(x)))
}

// TestAdafactorOracle follows algorithm 4 of the paper literally: sums over rows and columns.
func TestAdafactorOracle(t *testing.T) {
	shapes := [][]int{{7, 5}, {2, 3, 4}, {6}}
	for _, c := range []Config{{WeightDecay: 0.1}, {Relative: true, Momentum: 0.9}, {Absolute: true, ClipThreshold: 0.25}} {
		rows, cols, loose, first := map[int][]float64{}, map[int][]float64{}, map[int][]float64{}, map[int][]float64{}
		clip := max(c.ClipThreshold, 0)
		if clip == 0 {
			clip = 1
		}
		replayMatrices(t, "adafactor", c, shapes, func(step, i int, p, g []float64) {
			b := 1 - math.Pow(float64(step), -0.8)
			v := make([]float64, len(g))
			if n := shapes[i][0]; len(shapes[i]) > 1 {
				m := len(g) / n
				r, k := sums(rows, i, n), sums(cols, i, m)
				var total float64
				decayAll(r, b)
				decayAll(k, b)
				for j, x := range g {
					r[j/m] += (1 - b) * (x*x + 1e-30)
					k[j%m] += (1 - b) * (x*x + 1e-30)
				}
				for _, x := range r {
					total += x
				}
				for j := range v {
					v[j] = r[j/m] * k[j%m] / total
				}
			} else {
				s := sums(loose, i, len(g))
				for j, x := range g {
					s[j] = b*s[j] + (1-b)*(x*x+1e-30)
				}
				copy(v, s)
			}
			u := make([]float64, len(g))
			for j, x := range g {
				u[j] = x / math.Sqrt(v[j])
			}
			f := max(1, rootMeanSquare(u)/clip)
			lr := 0.125
			if c.Relative {
				lr = min(lr, 1/math.Sqrt(float64(step)))
			}
			alpha := lr
			if !c.Absolute {
				alpha *= max(1e-3, rootMeanSquare(p))
			}
			m := sums(first, i, len(g))
			for j := range p {
				m[j] = c.Momentum*m[j] + (1-c.Momentum)*u[j]/f
				p[j] = p[j]*(1-lr*c.WeightDecay) - alpha*m[j]
			}
		})
	}
}

func sums(of map[int][]float64, i, n int) []float64 {
	if of[i] == nil {
		of[i] = make([]float64, n)
	}
	return of[i]
}

func decayAll(x []float64, b float64) {
	for i := range x {
		x[i] *= b
	}
}

// TestMuonOracle follows the published program on matrices of both proportions; a vector goes to AdamW.
func TestMuonOracle(t *testing.T) {
	shapes := [][]int{{4, 6}, {9, 4}, {2, 3, 2}}
	for _, spectral := range []bool{false, true} {
		moments := map[int][]float64{}
		replayMatrices(t, "muon", Config{WeightDecay: 0.1, SpectralScale: spectral}, shapes, func(step, i int, p, g []float64) {
			n := shapes[i][0]
			m := sums(moments, i, len(g))
			x := make([]float64, len(g))
			for j := range g {
				m[j] = 0.95*m[j] + 0.05*g[j]
				x[j] = 0.05*g[j] + 0.95*m[j]
			}
			x = newtonSchulz(x, n, len(g)/n)
			scale := 0.2 * math.Sqrt(float64(max(n, len(g)/n)))
			if spectral {
				scale = math.Sqrt(max(1, float64(n)/float64(len(g)/n)))
			}
			for j := range p {
				p[j] = p[j]*(1-0.125*0.1) - 0.125*scale*x[j]
			}
		})
	}
	opt, err := New("muon", Config{})
	require.NoError(t, err)
	a, b := f32("a", 4, 4), f32("b", 4)
	gr, err := NewGroup([]*graph.Var{a, b}, Options{Optimizer: opt})
	require.NoError(t, err)
	require.Equal(t, []string{"muon", "adamw_torch"}, []string{gr.sections[0].update.Name(), gr.sections[1].update.Name()})
}

// newtonSchulz multiplies matrices by the definition.
func newtonSchulz(x []float64, rows, cols int) []float64 {
	if rows > cols {
		return transposed(newtonSchulz(transposed(x, rows, cols), cols, rows), cols, rows)
	}
	norm := rootMeanSquare(x)*math.Sqrt(float64(len(x))) + 1e-7
	out := make([]float64, len(x))
	for i := range x {
		out[i] = x[i] / norm
	}
	for range 5 {
		a := product(out, transposed(out, rows, cols), rows, cols, rows)
		aa := product(a, a, rows, rows, rows)
		for i := range a {
			a[i] = -4.7750*a[i] + 2.0315*aa[i]
		}
		next := product(a, out, rows, rows, cols)
		for i := range next {
			next[i] += 3.4445 * out[i]
		}
		out = next
	}
	return out
}

func transposed(x []float64, rows, cols int) []float64 {
	out := make([]float64, len(x))
	for i := range x {
		out[i%cols*rows+i/cols] = x[i]
	}
	return out
}

func product(a, b []float64, m, k, n int) []float64 {
	out := make([]float64, m*n)
	for i := range out {
		for j := range k {
			out[i] += a[i/n*k+j] * b[j*n+i%n]
		}
	}
	return out
}

// TestOrthogonalize checks what Newton-Schulz promises: singular values near 1, here read off XXᵀ of a matrix with known ones.
func TestOrthogonalize(t *testing.T) {
	g := graph.New("svd")
	d := tensor.New(tensor.T(tensor.F32, 5, 8))
	for i, s := range []float64{9, 4, 1, 0.5, 0.1} {
		d.Set(i*8+i, s)
	}
	x := g.Input("x", d.Type())
	y := ops.Orthogonalize(x, 5)
	out, err := plan.Eval(device(t, 1), plan.Feed{x: d}, y, ops.Orthogonalize(ops.ZerosLike(x), 5))
	require.NoError(t, err)
	for i := range 40 {
		if i%9 == 0 && i/9 < 5 {
			require.InDelta(t, 1, out[0].At(i), 0.35)
		} else {
			require.InDelta(t, 0, out[0].At(i), 1e-5)
		}
		require.Zero(t, out[1].At(i))
	}
}
