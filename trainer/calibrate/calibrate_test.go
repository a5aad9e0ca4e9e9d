package calibrate_test

import (
	"context"
	"math"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/builtin"
	"github.com/bitsandbyes/bitsandbyes/builtin/corpus"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/tokenizer"
	"github.com/bitsandbyes/bitsandbyes/trainer/calibrate"
)

// fixture is the built-in model in float32, with text to calibrate and to judge on.
type fixture struct {
	model     *models.Llama
	store     *plan.Store
	calibrate []*tensor.Tensor
	judge     []*tensor.Tensor
}

func newFixture(t *testing.T) *fixture {
	dir, err := builtin.Dir("tiny")
	require.NoError(t, err)
	r, c, err := models.OpenWeights(builtin.FS{}, dir)
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Close()) }()
	src := layers.NewSource(layers.Options{Weights: r, Policy: layers.Policy{Param: tensor.F32}})
	f := &fixture{store: plan.NewStore(cpu.New(cpu.Options{}))}
	t.Cleanup(func() { require.NoError(t, f.store.Close()) })
	f.model, err = models.NewLlama(c, src)
	require.NoError(t, err)
	require.NoError(t, src.Load(f.store))

	files := map[string][]byte{}
	for _, name := range []string{"tokenizer.json", "tokenizer_config.json", "config.json"} {
		if raw, err := vfs.ReadFile(builtin.FS{}, dir+"/"+name, 1<<24); err == nil {
			files[name] = raw
		}
	}
	tok, err := tokenizer.LoadFiles(files)
	require.NoError(t, err)
	n := 0
	for doc := range corpus.Generate(99, 72) {
		ids, err := tok.Encode(doc)
		require.NoError(t, err)
		row, err := tensor.Of(ids[:min(len(ids), 128)])
		require.NoError(t, err)
		if n++; n <= 48 {
			f.calibrate = append(f.calibrate, row)
		} else {
			f.judge = append(f.judge, row)
		}
	}
	return f
}

// loss is the mean cross-entropy of the model in the store over the rows kept for judging.
func (f *fixture) loss(t *testing.T) float64 {
	const length = 128
	g := graph.New("judge")
	typ := tensor.T(tensor.I32, 1, length)
	tokens, pos, targets := g.Input("tokens", typ), g.Input("pos", typ), g.Input("targets", typ)
	sum := ops.Sum(f.model.TokenLoss(f.model.Hidden(models.Inputs{Tokens: tokens, Pos: pos}), targets))
	p, err := plan.Compile([]graph.Value{sum}, plan.Options{Device: f.store.Device(), Store: f.store})
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	total, counted := 0.0, 0
	for _, row := range f.judge {
		ids := tensor.Data[int32](row)
		in, at, out := tensor.New(typ), tensor.New(typ), tensor.New(typ)
		for i := range length {
			tensor.Data[int32](at)[i], tensor.Data[int32](out)[i] = int32(i), -100
			if i < len(ids) {
				tensor.Data[int32](in)[i] = ids[i]
			}
			if i+1 < len(ids) {
				tensor.Data[int32](out)[i] = ids[i+1]
				counted++
			}
		}
		res, err := p.Run(context.Background(), plan.Feed{tokens: in, pos: at, targets: out})
		require.NoError(t, err)
		total += res.Float(sum)
	}
	return total / float64(counted)
}

// with puts a result into the store while f runs.
func (f *fixture) with(t *testing.T, r *calibrate.Result, do func()) {
	old := map[*graph.Var]*tensor.Tensor{}
	layers.Walk(f.model, func(p layers.Param) {
		var now *tensor.Tensor
		var err error
		if st := r.States[p.Name]; st != nil {
			now, err = st.Dequantize(p.Type.DType)
			require.NoError(t, err)
		} else if now = r.Dense[p.Name]; now == nil {
			return
		}
		old[p.Var], err = f.store.Get(p.Var)
		require.NoError(t, err)
		require.NoError(t, f.store.Set(p.Var, now))
	})
	do()
	for v, x := range old {
		require.NoError(t, f.store.Set(v, x))
	}
}

func threads(n int, f func(lo, hi int)) {
	var wg sync.WaitGroup
	for lo := 0; lo < n; lo += (n + 1) / 2 {
		wg.Go(func() { f(lo, min(lo+(n+1)/2, n)) })
	}
	wg.Wait()
}

func (f *fixture) run(t *testing.T, o calibrate.Options) *calibrate.Result {
	o.Model, o.Store, o.Parallel = f.model, f.store, threads
	if o.Rows == nil {
		o.Rows = f.calibrate
	}
	r, err := calibrate.Run(context.Background(), o)
	require.NoError(t, err)
	return r
}

// judged is the loss with the result of a calibration.
func (f *fixture) judged(t *testing.T, o calibrate.Options) (loss float64, r *calibrate.Result) {
	r = f.run(t, o)
	f.with(t, r, func() { loss = f.loss(t) })
	return loss, r
}

func TestCalibratedModelsBeatNearestRounding(t *testing.T) {
	f := newFixture(t)
	plain := f.loss(t)
	t.Logf("float32: loss %.4f, perplexity %.3f", plain, math.Exp(plain))
	for _, c := range []struct {
		format  string
		methods []calibrate.Method
	}{
		{"int3:group=64", []calibrate.Method{calibrate.GPTQ, calibrate.AWQ, calibrate.MSE}},
		{"int4:channel", []calibrate.Method{calibrate.GPTQ, calibrate.AWQ}},
		{"cb3", []calibrate.Method{calibrate.GPTQ}},
	} {
		format, err := quant.ParseFormat(c.format)
		require.NoError(t, err)
		rtn, base := f.judged(t, calibrate.Options{Format: format, Method: calibrate.RTN})
		t.Logf("%-14s %-5s perplexity %.4f", c.format, "rtn", math.Exp(rtn))
		require.Less(t, plain, rtn)
		for _, m := range c.methods {
			loss, r := f.judged(t, calibrate.Options{Format: format, Method: m})
			out, nearest := 0.0, 0.0
			for i, l := range r.Layers {
				require.Equal(t, base.Layers[i].Name, l.Name)
				require.InDelta(t, base.Layers[i].OutputError, l.Nearest, 1e-9)
				out, nearest = out+l.OutputError, nearest+l.Nearest
			}
			t.Logf("%-14s %-5s perplexity %.4f, output error %.4f (nearest %.4f)", c.format, m, math.Exp(loss),
				out/float64(len(r.Layers)), nearest/float64(len(r.Layers)))
			require.Less(t, out, nearest, "%s %s", c.format, m)
			require.Less(t, loss, rtn, "%s %s", c.format, m)
		}
	}
}
