package models_test

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
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

// adamW is the optimizer of the reference curves, on the host: PyTorch's defaults, weight decay 0.01, the global norm of the
// gradients clipped to 1.
type adamW struct {
	lr   float64
	step int
	m, v map[*graph.Var][]float64
}

// update clips, steps, and returns the norm before clipping.
func (o *adamW) update(vars []*graph.Var, values, grads []*tensor.Tensor) float64 {
	square := 0.0
	for _, g := range grads {
		for i := range g.Type().Size() {
			square += g.At(i) * g.At(i)
		}
	}
	norm := math.Sqrt(square)
	clip := min(1, 1/(norm+1e-6))
	o.step++
	c1, c2 := 1-math.Pow(0.9, float64(o.step)), 1-math.Pow(0.999, float64(o.step))
	for k, w := range vars {
		if o.m[w] == nil {
			o.m[w], o.v[w] = make([]float64, w.Type.Size()), make([]float64, w.Type.Size())
		}
		m, v := o.m[w], o.v[w]
		for i := range m {
			g := grads[k].At(i) * clip
			m[i] = 0.9*m[i] + 0.1*g
			v[i] = 0.999*v[i] + 0.001*g*g
			values[k].Set(i, values[k].At(i)*(1-o.lr*0.01)-o.lr*(m[i]/c1)/(math.Sqrt(v[i]/c2)+1e-8))
		}
	}
	return norm
}

type curve struct {
	LR        float64   `json:"lr"`
	Losses    []float64 `json:"losses"`
	GradNorms []float64 `json:"grad_norms"`
	LossAfter float64   `json:"loss_after"`
}

// train repeats steps on one batch and compares every loss and norm with the reference.
func (f *fixture) train(b batch, want curve) {
	t := f.t
	vars := layers.Trainable(f.model)
	p := f.pass(b.tokens.Shape().Dim(0), b.tokens.Shape().Dim(1), false, false)
	loss := ops.MeanLoss(p.tokenLoss(), p.targets)
	gs, err := autograd.Grad(loss, vars...)
	require.NoError(t, err)
	c, err := plan.Compile(append([]graph.Value{loss}, gs...), plan.Options{Device: f.dev, Session: f.session})
	require.NoError(t, err)
	opt := &adamW{lr: want.LR, m: map[*graph.Var][]float64{}, v: map[*graph.Var][]float64{}}
	worst := 0.0
	for i := 0; i <= len(want.Losses); i++ {
		res, err := c.Run(context.Background(), p.feed(b))
		require.NoError(t, err)
		expected := append(want.Losses[:len(want.Losses):len(want.Losses)], want.LossAfter)[i]
		require.InDelta(t, expected, res.Float(loss), 5e-5, "loss %d", i)
		worst = max(worst, math.Abs(expected-res.Float(loss)))
		if i == len(want.Losses) {
			break
		}
		var values, grads []*tensor.Tensor
		for k, v := range vars {
			x, err := f.store.Get(v)
			require.NoError(t, err)
			values, grads = append(values, x), append(grads, res.Tensor(gs[k]))
		}
		norm := opt.update(vars, values, grads)
		require.InEpsilon(t, want.GradNorms[i], norm, 1e-4, "norm of the gradients in step %d", i)
		for k, v := range vars {
			require.NoError(t, f.store.Set(v, values[k]))
		}
	}
	require.NoError(t, c.Close())
	t.Logf("%d losses of %d variables within %.1e", len(want.Losses)+1, len(vars), worst)
}

func TestGoldenHFCurves(t *testing.T) {
	families(t, func(t *testing.T, dir string, g *checkpoint.File) {
		var want struct{ Curves map[string]curve }
		goldenJSON(t, dir, &want)
		b := newBatch(t, read(t, g, "input_ids"), read(t, g, "labels"), nil)
		f := openModel(t, dir, "config.json")
		layers.SetTrainable(f.model, true)
		f.train(b, want.Curves["full"])
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
	start := filepath.Join(dir, "adapter_"+variant+"_init")
	if !exists(start) {
		start = filepath.Join(dir, "adapter_lora_init")
	}
	for v, x := range adapterFile(t, start, adapter) {
		require.NoError(t, f.store.Set(v, x))
	}
	require.Equal(t, 2*len(adapter.Modules), len(layers.Trainable(f.model)), "only the adapter is trained")
	f.train(b, want)
	if !exists(final) {
		return
	}
	square, n := 0.0, 0
	for v, x := range adapterFile(t, final, adapter) {
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
}

// variant attaches the adapter of a curve: plain and rank-stabilised ones as a user would, others as their file says.
func (f *fixture) variant(variant, dir, final string) *lora.Adapter {
	f.t.Helper()
	if variant == "lora" || variant == "rslora" {
		plain, err := lora.Load(vfs.OS{}, filepath.Join(dir, "adapter_lora_init"))
		require.NoError(f.t, err)
		c := lora.Config{Rank: 4, Alpha: 8, RSLoRA: variant == "rslora", Targets: plain.Config.Targets}
		adapter, err := lora.Attach(f.model, c)
		require.NoError(f.t, err)
		return adapter
	}
	if variant == "lora_plus" || !exists(final) {
		f.t.Skipf("no file says how %s differs: it is a matter of the optimizer, or of another family", variant)
	}
	saved, err := lora.Load(vfs.OS{}, final)
	if err != nil {
		f.t.Skipf("refused: %v", err)
	}
	adapter, err := lora.AttachSaved(f.model, saved, nil)
	require.NoError(f.t, err)
	return adapter
}

func exists(path string) bool {
	_, err := (vfs.OS{}).Stat(path)
	return err == nil
}

// adapterFile reads the weights of an adapter folder for the variables of an adapter.
func adapterFile(t *testing.T, dir string, a *lora.Adapter) map[*graph.Var]*tensor.Tensor {
	t.Helper()
	f, err := checkpoint.OpenSafetensors(vfs.OS{}, filepath.Join(dir, "adapter_model.safetensors"))
	require.NoError(t, err)
	out := map[*graph.Var]*tensor.Tensor{}
	for _, v := range a.Vars() {
		out[v] = read(t, f, fmt.Sprintf("base_model.model.%s", v.Name))
	}
	require.Equal(t, len(f.Names()), len(out))
	require.NoError(t, f.Close())
	return out
}
