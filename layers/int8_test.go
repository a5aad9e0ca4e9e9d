package layers_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/golden/bnb"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// evaluate compiles a graph over the values in store and runs it once.
func evaluate(t testing.TB, store *plan.Store, outs ...graph.Value) []*tensor.Tensor {
	t.Helper()
	p, err := plan.Compile(outs, plan.Options{Device: store.Device(), Session: plan.NewSession(store)})
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	res, err := p.Run(t.Context(), nil)
	require.NoError(t, err)
	var got []*tensor.Tensor
	for _, o := range outs {
		got = append(got, res.Tensor(o).Clone())
	}
	return got
}

// normal draws a tensor.
func normal(seed uint64, d tensor.DType, dims ...int) *tensor.Tensor {
	return layers.Normal(1).Value(seed, graph.NewVar("x", tensor.T(d, dims...)))
}

// TestGoldenBNBLinear8bitLt quantizes the weights of the golden layers, runs them forward and backward, and compares with the library on a
// GPU: the codes, y at threshold 0 byte for byte, y and the input gradient otherwise by the norm of the error.
func TestGoldenBNBLinear8bitLt(t *testing.T) {
	var cases []struct {
		Op, Name, Weight, CB, SCB, Bias, X, Y, DType string
		Threshold                                    float32
		GradOut                                      string `json:"grad_out"`
		GradX                                        string `json:"grad_x"`
	}
	read := bnb.Read(t, "int8", &cases)
	ran, worst := 0, map[string]float64{}
	for _, c := range cases {
		if c.Op != "Linear8bitLt" {
			continue // tested with the operations
		}
		ran++
		t.Run(c.Name, func(t *testing.T) {
			weights := file{"weight": read(c.Weight)}
			if c.Bias != "" {
				weights["bias"] = read(c.Bias)
			}
			out, in := weights["weight"].Shape().Dim(0), weights["weight"].Shape().Dim(1)
			src := layers.NewSource(layers.Options{Weights: weights})
			l := layers.NewLinear8bitLt(src, in, out, c.Bias != "", c.Threshold)
			store := newStore(t)
			require.NoError(t, src.Load(store))
			st, err := l.Weight.State(store)
			require.NoError(t, err)
			require.Equal(t, read(c.CB).Bytes(), st.Codes)
			require.Equal(t, read(c.SCB).Bytes(), tensor.AsBytes(st.Absmax))
			g := graph.New("golden")
			x := g.Const(read(c.X))
			y := l.Forward(x)
			gx, err := autograd.VJP([]graph.Value{y}, []graph.Value{g.Const(read(c.GradOut))}, x)
			require.NoError(t, err)
			got := evaluate(t, store, y, gx[0])
			if c.Threshold == 0 {
				require.Equal(t, read(c.Y).Bytes(), got[0].Bytes())
			}
			for i, want := range []*tensor.Tensor{read(c.Y), read(c.GradX)} {
				e := bnb.NormError(got[i], want)
				worst[c.DType] = max(worst[c.DType], e)
				require.LessOrEqual(t, e, map[string]float64{"f32": 2.1e-7, "f16": 4.7e-4, "bf16": 3.8e-3}[c.DType])
			}
		})
	}
	t.Logf("%d cases; largest relative errors %v", ran, worst)
}

// newInt8 makes a layer of given codes and statistics.
func newInt8(t *testing.T, store *plan.Store, codes []int8, stats []float32, threshold float32) *layers.Linear8bitLt {
	t.Helper()
	rows, cols := len(stats), len(codes)/len(stats)
	q, err := layers.NewQuantized("weight", quant.Config{Scheme: quant.Int8}, rows, cols)
	require.NoError(t, err)
	require.NoError(t, q.SetState(&quant.State{Scheme: quant.Int8, ByRow: true, Blocksize: cols, Shape: tensor.S(rows, cols), DType: tensor.F16,
		Codes: tensor.AsBytes(codes), Absmax: stats}, store))
	return &layers.Linear8bitLt{Weight: q, Threshold: threshold}
}

// A thousand products of +127·127 and a thousand of -127·127 beside a single 1: summed as integers they leave exactly 1, while float32
// products of dequantized values lose it among the roundings of sums a million times larger.
func TestLinear8bitLtSumsIntegers(t *testing.T) {
	const half = 1000
	const k = 2*half + 1
	codes, x := make([]int8, k), tensor.New(tensor.T(tensor.F16, 1, k))
	for i := range 2 * half {
		codes[i] = 127
		x.Set(i, 1.1)
		if i >= half {
			codes[i] = -127
		}
	}
	codes[k-1] = 1
	x.Set(k-1, 1.1/127)
	store := newStore(t)
	l := newInt8(t, store, codes, []float32{0.7}, 0)
	g := graph.New("exact")
	y := l.Forward(g.Const(x))
	parts := []graph.Value{g.Read(l.Weight.Codes), g.Read(l.Weight.Absmax)}
	c, stats, _ := ops.QuantizeRowsTo8(g.Const(x), 0)
	dequantized := ops.DequantizeRowsFrom8(ops.DequantizeRows8{To: tensor.F32}, c, stats)
	float := ops.Int8WeightLinear(ops.Int8WeightMatMul{}, dequantized, parts[0], parts[1])
	got := evaluate(t, store, y, float, c, stats)
	sum := int32(0)
	for i, code := range tensor.Data[int8](got[2]) {
		sum += int32(code) * int32(codes[i])
	}
	require.EqualValues(t, 1, sum)
	stat := tensor.Data[float32](got[3])[0]
	exact := tensor.ToF16(stat * 0.7 * quant.Int8ProductScale).Float32()
	require.Equal(t, float64(exact), got[0].At(0))
	require.Greater(t, math.Abs(got[1].At(0)-float64(exact)), 0.01*float64(exact), "the product of dequantized values is off")
}

