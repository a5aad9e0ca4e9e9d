package trainer_test

import (
	"context"
	"encoding/json"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer"
)

// Limits of the golden data's README: losses; gradients, absolute; sums of token losses; norms of gradients, relative.
const (
	lossLimit, gradLimit, logpLimit, normLimit = 1e-5, 2e-5, 1e-4, 1e-4
)

// TestGoldenHFPreference compares every preference loss, its parts and its gradients with those of TRL's formulas in PyTorch.
func TestGoldenHFPreference(t *testing.T) {
	ran := 0
	err := filepath.WalkDir(filepath.Join(golden.Dir(t), "hf"), func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasPrefix(filepath.Base(path), "preference") || filepath.Ext(path) != ".json" {
			return err
		}
		raw, err := os.ReadFile(path)
		require.NoError(t, err)
		var all map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(raw, &all))
		var model, policy string
		require.NoError(t, json.Unmarshal(all["model"], &model))
		require.NoError(t, json.Unmarshal(all["policy"], &policy))
		for name, text := range all {
			var want preferenceGolden
			if json.Unmarshal(text, &want) != nil || want.Hyper == nil {
				continue
			}
			t.Run(filepath.Base(path)+"/"+name, func(t *testing.T) {
				file, err := checkpoint.OpenSafetensors(vfs.OS{}, strings.TrimSuffix(path, ".json")+".safetensors")
				require.NoError(t, err)
				c := openPreference(t, filepath.Dir(path), model, policy, file)
				c.check(t, name, want)
				require.NoError(t, file.Close())
			})
			ran++
		}
		return nil
	})
	require.NoError(t, err)
	t.Logf("%d preference losses ran", ran)
}

// preferenceGolden is what the golden file says of one loss.
type preferenceGolden struct {
	Hyper    map[string]float64
	Loss     float64
	Losses   []float64
	Chosen   []float64 `json:"chosen_rewards"`
	Rejected []float64 `json:"rejected_rewards"`
	Norm     float64   `json:"adapter_grad_norm"`

	NLLCompletion  *float64 `json:"nll_completion"`
	NLLAll         *float64 `json:"nll_prompt_and_completion"`
	WithCompletion *float64 `json:"loss_with_nll_completion"`
	KL             *float64 `json:"kl_unclamped"`
}

// preferenceCase is a model with its adapter and one graph over the golden rows.
type preferenceCase struct {
	file    *checkpoint.File
	model   *trainer.Model
	adapter *lora.Adapter
	session *plan.Session
	g       *graph.Graph
	feed    plan.Feed
	losses  map[string]graph.Value // token losses by rows
	named   map[string]graph.Value // log-probabilities by the names of the file
}

