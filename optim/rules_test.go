package optim

import (
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// elementRule is one step of one element in float64: it returns the new parameter and advances the states s.
type elementRule func(t, p, g float64, s *[3]float64) float64

const oracleLR, oracleWD = 0.125, 0.05

// oracles are the rules as their papers and torch write them, but for where the decay stands and the powers of beta.
func oracles() map[string]struct {
	config Config
	rule   elementRule
} {
	type row = struct {
		config Config
		rule   elementRule
	}
	wd := Config{WeightDecay: oracleWD}
	with := func(change func(c *Config)) Config {
		c := wd
		change(&c)
		return c
	}
	kept := 1 - oracleLR*oracleWD
	corrected := func(t, g float64, s *[3]float64, pow func(b, t float64) float64) (m, v float64) {
		s[0], s[1] = 0.9*s[0]+0.1*g, 0.999*s[1]+0.001*g*g
		return s[0] / (1 - pow(0.9, t)), math.Sqrt(s[1] / (1 - pow(0.999, t)))
	}
	moments := func(t, g float64, s *[3]float64) (m, v float64) {
		return corrected(t, g, s, func(b, t float64) float64 { return float64(ops.BetaPower(float32(b), t)) })
	}
	return map[string]row{
		"adamw": {wd, func(t, p, g float64, s *[3]float64) float64 {
			m, v := corrected(t, g, s, math.Pow)
			return p*kept - oracleLR*m/(v+1e-8)
		}},
		"adamw32bit": {wd, func(t, p, g float64, s *[3]float64) float64 {
			m, v := moments(t, g, s)
			return (p - oracleLR*m/(v+1e-8)) * kept
		}},
		"ademamix": {with(func(c *Config) { c.TAlpha, c.TBeta3 = 3, 3 }), func(t, p, g float64, s *[3]float64) float64 {
			m, v := moments(t, g, s)
			x := min(t/3, 1)
			l1, l3 := math.Log(0.9), math.Log(0.9999)
			b3 := math.Exp(l1 * l3 / ((1-x)*l3 + x*l1))
			s[2] = b3*s[2] + (1-b3)*g
			return (p - oracleLR*(m+5*x*s[2])/(v+1e-8)) * kept
		}},
		"lion": {wd, func(_, p, g float64, s *[3]float64) float64 {
			u := 0.9*s[0] + 0.1*g
			s[0] = 0.99*s[0] + 0.01*g
			return p*kept - math.Copysign(oracleLR, u)
		}},
		"sgd": {with(func(c *Config) { c.Momentum, c.Dampening = 0.9, 0.25 }), func(t, p, g float64, s *[3]float64) float64 {
			if g += oracleWD * p; t == 1 {
				s[0] = g
			} else {
				s[0] = 0.9*s[0] + 0.75*g
			}
			return p - oracleLR*s[0]
		}},
		"sgd32bit": {with(func(c *Config) { c.Momentum, c.Nesterov = 0.9, true }), func(_, p, g float64, s *[3]float64) float64 {
			g += oracleWD * p
			s[0] = 0.9*s[0] + g
			return p - oracleLR*(g+0.9*s[0])
		}},
		"rmsprop": {wd, func(_, p, g float64, s *[3]float64) float64 {
			g += oracleWD * p
			s[0] = 0.99*s[0] + 0.01*g*g
			return p - oracleLR*g/(math.Sqrt(s[0])+1e-8)
		}},
		"adagrad": {wd, func(_, p, g float64, s *[3]float64) float64 {
			g += oracleWD * p
			s[0] += g * g
			return p - oracleLR*g/(math.Sqrt(s[0])+1e-10)
		}},
	}
}

func TestRuleOracles(t *testing.T) {
	shapes := [][]int{{17}, {3, 90}}
	for name, o := range oracles() {
		states := map[int][][3]float64{}
		replayMatrices(t, name, o.config, shapes, func(step, i int, p, g []float64) {
			if states[i] == nil {
				states[i] = make([][3]float64, len(p))
			}
			for j := range p {
				p[j] = o.rule(float64(step), p[j], g[j], &states[i][j])
			}
		})
	}
}

// TestBoundOracle bounds steps tensor by tensor as LARS does.
func TestBoundOracle(t *testing.T) {
	shapes, moments := [][]int{{600}, {30}}, map[int][]float64{}
	replayMatrices(t, "lars", Config{Momentum: 0.9}, shapes, func(_, i int, p, g []float64) {
		m := sums(moments, i, len(p))
		for j := range g {
			m[j] = 0.9*m[j] + g[j]
		}
		scale := oracleLR * min(1, 0.02*rootMeanSquare(p)/rootMeanSquare(m))
		for j := range p {
			p[j] -= scale * m[j]
		}
	})
}

// TestDefaultsAreBitsandbytes holds the table of families against the values in the library's signatures.
func TestDefaultsAreBitsandbytes(t *testing.T) {
	for _, name := range Names() {
		c, err := Defaults(name)
		require.NoError(t, err)
		if name == "sgd8bit" || name == "lars8bit" {
			c.Momentum = 0.9
		}
		o, err := New(name, c)
		require.NoError(t, err)
		require.Equal(t, c, o.Config(), "defaults are complete: %s", name)
		require.Positive(t, DefaultLR(name))
	}
	lamb, err := Defaults("lamb8bit")
	require.NoError(t, err)
	require.Equal(t, Config{Betas: [2]float64{0.9, 0.999}, Eps: 1e-8, MaxUnorm: 1, Min8bitSize: DefaultMin8bitSize}, lamb)
	_, err = Defaults("adamw9bit")
	require.ErrorContains(t, err, "did you mean")
	require.Zero(t, DefaultLR("adamw9bit"))
}

// TestSpans draws layouts and checks that the parts of every state tile it in order.
func TestSpans(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		sizes := rapid.SliceOfN(rapid.IntRange(0, 900), 1, 6).Draw(r, "sizes")
		l := ops.NewLayout(sizes...)
		for i, n := range sizes {
			rows := 0
			if d := rapid.IntRange(0, 4).Draw(r, "rows"); d > 0 && n%d == 0 {
				rows = d
			}
			l.Rows = append(l.Rows, rows)
			require.LessOrEqual(r, l.Offsets[i]+n, l.Total)
		}
		require.NoError(r, l.Check())
		for each := ops.EachElement; each <= ops.EachLoose; each++ {
			end := 0
			for i := range sizes {
				lo, n := l.Span(each, i)
				require.GreaterOrEqual(r, lo, end)
				if each > ops.EachBlock {
					require.Equal(r, end, lo, "nothing lies between")
				}
				end = lo + n
			}
		}
	})
}

