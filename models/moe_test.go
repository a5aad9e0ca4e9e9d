package models_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// ownSparse is a tiny Qwen3-MoE with results of transformers; the script beside it made it.
const ownSparse = "testdata/qwen3_moe"

func openGolden(t *testing.T, dir string) *checkpoint.File {
	t.Helper()
	g, err := checkpoint.OpenSafetensors(vfs.OS{}, filepath.Join(dir, "golden.safetensors"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, g.Close()) })
	return g
}

// TestQwen3MoE compares everything that the reference of transformers has.
func TestQwen3MoE(t *testing.T) {
	g := openGolden(t, ownSparse)
	f := openModel(t, ownSparse, "config.json")
	require.Equal(t, models.Mixture{Experts: 5, PerToken: 2, Hidden: 12, Every: 1, Dense: []int{1}, BalanceCoef: 0.001}, f.cfg.Mixture)
	mask := read(t, g, "attention_mask")
	b := newBatch(t, read(t, g, "input_ids"), read(t, g, "labels"), nil)
	layers.SetTrainable(f.model, true)
	p := f.pass(mask.Shape().Dim(0), mask.Shape().Dim(1), false, false)
	near(t, "logits", p.run(b, p.logits())[0], read(t, g, "logits"), logitLimit, realTokens(mask, f.cfg.Vocab))
	for _, recompute := range []bool{false, true} {
		p = f.pass(mask.Shape().Dim(0), mask.Shape().Dim(1), false, recompute)
		loss, grads := p.grads(b, layers.Trainable(f.model))
		require.InDelta(t, read(t, g, "loss").At(0), loss, lossLimit)
		n, worst := checkGrads(t, g, "grad.", grads)
		require.Equal(t, len(grads), n)
		t.Logf("%d gradients within %.1e", n, worst)
	}
	checkRoutes(t, ownSparse, g, f)
	var want struct {
		Greedy struct{ Prompt, Tokens []int32 }
	}
	goldenJSON(t, ownSparse, &want)
	require.Equal(t, want.Greedy.Tokens, f.greedyWhole(want.Greedy.Prompt, len(want.Greedy.Tokens)))
	require.Equal(t, want.Greedy.Tokens, f.greedyCached(want.Greedy.Prompt, len(want.Greedy.Tokens)))
}

// TestGoldenHFRouters compares scores and the load-balancing loss of every family that has routers.
func TestGoldenHFRouters(t *testing.T) {
	families(t, func(t *testing.T, dir string, g *checkpoint.File) {
		if _, ok := g.Type("router_logits"); !ok {
			t.Skip("no router")
		}
		checkRoutes(t, dir, g, openModel(t, dir, "config.json"))
	})
}

// checkRoutes compares router logits, the balance loss over the real tokens and its gradients where the file has them.
func checkRoutes(t *testing.T, dir string, g *checkpoint.File, f *fixture) {
	t.Helper()
	var want struct {
		AuxLoss float64 `json:"aux_loss"`
	}
	goldenJSON(t, dir, &want)
	mask, ref := read(t, g, "attention_mask"), read(t, g, "router_logits")
	b := newBatch(t, read(t, g, "input_ids"), nil, nil)
	for _, recompute := range []bool{false, true} {
		routes := &layers.Routes{}
		p := f.passOf(mask.Shape().Dim(0), mask.Shape().Dim(1), false, models.Inputs{Routes: routes, Checkpoint: models.AllBlocks(recompute)})
		m, err := mask.Convert(tensor.I32)
		require.NoError(t, err)
		real := p.g.Const(m)
		loss := layers.BalanceLoss(routes, ops.NotEqual(real, ops.Scalar(real, 0)))
		vals := []graph.Value{ops.Concat(0, routes.Logits...), loss}
		var names []string
		for _, param := range layers.Params(f.model) {
			if _, ok := g.Type("aux_grad." + param.Name); ok {
				grads, err := autograd.Grad(loss, param.Var)
				require.NoError(t, err)
				names, vals = append(names, param.Name), append(vals, grads...)
			}
		}
		out := p.run(b, vals...)
		experts, tokens := f.cfg.Mixture.Experts, mask.Type().Size()
		near(t, "router_logits", out[0], ref, logitLimit, func(i int) bool { return mask.At(i/experts%tokens) != 0 })
		require.InDelta(t, want.AuxLoss, out[1].At(0), lossLimit)
		for i, name := range names {
			near(t, name, out[2+i], read(t, g, "aux_grad."+name), gradLimit, nil)
		}
	}
}