// Codes and statistics have no gradient, and the error says what to do instead.
func TestLinear8bitLtIsFrozen(t *testing.T) {
	l := newInt8(t, newStore(t), []int8{1, 2, 3, 4, 5, 6}, []float32{1, 1}, 6)
	g := graph.New("frozen")
	y := l.Forward(g.Const(normal(1, tensor.F32, 4, 3)))
	_, err := autograd.Grad(ops.Sum(y), l.Weight.Absmax)
	require.ErrorContains(t, err, "frozen")
	require.ErrorContains(t, err, "LoRA")
}

// The bias is trained as usual.
func TestLinear8bitLtBias(t *testing.T) {
	src := layers.NewSource(layers.Options{Seed: 3})
	l := layers.NewLinear8bitLt(src, 8, 3, true, 6)
	store := newStore(t)
	require.NoError(t, src.Load(store))
	require.Equal(t, []string{"weight", "bias"}, names(l))
	in, out := l.Features()
	require.Equal(t, [2]int{8, 3}, [2]int{in, out})
	g := graph.New("bias")
	y := l.Forward(g.Const(normal(1, tensor.BF16, 2, 5, 8)))
	grads, err := autograd.Grad(ops.Sum(ops.Cast(y, tensor.F32)), l.Bias)
	require.NoError(t, err)
	require.Equal(t, []float32{10, 10, 10}, evaluate(t, store, grads[0])[0].Float32s())
}

// The weight gradient of a trained weight is that of the library: an int8 product of both factors quantized by column at threshold 0, and
// one in x's dtype above.
func TestLinear8bitMasterGradient(t *testing.T) {
	const m, k, n = 33, 20, 7
	for _, d := range []tensor.DType{tensor.F32, tensor.F16, tensor.BF16} {
		for _, threshold := range []float32{0, 3} {
			src := layers.NewSource(layers.Options{Seed: 9})
			l := layers.NewLinear8bitMaster(src, k, n, false, threshold)
			store := newStore(t)
			require.NoError(t, src.Load(store))
			x, gy := normal(1, d, m, k), normal(2, d, m, n)
			g := graph.New("master")
			xv := g.Const(x)
			y := l.Forward(xv)
			wv := g.Read(l.Master)
			gr, err := autograd.VJP([]graph.Value{y}, []graph.Value{g.Const(gy)}, xv, wv)
			require.NoError(t, err)
			got := evaluate(t, store, y, gr[0], gr[1], wv)
			frozen := frozenTwin(t, store, l, got[3])
			g = graph.New("frozen")
			xv = g.Const(x)
			y = frozen.Forward(xv)
			gx, err := autograd.VJP([]graph.Value{y}, []graph.Value{g.Const(gy)}, xv)
			require.NoError(t, err)
			want := evaluate(t, store, y, gx[0])
			require.Equal(t, want[0].Bytes(), got[0].Bytes(), "y")
			require.Equal(t, want[1].Bytes(), got[1].Bytes(), "the input gradient")
			checkWeightGrad(t, threshold, gy, x, got[2])
		}
	}
}

// frozenTwin is a layer with the weight w in int8.
func frozenTwin(t *testing.T, store *plan.Store, l *layers.Linear8bitLt, w *tensor.Tensor) *layers.Linear8bitLt {
	t.Helper()
	in, out := l.Features()
	q, err := layers.NewQuantized("twin.weight", quant.Config{Scheme: quant.Int8}, out, in)
	require.NoError(t, err)
	require.Equal(t, "twin.SCB", q.Absmax.Name)
	require.NoError(t, q.Quantize(w, store))
	return &layers.Linear8bitLt{Weight: q, Threshold: l.Threshold}
}

// checkWeightGrad compares gyᵀ·x with the definition, computed by package quant.
func checkWeightGrad(t *testing.T, threshold float32, gy, x, got *tensor.Tensor) {
	t.Helper()
	m, n, k := gy.Shape().Dim(0), gy.Shape().Dim(1), x.Shape().Dim(1)
	exact := tensor.New(tensor.T(tensor.F32, n, k))
	for i := range n * k {
		sum := 0.0
		for r := range m {
			sum += gy.At(r*n+i/k) * x.At(r*k+i%k)
		}
		exact.Set(i, sum)
	}
	if threshold > 0 {
		require.Less(t, bnb.NormError(got, exact), map[tensor.DType]float64{tensor.F32: 1e-6, tensor.F16: 1e-3, tensor.BF16: 5e-3}[x.DType()])
		return
	}
	require.Less(t, bnb.NormError(got, exact), 0.02, "int8 is close to the exact gradient")
	columns := func(t *tensor.Tensor) (codes []int8, stats []float32, err error) {
		half, err := t.Convert(tensor.F16)
		if err != nil {
			return nil, nil, err
		}
		codes, stats = make([]int8, half.Type().Size()), make([]float32, half.Shape().Dim(1))
		return codes, stats, quant.QuantizeColumns(codes, stats, tensor.Data[tensor.Float16](half), half.Shape().Dim(0), half.Shape().Dim(1), 0)
	}
	gc, gs, err := columns(gy)
	require.NoError(t, err)
	xc, xs, err := columns(x)
	require.NoError(t, err)
	acc := make([]int32, n*k)
	for i := range acc {
		for r := range m {
			acc[i] += int32(gc[r*n+i/k]) * int32(xc[r*k+i%k])
		}
	}
	want := make([]tensor.Float16, n*k)
	require.NoError(t, quant.DequantizeProduct(want, acc, gs, xs, nil, n, k))
	for i, w := range want {
		require.Equal(t, w.Float32(), float32(got.At(i)))
	}
}