// FuzzLoadStateDict feeds documents to the reader of state dicts: it must refuse or accept, and change nothing when it refuses.
func FuzzLoadStateDict(f *testing.F) {
	for _, s := range []string{`{"state":{"0":{"step":1}},"param_groups":[{"lr":1,"betas":[0.9,0.99],"params":[0]}]}`, `{"state":{}}`, `[]`,
		`{"state":{"0":{"step":1e99}},"param_groups":[{"params":[0,0]},{"params":[-1]}]}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, doc string) {
		opt, err := New("lion", Config{})
		require.NoError(t, err)
		gr, err := NewGroup([]*graph.Var{f32("p", 3)}, Options{Optimizer: opt})
		require.NoError(t, err)
		values := held{}
		d := &StateDict{Document: []byte(doc), Tensors: map[string]*tensor.Tensor{"state.0.state1": tensor.New(tensor.T(tensor.F32, 3))}}
		if err := gr.LoadStateDict(d, values); err != nil {
			require.Empty(t, values)
		} else {
			require.Len(t, values, len(gr.StateVars()))
		}
	})
}

// held keeps values in a map.
type held map[*graph.Var]*tensor.Tensor

func (h held) Get(v *graph.Var) (*tensor.Tensor, error) { return h[v], nil }

func (h held) Set(v *graph.Var, t *tensor.Tensor) error {
	h[v] = t
	return nil
}
