package models_test

import (
	"context"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/optim"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// greedyCached continues a prompt with one plan for the prompt and one for every further token.
func (f *fixture) greedyCached(prompt []int32, n int) []int32 {
	cache := f.model.NewCache(1, len(prompt)+n)
	prefill, err := f.cachedPlan(cache, len(prompt))
	require.NoError(f.t, err)
	step, err := f.cachedPlan(cache, 1)
	require.NoError(f.t, err)
	var out []int32
	for start, ids, p := 0, prompt, prefill; len(out) < n; p = step {
		logits := p.run(ids, start)
		next := argmax(logits, len(ids)-1)
		start += len(ids)
		ids = []int32{next}
		out = append(out, next)
	}
	require.NoError(f.t, prefill.plan.Close())
	require.NoError(f.t, step.plan.Close())
	return out
}

type cachedPlan struct {
	f      *fixture
	plan   *plan.Plan
	in     models.Inputs
	logits graph.Value
}

func (f *fixture) cachedPlan(cache *models.Cache, tokens int) (*cachedPlan, error) {
	g := graph.New("generate")
	t := tensor.T(tensor.I32, 1, tokens)
	in := models.Inputs{Tokens: g.Input("tokens", t), Pos: g.Input("pos", t), Start: g.Input("start", tensor.T(tensor.I32, 1)), Cache: cache}
	logits := f.model.Logits(f.model.Hidden(in))
	p, err := plan.Compile([]graph.Value{logits}, plan.Options{Device: f.dev, Session: f.session})
	return &cachedPlan{f, p, in, logits}, err
}

func (p *cachedPlan) run(ids []int32, start int) *tensor.Tensor {
	row := func() *tensor.Tensor { return tensor.New(tensor.T(tensor.I32, 1, len(ids))) }
	tokens, pos, from := row(), row(), tensor.New(tensor.T(tensor.I32, 1))
	copy(tensor.Data[int32](tokens), ids)
	for i := range ids {
		pos.Set(i, float64(start+i))
	}
	from.Set(0, float64(start))
	res, err := p.plan.Run(context.Background(), plan.Feed{p.in.Tokens: tokens, p.in.Pos: pos, p.in.Start: from})
	require.NoError(p.f.t, err)
	return res.Tensor(p.logits)
}

type curve struct {
	LR        float64   `json:"lr"`
	Losses    []float64 `json:"losses"`
	GradNorms []float64 `json:"grad_norms"`
	LossAfter float64   `json:"loss_after"`
}

// train repeats steps on one batch, clipped to norm 1 and updated by AdamW with decay 0.01, and compares every loss and norm with
// the reference. scale are factors of the learning rate of single variables.
func (f *fixture) train(b batch, want curve, scale map[*graph.Var]float64) {
	t := f.t
	vars := layers.Trainable(f.model)
	step, loss, norm, feed := f.step(b, vars, scale)
	worst := 0.0
	same := func(i int, expected, got float64) {
		require.InDelta(t, expected, got, 5e-5, "loss %d", i)
		worst = max(worst, math.Abs(expected-got))
	}
	feed[lrInput(loss.Graph())] = want.LR
	for i, expected := range want.Losses {
		res, err := step.Run(context.Background(), feed)
		require.NoError(t, err)
		same(i, expected, res.Float(loss))
		require.InEpsilon(t, want.GradNorms[i], res.Float(norm), 1e-4, "norm of the gradients in step %d", i)
	}
	require.NoError(t, step.Close())
	p := f.pass(b.tokens.Shape().Dim(0), b.tokens.Shape().Dim(1), false, false)
	after := ops.MeanLoss(p.tokenLoss(), p.targets)
	c, err := plan.Compile([]graph.Value{after}, plan.Options{Device: f.dev, Session: f.session})
	require.NoError(t, err)
	res, err := c.Run(context.Background(), p.feed(b))
	require.NoError(t, err)
	same(len(want.Losses), want.LossAfter, res.Float(after))
	require.NoError(t, c.Close())
	t.Logf("%d losses of %d variables within %.1e", len(want.Losses)+1, len(vars), worst)
}

// step compiles loss, gradients, clipping and update as one plan.
func (f *fixture) step(b batch, vars []*graph.Var, scale map[*graph.Var]float64) (c *plan.Plan, loss, norm graph.Value, feed plan.Feed) {
	t := f.t
	p := f.pass(b.tokens.Shape().Dim(0), b.tokens.Shape().Dim(1), false, false)
	loss = ops.MeanLoss(p.tokenLoss(), p.targets)
	grads, err := autograd.Grad(loss, vars...)
	require.NoError(t, err)
	square := ops.Scalar(loss, 0)
	for _, g := range grads {
		square = ops.Add(square, ops.Sum(ops.Square(g)))
	}
	norm = ops.Sqrt(square)
	clip := optim.ClipFactor(norm, 1)
	for i := range grads {
		grads[i] = ops.Mul(grads[i], clip)
	}
	lr := lrInput(loss.Graph())
	byFactor := map[float64][]int{}
	for i, v := range vars {
		factor, ok := scale[v]
		if !ok {
			factor = 1
		}
		byFactor[factor] = append(byFactor[factor], i)
	}
	for factor, list := range byFactor {
		opt, err := optim.New("adamw", optim.Config{WeightDecay: 0.01})
		require.NoError(t, err)
		var params []*graph.Var
		var gs []graph.Value
		for _, i := range list {
			params, gs = append(params, vars[i]), append(gs, grads[i])
		}
		opt.Update(loss.Graph(), params, gs, ops.Scale(lr, factor))
	}
	c, err = plan.Compile([]graph.Value{loss, norm}, plan.Options{Device: f.dev, Session: f.session})
	require.NoError(t, err)
	return c, loss, norm, p.feed(b)
}

func lrInput(g *graph.Graph) graph.Value { return g.Input("lr", tensor.T(tensor.F32)) }

func TestGoldenHFCurves(t *testing.T) {
	families(t, func(t *testing.T, dir string, g *checkpoint.File) {
		var want struct{ Curves map[string]curve }
		goldenJSON(t, dir, &want)
		b := newBatch(t, read(t, g, "input_ids"), read(t, g, "labels"), nil)
		f := openModel(t, dir, "config.json")
		layers.SetTrainable(f.model, true)
		f.train(b, want.Curves["full"], nil)
		for variant, c := range want.Curves {
			if variant == "full" {
				continue
			}
			t.Run(variant, func(t *testing.T) { adapterCurve(t, dir, variant, b, c) })
		}
	})
}

// adapterCurve trains one variant from its initial adapter and compares the trained one with the reference's.
func adapterCurve(t *testing.T, dir, variant string, b batch, want curve) {
	final := filepath.Join(dir, "adapter_"+variant+"_final")
	f := openModel(t, dir, "config.json")
	adapter := f.variant(variant, dir, final)
	require.NoError(t, adapter.Init(f.store))
	start := filepath.Join(dir, "adapter_"+variant+"_init")
	if !exists(start) {
		start = filepath.Join(dir, "adapter_lora_init")
	}
	for v, x := range adapterFile(t, start, adapter) {
		require.NoError(t, f.store.Set(v, x))
	}
	require.ElementsMatch(t, adapter.Vars(), layers.Trainable(f.model), "only the adapter is trained")
	var scale map[*graph.Var]float64
	if variant == "lora_plus" {
		scale = adapter.LRScale(4)
	}
	f.train(b, want, scale)
	if !exists(final) {
		return
	}
	square, n := 0.0, 0
	trained := adapterFile(t, final, adapter)
	require.Len(t, trained, len(adapter.Vars()))
	for v, x := range trained {
		got, err := f.store.Get(v)
		require.NoError(t, err)
		near(t, v.Name, got, x, 1e-3, nil)
		for i := range x.Type().Size() {
			square += (got.At(i) - x.At(i)) * (got.At(i) - x.At(i))
			n++
		}
	}
	rms := math.Sqrt(square / float64(n))
	require.LessOrEqual(t, rms, 2e-5, "root mean square difference of the trained adapter")
	t.Logf("trained adapter of %d values differs by %.1e (root mean square)", n, rms)
	f.merging(b, adapter)
}

// merging compares the losses beside and in the weights, and the weights before a merge and after it was taken back.
func (f *fixture) merging(b batch, adapter *lora.Adapter) {
	t := f.t
	t.Helper()
	logits := func() *tensor.Tensor {
		p := f.pass(b.tokens.Shape().Dim(0), b.tokens.Shape().Dim(1), false, false)
		return p.run(b, p.logits())[0]
	}
	apart := logits()
	if adapter.Config.BBias {
		require.ErrorContains(t, adapter.Merge(f.store), "lora_bias")
		near(t, "after a merge that is impossible", logits(), apart, 1e-5, nil)
		return
	}
	require.NoError(t, adapter.Merge(f.store))
	worst := near(t, "merged", logits(), apart, logitLimit, nil)
	require.NoError(t, adapter.Unmerge(f.store))
	back := near(t, "unmerged", logits(), apart, logitLimit, nil)
	t.Logf("merged logits differ by %.1e, unmerged ones by %.1e", worst, back)
}

// plainVariants are variants that begin at the plain adapter: what a user would ask for to get them.
var plainVariants = map[string]func(c *lora.Config){
	"lora":                 func(*lora.Config) {},
	"lora_plus":            func(*lora.Config) {},
	"rslora":               func(c *lora.Config) { c.RSLoRA = true },
	"dora":                 func(c *lora.Config) { c.DoRA = true },
	"lora_modules_to_save": func(c *lora.Config) { c.ModulesToSave = []string{"lm_head"} },
}

// variant attaches the adapter of a curve: those that the reference data describes as a user would, others as their file says.
func (f *fixture) variant(variant, dir, final string) *lora.Adapter {
	f.t.Helper()
	if change, ok := plainVariants[variant]; ok {
		saved, err := lora.Load(vfs.OS{}, filepath.Join(dir, "adapter_lora_init"))
		require.NoError(f.t, err)
		c := lora.Config{Rank: 4, Alpha: 8, Targets: saved.Config.Targets}
		change(&c)
		adapter, err := lora.Attach(f.model, c)
		require.NoError(f.t, err)
		return adapter
	}
	if !exists(final) {
		f.t.Skipf("no file says how %s differs", variant)
	}
	saved, err := lora.Load(vfs.OS{}, final)
	require.NoError(f.t, err)
	adapter, err := lora.AttachSaved(f.model, saved, nil)
	require.NoError(f.t, err)
	return adapter
}

func exists(path string) bool {
	_, err := (vfs.OS{}).Stat(path)
	return err == nil
}

// adapterFile reads the weights of an adapter folder for the variables of an adapter that the file has. The file may also hold the base weight
// of an embedding; everything else must be a variable.
func adapterFile(t *testing.T, dir string, a *lora.Adapter) map[*graph.Var]*tensor.Tensor {
	t.Helper()
	f, err := checkpoint.OpenSafetensors(vfs.OS{}, filepath.Join(dir, "adapter_model.safetensors"))
	require.NoError(t, err)
	out := map[*graph.Var]*tensor.Tensor{}
	known := map[string]bool{}
	for _, n := range a.Named() {
		known[n.Name] = true
		if _, ok := f.Type(n.Name); ok {
			out[n.Var] = read(t, f, n.Name)
		}
	}
	for _, name := range f.Names() {
		require.True(t, known[name] || strings.HasSuffix(name, ".base_layer.weight"), name)
	}
	require.NoError(t, f.Close())
	return out
}
