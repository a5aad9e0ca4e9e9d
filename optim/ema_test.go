package optim

import (
	"context"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// emaPlans are the graphs of an average over one session.
type emaPlans struct {
	store                *plan.Store
	update, enter, leave *plan.Plan
}

func compileEMA(t testing.TB, e *EMA) *emaPlans {
	t.Helper()
	dev := device(t, 1)
	p := &emaPlans{store: plan.NewStore(dev)}
	session := plan.NewSession(p.store)
	compile := func(name string, f func(*graph.Graph) graph.Value) *plan.Plan {
		g := graph.New(name)
		c, err := plan.Compile([]graph.Value{f(g)}, plan.Options{Device: dev, Session: session, Verify: true})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, c.Close()) })
		return c
	}
	t.Cleanup(func() { require.NoError(t, session.Close()) })
	p.update, p.enter, p.leave = compile("update", e.Update), compile("enter", e.Enter), compile("leave", e.Leave)
	return p
}

func (p *emaPlans) run(t testing.TB, c *plan.Plan) {
	t.Helper()
	_, err := c.Run(context.Background(), nil)
	require.NoError(t, err)
}

func (p *emaPlans) get(t testing.TB, v *graph.Var) []float32 {
	t.Helper()
	x, err := p.store.Get(v)
	require.NoError(t, err)
	return append([]float32{}, tensor.Data[float32](x)...)
}

// TestEMA compares with the sums in float64, and enters and leaves after every update.
func TestEMA(t *testing.T) {
	for name, o := range map[string]EMAOptions{
		"corrected": {Decay: 0.9}, "biased": {Decay: 0.9, Biased: true}, "warm-up": {Decay: 0.95, Warmup: true},
		"biased warm-up": {Decay: 0.9, Warmup: true, Biased: true, Name: "mean"},
	} {
		t.Run(name, func(t *testing.T) {
			params := []*graph.Var{f32("a", 3), f32("b", 2, 300)}
			opt, err := New("adamw8bit", Config{Min8bitSize: 100})
			require.NoError(t, err)
			gr, err := NewGroup(params, Options{Optimizer: opt})
			require.NoError(t, err)
			e, err := NewEMA(gr, o)
			require.NoError(t, err)
			require.Len(t, e.Vars(), 4)
			p := compileEMA(t, e)
			rng := rand.New(rand.NewPCG(1, 1))
			sums, total := map[*graph.Var][]float64{}, 0.0
			for i := range 40 {
				keep := o.Decay
				if o.Warmup {
					keep = min(keep, float64(1+i)/float64(10+i))
				}
				take := 1 - keep
				if o.Biased && i == 0 {
					keep, take = 0, 1
				}
				total = total*keep + take
				for _, v := range params {
					w := normal(rng, v.Type.Shape.Dims()...)
					require.NoError(t, p.store.Set(v, w))
					if sums[v] == nil {
						sums[v] = make([]float64, v.Type.Size())
					}
					for k, x := range tensor.Data[float32](w) {
						sums[v][k] = sums[v][k]*keep + take*float64(x)
					}
				}
				if i == 0 { // no average yet
					was := p.get(t, params[1])
					p.run(t, p.enter)
					require.Equal(t, was, p.get(t, params[1]))
					p.run(t, p.leave)
					require.Equal(t, was, p.get(t, params[1]))
				}
				p.run(t, p.update)
				for _, v := range params {
					was := p.get(t, v)
					p.run(t, p.enter)
					for k, x := range p.get(t, v) {
						require.InDelta(t, sums[v][k]/total, float64(x), 2e-6, "update %d: %s[%d]", i, v.Name, k)
					}
					if i == 0 {
						require.Equal(t, was, p.get(t, v), "the average of one is that one")
					}
					p.run(t, p.leave)
					require.Equal(t, was, p.get(t, v), "left as entered")
				}
			}
		})
	}
}

func TestEMARefuses(t *testing.T) {
	opt, err := New("adamw", Config{})
	require.NoError(t, err)
	gr, err := NewGroup([]*graph.Var{f32("a", 3)}, Options{Optimizer: opt})
	require.NoError(t, err)
	for _, bad := range []float64{0, 1, -1, math.NaN()} {
		_, err = NewEMA(gr, EMAOptions{Decay: bad})
		require.ErrorContains(t, err, "decay")
	}
	_, err = NewEMA(nil, EMAOptions{Decay: 0.9})
	require.ErrorContains(t, err, "NewGroup")
}

// TestEMAOfSmallTypes: the average of bfloat16 weights is float32 and stays so when it takes their place.
func TestEMAOfSmallTypes(t *testing.T) {
	p := graph.NewVar("p", tensor.T(tensor.BF16, 300))
	opt, err := New("adamw", Config{Rounding: Kahan})
	require.NoError(t, err)
	gr, err := NewGroup([]*graph.Var{p}, Options{Optimizer: opt})
	require.NoError(t, err)
	e, err := NewEMA(gr, EMAOptions{Decay: 0.99})
	require.NoError(t, err)
	plans := compileEMA(t, e)
	value := func(x float64) []byte {
		w := tensor.New(p.Type)
		for i := range 300 {
			w.Set(i, x+float64(i)/256)
		}
		require.NoError(t, plans.store.Set(p, w))
		return w.Bytes()
	}
	bytes := func() []byte {
		x, err := plans.store.Get(p)
		require.NoError(t, err)
		return append([]byte{}, x.Bytes()...)
	}
	value(1)
	plans.run(t, plans.update)
	last := append([]byte{}, value(1.5)...)
	plans.run(t, plans.update)
	average := plans.get(t, e.Vars()[0])
	require.InDelta(t, (0.99*1+1.5)/1.99, average[0], 1e-5)
	for range 2 {
		plans.run(t, plans.enter)
		x, err := plans.store.Get(p)
		require.NoError(t, err)
		require.InDelta(t, average[0], x.At(0), 1.0/256)
		plans.run(t, plans.leave)
		require.Equal(t, last, bytes())
		require.Equal(t, average, plans.get(t, e.Vars()[0]), "not cut to sixteen bits")
	}
}
