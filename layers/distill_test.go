package layers_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/autograd/gradcheck"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

const (
	distillTokens = 5
	distillVocab  = 7
)

func scores(seed float64) *tensor.Tensor {
	t := tensor.New(tensor.T(tensor.F64, distillTokens, distillVocab))
	for i := range t.Type().Size() {
		t.Set(i, 3*math.Sin(seed+float64(i*i)))
	}
	return t
}

func labelsOf(t *testing.T, ids ...int32) *tensor.Tensor {
	l, err := tensor.Of(ids)
	require.NoError(t, err)
	return l
}

// softmaxOf returns the probabilities of row r at a temperature.
func softmaxOf(t *tensor.Tensor, r int, temperature float64) []float64 {
	p, sum := make([]float64, distillVocab), 0.0
	for j := range p {
		p[j] = math.Exp(t.At(r*distillVocab+j) / temperature)
		sum += p[j]
	}
	for j := range p {
		p[j] /= sum
	}
	return p
}

func klOf(p, q []float64) (sum float64) {
	for i := range p {
		if p[i] > 0 {
			sum += p[i] * math.Log(p[i]/q[i])
		}
	}
	return sum
}

// distillOf is the formula.
func distillOf(d layers.Distill, s, t, labels *tensor.Tensor) float64 {
	sum, counted := 0.0, 0
	temperature, beta := d.Temperature, d.Beta
	if temperature == 0 {
		temperature = 1
	}
	if beta == 0 {
		beta = 0.5
	}
	for r := range distillTokens {
		if labels.At(r) < 0 {
			continue
		}
		counted++
		p, q := softmaxOf(s, r, temperature), softmaxOf(t, r, temperature)
		soft := klOf(q, p)
		switch d.Divergence {
		case layers.ReverseKL:
			soft = klOf(p, q)
		case layers.JensenShannon:
			m := make([]float64, distillVocab)
			for j := range m {
				m[j] = beta*q[j] + (1-beta)*p[j]
			}
			soft = beta*klOf(q, m) + (1-beta)*klOf(p, m)
		}
		hard := -math.Log(softmaxOf(s, r, 1)[int(labels.At(r))])
		sum += (1-d.Hard)*temperature*temperature*soft + d.Hard*hard
	}
	return sum / float64(counted)
}

func TestDistillFormulaAndGradient(t *testing.T) {
	dev := cpu.New(cpu.Options{Threads: 1})
	s, te, labels := scores(1), scores(2), labelsOf(t, 3, -100, 0, 6, -1)
	for _, d := range []layers.Distill{
		{}, {Temperature: 2}, {Temperature: 3, Hard: 0.3}, {Hard: 1}, {Divergence: layers.ReverseKL, Temperature: 1.5, Hard: 0.5},
		{Divergence: layers.JensenShannon}, {Divergence: layers.JensenShannon, Beta: 0.1, Temperature: 4, Hard: 0.2},
	} {
		t.Run(fmt.Sprintf("%v/T%v/hard%v", d.Divergence, d.Temperature, d.Hard), func(t *testing.T) {
			g := graph.New("distill")
			sv, tv, lv := g.Input("s", s.Type()), g.Input("t", te.Type()), g.Input("l", labels.Type())
			out, err := plan.Eval(dev, plan.Feed{sv: s, tv: te, lv: labels}, d.Loss(sv, tv, lv))
			require.NoError(t, err)
			require.InDelta(t, distillOf(d, s, te, labels), out[0].At(0), 1e-12)
			gradcheck.Run(t, dev, gradcheck.Options{Order: 2, Tol: 1e-5, Inputs: []gradcheck.Input{{Value: s}, {Value: te, NoGrad: true}, {Value: labels, NoGrad: true}},
				F: func(in []graph.Value) []graph.Value { return []graph.Value{d.Loss(in[0], in[1], in[2])} }})
		})
	}
}

func TestDistillTeacherHasNoGradient(t *testing.T) {
	g := graph.New("distill")
	sv, tv := g.Input("s", tensor.T(tensor.F32, 2, 4)), g.Input("t", tensor.T(tensor.F32, 2, 4))
	loss := layers.Distill{Divergence: layers.JensenShannon}.Loss(sv, tv, graph.Value{})
	grads, err := autograd.GradValues(loss, tv)
	require.NoError(t, err)
	x := tensor.New(tv.Type())
	x.Set(1, 2)
	out, err := plan.Eval(cpu.New(cpu.Options{Threads: 1}), plan.Feed{sv: x, tv: tensor.New(tv.Type())}, grads[0], loss)
	require.NoError(t, err)
	for i := range 8 {
		require.Zero(t, out[0].At(i))
	}
	require.Positive(t, out[1].At(0))
}

