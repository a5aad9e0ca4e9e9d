package lora_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// net is a small model: two blocks of two linear layers, and a head.
type net struct {
	Blocks []*block          `name:"layers"`
	Head   layers.Projection `name:"lm_head"`
}

type block struct {
	Up   layers.Projection `name:"up_proj"`
	Down layers.Projection `name:"down_proj"`
}

const (
	netDim    = 8
	netHidden = 12
)

func newNet(t *testing.T) (*net, *plan.Store) {
	t.Helper()
	src := layers.NewSource(layers.Options{Seed: 1})
	m := &net{}
	for i := range 2 {
		s := src.Sub("layers.%d", i)
		m.Blocks = append(m.Blocks, &block{s.Linear("up_proj", netDim, netHidden, false), s.Linear("down_proj", netHidden, netDim, true)})
	}
	m.Head = src.Linear("lm_head", netDim, 5, false)
	store := plan.NewStore(cpu.New(cpu.Options{Threads: 1}))
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	require.NoError(t, src.Load(store))
	return m, store
}

// forward runs the model on fixed numbers.
func forward(t *testing.T, m *net, store *plan.Store) []float32 {
	t.Helper()
	x := make([]float32, 3*netDim)
	for i := range x {
		x[i] = float32(math.Sin(float64(i)))
	}
	in, err := tensor.Of(x, 3, netDim)
	require.NoError(t, err)
	g := graph.New("net")
	h := g.Const(in)
	for _, b := range m.Blocks {
		h = b.Down.Forward(b.Up.Forward(h))
	}
	y := m.Head.Forward(h)
	s := plan.NewSession(plan.NewStore(store.Device()))
	for _, v := range g.Vars() {
		value, err := store.Get(v)
		require.NoError(t, err)
		require.NoError(t, s.Store().Set(v, value))
	}
	p, err := plan.Compile([]graph.Value{y}, plan.Options{Device: store.Device(), Session: s})
	require.NoError(t, err)
	res, err := p.Run(t.Context(), nil)
	require.NoError(t, err)
	out := res.Tensor(y).Float32s()
	require.NoError(t, p.Close())
	require.NoError(t, s.Close())
	return out
}

// scramble gives every B values, so that the adapter does something.
func scramble(t *testing.T, a *lora.Adapter, store *plan.Store) {
	t.Helper()
	for _, m := range a.Modules {
		b := m.B
		require.NoError(t, store.Set(b, layers.Normal(0.3).Value(9, b)))
	}
}

func TestAttach(t *testing.T) {
	for _, c := range []struct {
		name    string
		cfg     lora.Config
		modules []string
		err     string
	}{
		{"all-linear leaves the head out", lora.Config{}, []string{"layers.0.up_proj", "layers.0.down_proj", "layers.1.up_proj", "layers.1.down_proj"}, ""},
		{"names", lora.Config{Targets: lora.Targets{Names: []string{"up_proj", "lm_head"}}}, []string{"layers.0.up_proj", "layers.1.up_proj", "lm_head"}, ""},
		{"a name is no suffix of a part", lora.Config{Targets: lora.Targets{Names: []string{"proj"}}}, nil, "match none of the 5 linear layers; their names end in: down_proj, lm_head, up_proj"},
		{"pattern matches the whole path", lora.Config{Targets: lora.Targets{Pattern: `layers\.1\..*`}}, []string{"layers.1.up_proj", "layers.1.down_proj"}, ""},
		{"bad pattern", lora.Config{Targets: lora.Targets{Pattern: `(`}}, nil, "target pattern"},
		{"both", lora.Config{Targets: lora.Targets{Pattern: `x`, Names: []string{"y"}}}, nil, "use one of them"},
		{"exclude", lora.Config{Exclude: []string{"layers.0.up_proj", "down_proj"}}, []string{"layers.1.up_proj"}, ""},
		{"rank", lora.Config{Rank: -1}, nil, "r >= 1"},
		{"dropout", lora.Config{Dropout: 1}, nil, "dropout < 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, _ := newNet(t)
			a, err := lora.Attach(m, c.cfg)
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				return
			}
			require.NoError(t, err)
			var paths []string
			for _, m := range a.Modules {
				paths = append(paths, m.Path)
			}
			require.Equal(t, c.modules, paths)
			require.Equal(t, a.Vars(), layers.Trainable(m))
			_, err = lora.Attach(m, c.cfg)
			require.ErrorContains(t, err, "already has an adapter")
		})
	}
}

func TestScale(t *testing.T) {
	require.Equal(t, 2.0, lora.Config{Rank: 4, Alpha: 8}.Scale())
	require.Equal(t, 4.0, lora.Config{Rank: 4, Alpha: 8, RSLoRA: true}.Scale())
}

func TestMergeUnmerge(t *testing.T) {
	m, store := newNet(t)
	plain := forward(t, m, store)
	a, err := lora.Attach(m, lora.Config{Rank: 3, Alpha: 4})
	require.NoError(t, err)
	require.NoError(t, a.Init(store))
	require.Equal(t, plain, forward(t, m, store), "an adapter that is new changes nothing")
	scramble(t, a, store)
	adapted := forward(t, m, store)
	require.NotEqual(t, plain, adapted)
	require.NoError(t, a.Merge(store))
	require.InDeltaSlice(t, adapted, forward(t, m, store), 1e-5)
	require.NoError(t, a.Unmerge(store))
	require.InDeltaSlice(t, adapted, forward(t, m, store), 1e-5)
	scramble(t, a, store)
	require.NoError(t, store.Set(a.Modules[0].B, tensor.New(a.Modules[0].B.Type)))
	require.NotEqual(t, adapted, forward(t, m, store), "adapters are on again")
}

func TestMergeNonFinite(t *testing.T) {
	m, store := newNet(t)
	a, err := lora.Attach(m, lora.Config{Rank: 1})
	require.NoError(t, err)
	require.NoError(t, a.Init(store))
	l := a.Modules[1]
	bad := tensor.New(l.B.Type)
	bad.Set(0, math.Inf(1))
	require.NoError(t, store.Set(l.B, bad))
	base := l.Base().(*layers.Linear).Weight
	before, err := store.Get(base)
	require.NoError(t, err)
	require.ErrorContains(t, a.Merge(store), "layers.0.down_proj")
	after, err := store.Get(base)
	require.NoError(t, err)
	require.Equal(t, before.Bytes(), after.Bytes())
}

func TestDelta(t *testing.T) {
	m, store := newNet(t)
	a, err := lora.Attach(m, lora.Config{Rank: 2, Alpha: 6})
	require.NoError(t, err)
	l := a.Modules[0]
	av, bv := layers.Normal(1).Value(1, l.A), layers.Normal(1).Value(2, l.B)
	require.NoError(t, store.Set(l.A, av))
	require.NoError(t, store.Set(l.B, bv))
	delta, err := l.Delta(store)
	require.NoError(t, err)
	for o := range netHidden {
		for i := range netDim {
			want := 3 * (bv.At(2*o)*av.At(i) + bv.At(2*o+1)*av.At(netDim+i))
			require.InDelta(t, want, float64(delta[o*netDim+i]), 1e-6, fmt.Sprint(o, i))
		}
	}
}
