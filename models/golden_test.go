package models_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Limits for float32 arithmetic that the reference data's description asks for.
const (
	logitLimit = 1e-4
	lossLimit  = 1e-5
	gradLimit  = 2e-5
)

// realTokens keeps the elements of (rows, tokens, per) that stand at a token which is not padding.
func realTokens(mask *tensor.Tensor, per int) func(i int) bool {
	return func(i int) bool { return mask.At(i/per) != 0 }
}

func TestGoldenHFLogits(t *testing.T) {
	families(t, func(t *testing.T, dir string, g *checkpoint.File) {
		mask, want := read(t, g, "attention_mask"), read(t, g, "logits")
		b := newBatch(t, read(t, g, "input_ids"), read(t, g, "labels"), nil)
		for _, config := range []string{"config.json", "config_v4.json"} {
			f := openModel(t, dir, config)
			p := f.pass(mask.Shape().Dim(0), mask.Shape().Dim(1), false, false)
			got := p.run(b, p.logits())
			worst := near(t, "logits", got[0], want, logitLimit, realTokens(mask, f.cfg.Vocab))
			t.Logf("%s: logits within %.1e", config, worst)
		}
	})
}

// The loss is taken in both ways, from logits and without ever holding them.
func TestGoldenHFLoss(t *testing.T) {
	families(t, func(t *testing.T, dir string, g *checkpoint.File) {
		f := openModel(t, dir, "config.json")
		for _, prefix := range []string{"", "packed_"} {
			ids := read(t, g, prefix+"input_ids")
			var positions *tensor.Tensor
			if prefix != "" {
				positions = read(t, g, "packed_position_ids")
			}
			b := newBatch(t, ids, read(t, g, prefix+"labels"), positions)
			p := f.pass(ids.Shape().Dim(0), ids.Shape().Dim(1), prefix != "", false)
			fused, plain := p.tokenLoss(), ops.TokenLoss(p.logits(), p.targets)
			out := p.run(b, fused, plain, ops.MeanLoss(fused, p.targets), p.logits())
			n := ids.Shape().Dim(1)
			want := read(t, g, prefix+"per_token_loss")
			for _, got := range out[:2] {
				for r := range ids.Shape().Dim(0) {
					for c := range n - 1 {
						require.InDelta(t, want.At(r*(n-1)+c), got.At(r*n+c), logitLimit, "%sper_token_loss[%d,%d]", prefix, r, c)
					}
				}
			}
			near(t, prefix+"loss", out[2], read(t, g, prefix+"loss"), lossLimit, nil)
			if prefix != "" {
				t.Logf("packed logits within %.1e", near(t, "packed_logits", out[3], read(t, g, "packed_logits"), logitLimit, nil))
			}
		}
	})
}

func TestGoldenHFGradients(t *testing.T) {
	families(t, func(t *testing.T, dir string, g *checkpoint.File) {
		for _, recompute := range []bool{false, true} {
			f := openModel(t, dir, "config.json")
			layers.SetTrainable(f.model, true)
			vars := layers.Trainable(f.model)
			ids := read(t, g, "input_ids")
			p := f.pass(ids.Shape().Dim(0), ids.Shape().Dim(1), false, recompute)
			_, grads := p.grads(newBatch(t, ids, read(t, g, "labels"), nil), vars)
			n, worst := checkGrads(t, g, "grad.", grads)
			require.Equal(t, len(grads), n, "every parameter has a reference gradient")
			ids = read(t, g, "packed_input_ids")
			p = f.pass(ids.Shape().Dim(0), ids.Shape().Dim(1), true, recompute)
			_, grads = p.grads(newBatch(t, ids, read(t, g, "packed_labels"), read(t, g, "packed_position_ids")), vars)
			packed, packedWorst := checkGrads(t, g, "packed_grad.", grads)
			t.Logf("recompute %v: %d gradients within %.1e, %d packed ones within %.1e", recompute, n, worst, packed, packedWorst)
		}
	})
}

func checkGrads(t *testing.T, g *checkpoint.File, prefix string, grads map[string]*tensor.Tensor) (n int, worst float64) {
	t.Helper()
	for _, key := range g.Names() {
		name, ok := strings.CutPrefix(key, prefix)
		if !ok {
			continue
		}
		require.Contains(t, grads, name)
		worst = max(worst, near(t, key, grads[name], read(t, g, key), gradLimit, nil))
		n++
	}
	return n, worst
}

func TestGoldenHFMerge(t *testing.T) {
	families(t, func(t *testing.T, dir string, g *checkpoint.File) {
		f := openModel(t, dir, "config.json")
		saved, err := lora.Load(vfs.OS{}, filepath.Join(dir, "adapter_lora_final"))
		require.NoError(t, err)
		mask := read(t, g, "attention_mask")
		b := newBatch(t, read(t, g, "input_ids"), nil, nil)
		logits := func() *tensor.Tensor {
			p := f.pass(mask.Shape().Dim(0), mask.Shape().Dim(1), false, false)
			return p.run(b, p.logits())[0]
		}
		adapter, err := lora.AttachSaved(f.model, saved, f.store)
		require.NoError(t, err)
		keep := realTokens(mask, f.cfg.Vocab)
		want := read(t, g, "merged_lora_logits")
		apart := near(t, "adapter beside the weights", logits(), want, logitLimit, keep)
		require.NoError(t, adapter.Merge(f.store))
		require.NoError(t, adapter.Merge(f.store), "merging twice does nothing")
		merged := near(t, "merged", logits(), want, logitLimit, keep)
		t.Logf("beside the weights within %.1e, merged within %.1e", apart, merged)
		require.NoError(t, adapter.Unmerge(f.store))
		near(t, "unmerged", logits(), want, logitLimit, keep)
	})
}

// Greedy continuation, once over whole rows and once with a cache of keys and values.
func TestGoldenHFGreedy(t *testing.T) {
	families(t, func(t *testing.T, dir string, _ *checkpoint.File) {
		var want struct {
			Greedy struct{ Prompt, Tokens []int32 }
		}
		goldenJSON(t, dir, &want)
		f := openModel(t, dir, "config.json")
		prompt, n := want.Greedy.Prompt, len(want.Greedy.Tokens)
		require.Equal(t, want.Greedy.Tokens, f.greedyWhole(prompt, n))
		require.Equal(t, want.Greedy.Tokens, f.greedyCached(prompt, n))
	})
}

func (f *fixture) greedyWhole(prompt []int32, n int) []int32 {
	ids := tensor.New(tensor.T(tensor.I32, 1, len(prompt)+n))
	copy(tensor.Data[int32](ids), prompt)
	p := f.pass(1, len(prompt)+n, false, false)
	logits := p.logits()
	var out []int32
	for i := range n {
		at := len(prompt) + i
		next := argmax(p.run(newBatch(f.t, ids, nil, nil), logits)[0], at-1)
		tensor.Data[int32](ids)[at] = next
		out = append(out, next)
	}
	return out
}

// argmax returns the best token at a position of logits (1, T, V).
func argmax(logits *tensor.Tensor, pos int) int32 {
	v := logits.Shape().Dim(2)
	row := tensor.Data[float32](logits)[pos*v : (pos+1)*v]
	best := 0
	for i, x := range row {
		if x > row[best] {
			best = i
		}
	}
	return int32(best)
}
