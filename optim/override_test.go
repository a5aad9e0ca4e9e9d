package optim

import (
	"context"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	hw "github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestOverrides gives four parameters three treatments and compares each with an optimizer of its own.
func TestOverrides(t *testing.T) {
	embed, norm, a, b := f32("model.embed.weight", 300), f32("model.norm.weight", 300), f32("a", 300), f32("b", 300)
	opt, err := New("adamw8bit", Config{WeightDecay: 0.1})
	require.NoError(t, err)
	gr, err := NewGroup([]*graph.Var{embed, norm, a, b}, Options{Optimizer: opt, Overrides: []Override{
		{Pattern: "*.embed.weight", Bits: 32, LRScale: 0.5},
		{Pattern: "*.norm.weight", Change: func(c *Config) { c.WeightDecay = 0 }},
		{Vars: []*graph.Var{b}, Optimizer: "lion32bit", LR: 0.25},
	}})
	require.NoError(t, err)
	require.Len(t, gr.sections, 3, "norm shares the slabs of a")
	require.Equal(t, 2, gr.NumEightBit())
	got := stepOnes(t, gr)
	for i, want := range []struct {
		name  string
		c     Config
		scale float64
	}{{"adamw32bit", Config{WeightDecay: 0.1}, 0.5}, {"adamw8bit", Config{}, 1}, {"adamw8bit", Config{WeightDecay: 0.1}, 1}, {"lion32bit", Config{}, 2.5}} {
		p := f32("p", 300)
		o, err := New(want.name, want.c)
		require.NoError(t, err)
		alone, err := NewGroup([]*graph.Var{p}, Options{Optimizer: o, LRScale: map[*graph.Var]float64{p: want.scale}})
		require.NoError(t, err)
		require.Equal(t, stepOnes(t, alone)[0], got[i], "parameter %d", i)
	}
}

// stepOnes sets parameters to 1, makes a step at lr 0.1 with gradients of 1, and returns the parameters.
func stepOnes(t *testing.T, gr *Group) [][]byte {
	dev := device(t, 1)
	store := plan.NewStore(dev)
	defer func() { require.NoError(t, store.Close()) }()
	for i, ones := range gradsOfOnes(gr.Params()) {
		require.NoError(t, store.Set(gr.Params()[i], ones))
	}
	g := graph.New("step")
	var ones []graph.Value
	for _, slab := range gr.GradSlabs() {
		ones = append(ones, ops.BroadcastTo(ops.Fill(g, slab.Type.DType, 1), slab.Type.Size()))
	}
	gr.ApplyGrads(g, ones, Scalars{LR: ops.Fill(g, tensor.F32, 0.1)})
	p, err := plan.Compile([]graph.Value{ops.Fill(g, tensor.F32, 0)}, plan.Options{Device: dev, Store: store})
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	_, err = p.Run(context.Background(), nil)
	require.NoError(t, err)
	var out [][]byte
	for _, v := range gr.Params() {
		x, err := store.Get(v)
		require.NoError(t, err)
		out = append(out, x.Bytes())
	}
	return out
}

// TestOverrideKeepsRounding: another optimizer for a parameter stores it as the others.
func TestOverrideKeepsRounding(t *testing.T) {
	p := graph.NewVar("p", tensor.T(tensor.BF16, 300))
	opt, err := New("adamw", Config{Rounding: Kahan, Seed: 7})
	require.NoError(t, err)
	gr, err := NewGroup([]*graph.Var{p}, Options{Optimizer: opt, Overrides: []Override{{Pattern: "p", Optimizer: "lion"}}})
	require.NoError(t, err)
	require.Equal(t, Kahan, gr.sections[0].config.Rounding)
	require.Equal(t, uint64(7), gr.sections[0].config.Seed)
	require.Len(t, gr.sections[0].states, 2, "the moment and what rounding lost")
}

func TestOverridesRefused(t *testing.T) {
	p, other := f32("layer.p", 3), f32("other", 3)
	opt, err := New("adamw", Config{})
	require.NoError(t, err)
	for want, v := range map[string]Override{
		"matches none":          {Pattern: "layers.*"},
		"syntax error":          {Pattern: "[a"},
		"names no parameter":    {LRScale: 2},
		"not among the group's": {Vars: []*graph.Var{other}},
		"8 or 32 bits":          {Pattern: "*", Bits: 4},
		"has no 8-bit states":   {Pattern: "*", Bits: 8},
		"learning rate":         {Pattern: "*", LRScale: math.NaN()},
		"rate of +Inf":          {Pattern: "*", LR: math.Inf(1)},
		"did you mean":          {Pattern: "*", Optimizer: "lions"},
		"betas":                 {Pattern: "*", Change: func(c *Config) { c.Betas[0] = 2 }},
	} {
		_, err := NewGroup([]*graph.Var{p}, Options{Optimizer: opt, Overrides: []Override{v}})
		require.ErrorContains(t, err, want)
	}
}

// apart is a device whose host memory is not its own.
type apart struct {
	*cpu.Device
	host int64
}

func (d *apart) AllocHost(n int64) (hw.Buffer, error) {
	d.host += n
	return d.Alloc(n)
}

// TestPagedPlacesStates compares a paged optimizer with the plain one: the same bytes, and states in host memory.
func TestPagedPlacesStates(t *testing.T) {
	for _, name := range []string{"adamw", "adamw8bit", "lion32bit", "ademamix8bit"} {
		plain, paged := newWorld(t, 1, name, Config{}, 700), newWorld(t, 1, "paged"+name, Config{}, 700)
		plain.train(t, 2)
		paged.train(t, 2)
		require.Equal(t, plain.bytes(t, plain.params...), paged.bytes(t, paged.params...))
		var states int64
		for _, v := range paged.group.sections[0].states {
			require.Equal(t, graph.InHost, v.Place)
			states += v.Type.Bytes()
		}
		dev := &apart{Device: device(t, 1)}
		g := graph.New("apply")
		paged.group.Apply(g, Scalars{LR: ops.Fill(g, tensor.F32, 0.1)})
		session := plan.NewSession(plan.NewStore(dev))
		p, err := plan.Compile([]graph.Value{ops.Fill(g, tensor.F32, 0)}, plan.Options{Device: dev, Session: session})
		require.NoError(t, err)
		_, err = p.Run(context.Background(), nil)
		require.NoError(t, err)
		slabs := paged.group.ParamSlabs()[0].Type.Bytes() + paged.group.GradSlabs()[0].Type.Bytes() + 4
		require.Equal(t, states, p.Report().Host)
		require.Equal(t, slabs, p.Report().Vars)
		require.Equal(t, states, session.HostBytes())
		require.Equal(t, states, dev.host)
		require.NoError(t, p.Close())
		require.NoError(t, session.Close())
	}
}

// TestHalfParameters trains 16-bit parameters beside float32 ones: as the float32 update rounded after each step.
func TestHalfParameters(t *testing.T) {
	for _, d := range []tensor.DType{tensor.BF16, tensor.F16} {
		half, whole := graph.NewVar("half", tensor.T(d, 300)), f32("whole", 300)
		opt, err := New("lion", Config{})
		require.NoError(t, err)
		gr, err := NewGroup([]*graph.Var{half, whole}, Options{Optimizer: opt})
		require.NoError(t, err)
		require.Equal(t, tensor.T(tensor.F32, 300), gr.GradVars()[0].Type)
		got := stepOnes(t, gr)
		x, err := tensor.FromBytes(half.Type, got[0])
		require.NoError(t, err)
		want := tensor.New(half.Type)
		want.Set(0, float64(tensor.View[float32](got[1])[0]))
		require.NotEqual(t, 1.0, want.At(0))
		require.Equal(t, want.At(0), x.At(0))
		_, err = NewGroup([]*graph.Var{graph.NewVar("v", half.Type), f32("w", 3)}, Options{Optimizer: opt, GradDType: d})
		require.ErrorContains(t, err, "gradients of "+d.String())
	}
}