// TestDistillImpossibleTokens gives both models a token of score -Inf: loss and gradient stay finite.
func TestDistillImpossibleTokens(t *testing.T) {
	s, te := scores(1), scores(2)
	for r := range distillTokens {
		s.Set(r*distillVocab+2, math.Inf(-1))
		te.Set(r*distillVocab+2, math.Inf(-1))
	}
	te.Set(4, math.Inf(-1)) // impossible for the teacher alone
	for _, d := range []layers.Distill{{}, {Divergence: layers.JensenShannon, Temperature: 2}} {
		g := graph.New("distill")
		sv, tv := g.Input("s", s.Type()), g.Input("t", te.Type())
		loss := d.Loss(sv, tv, graph.Value{})
		grads, err := autograd.GradValues(loss, sv)
		require.NoError(t, err)
		out, err := plan.Eval(cpu.New(cpu.Options{Threads: 1}), plan.Feed{sv: s, tv: te}, loss, grads[0])
		require.NoError(t, err)
		want := distillOf(d, s, te, labelsOf(t, 0, 0, 0, 0, 0))
		require.InDelta(t, want, out[0].At(0), 1e-12)
		for i := range out[1].Type().Size() {
			require.False(t, math.IsNaN(out[1].At(i)))
		}
	}
}

// TestDistillHardAlone: without a share of the teacher, what is infinitely far from it does not matter.
func TestDistillHardAlone(t *testing.T) {
	s, labels := scores(1), labelsOf(t, 0, 1, -100, 3, 0)
	s.Set(2, math.Inf(-1)) // possible for the teacher
	g := graph.New("distill")
	sv, tv, lv := g.Input("s", s.Type()), g.Input("t", s.Type()), g.Input("l", labels.Type())
	loss := layers.Distill{Hard: 1, Temperature: 3}.Loss(sv, tv, lv)
	out, err := plan.Eval(cpu.New(cpu.Options{Threads: 1}), plan.Feed{sv: s, tv: scores(2), lv: labels}, loss, ops.MeanLoss(ops.TokenLoss(sv, lv), lv))
	require.NoError(t, err)
	require.Equal(t, out[1].At(0), out[0].At(0))
}

func TestDistillWithoutCountedTokensIsZero(t *testing.T) {
	g := graph.New("distill")
	sv, tv, lv := g.Input("s", scores(1).Type()), g.Input("t", scores(1).Type()), g.Input("l", tensor.T(tensor.I32, distillTokens))
	loss := layers.Distill{Hard: 0.5}.Loss(sv, tv, lv)
	out, err := plan.Eval(cpu.New(cpu.Options{Threads: 1}), plan.Feed{sv: scores(1), tv: scores(2), lv: labelsOf(t, -1, -1, -100, -1, -1)}, loss)
	require.NoError(t, err)
	require.Zero(t, out[0].At(0))
}

func TestDistillRefuses(t *testing.T) {
	typ := tensor.T(tensor.F32, 2, 4)
	for want, f := range map[string]func(s, t graph.Value) graph.Value{
		"must have one vocabulary": func(s, _ graph.Value) graph.Value {
			return layers.Distill{}.Loss(s, s.Graph().Input("x", tensor.T(tensor.F32, 2, 5)), graph.Value{})
		},
		"there are no labels": func(s, t graph.Value) graph.Value { return layers.Distill{Hard: 0.1}.Loss(s, t, graph.Value{}) },
		"temperature -1":      func(s, t graph.Value) graph.Value { return layers.Distill{Temperature: -1}.Loss(s, t, graph.Value{}) },
		"beta 1":              func(s, t graph.Value) graph.Value { return layers.Distill{Beta: 1}.Loss(s, t, graph.Value{}) },
		"from 0 to 1":         func(s, t graph.Value) graph.Value { return layers.Distill{Hard: 2}.Loss(s, t, graph.Value{}) },
		"unknown divergence":  func(s, t graph.Value) graph.Value { return layers.Distill{Divergence: 9}.Loss(s, t, graph.Value{}) },
		"no layers are paired": func(s, t graph.Value) graph.Value {
			return (&layers.HiddenDistill{}).Loss([]graph.Value{s}, []graph.Value{t}, graph.Value{})
		},
		"pair 0 is layers 0 and 3 of 1 and 1": func(s, t graph.Value) graph.Value {
			h := &layers.HiddenDistill{Pairs: []layers.LayerPair{{0, 3}}}
			return h.Loss([]graph.Value{s}, []graph.Value{t}, graph.Value{})
		},
		"unknown kind of comparison 9": func(s, te graph.Value) graph.Value {
			both := []graph.Value{s, te}
			h := &layers.HiddenDistill{Pairs: []layers.LayerPair{{0, 0}}, Kind: 9}
			defer func() { require.Equal(t, te, both[1]) }() // an error leaves the caller's slice alone
			return h.Loss(both[:1], []graph.Value{s}, graph.Value{})
		},
		"make projections": func(s, _ graph.Value) graph.Value {
			h := &layers.HiddenDistill{Pairs: []layers.LayerPair{{0, 0}}}
			return h.Loss([]graph.Value{s}, []graph.Value{s.Graph().Input("x", tensor.T(tensor.F32, 2, 5))}, graph.Value{})
		},
	} {
		g := graph.New("bad")
		v := f(g.Input("s", typ), g.Input("t", typ))
		require.False(t, v.Valid())
		require.ErrorContains(t, g.Err(), want)
	}
}

