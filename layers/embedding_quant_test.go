package layers_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/internal/golden/bnb"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/optim"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// lookup is what all embeddings have in common.
type lookup interface {
	Forward(ids graph.Value) graph.Value
}

// A look-up gives the rows of the dequantized table bit for bit, zeros for ids outside it, and the table survives a file.
func TestQuantizedEmbeddings(t *testing.T) {
	const vocab, dim = 9, 43 // rows that are no whole number of blocks
	table := normal(7, tensor.BF16, vocab, dim)
	src := layers.NewSource(layers.Options{Weights: file{"nf4.weight": table, "fp4.weight": table, "nested.weight": table, "i8.weight": table}})
	i8 := layers.NewEmbedding8bit(src.Sub("i8"), vocab, dim, layers.Zeros())
	nf4 := layers.NewEmbeddingNF4(src.Sub("nf4"), vocab, dim, layers.Zeros())
	fp4 := layers.NewEmbeddingFP4(src.Sub("fp4"), vocab, dim, layers.Zeros())
	nested := layers.NewEmbedding4bit(src.Sub("nested"), vocab, dim, layers.Zeros(), quant.Config{Blocksize: 32, Double: true})
	nested.DType = tensor.F32
	store := newStore(t)
	require.NoError(t, src.Load(store))
	ids, err := tensor.Of([]int32{8, 0, 3, 3, -1, 9}, 2, 3)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		layer lookup
		q     *layers.Quantized
		dtype tensor.DType
		tol   float64
	}{"int8": {i8, i8.Weight, tensor.BF16, 0.01}, "nf4": {nf4, nf4.Weight, tensor.BF16, 0.12}, "fp4": {fp4, fp4.Weight, tensor.BF16, 0.15}, "nested": {nested, nested.Weight, tensor.F32, 0.12}} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, []string{"weight"}, names(c.layer))
			g := graph.New("embed")
			y := c.layer.Forward(g.Const(ids))
			require.Equal(t, tensor.T(c.dtype, 2, 3, dim), y.Type())
			got := evaluate(t, store, y)[0]
			st, err := c.q.State(store)
			require.NoError(t, err)
			want, err := st.Dequantize(c.dtype)
			require.NoError(t, err)
			require.Less(t, bnb.NormError(want, table), c.tol)
			ulp := 0.0
			if name == "int8" { // code·(absmax/127) here, code·absmax·(1/127) there: a unit of bf16 at most
				ulp = 1.0 / 128
			}
			for i, id := range tensor.Data[int32](ids) {
				for j := range dim {
					value := 0.0
					if id >= 0 && id < vocab {
						value = want.At(int(id)*dim + j)
					}
					require.InDelta(t, value, got.At(i*dim+j), ulp*math.Abs(value))
				}
			}
			reloaded(t, c.layer, c.q, st)
		})
	}
}

// reloaded writes the table as a file holds it and reads it back.
func reloaded(t *testing.T, layer any, q *layers.Quantized, want *quant.State) {
	t.Helper()
	store := newStore(t)
	require.NoError(t, q.SetState(want, store))
	dict := file{}
	require.NoError(t, layers.StateDict(layer, store, func(name string, v *tensor.Tensor) error {
		dict[name] = v
		return nil
	}))
	require.Contains(t, dict, "weight")
	back, err := quant.FromStateDict("weight", func(name string) (*tensor.Tensor, bool, error) {
		v, ok := dict[name]
		return v, ok, nil
	})
	require.NoError(t, err)
	require.Equal(t, want.Codes, back.Codes)
	require.Equal(t, want.Absmax, back.Absmax)
	require.NoError(t, q.SetState(back, store))
}

// The stable embedding normalises what it looks up, trains, and asks for 32-bit states of its table alone.
func TestStableEmbedding(t *testing.T) {
	const vocab, dim = 50, 64
	src := layers.NewSource(layers.Options{Seed: 5, Policy: layers.Policy{Param: tensor.BF16}})
	e := layers.NewStableEmbedding(src, vocab, dim)
	store := newStore(t)
	require.NoError(t, src.Load(store))
	require.Equal(t, []string{"weight", "norm.weight", "norm.bias"}, names(e))
	w, err := store.Get(e.Weight)
	require.NoError(t, err)
	top := 0.0
	for i := range vocab * dim {
		top = max(top, math.Abs(w.At(i)))
	}
	bound := math.Sqrt(6.0 / (vocab + dim))
	require.InDelta(t, bound, top, 0.01*bound, "Xavier-uniform")
	ids, err := tensor.Of([]int32{3, 49, 0})
	require.NoError(t, err)
	g := graph.New("stable")
	y := e.Forward(g.Const(ids))
	require.Equal(t, tensor.T(tensor.BF16, 3, dim), y.Type())
	grads, err := autograd.Grad(ops.Sum(ops.Square(ops.Cast(y, tensor.F32))), e.Weight, e.Norm.Weight, e.Norm.Bias)
	require.NoError(t, err)
	got := evaluate(t, store, append(grads, y)...)
	for r := range 3 {
		mean, square := 0.0, 0.0
		for j := range dim {
			v := got[3].At(r*dim + j)
			mean += v / dim
			square += v * v / dim
		}
		require.InDelta(t, 0, mean, 0.01)
		require.InDelta(t, 1, square, 0.02)
	}
	require.Equal(t, w.Type(), got[0].Type())

	model := &struct {
		Stable *layers.StableEmbedding `name:"stable"`
		Plain  *layers.Embedding       `name:"plain"`
		Wide   *layers.Embedding       `name:"wide"`
		Tied   *layers.Embedding       `name:"tied"`
	}{e, layers.NewEmbedding(src.Sub("plain"), 4, 4, layers.Normal(1)), layers.NewEmbedding(src.Sub("wide"), 4, 4, layers.Normal(1)), nil}
	model.Wide.State32 = true
	model.Tied = model.Wide
	require.Equal(t, []*graph.Var{e.Weight, model.Wide.Weight}, layers.FullState(model))
}

// An 8-bit optimizer keeps the states of such tables in 32 bits and those of the others in 8.
func TestFullStateOverridesOptimizer(t *testing.T) {
	src := layers.NewSource(layers.Options{Seed: 5})
	model := &struct {
		Stable *layers.StableEmbedding `name:"stable"`
		Plain  *layers.Embedding       `name:"plain"`
	}{layers.NewStableEmbedding(src.Sub("stable"), 100, 64), layers.NewEmbedding(src.Sub("plain"), 100, 64, layers.Normal(1))}
	layers.SetTrainable(model, true)
	opt, err := optim.New("adamw8bit", optim.Config{Min8bitSize: 4096})
	require.NoError(t, err)
	for want, overrides := range map[int][]optim.Override{2: nil, 1: {{Vars: layers.FullState(model), Bits: 32}}} {
		for _, v := range layers.Trainable(model) {
			v.Slab = nil
		}
		gr, err := optim.NewGroup(layers.Trainable(model), optim.Options{Optimizer: opt, Overrides: overrides})
		require.NoError(t, err)
		require.Equal(t, want, gr.NumEightBit())
	}
}
