package layers_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/internal/golden/bnb"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestGoldenBNBLinear4bitLayer quantizes the weights of the golden layers as they are loaded and runs them forward and backward. Codes and
// scales are equal; outputs and input gradients come from GPU products, so limits are twice the error that those have themselves.
func TestGoldenBNBLinear4bitLayer(t *testing.T) {
	var cases []bnb.Linear4bitCase
	read := bnb.Read(t, "linear4bit", &cases)
	worst := map[string]float64{}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			scheme, ok := quant.ParseScheme(c.QuantType)
			require.True(t, ok)
			weights := file{"weight": read(c.Weight)}
			if c.Bias != "" {
				weights["bias"] = read(c.Bias)
			}
			src := layers.NewSource(layers.Options{Weights: weights})
			l := layers.NewLinear4bit(src, c.K, c.N, c.Bias != "", quant.Config{Scheme: scheme, Blocksize: c.Blocksize, Double: c.Nested})
			store := newStore(t)
			require.NoError(t, src.Load(store))
			st, err := l.Weight.State(store)
			require.NoError(t, err)
			require.Equal(t, read(c.Quantized+".packed").Bytes(), st.Codes)
			if !c.Nested {
				require.Equal(t, read(c.Quantized+".absmax").Bytes(), tensor.AsBytes(st.Absmax))
			}
			g := graph.New("golden")
			x := g.Const(read(c.X))
			y := l.Forward(x)
			gx, err := autograd.VJP([]graph.Value{y}, []graph.Value{g.Const(read(c.GradOut))}, x)
			require.NoError(t, err)
			got := evaluate(t, store, y, gx[0])
			for i, want := range []*tensor.Tensor{read(c.Y), read(c.GradX)} {
				e := bnb.NormError(got[i], want)
				worst[c.DType] = max(worst[c.DType], e)
				require.LessOrEqual(t, e, map[string]float64{"f32": 4.2e-7, "f16": 9.4e-4, "bf16": 7.6e-3}[c.DType])
			}
		})
	}
	t.Logf("%d cases; largest relative errors %v", len(cases), worst)
}

// With a compute dtype x is cast, multiplied in it, and y is cast back.
func TestLinear4bitCompute(t *testing.T) {
	src := layers.NewSource(layers.Options{Seed: 2})
	l := layers.NewLinearNF4(src.Sub("a"), 70, 30, true)
	fp4 := layers.NewLinearFP4(src.Sub("b"), 70, 30, false)
	require.NoError(t, src.Err())
	require.Equal(t, quant.Config{Scheme: quant.NF4, Blocksize: 64, Double: true}, l.Weight.Config())
	require.Equal(t, quant.Config{Scheme: quant.FP4, Blocksize: 64, Double: true}, fp4.Weight.Config())
	store := newStore(t)
	require.NoError(t, src.Load(store))
	g := graph.New("compute")
	x := g.Const(normal(1, tensor.F32, 5, 70))
	plain := l.Forward(x)
	half := l.Forward(ops.Cast(x, tensor.BF16))
	l.Compute = tensor.BF16
	y := l.Forward(x)
	require.Equal(t, tensor.F32, y.DType())
	got := evaluate(t, store, y, ops.Cast(half, tensor.F32), plain)
	require.Equal(t, got[1].Bytes(), got[0].Bytes())
	require.NotEqual(t, got[2].Bytes(), got[0].Bytes())
}

// The view under which a file shows the codes goes into the layer and comes out of it again.
func TestLinear4bitStorage(t *testing.T) {
	store := newStore(t)
	w := normal(4, tensor.BF16, 16, 64)
	for _, storage := range []tensor.DType{tensor.U8, tensor.BF16, tensor.F16, tensor.F32} {
		cfg := quant.Config{Scheme: quant.NF4, Blocksize: 64, Double: true}
		st, err := quant.Quantize(w, cfg)
		require.NoError(t, err)
		st.Storage = storage
		want, err := st.StateDict("weight")
		require.NoError(t, err)
		q, err := layers.NewQuantized("weight", cfg, 16, 64)
		require.NoError(t, err)
		q.DType = tensor.BF16
		require.NoError(t, q.SetState(st, store))
		back, err := q.State(store)
		require.NoError(t, err)
		got, err := back.StateDict("weight")
		require.NoError(t, err)
		require.Equal(t, storage, got["weight"].DType())
		require.Len(t, got, len(want))
		for name, v := range want {
			require.Equal(t, v.Type(), got[name].Type(), name)
			require.Equal(t, v.Bytes(), got[name].Bytes(), name)
		}
	}
}

