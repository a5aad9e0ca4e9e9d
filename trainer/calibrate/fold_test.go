package calibrate_test

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer/calibrate"
)

// logits are the scores of a row.
func (f *fixture) logits(t *testing.T, row *tensor.Tensor) []float32 {
	n := row.Type().Size()
	g := graph.New("logits")
	tokens, pos := g.Input("tokens", tensor.T(tensor.I32, 1, n)), g.Input("pos", tensor.T(tensor.I32, 1, n))
	in, at := tensor.New(tokens.Type()), tensor.New(tokens.Type())
	copy(in.Bytes(), row.Bytes())
	for i := range n {
		tensor.Data[int32](at)[i] = int32(i)
	}
	out := f.model.Logits(f.model.Hidden(models.Inputs{Tokens: tokens, Pos: pos}))
	p, err := plan.Compile([]graph.Value{out}, plan.Options{Device: f.store.Device(), Store: f.store})
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	res, err := p.Run(context.Background(), plan.Feed{tokens: in, pos: at})
	require.NoError(t, err)
	return res.Tensor(out).Float32s()
}

func maxDifference(a, b []float32) (d float64) {
	for i, v := range a {
		d = math.Max(d, math.Abs(float64(v-b[i])))
	}
	return d
}

// TestScalesAreFolded quantizes to 8 bits, which changes next to nothing, with scales that change every weight: the model computes what it
// did only if all of them were taken out again.
func TestScalesAreFolded(t *testing.T) {
	f := newFixture(t)
	f.calibrate = f.calibrate[:4]
	want := f.logits(t, f.judge[0])
	int8 := quant.AffineFormat{Bits: 8, Per: 16}
	plain := f.run(t, calibrate.Options{Format: int8})
	var base float64
	f.with(t, plain, func() { base = maxDifference(want, f.logits(t, f.judge[0])) })
	require.Positive(t, base)
	for _, o := range []calibrate.Options{{Method: calibrate.SmoothQuant, Alpha: 0.8}, {Method: calibrate.SmoothQuant, Alpha: -1},
		{Method: calibrate.AWQ, NoClip: true}} {
		t.Run(fmt.Sprint(o.Method, o.Alpha), func(t *testing.T) {
			o.Format = int8
			r := f.run(t, o)
			norms, scaled := 0, 0
			for name, x := range r.Dense {
				require.True(t, strings.HasSuffix(name, "layernorm.weight"), name)
				require.Equal(t, tensor.F32, x.DType())
				norms++
			}
			require.Equal(t, 2*len(f.model.Body.Stack()), norms)
			for _, l := range r.Layers {
				require.Less(t, l.RelError, 0.02, l.Name)
				require.Less(t, l.OutputError, 0.02, l.Name)
				require.Positive(t, l.MaxAbs)
				require.Less(t, l.MaxAbs, 0.05)
				require.Empty(t, l.Note)
				if l.Ratio > 0 {
					scaled++
				}
			}
			require.Positive(t, scaled)
			f.with(t, r, func() { require.Less(t, maxDifference(want, f.logits(t, f.judge[0])), 4*base) })
			// The factors are not 1: without the norms that took them over nothing is right.
			dense := r.Dense
			r.Dense = nil
			f.with(t, r, func() { require.Greater(t, maxDifference(want, f.logits(t, f.judge[0])), 10*base) })
			r.Dense = dense
		})
	}
}

func TestKeptLayersStay(t *testing.T) {
	f := newFixture(t)
	keep := func(name string) bool { return strings.Contains(name, "q_proj") || strings.Contains(name, "up_proj") }
	var seen []string
	r := f.run(t, calibrate.Options{Format: quant.AffineFormat{Bits: 4}, Method: calibrate.AWQ, Keep: keep, Rows: f.calibrate[:3],
		Progress: func(done, total int, name string) { seen = append(seen, fmt.Sprint(done, "/", total, " ", name)) }})
	require.Len(t, r.States, 5*len(f.model.Body.Stack()))
	require.Len(t, seen, len(r.States))
	require.Empty(t, r.Dense, "q_proj and up_proj read the norms and are not scaled")
	for _, l := range r.Layers {
		require.False(t, keep(l.Name))
		require.Equal(t, !strings.Contains(l.Name, "o_proj"), l.Note != "", "%s: %s", l.Name, l.Note)
	}
}

// TestPassesDoNotChangeTheResult gathers one layer's input at a time and all at once.
func TestPassesDoNotChangeTheResult(t *testing.T) {
	f := newFixture(t)
	for _, m := range []calibrate.Method{calibrate.GPTQ, calibrate.AWQ} {
		o := calibrate.Options{Format: quant.AffineFormat{Bits: 4}, Method: m, Rows: f.calibrate[:2], NoClip: true, SampleRows: 16}
		whole := f.run(t, o)
		o.Memory = 1
		require.Equal(t, whole, f.run(t, o), m)
	}
}

