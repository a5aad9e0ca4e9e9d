package evaluate

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	_ "github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

func writer(t *testing.T) *trainer.Writer {
	t.Helper()
	w, err := trainer.OpenWriter(trainer.GenerateOptions{Model: "builtin:tiny", MaxTokens: 12, IgnoreEnd: true, Device: "cpu"})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.Close()) })
	return w
}

func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

// TestWindows: every token is counted once, in the window that gives it most before it, and no window is too long.
func TestWindows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first := rapid.IntRange(0, 1).Draw(t, "first")
		n := rapid.IntRange(2, 300).Draw(t, "n")
		context := rapid.IntRange(2, 60).Draw(t, "context")
		stride := rapid.IntRange(1, context-first).Draw(t, "stride")
		next := 1 - first
		for _, w := range windows(n, context, stride, first) {
			require.LessOrEqual(t, w.hi-w.lo+first, context)
			require.Equal(t, next, w.from)
			require.Greater(t, w.hi, w.from)
			require.Less(t, w.lo, w.hi)
			next = w.hi
		}
		require.Equal(t, n, next)
	})
}

const story = "Tom and Anna went to the river. The wind was strong. Tom asked Anna where the boat was. Anna said the boat was under the old bridge."

// TestPerplexity compares windows with the probabilities of single requests, and longer memory with shorter.
func TestPerplexity(t *testing.T) {
	w := writer(t)
	name := file(t, "story.txt", story)
	whole, err := Run(context.Background(), w, Options{Text: name, BOS: "always"})
	require.NoError(t, err)
	ids, _, err := w.Tokens(story)
	require.NoError(t, err)
	bos, ok := w.BOS()
	require.True(t, ok)
	var sum float64
	for i := range ids { // one token at a time
		s, err := w.Score(context.Background(), []trainer.Request{{IDs: append([]int32{bos}, ids[:i+1]...), From: i + 1}})
		require.NoError(t, err)
		sum -= s[0].LogProbs[0]
	}
	p := whole.Perplexity
	require.Equal(t, len(ids), p.Tokens)
	require.InDelta(t, sum/float64(len(ids)), p.NLL, 1e-4)
	require.InDelta(t, math.Exp(p.NLL), p.Perplexity, 1e-9)
	require.InDelta(t, sum/math.Ln2/float64(len(story)), p.BitsPerByte, 1e-4)
	short, err := Run(context.Background(), w, Options{Text: name, BOS: "always", Context: 9})
	require.NoError(t, err)
	slid, err := Run(context.Background(), w, Options{Text: name, BOS: "always", Context: 9, Stride: 1})
	require.NoError(t, err)
	require.Equal(t, p.Tokens, slid.Perplexity.Tokens)
	require.Greater(t, slid.Perplexity.Windows, short.Perplexity.Windows)
	require.Less(t, slid.Perplexity.NLL, short.Perplexity.NLL, "windows that overlap remember more")
	never, err := Run(context.Background(), w, Options{Text: name, BOS: "never"})
	require.NoError(t, err)
	require.Equal(t, len(ids)-1, never.Perplexity.Tokens)
	require.Contains(t, whole.Text(), "perplexity")
}

// TestChoices: the model's own greedy continuation beats nonsense, and a choice is scored by the tokens that follow the question.
func TestChoices(t *testing.T) {
	w := writer(t)
	prompt := "Tom and Anna went to the"
	a, err := w.Continue(context.Background(), prompt, func(string) error { return nil })
	require.NoError(t, err)
	rows := ""
	for _, r := range []any{
		map[string]any{"question": prompt, "choices": []string{"zzqqj vvkx 7!", a.Text}, "answer": 1},
		map[string]any{"query": prompt, "endings": []string{a.Text, "zzqqj vvkx 7!"}, "label": "0"},
		map[string]any{"question": prompt, "choices": map[string][]string{"text": {"zzqqj", a.Text}, "label": {"A", "B"}}, "answerKey": "B"},
		map[string]any{"ctx": prompt, "options": []string{"zzqqj vvkx", a.Text, "qq"}, "answer": a.Text},
		map[string]any{"ctx": prompt, "options": []string{"zzqqj vvkx", a.Text, "qq"}, "answer": "A"}, // wrong on purpose
	} {
		line, err := json.Marshal(r)
		require.NoError(t, err)
		rows += string(line) + "\n"
	}
	none := ""
	r, err := Run(context.Background(), w, Options{Choices: file(t, "rows.jsonl", rows), Separator: &none})
	require.NoError(t, err)
	require.Equal(t, 5, r.Choices.Questions)
	require.InDelta(t, 0.8, r.Choices.Accuracy, 1e-12)
	require.InDelta(t, 0.8, r.Choices.AccuracyNorm, 1e-12)
	require.InDelta(t, math.Sqrt(0.8*0.2/4), r.Choices.StdErr, 1e-12)
	require.Len(t, r.Choices.Rows[3].LogProbs, 3)
	require.Contains(t, r.Text(), "80.00%")
}

