package cpu

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// slabOf draws a slab with zeros between the tensors; positive takes magnitudes.
func slabOf(r *rand.Rand, l *ops.Layout, positive bool) *tensor.Tensor {
	x := tensor.New(l.Type())
	for i, at := range l.Offsets {
		for j := range l.Sizes[i] {
			v := r.NormFloat64()
			if positive {
				v = math.Abs(v)
			}
			x.Set(at+j, v)
		}
	}
	return x
}

// slab8 quantizes a slab of states, leaving padding at code 0.
func slab8(r *rand.Rand, l *ops.Layout, unsigned, positive bool) (codes, absmax *tensor.Tensor) {
	wide := *l
	wide.DType = tensor.F32
	x := tensor.Data[float32](slabOf(r, &wide, positive))
	codes, absmax = tensor.New(tensor.T(tensor.U8, l.Total)), tensor.New(tensor.T(tensor.F32, l.Total/ops.SlabAlign))
	for i, at := range l.Offsets {
		for lo := at; lo < at+l.Sizes[i]; lo += ops.SlabAlign {
			hi := min(lo+ops.SlabAlign, at+l.Sizes[i])
			tensor.Data[float32](absmax)[lo/ops.SlabAlign] = bookOf(unsigned).QuantizeBlock(codes.Bytes()[lo:hi], x[lo:hi])
		}
	}
	return codes, absmax
}

// updateOp is either width of update.
type updateOp interface {
	graph.Op
	graph.Decomposable
	graph.Aliaser
	States() []ops.StateSpec
	Moments() []bool
}

func updateInputs(r *rand.Rand, op updateOp, l *ops.Layout, step, ok float32) []*tensor.Tensor {
	in := []*tensor.Tensor{slabOf(r, l, false), slabOf(r, l, false)}
	unsigned := op.Moments()
	var scales []*tensor.Tensor
	for _, u := range unsigned {
		positive := u || strings.HasPrefix(op.Name(), "rmsprop") || strings.HasPrefix(op.Name(), "adagrad")
		if _, eight := op.(ops.Update8bit); eight {
			codes, absmax := slab8(r, l, u, positive)
			in, scales = append(in, codes), append(scales, absmax)
			continue
		}
		wide := *l
		wide.DType = tensor.F32
		in = append(in, slabOf(r, &wide, positive))
	}
	in = append(in, scales...)
	for _, s := range op.States()[len(in)-2:] {
		in = append(in, tensor.New(s.Type))
	}
	return append(in, tensor.Scalar[float32](0.02), tensor.Scalar(step), tensor.Scalar[float32](0.7), tensor.Scalar(ok))
}

func updateOps(l *ops.Layout) map[string]updateOp {
	out := map[string]updateOp{"sgd": ops.Update{Hyper: ops.Hyper{Rule: ops.Momentum, WeightDecay: 0.1}, Layout: l}}
	for name, h := range map[string]ops.Hyper{
		"adam":      {Rule: ops.Adam, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.1},
		"adamw":     {Rule: ops.AdamTorch, Beta1: 0.8, Beta2: 0.95, Eps: 1e-6, WeightDecay: 0.1},
		"ademamix":  {Rule: ops.AdEMAMix, Beta1: 0.9, Beta2: 0.999, Beta3: 0.9999, Alpha: 5, TAlpha: 9, TBeta3: 9, Eps: 1e-8},
		"lion":      {Rule: ops.Lion, Beta1: 0.9, Beta2: 0.99, WeightDecay: 0.1},
		"sgd m":     {Rule: ops.Momentum, Beta1: 0.9, Dampening: 0.2, WeightDecay: 0.1},
		"nesterov":  {Rule: ops.Momentum, Beta1: 0.9, Nesterov: true},
		"rmsprop":   {Rule: ops.RMSprop, Beta1: 0.99, Eps: 1e-8, WeightDecay: 0.1},
		"adagrad":   {Rule: ops.Adagrad, Eps: 1e-10, WeightDecay: 0.1},
		"lamb":      {Rule: ops.Adam, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, MaxUnorm: 0.1},
		"lars skip": {Rule: ops.Momentum, Beta1: 0.9, WeightDecay: 0.1, MaxUnorm: 0.1, SkipZeros: true},
	} {
		out[name], out[name+" 8bit"] = ops.Update{Hyper: h, Layout: l}, ops.Update8bit{Hyper: h, Layout: l}
	}
	return out
}

