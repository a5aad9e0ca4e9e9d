package evaluate

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

func chatWriter(t *testing.T, o trainer.GenerateOptions) *trainer.Writer {
	t.Helper()
	o.Model, o.Device, o.Template = "builtin:tiny", "cpu", "plain"
	w, err := trainer.OpenWriter(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.Close()) })
	return w
}

const talks = `{"messages":[{"role":"user","content":"Where is Tom?"},{"role":"assistant","content":"Tom went home."},{"role":"user","content":"And Anna?"},{"role":"assistant","content":"Anna is at the river."}]}
{"conversations":[{"from":"human","value":"Who?"},{"from":"gpt","value":"Tom."}]}
{"messages":[{"role":"user","content":"Why?"},{"role":"assistant","content":"Because the wind was strong and the boat was old."}]}
`

// TestMessages: the loss over replies is that of each of their tokens after the whole text before it.
func TestMessages(t *testing.T) {
	w := chatWriter(t, trainer.GenerateOptions{})
	name := file(t, "talks.jsonl", talks)
	all, err := Run(t.Context(), w, Options{Messages: name, Template: "plain"})
	require.NoError(t, err)
	c := all.Conversations
	require.Len(t, c.Rows, 3)
	var sum float64
	tokens := 0
	set, err := loadConversations(t.Context(), w, Options{Messages: name, Template: "plain"})
	require.NoError(t, err)
	defer func() { require.NoError(t, set.Close()) }()
	for i := range set.Len() {
		ex, err := set.Example(i)
		require.NoError(t, err)
		require.Equal(t, ex.Source, c.Rows[i].Source)
		n, own := 0, 0.0
		for j, label := range ex.Labels {
			if label == data.Ignore {
				continue
			}
			require.Equal(t, ex.IDs[j], label)
			s, err := w.Score(t.Context(), []trainer.Request{{IDs: ex.IDs[:j+1], From: j}})
			require.NoError(t, err)
			own -= s[0].LogProbs[0]
			n++
		}
		require.Equal(t, n, c.Rows[i].Tokens)
		require.InDelta(t, own/float64(n), c.Rows[i].NLL, 1e-4)
		sum, tokens = sum+own, tokens+n
	}
	require.Equal(t, tokens, c.Tokens)
	require.InDelta(t, sum/float64(tokens), c.NLL, 1e-4)
	require.InDelta(t, math.Exp(c.NLL), c.Perplexity, 1e-9)
	require.Contains(t, all.Text(), "conversations: 3")

	// The replies alone are counted: what follows is the words and the end, not the question.
	words, err := w.PlainTokens(" Tom.")
	require.NoError(t, err)
	require.InDelta(t, len(words), c.Rows[1].Tokens, 1)

	one, err := Run(t.Context(), w, Options{Messages: name, Template: "plain", Limit: 1})
	require.NoError(t, err)
	require.Len(t, one.Conversations.Rows, 1)
	require.InDelta(t, c.Rows[0].NLL, one.Conversations.NLL, 1e-6)
	short, err := Run(t.Context(), w, Options{Messages: name, Template: "plain", Context: 32})
	require.NoError(t, err)
	require.Positive(t, short.Conversations.Truncated+short.Conversations.Dropped)
	require.Contains(t, short.Text(), "cut at the context")
}

// TestChatQuestions: a question by the template is scored behind the generation prompt, examples with their answers before it.
func TestChatQuestions(t *testing.T) {
	w := chatWriter(t, trainer.GenerateOptions{MaxTokens: 6, IgnoreEnd: true})
	rows := file(t, "rows.jsonl", `{"question":"Where is Tom?","choices":["home","the river"],"answer":0}`+"\n")
	shots := file(t, "shots.jsonl", `{"question":"Where is Tom?","choices":["x","y"],"answer":0}
{"question":"Who?","choices":["Anna","Ben"],"answer":1}
{"question":"Why?","choices":["So.","No."],"answer":0}
`)
	o := Options{Choices: rows, Chat: true, System: "Be brief.", Shots: 1, ShotsFrom: shots}
	r, err := Run(t.Context(), w, o)
	require.NoError(t, err)
	conv := &data.Conversation{}
	for _, m := range [][2]string{{"system", "Be brief."}, {"user", "Who?"}, {"assistant", "Ben"}, {"user", "Where is Tom?"}} { // not the question itself
		x, err := data.Say(m[0], m[1])
		require.NoError(t, err)
		conv.Messages = append(conv.Messages, x)
	}
	text, ids, err := w.Render(conv)
	require.NoError(t, err)
	for i, choice := range []string{"home", "the river"} {
		whole, err := w.PlainTokens(text + choice)
		require.NoError(t, err)
		from := 0
		for from < len(ids) && ids[from] == whole[from] {
			from++
		}
		s, err := w.Score(t.Context(), []trainer.Request{{IDs: whole, From: from}})
		require.NoError(t, err)
		var sum float64
		for _, lp := range s[0].LogProbs {
			sum += lp
		}
		require.InDelta(t, sum, r.Choices.Rows[0].LogProbs[i], 1e-4)
	}
	o.Choices, o.Exact, o.ShotsFrom = "", file(t, "exact.jsonl", `{"prompt":"Where is Tom?","answer":"x"}`), file(t, "s", `{"prompt":"Who?","answer":" Ben "}`)
	o.Chat, o.System = false, ""
	e, err := Run(t.Context(), w, o)
	require.NoError(t, err)
	want, err := w.Continue(t.Context(), "Who? Ben\n\nWhere is Tom?", func(string) error { return nil })
	require.NoError(t, err)
	require.Equal(t, want.Text, e.Exact.Rows[0].Text)
	o.Shots = 2
	_, err = Run(t.Context(), w, o)
	require.ErrorContains(t, err, "too few")
	require.Equal(t, config.ExitInput, config.ExitCode(err))
	for says, bad := range map[string]Options{"belong together": {Exact: "x", Shots: 1}, "are for": {Text: "x", Shots: 1, ShotsFrom: "x"}, "needs --chat": {Exact: "x", System: "y"}} {
		require.ErrorContains(t, bad.Check(), says)
	}
}