func TestExact(t *testing.T) {
	w := writer(t)
	a, err := w.Continue(context.Background(), "Where is Tom?", func(string) error { return nil })
	require.NoError(t, err)
	line, err := json.Marshal(map[string]string{"prompt": "Where is Tom?", "completion": " " + a.Text + "\n"})
	require.NoError(t, err)
	name := file(t, "rows.jsonl", string(line)+"\n\n{\"question\": \"Where is Tom?\", \"answer\": \"nowhere\"}\n")
	r, err := Run(context.Background(), w, Options{Exact: name})
	require.NoError(t, err)
	require.Equal(t, []bool{true, false}, []bool{r.Exact.Rows[0].Right, r.Exact.Rows[1].Right})
	require.Equal(t, 0.5, r.Exact.Accuracy)
	r, err = Run(context.Background(), w, Options{Exact: name, Limit: 1})
	require.NoError(t, err)
	require.Equal(t, 1, r.Exact.Questions)
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		how, want, got string
		same           bool
	}{
		{MatchExact, " x ", "x", true}, {MatchExact, "x", "x y", false}, {MatchContains, "x", "a x b", true}, {MatchContains, "X", "x", false},
		{MatchNumber, "so\n#### 1,234", "It is 1234.", true}, {MatchNumber, "5", "5.00 dollars", true}, {MatchNumber, "5", "5 or 6", false},
		{MatchNumber, "none", "none", false}, {MatchNumber, "-3", "minus -3", true},
	} {
		require.Equal(t, c.same, matches(c.how, c.want, c.got), "%v", c)
	}
}

func TestRefuses(t *testing.T) {
	w := writer(t)
	for name, c := range map[string]struct {
		o    Options
		says string
		code int
	}{
		"nothing":         {Options{}, "nothing to measure", config.ExitConfig},
		"context":         {Options{Text: "x", Context: 1}, "context", config.ExitConfig},
		"stride":          {Options{Text: "x", Context: 4, Stride: 5}, "stride", config.ExitConfig},
		"bos":             {Options{Text: "x", BOS: "maybe"}, "bos", config.ExitConfig},
		"match":           {Options{Exact: "x", Match: "fuzzy"}, "match", config.ExitConfig},
		"limit":           {Options{Exact: "x", Limit: -1}, "limit", config.ExitConfig},
		"absent":          {Options{Text: "absent"}, "absent", config.ExitInput},
		"window too long": {Options{Text: file(t, "a", story), Context: 1 << 20}, "--context: is 1048576, the context of the model is", config.ExitConfig},
		"empty":           {Options{Text: file(t, "a", "")}, "too few", config.ExitInput},
		"no row":          {Options{Exact: file(t, "a", "\n")}, "holds no row", config.ExitInput},
		"not JSON":        {Options{Exact: file(t, "a", "\nx\n")}, "a:2: not a JSON object", config.ExitInput},
		"no answer":       {Options{Exact: file(t, "a", `{"prompt":"x"}`)}, "a:1: has no answer", config.ExitInput},
		"no prompt":       {Options{Exact: file(t, "a", `{"text":"x"}`)}, "found text", config.ExitInput},
		"one choice":      {Options{Choices: file(t, "a", `{"prompt":"x","choices":["a"],"answer":0}`)}, "has 1 choices", config.ExitInput},
		"no right one":    {Options{Choices: file(t, "a", `{"prompt":"x","choices":["a","b"]}`)}, "does not say which", config.ExitInput},
		"wrong label":     {Options{Choices: file(t, "a", `{"prompt":"x","choices":["a","b"],"answer":"Z"}`)}, "none of the 2", config.ExitInput},
		"beyond":          {Options{Choices: file(t, "a", `{"prompt":"x","choices":["a","b"],"answer":2}`)}, "number 2 of 2", config.ExitInput},
		"no messages":     {Options{Messages: "absent"}, "absent", config.ExitInput},
		"no reply":        {Options{Messages: file(t, "a.jsonl", `{"messages":[{"role":"user","content":"x"}]}`), Template: "plain"}, "assistant", config.ExitInput},
		"no template":     {Options{Messages: file(t, "a.jsonl", talks)}, "template", config.ExitInput},
		"chat template":   {Options{Exact: file(t, "a.jsonl", `{"prompt":"x","answer":"y"}`), Chat: true}, "has no chat template", config.ExitConfig},
		"not gzip":        {Options{Text: file(t, "a.gz", "x")}, "a.gz", config.ExitInput},
	} {
		_, err := Run(context.Background(), w, c.o)
		require.ErrorContains(t, err, c.says, name)
		require.Equal(t, c.code, config.ExitCode(err), name)
	}
}

func FuzzRows(f *testing.F) {
	f.Add([]byte(`{"question":"x","choices":["a","b"],"answer":1}`))
	f.Add([]byte(`{"question":"x","choices":{"text":["a","b"],"label":["A"]},"answerKey":"A"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		name := filepath.Join(t.TempDir(), "rows")
		if os.WriteFile(name, raw, 0o644) != nil {
			return
		}
		_ = lines(vfs.OS{}, name, 0, func(row map[string]json.RawMessage) error {
			if q, err := questionOf(row); err == nil && (q.right < 0 || q.right >= len(q.choices)) {
				t.Fatalf("the right choice is %d of %d", q.right, len(q.choices))
			}
			_, err := taskOf(row)
			if err != nil && !strings.HasPrefix(err.Error(), "has no ") {
				t.Fatal(err)
			}
			return nil
		})
	})
}
