package trainer_test

import (
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/chat"
	"github.com/bitsandbyes/bitsandbyes/chat/jinja"
	"github.com/bitsandbyes/bitsandbyes/checkpoint/gguf"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer"
)

// realModel is expected.json of a real model: what transformers makes of the dequantized file in float32.
type realModel struct {
	Model       struct{ SHA256 string }
	Dequantized []struct {
		Tensor, Type string
		Shape        []int
		Raw          string `json:"sha256_raw"`
		Values       string `json:"sha256_f32"`
	}
	Prompts []struct {
		Text     string
		Messages []map[string]string
		IDs      []int32 `json:"token_ids"`
		Float32  struct {
			Top    [][2]float64 `json:"last_logits_top5"`
			Greedy []int32      `json:"greedy_ids"`
			Gap    []float64    `json:"greedy_gap"`
		}
	}
	Perplexity struct {
		File    string
		Start   int     `json:"start_char"`
		Chars   int     `json:"chars"`
		IDs     []int32 `json:"token_ids"`
		Float32 struct {
			MeanNLL  float64 `json:"mean_nll"`
			FirstNLL float64 `json:"mean_nll_first_256"`
		}
	}
}

// The limits that the model's README gives a float32 engine.
const (
	logitLimit = 1e-3
	nllLimit   = 1e-5
)

func TestGoldenSmolLM2(t *testing.T) { realGolden(t, golden.SmolLM2) }

func TestGoldenGemma3Real(t *testing.T) { realGolden(t, golden.Gemma3) }

// realGolden holds a real GGUF file to its reference: dequantized tensors, token ids, logits, greedy texts, perplexity.
func realGolden(t *testing.T, real golden.Real) {
	path := real.Path(t)
	raw, err := os.ReadFile(filepath.Join(golden.Dir(t), real.Folder, "expected.json"))
	require.NoError(t, err)
	var want realModel
	require.NoError(t, json.Unmarshal(raw, &want))
	t.Run("dequantized", func(t *testing.T) { want.dequantized(t, path) })

	m, err := trainer.OpenModel(path, trainer.ModelOptions{})
	require.NoError(t, err)
	session := plan.NewSession(plan.NewStore(threads(t, 0)))
	require.NoError(t, m.Source.Load(session.Store()))
	t.Cleanup(func() {
		require.NoError(t, session.Close())
		require.NoError(t, m.Close())
	})
	t.Run("tokens", func(t *testing.T) { want.tokens(t, m) })
	t.Run("logits", func(t *testing.T) {
		for _, p := range want.Prompts {
			_, last := forward(t, m, session, p.IDs)
			for _, top := range p.Float32.Top {
				require.InDelta(t, top[1], last[int(top[0])], logitLimit, "%q, token %v", p.Text, top[0])
			}
		}
	})
	t.Run("greedy", func(t *testing.T) {
		gen, err := trainer.NewGenerator(m.Model, session, 1, 128)
		require.NoError(t, err)
		defer func() { require.NoError(t, gen.Close()) }()
		for _, p := range want.Prompts {
			require.Equal(t, p.Float32.Greedy, continued(t, gen, [][]int32{p.IDs}, len(p.Float32.Greedy))[0], p.Text)
		}
	})
	t.Run("perplexity", func(t *testing.T) {
		losses, _ := forward(t, m, session, want.Perplexity.IDs)
		mean := func(n int) (sum float64) {
			for _, x := range losses[:n] {
				sum += float64(x)
			}
			return sum / float64(n)
		}
		all := mean(len(losses) - 1)
		t.Logf("mean nll %.6f, perplexity %.4f", all, math.Exp(all))
		require.InDelta(t, want.Perplexity.Float32.MeanNLL, all, nllLimit)
		require.InDelta(t, want.Perplexity.Float32.FirstNLL, mean(255), nllLimit)
	})
}

func (want *realModel) dequantized(t *testing.T, path string) {
	f, err := gguf.Open(vfs.OS{}, path)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	digest := func(b []byte) string { h := sha256.Sum256(b); return hex.EncodeToString(h[:]) }
	for _, d := range want.Dequantized {
		info, ok := f.Tensor(d.Tensor)
		require.True(t, ok, d.Tensor)
		require.Equal(t, d.Type, info.Type.String())
		require.Equal(t, d.Shape, info.Shape.Dims())
		raw := make([]byte, info.Bytes)
		require.NoError(t, f.ReadRaw(d.Tensor, 0, raw))
		require.Equal(t, d.Raw, digest(raw), d.Tensor)
		x, err := f.Read(d.Tensor)
		require.NoError(t, err)
		require.Equal(t, d.Values, digest(x.Bytes()), d.Tensor)
	}
}

func (want *realModel) tokens(t *testing.T, m *trainer.Model) {
	for _, p := range want.Prompts {
		ids, err := m.Tokenizer.Encode(p.Text)
		require.NoError(t, err)
		require.Equal(t, p.IDs, ids, p.Text)
		if p.Messages == nil {
			continue
		}
		in := chat.Input{AddGenerationPrompt: true}
		for _, message := range p.Messages {
			d := jinja.NewDict()
			for k, v := range message {
				d.Set(k, jinja.String(v))
			}
			in.Messages = append(in.Messages, d)
		}
		template, err := m.ChatTemplate("", nil)
		require.NoError(t, err)
		r, err := template.Render(in)
		require.NoError(t, err)
		require.Equal(t, p.Text, r.Text)
	}
	f, err := os.Open(filepath.Join(golden.Dir(t), filepath.FromSlash(want.Perplexity.File)))
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	text, err := io.ReadAll(z)
	require.NoError(t, err)
	chars := []rune(string(text))[want.Perplexity.Start:][:want.Perplexity.Chars]
	ids, err := m.Tokenizer.Encode(string(chars))
	require.NoError(t, err)
	n := len(want.Perplexity.IDs)
	if bos, ok := m.Tokenizer.BOS(); ok && ids[0] == bos && want.Perplexity.IDs[0] != bos {
		ids = ids[1:]
	}
	require.Equal(t, want.Perplexity.IDs, ids[:n])
}

// forward runs one row and returns the loss of each next token (of the last one it means nothing) and the logits after the last.
func forward(t *testing.T, m *trainer.Model, session *plan.Session, ids []int32) (losses, last []float32) {
	t.Helper()
	n := len(ids)
	g := graph.New("forward")
	tok, pos, next := g.Input("tokens", tensor.T(tensor.I32, 1, n)), g.Input("pos", tensor.T(tensor.I32, 1, n)), g.Input("next", tensor.T(tensor.I32, 1, n))
	h := m.Hidden(models.Inputs{Tokens: tok, Pos: pos})
	loss, logits := m.TokenLoss(h, next), m.Logits(ops.Slice(h, 1, n-1, n))
	p, err := plan.Compile([]graph.Value{loss, logits}, plan.Options{Device: session.Store().Device(), Session: session})
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	feed := plan.Feed{}
	for v, at := range map[graph.Value]func(i int) int32{
		tok: func(i int) int32 { return ids[i] }, pos: func(i int) int32 { return int32(i) }, next: func(i int) int32 { return ids[min(i+1, n-1)] },
	} {
		x := tensor.New(tensor.T(tensor.I32, 1, n))
		for i := range n {
			tensor.Data[int32](x)[i] = at(i)
		}
		feed[v] = x
	}
	res, err := p.Run(t.Context(), feed)
	require.NoError(t, err)
	return append(losses, tensor.Data[float32](res.Tensor(loss))...), append(last, tensor.Data[float32](res.Tensor(logits))...)
}
