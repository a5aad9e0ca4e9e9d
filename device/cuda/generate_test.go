package cuda

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// decodeStep computes the scores of one token after those in a cache.
type decodeStep struct {
	plan                      *plan.Plan
	token, pos, start, scores graph.Value
	names                     map[string]int
}

func newDecodeStep(t *testing.T, m *models.Model, store *plan.Store, o plan.Options) *decodeStep {
	t.Helper()
	g := graph.New("token")
	s := &decodeStep{token: g.Input("token", tensor.T(tensor.I32, 1, 1)), pos: g.Input("pos", tensor.T(tensor.I32, 1, 1)), start: g.Input("start", tensor.T(tensor.I32, 1)), names: map[string]int{}}
	s.scores = m.Logits(m.Hidden(models.Inputs{Tokens: s.token, Pos: s.pos, Start: s.start, Cache: m.NewCache(1, 16)}))
	o.Device, o.Store = store.Device(), store
	var err error
	s.plan, err = plan.Compile([]graph.Value{s.scores}, o)
	require.NoError(t, err)
	for _, l := range s.plan.Launches() {
		s.names[l.Node.Op.Name()]++
	}
	return s
}

func (s *decodeStep) run(t *testing.T, id int32, at int) (scores []float64) {
	t.Helper()
	one := func(v int32, dims ...int) *tensor.Tensor {
		x := tensor.New(tensor.T(tensor.I32, dims...))
		tensor.Data[int32](x)[0] = v
		return x
	}
	res, err := s.plan.Run(t.Context(), plan.Feed{s.token: one(id, 1, 1), s.pos: one(int32(at), 1, 1), s.start: one(int32(at), 1)})
	require.NoError(t, err)
	x := res.Tensor(s.scores)
	for i := range x.Type().Size() {
		scores = append(scores, x.At(i))
	}
	return scores
}

// TestTokensInGroups: a model in 4 bits, with biases and without, with an adapter and embeddings and a head of its own, gives the scores of the plan without groups
// within rounding, token after token, and so the same text.
func TestTokensInGroups(t *testing.T) {
	d := testDevice(t)
	for _, c := range []struct{ bias, adapter bool }{{false, true}, {true, true}, {true, false}} {
		src := layers.NewSource(layers.Options{Seed: 9, Policy: layers.Policy{Param: tensor.BF16, Compute: tensor.BF16}, Quantize: func(name string) (quant.Config, bool) {
			return quant.Config{Scheme: quant.NF4, Blocksize: 64, Double: true}, name != "lm_head.weight"
		}})
		m, err := models.New(models.Config{Vocab: 48, Hidden: 64, Intermediate: 96, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 16, MaxPositions: 32, Eps: 1e-5,
			Rope: models.Rope{Theta: 10000}, InitStd: 0.2, Pad: -1, QKVBias: c.bias}, src)
		require.NoError(t, err)
		store := plan.NewStore(d)
		require.NoError(t, src.Load(store))
		rng := rand.New(rand.NewPCG(4, 4))
		disturb := func(v *graph.Var) {
			x, err := store.Get(v)
			require.NoError(t, err)
			for i := range x.Type().Size() {
				x.Set(i, x.At(i)+rng.NormFloat64()/8)
			}
			require.NoError(t, store.Set(v, x))
		}
		layers.Walk(m, func(p layers.Param) {
			if p.Type.Rank() == 1 && p.Type.DType.IsFloat() && p.Name[len(p.Name)-4:] == "bias" {
				disturb(p.Var)
			}
		})
		if c.adapter {
			a, err := lora.Attach(m, lora.Config{Rank: 4, Alpha: 8, Seed: 3, ModulesToSave: []string{"embed_tokens", "lm_head"}})
			require.NoError(t, err)
			require.NoError(t, a.Init(store))
			for _, v := range a.Vars() {
				disturb(v)
			}
		}
		apart, grouped := newDecodeStep(t, m, store, plan.Options{NoFuse: true}), newDecodeStep(t, m, store, plan.Options{})
		require.Zero(t, apart.names["quant_matmul_group"], "%+v", c)
		require.Equal(t, 2*(2+2*b2i(c.adapter)), grouped.names["quant_matmul_group"], "%+v: %v", c, grouped.names)
		require.Zero(t, grouped.names["add_matmul"], "%+v: %v", c, grouped.names)
		id := int32(7)
		for at := range 10 {
			want, got := apart.run(t, id, at), grouped.run(t, id, at)
			most := slices.Max(want)
			for i := range want {
				require.InDelta(t, want[i], got[i], 0.04*(1+math.Abs(most)), "%+v, token %d, score %d", c, at, i)
			}
			id = int32(slices.Index(want, most))
			require.InDelta(t, most, want[slices.Index(got, slices.Max(got))], 0.04*(1+math.Abs(most)), "%+v: what token %d is followed by", c, at)
		}
		require.NoError(t, apart.plan.Close())
		require.NoError(t, grouped.plan.Close())
		require.NoError(t, store.Close())
	}
}
