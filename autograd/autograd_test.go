package autograd_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/autograd/gradcheck"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func device() *cpu.Device { return cpu.New(cpu.Options{Threads: 1}) }

func f64(vals ...float64) *tensor.Tensor {
	t := tensor.New(tensor.T(tensor.F64, len(vals)))
	copy(tensor.Data[float64](t), vals)
	return t
}

func TestUnusedVariableGetsZeros(t *testing.T) {
	g := graph.New("g")
	x := g.Input("x", tensor.T(tensor.F64, 2))
	v := graph.NewVar("v", tensor.T(tensor.F64, 3))
	grads, err := autograd.Grad(ops.Sum(x), v)
	require.NoError(t, err)
	out, err := plan.Eval(device(), plan.Feed{}, grads...)
	require.NoError(t, err)
	require.Equal(t, f64(0, 0, 0).Bytes(), out[0].Bytes())
}

// TestNoGradientOfFrozen: no matmul for the gradient of a frozen weight is ever built.
func TestNoGradientOfFrozen(t *testing.T) {
	g := graph.New("g")
	frozen, train := graph.NewVar("w", tensor.T(tensor.F32, 4, 4)), graph.NewVar("a", tensor.T(tensor.F32, 4))
	x := ops.Mul(g.Input("x", tensor.T(tensor.F32, 2, 4)), g.Read(train))
	for range 3 {
		x = ops.Linear(x, g.Read(frozen))
	}
	loss := ops.Sum(x)
	_, err := autograd.Grad(loss, train)
	require.NoError(t, err)
	count := 0
	for _, n := range g.Nodes() {
		if _, ok := n.Op.(ops.MatMul); ok {
			count++
		}
	}
	require.Equal(t, 6, count, "three forward, three for the inputs")
}

func TestStopGrad(t *testing.T) {
	g := graph.New("g")
	x := g.Input("x", tensor.T(tensor.F64, 2))
	grads, err := autograd.GradValues(ops.Sum(ops.Mul(x, autograd.StopGrad(ops.Square(x)))), x)
	require.NoError(t, err)
	out, err := plan.Eval(device(), plan.Feed{x: f64(2, 3)}, grads...)
	require.NoError(t, err)
	require.Equal(t, f64(4, 9).Bytes(), out[0].Bytes())
}

func TestGradOfIntermediate(t *testing.T) {
	g := graph.New("g")
	x := g.Input("x", tensor.T(tensor.F64, 2))
	y := ops.Exp(x)
	grads, err := autograd.GradValues(ops.Sum(ops.Square(y)), y, x)
	require.NoError(t, err)
	out, err := plan.Eval(device(), plan.Feed{x: f64(0, 1)}, grads[0], grads[1], y)
	require.NoError(t, err)
	for i := range 2 {
		e := out[2].At(i)
		require.InDelta(t, 2*e, out[0].At(i), 1e-12)
		require.InDelta(t, 2*e*e, out[1].At(i), 1e-12)
	}
}

func TestVJPSumsOverOutputs(t *testing.T) {
	g := graph.New("g")
	x := g.Input("x", tensor.T(tensor.F64, 2))
	a, b := ops.Scale(x, 3), ops.Square(x)
	grads, err := autograd.VJP([]graph.Value{a, b}, []graph.Value{ops.Scale(x, 10), {}}, x)
	require.NoError(t, err)
	both, err := autograd.VJP([]graph.Value{a, b}, []graph.Value{ops.Scale(x, 10), ops.Scale(x, 1)}, x)
	require.NoError(t, err)
	out, err := plan.Eval(device(), plan.Feed{x: f64(1, 2)}, grads[0], both[0])
	require.NoError(t, err)
	require.Equal(t, f64(30, 60).Bytes(), out[0].Bytes(), "an absent cotangent is zero")
	require.Equal(t, f64(32, 68).Bytes(), out[1].Bytes())
}