// TestCompare: the sides are what each measures alone, the difference is theirs, and every row is written twice.
func TestCompare(t *testing.T) {
	out := filepath.Join(t.TempDir(), "run")
	name := file(t, "talks.jsonl", talks)
	c := config.Default(config.Finetune)
	c.Model, c.Out, c.Train.Steps, c.Train.LR, c.Device, c.Quantize.Scheme = "builtin:tiny", out, 3, 1e-2, "cpu", "none"
	c.Data.Path, c.Data.Template, c.Data.Mask = []config.Source{{Path: name, Weight: 1}}, "plain", "assistant"
	c.Data.ValPath = c.Data.Path
	_, err := trainer.Run(t.Context(), c, trainer.Hooks{})
	require.NoError(t, err)
	metrics, err := report.ReadMetricsFile(filepath.Join(out, "metrics.jsonl"))
	require.NoError(t, err)
	held := metrics[len(metrics)-1].EvalLoss
	require.NotNil(t, held)
	w := chatWriter(t, trainer.GenerateOptions{Adapter: filepath.Join(out, "adapter"), MaxTokens: 6})
	o := Options{Messages: name, Template: "plain", Text: file(t, "story.txt", story), Context: 64,
		Exact: file(t, "exact.jsonl", `{"prompt":"Where is Tom?","answer":"x"}`)}
	r, err := Compare(t.Context(), w, o)
	require.NoError(t, err)
	require.Equal(t, "run", w.Using())
	require.Len(t, r.Differences, 3)
	base, err := Run(t.Context(), chatWriter(t, trainer.GenerateOptions{MaxTokens: 6}), o)
	require.NoError(t, err)
	require.Equal(t, base.Conversations, r.Base.Conversations)
	for _, d := range r.Differences {
		require.InDelta(t, d.With-d.Base, d.Difference, 1e-9, d.Metric)
	}
	require.InDelta(t, r.With.Perplexity.NLL, r.Differences[0].With, 1e-9)
	require.InDelta(t, r.With.Conversations.NLL, r.Differences[1].With, 1e-9)
	require.InDelta(t, *held, r.With.Conversations.NLL, 1e-4, "the held-out loss of the run")
	require.Equal(t, 3, r.Differences[1].Units)
	require.NotZero(t, r.Differences[1].Difference)
	require.Contains(t, r.Text(), "messages nll")
	var b bytes.Buffer
	require.NoError(t, r.WriteRows(&b))
	seen := map[string]int{}
	for line := range strings.Lines(b.String()) {
		var row struct{ Task, Adapter string }
		require.NoError(t, json.Unmarshal([]byte(line), &row))
		seen[row.Task+" "+row.Adapter]++
	}
	require.Equal(t, 3, seen["messages run"])
	require.Equal(t, 3, seen["messages none"])
	require.Equal(t, seen["text run"], seen["text none"])
	_, err = Compare(context.Background(), chatWriter(t, trainer.GenerateOptions{}), o)
	require.ErrorContains(t, err, "no adapter")
}

// TestRatio: with one thing a unit it is the mean and its standard error; what all units have in common leaves no doubt.
func TestRatio(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		xs := rapid.SliceOfN(rapid.Float64Range(-5, 5), 2, 30).Draw(t, "xs")
		var units, same []unit
		var sum, squares float64
		for i, x := range xs {
			n := float64(i%3 + 1)
			units, same = append(units, unit{x, 1}), append(same, unit{2 * n, n})
			sum += x
		}
		n := float64(len(xs))
		for _, x := range xs {
			squares += (x - sum/n) * (x - sum/n)
		}
		mean, stderr := ratio(units)
		require.InDelta(t, sum/n, mean, 1e-12)
		require.InDelta(t, math.Sqrt(squares/(n-1)/n), stderr, 1e-12)
		mean, stderr = ratio(same)
		require.InDelta(t, 2, mean, 1e-12)
		require.InDelta(t, 0, stderr, 1e-9)
	})
}
