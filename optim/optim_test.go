package optim

import (
	"bytes"
	"context"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func device(t testing.TB, threads int) *cpu.Device {
	d := cpu.New(cpu.Options{Threads: threads})
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

func f32(name string, dims ...int) *graph.Var {
	return graph.NewVar(name, tensor.T(tensor.F32, dims...))
}

func normal(r *rand.Rand, dims ...int) *tensor.Tensor {
	x := tensor.New(tensor.T(tensor.F32, dims...))
	for i := range tensor.Data[float32](x) {
		x.Set(i, r.NormFloat64())
	}
	return x
}

// TestRegression is the shortest training loop: fit y = x·w + b.
func TestRegression(t *testing.T) {
	for _, name := range Names() {
		t.Run(name, func(t *testing.T) {
			dev, r := device(t, 1), rand.New(rand.NewPCG(1, 2))
			w, b := f32("w", 1, 5), f32("b", 1)
			g := graph.New("step")
			x, y, lr := g.Input("x", tensor.T(tensor.F32, 32, 5)), g.Input("y", tensor.T(tensor.F32, 32, 1)), g.Input("lr", tensor.T(tensor.F32))
			pred := ops.Add(ops.Linear(x, g.Read(w)), g.Read(b))
			loss := ops.Mean(ops.Square(ops.Sub(pred, y)))
			params := []*graph.Var{w, b}
			grads, err := autograd.Grad(loss, params...)
			require.NoError(t, err)
			opt, err := New(name, Config{Momentum: 0.5, MaxUnorm: map[bool]float64{true: 0.2}[strings.HasPrefix(name, "lars")], Absolute: true})
			require.NoError(t, err)
			opt.Update(g, params, grads, lr)
			step, err := plan.Compile([]graph.Value{loss}, plan.Options{Device: dev, Verify: true})
			require.NoError(t, err)
			defer func() { require.NoError(t, step.Close()) }()
			var first, last float64
			for i := range 150 {
				xs := normal(r, 32, 5)
				ys := tensor.New(tensor.T(tensor.F32, 32, 1))
				for j := range 32 {
					ys.Set(j, xs.At(5*j)-2*xs.At(5*j+1)+0.5*xs.At(5*j+4)+3)
				}
				out, err := step.Run(context.Background(), plan.Feed{x: xs, y: ys, lr: regressionLR(name)})
				require.NoError(t, err)
				if last = out.Float(loss); i == 0 {
					first = last
				}
			}
			require.Less(t, last, first/50, "from %v", first)
		})
	}
}

// regressionLR suits the size of a rule's steps: adagrad's shrink, lars bounds them.
func regressionLR(name string) float64 {
	if strings.HasPrefix(name, "adagrad") || strings.HasPrefix(name, "lars") {
		return 0.5
	}
	return 0.05
}

// world is a group with values: sizes around the borders of slabs and blocks.
type world struct {
	params []*graph.Var
	group  *Group
	store  *plan.Store
	dev    *cpu.Device
}

func newWorld(t *testing.T, threads int, name string, c Config, sizes ...int) *world {
	w := &world{dev: device(t, threads)}
	for i, n := range sizes {
		w.params = append(w.params, f32("p"+string(rune('a'+i)), n))
	}
	opt, err := New(name, c)
	require.NoError(t, err)
	w.group, err = NewGroup(w.params, Options{Optimizer: opt})
	require.NoError(t, err)
	w.store = plan.NewStore(w.dev)
	t.Cleanup(func() { require.NoError(t, w.store.Close()) })
	r := rand.New(rand.NewPCG(3, 4))
	for _, p := range w.params {
		require.NoError(t, w.store.Set(p, normal(r, p.Type.Dim(0))))
	}
	return w
}

// micro compiles a plan that adds fed gradients.
func (w *world) micro(t *testing.T, session *plan.Session) func(grads []*tensor.Tensor) {
	g := graph.New("micro")
	var in []graph.Value
	for _, p := range w.params {
		in = append(in, g.Input(p.Name, p.Type))
	}
	w.group.Accumulate(g, in)
	p, err := plan.Compile([]graph.Value{ops.Fill(g, tensor.F32, 0)}, plan.Options{Device: w.dev, Session: session})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return func(grads []*tensor.Tensor) {
		feed := plan.Feed{}
		for i, v := range in {
			feed[v] = grads[i]
		}
		_, err := p.Run(context.Background(), feed)
		require.NoError(t, err)
	}
}

// apply compiles the second plan; it returns the norm.
func (w *world) apply(t *testing.T, session *plan.Session) func(lr, ok float64) float64 {
	g := graph.New("apply")
	lr, okIn := g.Input("lr", tensor.T(tensor.F32)), g.Input("ok", tensor.T(tensor.F32))
	norm := ops.Sqrt(w.group.GradNormSquared(g))
	w.group.Apply(g, Scalars{LR: lr, GScale: ClipFactor(norm, 1), OK: okIn})
	w.group.Zero(g)
	p, err := plan.Compile([]graph.Value{norm}, plan.Options{Device: w.dev, Session: session, Verify: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return func(l, ok float64) float64 {
		out, err := p.Run(context.Background(), plan.Feed{lr: l, okIn: ok})
		require.NoError(t, err)
		return out.Float(norm)
	}
}

func (w *world) bytes(t *testing.T, vars ...*graph.Var) (all []byte) {
	for _, v := range vars {
		x, err := w.store.Get(v)
		require.NoError(t, err)
		all = append(all, x.Bytes()...)
	}
	return all
}

func (w *world) train(t *testing.T, steps int) {
	session := plan.NewSession(w.store)
	micro, apply := w.micro(t, session), w.apply(t, session)
	r := rand.New(rand.NewPCG(5, 6))
	for range steps {
		var sum float64
		for range 2 {
			var grads []*tensor.Tensor
			for _, p := range w.params {
				grads = append(grads, normal(r, p.Type.Dim(0)))
			}
			micro(grads)
		}
		for _, v := range w.group.GradVars() {
			x, err := w.store.Get(v)
			require.NoError(t, err)
			for _, f := range tensor.Data[float32](x) {
				sum += float64(f) * float64(f)
			}
		}
		require.InEpsilon(t, math.Sqrt(sum), apply(1e-2, 1), 1e-6)
	}
	before := w.bytes(t, append(w.group.ParamSlabs(), w.group.StateVars()...)...)
	micro(gradsOfOnes(w.params))
	apply(1e-2, 0)
	require.Equal(t, before, w.bytes(t, append(w.group.ParamSlabs(), w.group.StateVars()...)...), "ok = 0 changes nothing")
	grads := w.bytes(t, w.group.GradSlabs()...)
	require.Equal(t, len(grads), bytes.Count(grads, []byte{0}), "gradients are cleared")
}

func gradsOfOnes(params []*graph.Var) (out []*tensor.Tensor) {
	for _, p := range params {
		x := tensor.New(p.Type)
		for i := range p.Type.Size() {
			x.Set(i, 1)
		}
		out = append(out, x)
	}
	return out
}

var edgeSizes = []int{0, 1, 255, 256, 257, 5000, 40000}

func TestGroupTwoPlans(t *testing.T) {
	for _, name := range Names() {
		for _, min8 := range []int{0, 300} {
			c := Config{Momentum: 0.9, WeightDecay: 0.1, Min8bitSize: min8}
			one, two := newWorld(t, 1, name, c, edgeSizes...), newWorld(t, 2, name, c, edgeSizes...)
			one.train(t, 5)
			two.train(t, 5)
			vars := func(w *world) []*graph.Var { return append(w.group.ParamSlabs(), w.group.StateVars()...) }
			require.Equal(t, one.bytes(t, vars(one)...), two.bytes(t, vars(two)...), "%s: threads change nothing", name)
			for _, s := range one.group.sections {
				checkPadding(t, one, s)
			}
			step, err := one.store.Get(one.group.step)
			require.NoError(t, err)
			require.Equal(t, 5.0, step.At(0))
		}
	}
}

func checkPadding(t *testing.T, w *world, s *section) {
	used := make([]bool, s.layout.Total)
	for i, at := range s.layout.Offsets {
		for j := range s.layout.Sizes[i] {
			used[at+j] = true
		}
	}
	for _, v := range append([]*graph.Var{s.slab}, s.states...) {
		x, err := w.store.Get(v)
		require.NoError(t, err)
		if x.Type().Size() != s.layout.Total {
			continue
		}
		moved := 0
		for i := range used {
			switch {
			case !used[i] && x.At(i) != 0:
				require.Zero(t, x.At(i), "%s[%d] is padding", v.Name, i)
			case !used[i]:
			case x.At(i) != 0:
				moved++
			}
		}
		require.Positive(t, moved)
	}
}

func TestEightBitSections(t *testing.T) {
	w := newWorld(t, 1, "adamw8bit", Config{Min8bitSize: 256}, 10, 256, 255, 1000)
	require.Equal(t, 2, w.group.NumEightBit())
	require.Len(t, w.group.ParamSlabs(), 2)
	var names []string
	for _, v := range w.group.StateVars() {
		names = append(names, v.Name)
	}
	require.Equal(t, []string{"optim.8bit.state1", "optim.8bit.state2", "optim.8bit.absmax1", "optim.8bit.absmax2",
		"optim.32bit.state1", "optim.32bit.state2", "optim.8bit.step"}, names)
	for i, v := range w.group.GradVars() {
		require.Equal(t, w.params[i].Type, v.Type)
		require.Equal(t, w.params[i].Offset, v.Offset)
	}
	plain := newWorld(t, 1, "adamw", Config{}, 10, 256)
	require.Zero(t, plain.group.NumEightBit())
}

// TestInlineEqualsGroup compares the two ways of using a rule.
func TestInlineEqualsGroup(t *testing.T) {
	for _, name := range Names() {
		w := newWorld(t, 2, name, Config{WeightDecay: 0.02, Momentum: 0.9}, 3, 700)
		session := plan.NewSession(w.store)
		micro, apply := w.micro(t, session), w.apply(t, session)
		opt, err := New(name, Config{WeightDecay: 0.02, Momentum: 0.9})
		require.NoError(t, err)
		g := graph.New("inline")
		var params []*graph.Var
		var grads []graph.Value
		store := plan.NewStore(w.dev)
		for _, p := range w.params {
			v := graph.NewVar(p.Name, p.Type)
			params, grads = append(params, v), append(grads, g.Input(p.Name, p.Type))
			x, err := w.store.Get(p)
			require.NoError(t, err)
			require.NoError(t, store.Set(v, x))
		}
		norm := ops.Sqrt(ops.Add(ops.SumOfSquares(grads[0]), ops.SumOfSquares(grads[1])))
		scale := ClipFactor(norm, 1)
		opt.Update(g, params, []graph.Value{ops.Mul(grads[0], scale), ops.Mul(grads[1], scale)}, ops.Fill(g, tensor.F32, 0.01))
		p, err := plan.Compile([]graph.Value{norm}, plan.Options{Device: w.dev, Store: store})
		require.NoError(t, err)
		r := rand.New(rand.NewPCG(9, 9))
		for range 4 {
			x := []*tensor.Tensor{normal(r, 3), normal(r, 700)}
			micro(x)
			apply(0.01, 1)
			_, err = p.Run(context.Background(), plan.Feed{grads[0]: x[0], grads[1]: x[1]})
			require.NoError(t, err)
		}
		for i, v := range params {
			got, err := store.Get(v)
			require.NoError(t, err)
			require.InDeltaSlice(t, floats(w.bytes(t, w.params[i])), tensor.Data[float32](got), 1e-6, "%s %s", name, v.Name)
		}
		require.NotEmpty(t, opt.StateVars())
		require.NoError(t, p.Close())
	}
}

func floats(b []byte) []float32 { return tensor.View[float32](b) }

func TestPerParameterOptions(t *testing.T) {
	a, b := f32("a", 4), f32("b", 4)
	opt, err := New("sgd", Config{WeightDecay: 0.5})
	require.NoError(t, err)
	gr, err := NewGroup([]*graph.Var{a, b}, Options{Optimizer: opt, LRScale: map[*graph.Var]float64{b: 10}, Decay: map[*graph.Var]float64{a: 0}})
	require.NoError(t, err)
	w := &world{params: gr.params, group: gr, dev: device(t, 1)}
	w.store = plan.NewStore(w.dev)
	session := plan.NewSession(w.store)
	for _, v := range gr.params {
		require.NoError(t, w.store.Set(v, gradsOfOnes(gr.params[:1])[0]))
	}
	w.micro(t, session)(gradsOfOnes(gr.params))
	norm := w.apply(t, session)(0.1, 1)
	require.InDelta(t, math.Sqrt(8), norm, 1e-6)
	clip := 1 / (math.Sqrt(8) + 1e-6)
	require.InDelta(t, 1-0.1*clip, floats(w.bytes(t, a))[0], 1e-6)
	require.InDelta(t, 1-0.1*10*(clip+0.5), floats(w.bytes(t, b))[3], 1e-6)
	require.NoError(t, w.store.Close())
}