// layouts puts tensors around the borders of blocks, and one over several tasks.
func layouts() map[string]*ops.Layout {
	scaled := ops.NewLayout(255, 1, 256, 257, 600)
	scaled.LRScale, scaled.Decay = []float64{1, 2, 0.5, 1, 3}, []float64{0, 0.1, 0.2, 0, 0.1}
	half := ops.NewLayout(255, 257)
	half.DType, half.LR = tensor.F16, []float64{0, 0.5}
	return map[string]*ops.Layout{"empty": ops.NewLayout(), "edges": ops.NewLayout(0, 1, 255, 256, 257, 70000), "scaled": scaled, "f16": half}
}

// TestUpdateAgainstDecomposition runs each update with one and two threads and by its decomposition, at the first and a later step,
// and with ok = 0.
func TestUpdateAgainstDecomposition(t *testing.T) {
	one, two := New(Options{Threads: 1}), New(Options{Threads: 2})
	defer func() { require.NoError(t, one.Close()); require.NoError(t, two.Close()) }()
	for lname, l := range layouts() {
		for name, op := range updateOps(l) {
			t.Run(lname+"/"+name, func(t *testing.T) {
				for _, step := range []float32{1, 7} {
					in := updateInputs(nnRand(uint64(step)), op, l, step, 1)
					g := graph.New("update")
					vals, feed := nnFeed(g, in)
					got := g.Apply(op, vals...)
					both := append(slices.Clone(got), op.Decompose(vals)...)
					require.NoError(t, g.Err())
					a, err := plan.Eval(one, feed, both...)
					require.NoError(t, err)
					b, err := plan.Eval(two, feed, got...)
					require.NoError(t, err)
					for i := range got {
						require.Equal(t, a[i].Bytes(), b[i].Bytes(), "threads change nothing in output %d", i)
						compareUpdate(t, a[i], a[len(got)+i])
					}
				}
				unchanged(t, two, op, l)
			})
		}
	}
}

// compareUpdate allows rounding, and of codes one step in a few.
func compareUpdate(t *testing.T, got, want *tensor.Tensor) {
	t.Helper()
	if got.DType() != tensor.U8 {
		require.LessOrEqual(t, relativeError(got, want), 3e-6)
		return
	}
	off := 0
	for i, c := range want.Bytes() {
		if d := int(c) - int(got.Bytes()[i]); d != 0 {
			require.InDelta(t, 0, d, 1)
			off++
		}
	}
	require.LessOrEqual(t, off, 1+got.Type().Size()/1000)
}

func unchanged(t *testing.T, d *Device, op updateOp, l *ops.Layout) {
	for _, ok := range []float32{0, float32(math.NaN())} {
		in := updateInputs(nnRand(3), op, l, 2, ok)
		for i := range in[1].Type().Size() {
			in[1].Set(i, math.NaN())
		}
		g := graph.New("update")
		vals, feed := nnFeed(g, in)
		out, err := plan.Eval(d, feed, g.Apply(op, vals...)...)
		require.NoError(t, err)
		for i, pair := range op.Alias() {
			require.Equal(t, in[pair.In].Bytes(), out[i].Bytes(), "ok = %v changes nothing", ok)
		}
	}
}