// experts is a layer with a weight of three axes, as mixture-of-experts models store it.
type experts struct {
	Up *layers.Quantized `name:"up_proj"`
}

// A weight of any rank is one parameter of its logical shape, in every scheme, and a graph reads the values that its state stands for.
func TestQuantizedExperts(t *testing.T) {
	for _, cfg := range []quant.Config{{Scheme: quant.NF4, Blocksize: 64, Double: true}, {Scheme: quant.FP4, Blocksize: 32}, {Scheme: quant.Int8}} {
		w := normal(6, tensor.BF16, 3, 5, 43)
		src := layers.NewSource(layers.Options{Weights: file{"up_proj": w}})
		m := &experts{src.Quantized("up_proj", cfg, layers.Zeros(), 3, 5, 43)}
		require.NoError(t, src.Err())
		store := newStore(t)
		require.NoError(t, src.Load(store))
		params := layers.Params(m)
		require.Len(t, params, 1)
		require.Equal(t, tensor.S(3, 5, 43), params[0].Type.Shape)
		require.Same(t, m.Up, params[0].Quantized)
		st, err := m.Up.State(store)
		require.NoError(t, err)
		want, err := st.Dequantize(tensor.F32)
		require.NoError(t, err)
		g := graph.New("experts")
		v := m.Up.Read(g, tensor.F32)
		require.Equal(t, tensor.T(tensor.F32, 3, 5, 43), v.Type())
		require.Equal(t, want.Bytes(), evaluate(t, store, v)[0].Bytes())
		require.Less(t, bnb.NormError(want, w), 0.15)
		m.Up.MatMul(g.Const(normal(1, tensor.F32, 2, 43)))
		require.ErrorContains(t, g.Err(), "a product needs a matrix")
	}
}

func TestQuantizedRefuses(t *testing.T) {
	_, err := layers.NewQuantized("w", quant.Config{}, 2, -3)
	require.ErrorContains(t, err, `"w"`)
	_, err = layers.NewQuantized("w", quant.Config{})
	require.Error(t, err)
	_, err = layers.NewQuantized("w", quant.Config{Blocksize: 7}, 4, 4)
	require.ErrorContains(t, err, "blocksize 7")
	_, err = layers.NewQuantized("w", quant.Config{Scheme: quant.KBit}, 4, 4)
	require.ErrorContains(t, err, "kbit")
	_, err = layers.NewQuantized("w", quant.Config{Scheme: quant.Int8, Double: true}, 4, 4)
	require.Error(t, err)
	src := layers.NewSource(layers.Options{Quantize: func(string) (quant.Config, bool) { return quant.Config{Scheme: quant.Affine}, true }})
	require.NotNil(t, src.Linear("w", 4, 4, false))
	require.ErrorContains(t, src.Err(), "affine")

	store := newStore(t)
	q, err := layers.NewQuantized("w", quant.Config{}, 4, 4)
	require.NoError(t, err)
	st, err := quant.Quantize(normal(1, tensor.F32, 4, 5), quant.Config{})
	require.NoError(t, err)
	require.ErrorContains(t, q.SetState(st, store), "does not match the layer")
	i8, err := layers.NewQuantized("w", quant.Config{Scheme: quant.Int8}, 2, 2)
	require.NoError(t, err)
	big, err := tensor.Of([]float32{1, 2, 1e6, 4}, 2, 2)
	require.NoError(t, err)
	require.ErrorContains(t, i8.Quantize(big, store), "element 2 is 1e+06, which f16 cannot hold", "beyond f16, which the library rounds to first")
}

// A source builds the layer that its configuration asks for.
func TestSourceBuildsInt8(t *testing.T) {
	src := layers.NewSource(layers.Options{Seed: 1, Quantize: func(name string) (quant.Config, bool) {
		return quant.Config{Scheme: quant.Int8, Threshold: 6}, name == "a.weight"
	}})
	l, ok := src.Linear("a", 8, 4, true).(*layers.Linear8bitLt)
	require.True(t, ok)
	require.EqualValues(t, 6, l.Threshold)
	require.EqualValues(t, 8*4+4*4, l.Weight.Bytes())
	_, ok = src.Linear("b", 8, 4, true).(*layers.Linear)
	require.True(t, ok)
	store := newStore(t)
	require.NoError(t, src.Load(store))
}