func openPreference(t *testing.T, dir, model, policy string, file *checkpoint.File) *preferenceCase {
	m, err := trainer.OpenModel(filepath.Join(dir, model), trainer.ModelOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	saved, err := lora.Load(vfs.OS{}, filepath.Join(dir, policy))
	require.NoError(t, err)
	c := &preferenceCase{file: file, model: m, g: graph.New("preference"), feed: plan.Feed{}, losses: map[string]graph.Value{},
		named: map[string]graph.Value{}}
	c.adapter, err = lora.AttachSaved(m.Model, saved, nil)
	require.NoError(t, err)
	c.session = plan.NewSession(plan.NewStore(threads(t, 1)))
	t.Cleanup(func() { require.NoError(t, c.session.Close()) })
	require.NoError(t, m.Source.Load(c.session.Store()))
	require.NoError(t, c.adapter.Init(c.session.Store()))
	return c
}

// logps builds the log-probabilities of rows, of the policy or the reference.
func (c *preferenceCase) logps(t *testing.T, who, rows string) graph.Value {
	c.adapter.SetActive(who != "reference")
	defer c.adapter.SetActive(true)
	lp := layers.SequenceLogps(c.tokenLoss(t, who, rows, false))
	c.named[who+"_"+rows+"_logps"] = lp
	return lp
}

// tokenLoss builds the losses of the tokens that are labelled, or of all real ones.
func (c *preferenceCase) tokenLoss(t *testing.T, who, rows string, all bool) graph.Value {
	ids, labels, mask := c.read(t, rows+"_input_ids"), c.read(t, rows+"_labels"), c.read(t, rows+"_attention_mask")
	n, length := ids.Shape().Dim(0), ids.Shape().Dim(1)
	typ := tensor.T(tensor.I32, n, length)
	name := who + rows
	if all {
		name += "all"
	}
	tokens, pos, targets := tensor.New(typ), tensor.New(typ), tensor.New(typ)
	for i := range n * length {
		tokens.Set(i, ids.At(i))
		pos.Set(i, float64(i%length))
		next := -100.0
		if (i+1)%length != 0 && mask.At(i+1) != 0 {
			if next = labels.At(i + 1); all {
				next = ids.At(i + 1)
			}
		}
		targets.Set(i, next)
	}
	in := models.Inputs{Tokens: c.g.Input(name+"tokens", typ), Pos: c.g.Input(name+"pos", typ)}
	want := c.g.Input(name+"targets", typ)
	c.feed[in.Tokens], c.feed[in.Pos], c.feed[want] = tokens, pos, targets
	return c.model.TokenLoss(c.model.Hidden(in), want)
}

func (c *preferenceCase) read(t *testing.T, name string) *tensor.Tensor {
	x, err := c.file.Read(name)
	require.NoError(t, err)
	return x
}

// counts feeds the number of labelled tokens of rows.
func (c *preferenceCase) counts(t *testing.T, rows string) graph.Value {
	labels := c.read(t, rows+"_labels")
	n, length := labels.Shape().Dim(0), labels.Shape().Dim(1)
	v, out := c.g.Input(rows+"counts", tensor.T(tensor.F32, n)), tensor.New(tensor.T(tensor.F32, n))
	for i := range n * length {
		if labels.At(i) >= 0 {
			out.Set(i/length, out.At(i/length)+1)
		}
	}
	c.feed[v] = out
	return v
}

func (c *preferenceCase) check(t *testing.T, name string, want preferenceGolden) {
	h := want.Hyper
	p := layers.PairLogps{Chosen: c.logps(t, "policy", "chosen"), Rejected: c.logps(t, "policy", "rejected")}
	scalars := map[string]graph.Value{}
	expected := map[string]float64{"loss": want.Loss}
	var pair layers.PairLoss
	kind, _, _ := strings.Cut(name, "_")
	switch kind {
	case "dpo":
		p.RefChosen, p.RefRejected = c.logps(t, "reference", "chosen"), c.logps(t, "reference", "rejected")
		pair = layers.DPO{Beta: h["beta"], Smoothing: h["smooth"]}.Loss(p)
		scalars["loss"] = ops.Mean(pair.Loss)
	case "simpo":
		pair = layers.SimPO{Beta: h["beta"], Gamma: h["gamma"]}.Loss(p, c.counts(t, "chosen"), c.counts(t, "rejected"))
		scalars["loss"] = ops.Mean(pair.Loss)
	case "orpo":
		chosen := c.counts(t, "chosen")
		pair = layers.ORPO{Beta: h["beta"]}.Loss(p, chosen, c.counts(t, "rejected"))
		nll := c.meanOfAll(t, c.tokenLoss(t, "policy", "chosen", true), "chosen")
		answers := ops.Div(ops.Neg(ops.Sum(p.Chosen)), ops.Sum(chosen))
		scalars["loss"] = ops.Add(nll, ops.Mean(pair.Loss))
		scalars["all"], scalars["answers"] = nll, answers
		scalars["with answers"] = ops.Add(answers, ops.Mean(pair.Loss))
		expected["all"], expected["answers"], expected["with answers"] = *want.NLLAll, *want.NLLCompletion, *want.WithCompletion
	case "kto":
		p.RefChosen, p.RefRejected = c.logps(t, "reference", "chosen"), c.logps(t, "reference", "rejected")
		kl := ops.Mean(ops.Sub(c.logps(t, "policy", "kl"), c.logps(t, "reference", "kl")))
		z := autograd.StopGrad(ops.Max(kl, ops.Scalar(kl, 0)))
		pair = layers.KTO{Beta: h["beta"]}.Loss(p, z)
		scalars["loss"] = ops.Scale(ops.Mean(pair.Loss), 0.5)
		scalars["kl"], expected["kl"] = kl, *want.KL
	default:
		t.Fatalf("the golden file has a loss %q that this program does not know", name)
	}
	c.compare(t, kind, want, pair, scalars, expected)
}

// meanOfAll is the mean of token losses over all that real tokens predict.
func (c *preferenceCase) meanOfAll(t *testing.T, loss graph.Value, rows string) graph.Value {
	mask := c.read(t, rows+"_attention_mask")
	n := -mask.Shape().Dim(0)
	for i := range mask.Type().Size() {
		n += int(mask.At(i))
	}
	return ops.Scale(ops.Sum(loss), 1/float64(n))
}

func (c *preferenceCase) compare(t *testing.T, kind string, want preferenceGolden, pair layers.PairLoss, scalars map[string]graph.Value, expected map[string]float64) {
	vars := layers.Trainable(c.model.Model)
	grads, err := autograd.Grad(scalars["loss"], vars...)
	require.NoError(t, err)
	outs := append([]graph.Value{pair.Loss, pair.Chosen, pair.Rejected}, grads...)
	for _, set := range []map[string]graph.Value{scalars, c.named} {
		for _, v := range set {
			outs = append(outs, v)
		}
	}
	step, err := plan.Compile(outs, plan.Options{Device: c.session.Store().Device(), Session: c.session})
	require.NoError(t, err)
	res, err := step.Run(context.Background(), c.feed)
	require.NoError(t, err)
	for name, v := range scalars {
		limit := lossLimit
		if name == "kl" {
			limit = logpLimit
		}
		require.InDelta(t, expected[name], res.Float(v), limit, name)
	}
	for name, v := range c.named {
		if x, err := c.file.Read(name); err == nil {
			each(t, x, res.Tensor(v), logpLimit, name)
		}
	}
	switch n := len(want.Losses) / 2; kind {
	case "dpo", "simpo":
		list(t, want.Losses, res.Tensor(pair.Loss), lossLimit)
	case "kto":
		for i := range n { // desired answers, then undesired ones
			require.InDelta(t, want.Losses[i]+want.Losses[n+i], res.Tensor(pair.Loss).At(i), 2*lossLimit)
		}
	}
	if want.Chosen != nil {
		list(t, want.Chosen, res.Tensor(pair.Chosen), lossLimit)
		list(t, want.Rejected, res.Tensor(pair.Rejected), lossLimit)
	}
	var square float64
	for i, v := range vars {
		got := res.Tensor(grads[i])
		for k := range got.Type().Size() {
			square += got.At(k) * got.At(k)
		}
		if x, err := c.file.Read("grad." + t.Name()[strings.LastIndex(t.Name(), "/")+1:] + ".base_model.model." + v.Name); err == nil {
			each(t, x, got, gradLimit, v.Name)
		}
	}
	require.InEpsilon(t, want.Norm, math.Sqrt(square), normLimit)
	require.NoError(t, step.Close())
}

func each(t *testing.T, want, got *tensor.Tensor, limit float64, name string) {
	t.Helper()
	require.Equal(t, want.Shape(), got.Shape(), name)
	for i := range want.Type().Size() {
		require.InDelta(t, want.At(i), got.At(i), limit, "%s, element %d", name, i)
	}
}

func list(t *testing.T, want []float64, got *tensor.Tensor, limit float64) {
	t.Helper()
	require.Len(t, want, got.Type().Size())
	for i, w := range want {
		require.InDelta(t, w, got.At(i), limit, "element %d", i)
	}
}