// TestBalanceLossAllTokens is the loss without a mask, by hand.
func TestBalanceLossAllTokens(t *testing.T) {
	g := graph.New("test")
	require.True(t, layers.BalanceLoss(&layers.Routes{}, graph.Value{}).Absent(), "no router, no loss")
	x, err := tensor.Of([]float32{3, 1, 0, 1, 3, 0}, 2, 3)
	require.NoError(t, err)
	at, err := tensor.Of([]int32{0, 1}, 2, 1)
	require.NoError(t, err)
	loss := layers.BalanceLoss(&layers.Routes{Logits: []graph.Value{g.Const(x)}, Experts: []graph.Value{g.Const(at)}}, graph.Value{})
	c, err := plan.Compile([]graph.Value{loss}, plan.Options{Device: cpu.New(cpu.Options{})})
	require.NoError(t, err)
	res, err := c.Run(t.Context(), nil)
	require.NoError(t, err)
	got := res.Float(loss)
	require.NoError(t, c.Close())
	require.InDelta(t, 3*0.5*(0.8437947+0.1141952), got, 1e-5) // E · sum over e of f·P, f = (1/2, 1/2, 0)
}

// fused rewrites the weights of a folder as transformers 5 holds them: one tensor for all experts.
func fused(t *testing.T, dir string, m *models.Model) string {
	t.Helper()
	w, err := checkpoint.OpenDir(vfs.OS{}, dir)
	require.NoError(t, err)
	var out []checkpoint.Named
	for _, p := range layers.Params(m) {
		whole := tensor.New(p.Type)
		for _, piece := range m.Pieces(p) {
			x, err := w.Read(piece.Name)
			require.NoError(t, err)
			copy(whole.Bytes()[piece.First*4:], x.Bytes())
		}
		out = append(out, checkpoint.Named{Name: p.Name, Tensor: whole})
	}
	require.NoError(t, w.Close())
	to := t.TempDir()
	raw, err := os.ReadFile(filepath.Join(dir, "config.json"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(to, "config.json"), raw, 0o600))
	require.NoError(t, checkpoint.WriteSafetensors(vfs.OS{}, filepath.Join(to, "model.safetensors"), out, nil))
	return to
}

// sparseFolders calls f for our own model and those of the reference data that have routers.
func sparseFolders(t *testing.T, f func(t *testing.T, dir string)) {
	t.Run("own", func(t *testing.T) { f(t, ownSparse) })
	families(t, func(t *testing.T, dir string, g *checkpoint.File) {
		if _, ok := g.Type("router_logits"); !ok {
			t.Skip("no router")
		}
		f(t, dir)
	})
}

// TestGoldenHFFusedExperts loads both layouts, as they are and quantized on the way: the same bits.
func TestGoldenHFFusedExperts(t *testing.T) {
	sparseFolders(t, func(t *testing.T, dir string) {
		base := openModel(t, dir, "config.json")
		other := fused(t, dir, base.model)
		ids, err := tensor.Of([]int32{1, 5, 9, 4, 4, 7}, 1, 6)
		require.NoError(t, err)
		logits := func(dir string, o layers.Options) []byte {
			w, err := checkpoint.OpenDir(vfs.OS{}, dir)
			require.NoError(t, err)
			f := load(t, dir, base.cfg, w, o)
			p := f.pass(1, 6, false, false)
			out := p.run(newBatch(t, ids, nil, nil), p.logits())[0]
			require.NoError(t, w.Close())
			return out.Bytes()
		}
		plain := logits(dir, layers.Options{})
		require.Equal(t, plain, logits(other, layers.Options{}))
		for _, c := range []quant.Config{{Scheme: quant.NF4, Blocksize: 32}, {Scheme: quant.NF4, Double: true}, {Scheme: quant.FP4}, {Scheme: quant.Int8}} {
			o := layers.Options{Quantize: func(string) (quant.Config, bool) { return c, true }}
			got := logits(dir, o)
			require.NotEqual(t, plain, got, "%v", c)
			require.Equal(t, got, logits(other, o), "%v", c)
		}
	})
}