// TestAdamWOracle compares the kernel with the formula in float64 over a few steps.
func TestAdamWOracle(t *testing.T) {
	d := New(Options{Threads: 2})
	defer func() { require.NoError(t, d.Close()) }()
	l := ops.NewLayout(300)
	op := ops.Update{Hyper: ops.Hyper{Rule: ops.AdamTorch, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.01}, Layout: l}
	r := nnRand(5)
	in := updateInputs(r, op, l, 1, 1)
	clear(in[2].Bytes())
	clear(in[3].Bytes())
	p, m, v := make([]float64, 300), make([]float64, 300), make([]float64, 300)
	for i := range p {
		p[i] = in[0].At(i)
	}
	const lr, gscale = float64(float32(0.02)), float64(float32(0.7))
	for step := 1; step <= 6; step++ {
		in[1], in[5] = slabOf(r, l, false), tensor.Scalar(float32(step))
		for i := range p {
			x := in[1].At(i) * gscale
			p[i] *= 1 - lr*0.01
			m[i], v[i] = 0.9*m[i]+0.1*x, 0.999*v[i]+0.001*x*x
			p[i] -= lr * m[i] / (1 - math.Pow(0.9, float64(step))) / (math.Sqrt(v[i]/(1-math.Pow(0.999, float64(step)))) + 1e-8)
		}
		g := graph.New("update")
		vals, feed := nnFeed(g, in)
		out, err := plan.Eval(d, feed, g.Apply(op, vals...)...)
		require.NoError(t, err)
		in[0], in[2], in[3] = out[0], out[1], out[2]
	}
	for i := range p {
		require.InDelta(t, p[i], in[0].At(i), 1e-6)
		require.InDelta(t, m[i], in[2].At(i), 1e-6)
		require.InDelta(t, v[i], in[3].At(i), 1e-7)
	}
}

// TestUpdate8bitKeepsState checks what the blocks of quant do not: elements without a finite gradient.
func TestUpdate8bitKeepsState(t *testing.T) {
	d := New(Options{Threads: 1})
	defer func() { require.NoError(t, d.Close()) }()
	l := ops.NewLayout(256)
	op := ops.Update8bit{Hyper: ops.Hyper{Rule: ops.Adam, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.1}, Layout: l}
	in := updateInputs(nnRand(8), op, l, 3, 1)
	in[1].Set(5, math.NaN())
	in[1].Set(6, math.Inf(-1))
	g := graph.New("update")
	vals, feed := nnFeed(g, in)
	out, err := plan.Eval(d, feed, g.Apply(op, vals...)...)
	require.NoError(t, err)
	for _, i := range []int{5, 6} {
		require.Equal(t, in[0].At(i), out[0].At(i))
		require.Zero(t, quant.DynamicSigned().Value(out[1].Bytes()[i]))
		require.Zero(t, quant.DynamicUnsigned().Value(out[2].Bytes()[i]))
	}
	require.NotEqual(t, in[0].At(7), out[0].At(7))
}

// TestUpdate8bitOverflow: a finite gradient whose square is not leaves the block of its element as one that is not finite does.
func TestUpdate8bitOverflow(t *testing.T) {
	d := New(Options{Threads: 1})
	defer func() { require.NoError(t, d.Close()) }()
	l := ops.NewLayout(300)
	for _, rule := range []ops.Rule{ops.Adam, ops.AdamTorch, ops.AdEMAMix, ops.RMSprop, ops.Adagrad} {
		op := ops.Update8bit{Hyper: ops.Hyper{Rule: rule, Beta1: 0.9, Beta2: 0.999, Beta3: 0.9999, Eps: 1e-8, WeightDecay: 0.1}, Layout: l}
		run := func(x float64) (kernel, decomposed []*tensor.Tensor) {
			in := updateInputs(nnRand(8), op, l, 3, 1)
			in[1].Set(5, x)
			g := graph.New("update")
			vals, feed := nnFeed(g, in)
			got := g.Apply(op, vals...)
			out, err := plan.Eval(d, feed, append(slices.Clone(got), op.Decompose(vals)...)...)
			require.NoError(t, err)
			return out[:len(got)], out[len(got):]
		}
		huge, oracle := run(1e30)
		want, _ := run(math.NaN())
		require.False(t, math.IsNaN(huge[0].At(5)), rule)
		huge[0].Set(5, want[0].At(5)) // it may be decayed
		oracle[0].Set(5, want[0].At(5))
		for i := range want {
			require.Equal(t, want[i].Bytes(), huge[i].Bytes(), "%v, output %d", rule, i)
			compareUpdate(t, huge[i], oracle[i])
		}
	}
}
