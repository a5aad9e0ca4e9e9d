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
	model     *models.Model
	store     *plan.Store
	calibrate []*tensor.Tensor
	judge     []*tensor.Tensor
	teacher   []*tensor.Tensor // scores of the unquantized model, once it was judged
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
	f.model, err = models.New(c, src)
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
	for doc := range corpus.Generate(99, 112) {
		ids, err := tok.Encode(doc)
		require.NoError(t, err)
		row, err := tensor.Of(ids[:min(len(ids), 128)])
		require.NoError(t, err)
		if n++; n <= 32 {
			f.calibrate = append(f.calibrate, row)
		} else {
			f.judge = append(f.judge, row)
		}
	}
	return f
}

// score is how a model does on the rows kept for judging: its mean cross-entropy, and the divergence of its predictions from those of the
// unquantized model, which shows damage where luck can still lower the loss.
type score struct{ loss, divergence float64 }

const judgeLength = 128

// score judges the model in the store.
func (f *fixture) score(t *testing.T) (s score) {
	g := graph.New("judge")
	typ := tensor.T(tensor.I32, 1, judgeLength)
	tokens, pos, targets := g.Input("tokens", typ), g.Input("pos", typ), g.Input("targets", typ)
	logits := f.model.Logits(f.model.Hidden(models.Inputs{Tokens: tokens, Pos: pos}))
	teacher := g.Input("teacher", logits.Type())
	loss, kl := ops.Sum(ops.TokenLoss(logits, targets)), ops.Sum(layers.Distill{}.TokenLoss(logits, teacher, targets))
	p, err := plan.Compile([]graph.Value{loss, kl, logits}, plan.Options{Device: f.store.Device(), Store: f.store})
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	first, counted := f.teacher == nil, 0
	for r, row := range f.judge {
		ids := tensor.Data[int32](row)
		in, at, out := tensor.New(typ), tensor.New(typ), tensor.New(typ)
		for i := range judgeLength {
			tensor.Data[int32](at)[i], tensor.Data[int32](out)[i] = int32(i), -100
			if i < len(ids) {
				tensor.Data[int32](in)[i] = ids[i]
			}
			if i+1 < len(ids) {
				tensor.Data[int32](out)[i] = ids[i+1]
				counted++
			}
		}
		feed := plan.Feed{tokens: in, pos: at, targets: out, teacher: tensor.New(teacher.Type())}
		if !first {
			feed[teacher] = f.teacher[r]
		}
		res, err := p.Run(context.Background(), feed)
		require.NoError(t, err)
		if s.loss += res.Float(loss); first {
			f.teacher = append(f.teacher, res.Tensor(logits))
		} else {
			s.divergence += res.Float(kl)
		}
	}
	return score{s.loss / float64(counted), s.divergence / float64(counted)}
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
	if o.SampleRows == 0 {
		o.SampleRows = 128
	}
	if o.Rows == nil {
		o.Rows = f.calibrate
	}
	r, err := calibrate.Run(context.Background(), o)
	require.NoError(t, err)
	return r
}

// judged is the score with the result of a calibration.
func (f *fixture) judged(t *testing.T, o calibrate.Options) (s score, r *calibrate.Result) {
	r = f.run(t, o)
	f.with(t, r, func() { s = f.score(t) })
	return s, r
}

func TestCalibratedModelsBeatNearestRounding(t *testing.T) {
	f := newFixture(t)
	plain := f.score(t)
	t.Logf("float32: perplexity %.4f", math.Exp(plain.loss))
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
		t.Logf("%-14s %-5s perplexity %.4f, divergence %.5f", c.format, "rtn", math.Exp(rtn.loss), rtn.divergence)
		require.Less(t, plain.loss, rtn.loss)
		for _, m := range c.methods {
			got, r := f.judged(t, calibrate.Options{Format: format, Method: m})
			out, nearest := 0.0, 0.0
			for i, l := range r.Layers {
				require.Equal(t, base.Layers[i].Name, l.Name)
				require.InDelta(t, base.Layers[i].OutputError, l.Nearest, 1e-9)
				out, nearest = out+l.OutputError, nearest+l.Nearest
			}
			t.Logf("%-14s %-5s perplexity %.4f, divergence %.5f, output error %.4f (nearest %.4f)", c.format, m, math.Exp(got.loss),
				got.divergence, out/float64(len(r.Layers)), nearest/float64(len(r.Layers)))
			require.Less(t, out, nearest, "%s %s", c.format, m)
			require.Less(t, got.divergence, rtn.divergence, "%s %s", c.format, m)
			require.Less(t, got.loss, rtn.loss, "%s %s", c.format, m)
		}
	}
}