func TestErrors(t *testing.T) {
	g := graph.New("g")
	x := g.Input("x", tensor.T(tensor.F32, 2))
	_, err := autograd.GradValues(x, x)
	require.ErrorContains(t, err, "one floating-point number, got f32[2]")
	_, err = autograd.GradValues(ops.Sum(ops.Cast(x, tensor.I32)), x)
	require.ErrorContains(t, err, "floating-point")
	_, err = autograd.VJP(nil, nil)
	require.Error(t, err)
	y := g.Apply(opaque{}, x)[0]
	_, err = autograd.GradValues(ops.Sum(y), x)
	require.Regexp(t, `^autograd_test\.go:\d+: opaque has no gradient`, err.Error())
	_, err = autograd.GradValues(ops.Sum(y), y)
	require.NoError(t, err, "the opaque op is not differentiated")
	z := g.Apply(frozen{}, x, x)[0]
	_, err = autograd.GradValues(ops.Sum(z), x)
	require.ErrorContains(t, err, "input 1 has no gradient: it is quantized")
}

type opaque struct{}

func (opaque) Name() string                                  { return "opaque" }
func (opaque) Infer(in []tensor.Type) ([]tensor.Type, error) { return in[:1], nil }

type frozen struct{ opaque }

func (frozen) FrozenInput(i int) string { return []string{"", "it is quantized"}[i] }

// composite is differentiated through its decomposition: x²·w, with an integer and an absent input beside.
type composite struct{ opaque }

func (composite) Decompose(in []graph.Value) []graph.Value {
	return []graph.Value{ops.Mul(ops.Square(in[0]), in[1])}
}

func TestThroughDecomposition(t *testing.T) {
	f := func(in []graph.Value) []graph.Value {
		g := in[0].Graph()
		return g.Apply(composite{}, in[0], in[1], in[2], graph.Value{})
	}
	idx := tensor.New(tensor.T(tensor.I32, 2))
	gradcheck.Run(t, device(), gradcheck.Options{F: f, Order: 2,
		Inputs: []gradcheck.Input{{Value: f64(1, 2)}, {Value: f64(3, -1)}, {Value: idx, NoGrad: true}}})

	g := graph.New("g")
	x, w := g.Input("x", tensor.T(tensor.F64, 2)), g.Input("w", tensor.T(tensor.F64, 2))
	before := len(g.Nodes())
	y := g.Apply(composite{}, x, w, graph.Value{}, graph.Value{})[0]
	_, err := autograd.GradValues(ops.Sum(y), w)
	require.NoError(t, err)
	for _, n := range g.Nodes()[before:] {
		require.NotContains(t, n.String(), "2 f64", "nothing is built for x")
	}
}

// TestGradcheckFindsFaults: the checker refuses a gradient that is off.
func TestGradcheckFindsFaults(t *testing.T) {
	err := gradcheck.Check(device(), gradcheck.Options{Inputs: []gradcheck.Input{{Value: f64(1, 2)}},
		F: func(in []graph.Value) []graph.Value { return in[0].Graph().Apply(faulty{}, in[0]) }})
	require.ErrorContains(t, err, "central differences")
	err = gradcheck.Check(device(), gradcheck.Options{Inputs: []gradcheck.Input{{Value: f64(1, 2)}},
		F: func(in []graph.Value) []graph.Value { return []graph.Value{ops.Cast(in[0], tensor.I32)} }})
	require.ErrorContains(t, err, "no floating-point output")
}

// faulty doubles its input and claims a slope of 2.001.
type faulty struct{ opaque }

func (faulty) Decompose(in []graph.Value) []graph.Value { return []graph.Value{ops.Scale(in[0], 2)} }
func (faulty) VJP(_ *graph.Node, gy []graph.Value, _ []bool) []graph.Value {
	return []graph.Value{ops.Scale(gy[0], 2.001)}
}