// TestGoldenHFQuantizedExperts compares weights that were quantized expert by expert with those quantized whole, and the model with one
// of the dequantized weights.
func TestGoldenHFQuantizedExperts(t *testing.T) {
	sparseFolders(t, func(t *testing.T, dir string) {
		full := openModel(t, dir, "config.json")
		for _, c := range []quant.Config{{Scheme: quant.NF4}, {Scheme: quant.NF4, Double: true, Blocksize: 32}, {Scheme: quant.Int8}} {
			w, err := checkpoint.OpenDir(vfs.OS{}, dir)
			require.NoError(t, err)
			only := func(name string) (quant.Config, bool) { return c, strings.Contains(name, ".experts.") }
			f := load(t, dir, full.cfg, w, layers.Options{Quantize: only})
			require.NoError(t, w.Close())
			n := 0
			byName := map[string]*graph.Var{}
			for _, p := range layers.Params(full.model) {
				byName[p.Name] = p.Var
			}
			for _, p := range layers.Params(f.model) {
				if p.Quantized == nil {
					continue
				}
				n++
				x, err := full.store.Get(byName[p.Name])
				require.NoError(t, err)
				want := x
				if c.Scheme == quant.Int8 {
					want, err = x.Convert(tensor.F16)
					require.NoError(t, err)
				}
				st, err := quant.QuantizeTensor(want, p.Quantized.Config(), quant.Options{})
				require.NoError(t, err)
				got, err := p.Quantized.State(f.store)
				require.NoError(t, err)
				require.Equal(t, st.Codes, got.Codes, "%v %s", c, p.Name)
				require.Equal(t, st.Absmax, got.Absmax)
				require.Equal(t, st.AbsmaxU8, got.AbsmaxU8)
				require.Equal(t, st.NestedAbsmax, got.NestedAbsmax)
				plain, err := got.Dequantize(tensor.F32)
				require.NoError(t, err)
				require.NoError(t, full.store.Set(byName[p.Name], plain))
			}
			require.Equal(t, 2*len(full.model.Body.Stack())-2*len(full.cfg.Mixture.Dense), n)
			ids, err := tensor.Of([]int32{1, 5, 9, 4, 4, 7}, 1, 6)
			require.NoError(t, err)
			b := newBatch(t, ids, nil, nil)
			p, q := full.pass(1, 6, false, false), f.pass(1, 6, false, false)
			near(t, "logits of quantized experts", q.run(b, q.logits())[0], p.run(b, p.logits())[0], logitLimit, nil)
			full = openModel(t, dir, "config.json")
		}
	})
}

func TestMixtureRefusals(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(ownSparse, "config.json"))
	require.NoError(t, err)
	for _, c := range []struct{ old, new, want string }{
		{`"num_experts_per_tok": 2`, `"num_experts_per_tok": 6`, "num_experts_per_tok is 6"},
		{`"num_experts_per_tok": 2`, `"num_experts_per_tok": 0`, "num_experts_per_tok is 0"},
		{`"num_local_experts": 5`, `"num_local_experts": 1000000`, "1000000 experts"},
		{`"moe_intermediate_size": 12`, `"moe_intermediate_size": -1`, "hidden size of an expert is -1"},
		{`"decoder_sparse_step": 1`, `"decoder_sparse_step": 0`, "decoder_sparse_step is 0"},
		{"    1\n", "    3\n", "mlp_only_layers names layer 3"},
	} {
		require.Contains(t, string(raw), c.old)
		_, err := models.ParseConfig([]byte(strings.Replace(string(raw), c.old, c.new, 1)))
		require.ErrorContains(t, err, c.want)
	}
}

func TestSparseSteps(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(ownSparse, "config.json"))
	require.NoError(t, err)
	c, err := models.ParseConfig([]byte(strings.Replace(string(raw), `"decoder_sparse_step": 1`, `"decoder_sparse_step": 2`, 1)))
	require.NoError(t, err)
	f := load(t, "", c, nil, layers.Options{Seed: 3})
	for _, p := range layers.Params(f.model) {
		require.NotContains(t, p.Name, ".mlp.experts.", "layers 0 and 2 are no second ones, layer 1 is of mlp_only_layers")
	}
}