// TestSequentialSeesQuantizedLayers: later layers are calibrated on what the quantized ones give, and the store then holds those.
func TestSequentialSeesQuantizedLayers(t *testing.T) {
	f := newFixture(t)
	o := calibrate.Options{Format: quant.AffineFormat{Bits: 3}, Method: calibrate.GPTQ, Rows: f.calibrate[:3], NoClip: true}
	apart := f.run(t, o)
	o.Sequential = true
	r := f.run(t, o)
	first := "model.layers.0.self_attn.q_proj.weight"
	require.Equal(t, apart.States[first], r.States[first])
	require.NotEqual(t, apart.States["model.layers.3.mlp.down_proj.weight"], r.States["model.layers.3.mlp.down_proj.weight"])
	layers.Walk(f.model, func(p layers.Param) {
		if st := r.States[p.Name]; st != nil {
			want, err := st.Dequantize(tensor.F32)
			require.NoError(t, err)
			got, err := f.store.Get(p.Var)
			require.NoError(t, err)
			require.Equal(t, want.Bytes(), got.Bytes())
		}
	})
}

func TestObserversReportActivations(t *testing.T) {
	f := newFixture(t)
	widest := map[string]float32{}
	for _, m := range []calibrate.Method{calibrate.MinMax, calibrate.MovingAverage, calibrate.Percentile, calibrate.MSE, calibrate.Entropy} {
		r := f.run(t, calibrate.Options{Format: quant.AffineFormat{Bits: 4, Per: quant.PerChannel}, Method: m, Rows: f.calibrate[:4]})
		for _, l := range r.Layers {
			a := l.Activation.AbsMax()
			require.Positive(t, a)
			require.Positive(t, l.Params.Step)
			if m == calibrate.MinMax {
				widest[l.Name] = a
			}
			require.LessOrEqual(t, a, widest[l.Name], "%s %s", m, l.Name)
		}
		if m == calibrate.MSE {
			require.Less(t, r.Layers[0].RelError, f.run(t, calibrate.Options{Format: quant.AffineFormat{Bits: 4, Per: quant.PerChannel},
				Rows: f.calibrate[:1]}).Layers[0].RelError)
		}
	}
}

func TestNearestWithoutRows(t *testing.T) {
	f := newFixture(t)
	format := quant.Config{Scheme: quant.NF4}
	r, err := calibrate.Run(context.Background(), calibrate.Options{Model: f.model, Store: f.store, Format: format})
	require.NoError(t, err)
	for name, st := range r.States {
		layers.Walk(f.model, func(p layers.Param) {
			if p.Name == name {
				w, err := f.store.Get(p.Var)
				require.NoError(t, err)
				want, err := quant.Quantize(w, format)
				require.NoError(t, err)
				require.Equal(t, want, st)
			}
		})
	}
	require.Len(t, r.States, 7*len(f.model.Body.Stack()))
}

func TestRunRefuses(t *testing.T) {
	f := newFixture(t)
	row := f.calibrate[0]
	bad, err := tensor.Of([]int32{5, 5000})
	require.NoError(t, err)
	long := tensor.New(tensor.T(tensor.I32, 1000))
	ok := calibrate.Options{Model: f.model, Store: f.store, Format: quant.AffineFormat{Bits: 4}, Method: calibrate.GPTQ, Rows: []*tensor.Tensor{row}}
	for want, change := range map[string]func(o *calibrate.Options){
		"must be set":                 func(o *calibrate.Options) { o.Format = nil },
		"unknown method":              func(o *calibrate.Options) { o.Method = "magic" },
		"gptq needs rows":             func(o *calibrate.Options) { o.Rows = nil },
		"token 1 has id 5000":         func(o *calibrate.Options) { o.Rows = []*tensor.Tensor{row, bad} },
		"1000 tokens":                 func(o *calibrate.Options) { o.Rows = []*tensor.Tensor{long} },
		"not a row of i32":            func(o *calibrate.Options) { o.Rows = []*tensor.Tensor{nil} },
		"percentile 101":              func(o *calibrate.Options) { o.Percent = 101 },
		"migration strength 2":        func(o *calibrate.Options) { o.Alpha = 2 },
		"sequential":                  func(o *calibrate.Options) { o.Method, o.Sequential = calibrate.AWQ, true },
		"every linear layer":          func(o *calibrate.Options) { o.Keep = func(string) bool { return true } },
		"damping -1":                  func(o *calibrate.Options) { o.Damping = -1 },
		"affine of 9 bits":            func(o *calibrate.Options) { o.Format = quant.AffineFormat{Bits: 9} },
		"-1 sample rows in 0 bytes":   func(o *calibrate.Options) { o.SampleRows = -1 },
		"use rtn, minmax, average, p": func(o *calibrate.Options) { o.Method = "?" },
	} {
		o := ok
		change(&o)
		_, err := calibrate.Run(context.Background(), o)
		require.ErrorContains(t, err, want)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = calibrate.Run(ctx, ok)
	require.ErrorIs(t, err, context.Canceled)
	layers.Modules(f.model, func(path string, p layers.Projection, _ func(layers.Projection)) {
		require.IsType(t, &layers.Linear{}, p, path) // the taps are gone
	})
}