// TestCheckpointedSecondOrder: regions are cloned again for the gradient of a gradient.
func TestCheckpointedSecondOrder(t *testing.T) {
	f := func(in []graph.Value) []graph.Value {
		x := in[0]
		g := x.Graph()
		for range 2 {
			autograd.Checkpoint(g, func() {
				x = ops.Tanh(ops.Mul(x, in[1]))
				autograd.Checkpoint(g, func() { x = ops.Sigmoid(ops.Add(x, ops.Sin(x))) })
				x = ops.Mul(x, x)
			})
		}
		return []graph.Value{x}
	}
	gradcheck.Run(t, device(), gradcheck.Options{F: f, Order: 2, Inputs: []gradcheck.Input{{Value: f64(0.3, -0.7)}, {Value: f64(1.1, 0.4)}}})
}

// TestCheckpointIsNotMerged: the clone of a region stays apart from the original through every pass.
func TestCheckpointIsNotMerged(t *testing.T) {
	count := func(wrap func(*graph.Graph, func())) int {
		g := graph.New("g")
		v := graph.NewVar("v", tensor.T(tensor.F32, 4))
		x := g.Read(v)
		wrap(g, func() { x = ops.Exp(ops.Sin(x)) })
		grads, err := autograd.Grad(ops.Sum(ops.Square(x)), v)
		require.NoError(t, err)
		sines := 0
		p, err := plan.Compile(grads, plan.Options{Device: device(), NoFuse: true, Dump: func(_ string, g *graph.Graph) {
			sines = 0
			for _, n := range g.Nodes() {
				if n.Op.Name() == "sin" {
					sines++
				}
			}
		}})
		require.NoError(t, err)
		require.NoError(t, p.Close())
		return sines
	}
	require.Equal(t, 1, count(func(_ *graph.Graph, f func()) { f() }))
	require.Equal(t, 2, count(autograd.Checkpoint))
}

// TestGradientOfPieces: what is cut in pieces gets its gradient from theirs put side by side, not from a sum of padded ones.
func TestGradientOfPieces(t *testing.T) {
	g := graph.New("g")
	x := g.Input("x", tensor.T(tensor.F64, 2, 6))
	p := ops.Split(x, 1, 1, 2, 3)
	rest := ops.Slice(x, 1, 4, 6) // not beside the first piece
	loss := ops.Add(ops.Sum(ops.Mul(ops.Mul(p[0], p[1]), ops.Slice(p[2], 1, 0, 2))), ops.Add(ops.Sum(p[2]), ops.Sum(ops.Mul(rest, p[0]))))
	grads, err := autograd.GradValues(loss, x)
	require.NoError(t, err)
	in := f64(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)
	in, err = tensor.FromBytes(tensor.T(tensor.F64, 2, 6), in.Bytes())
	require.NoError(t, err)
	out, err := plan.Eval(device(), plan.Feed{x: in}, grads...)
	require.NoError(t, err)
	want := make([]float64, 0, 12)
	for _, r := range [][]float64{{1, 2, 3, 4, 5, 6}, {7, 8, 9, 10, 11, 12}} {
		a, b, c := r[0], r[1:3], r[3:]
		want = append(want, b[0]*c[0]+b[1]*c[1]+r[4]+r[5], a*c[0], a*c[1], a*b[0]+1, a*b[1]+1+a, 1+a)
	}
	require.Equal(t, f64(want...).Bytes(), out[0].Bytes())

	g = graph.New("g")
	x = g.Input("x", tensor.T(tensor.F64, 2, 6))
	p = ops.Split(x, 1, 1, 2, 3)
	grads, err = autograd.GradValues(ops.Add(ops.Sum(ops.Exp(p[0])), ops.Add(ops.Sum(ops.Exp(p[1])), ops.Sum(ops.Exp(p[2])))), x)
	require.NoError(t, err)
	require.IsType(t, ops.Join{}, grads[0].Node().Op)
	require.Len(t, grads[0].Node().In, 3)
}