func TestHiddenDistill(t *testing.T) {
	dev := cpu.New(cpu.Options{Threads: 1})
	s, te, labels := scores(1), scores(2), labelsOf(t, 0, -100, 0, 0, -1)
	for _, kind := range []layers.HiddenKind{layers.HiddenMSE, layers.HiddenCosine} {
		h := layers.NewHiddenDistill(layers.Source{}, []layers.LayerPair{{0, 0}, {0, 1}}, distillVocab, distillVocab, kind)
		require.Nil(t, h.Projections)
		f := func(in []graph.Value) []graph.Value {
			return []graph.Value{h.Loss(in[:1], []graph.Value{in[1], ops.Scale(in[1], 2)}, in[2])}
		}
		want := 0.0
		for _, factor := range []float64{1, 2} {
			for _, r := range []int{0, 2, 3} {
				mse, dot, ss, tt := 0.0, 0.0, 0.0, 0.0
				for j := range distillVocab {
					a, b := s.At(r*distillVocab+j), factor*te.At(r*distillVocab+j)
					mse, dot, ss, tt = mse+(a-b)*(a-b)/distillVocab, dot+a*b, ss+a*a, tt+b*b
				}
				if kind == layers.HiddenCosine {
					mse = 1 - dot/math.Sqrt(ss*tt)
				}
				want += mse / 6
			}
		}
		g := graph.New("hidden")
		in := []graph.Value{g.Input("s", s.Type()), g.Input("t", te.Type()), g.Input("l", labels.Type())}
		out, err := plan.Eval(dev, plan.Feed{in[0]: s, in[1]: te, in[2]: labels}, f(in)...)
		require.NoError(t, err)
		require.InDelta(t, want, out[0].At(0), 1e-9)
		gradcheck.Run(t, dev, gradcheck.Options{Order: 2, Tol: 1e-5, F: f,
			Inputs: []gradcheck.Input{{Value: s}, {Value: te, NoGrad: true}, {Value: labels, NoGrad: true}}})
	}
}

// TestHiddenDistillProjects maps a narrow student to a wide teacher by weights that are trained.
func TestHiddenDistillProjects(t *testing.T) {
	store := newStore(t)
	src := layers.NewSource(layers.Options{Seed: 1})
	h := layers.NewHiddenDistill(src, layers.UniformLayers(2, 4), 3, 5, layers.HiddenMSE)
	require.Equal(t, []layers.LayerPair{{1, 2}, {2, 4}}, h.Pairs)
	require.NoError(t, src.Load(store))
	require.Equal(t, []string{"projections.0.weight", "projections.1.weight"}, names(h))
	layers.SetTrainable(h, true)
	g := graph.New("step")
	var student, teacher []graph.Value
	feed := plan.Feed{}
	for i := range 5 {
		s, te := g.Input(fmt.Sprint("s", i), tensor.T(tensor.F32, 4, 3)), g.Input(fmt.Sprint("t", i), tensor.T(tensor.F32, 4, 5))
		student, teacher = append(student, s), append(teacher, te)
		x, y := tensor.New(s.Type()), tensor.New(te.Type())
		for j := range x.Type().Size() {
			x.Set(j, math.Sin(float64(i+j*j)))
		}
		for j := range y.Type().Size() { // a linear map of the student's layer at half the depth
			half := x
			if h, ok := feed[student[i/2]].(*tensor.Tensor); ok {
				half = h
			}
			y.Set(j, half.At(j/5*3)-half.At(j/5*3+1)/float64(j%5+1))
		}
		feed[s], feed[te] = x, y
	}
	loss := h.Loss(student[:3], teacher, graph.Value{})
	params := layers.Trainable(h)
	grads, err := autograd.Grad(loss, params...)
	require.NoError(t, err)
	for i, p := range params {
		g.Write(p, ops.Sub(g.Read(p), ops.Scale(grads[i], 0.5)))
	}
	p, err := plan.Compile([]graph.Value{loss}, plan.Options{Device: store.Device(), Store: store})
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	var first, last float64
	for i := range 200 {
		res, err := p.Run(t.Context(), feed)
		require.NoError(t, err)
		if last = res.Float(loss); i == 0 {
			first = last
		}
	}
	require.Less(t, last, 0.1*first)
}
