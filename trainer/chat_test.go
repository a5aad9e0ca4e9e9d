package trainer_test

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

func writer(t testing.TB, o trainer.GenerateOptions) *trainer.Writer {
	t.Helper()
	if o.Model == "" {
		o.Model, o.Device = "builtin:tiny", "cpu"
	}
	w, err := trainer.OpenWriter(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.Close()) })
	return w
}

func silent(string) error { return nil }

func say(t testing.TB, c *trainer.Chat, text string) trainer.Answer {
	t.Helper()
	var got strings.Builder
	a, err := c.Say(t.Context(), text, func(s string) error { got.WriteString(s); return nil })
	require.NoError(t, err)
	require.Equal(t, a.Text, got.String())
	return a
}

// TestChatKeepsCache: a turn computes what is new, and writes what the whole conversation without a cache gives.
func TestChatKeepsCache(t *testing.T) {
	o := trainer.GenerateOptions{MaxTokens: 12, IgnoreEnd: true, Template: "plain"}
	w := writer(t, o)
	c, err := w.NewChat("Tell stories.")
	require.NoError(t, err)
	o.NoCache = true
	whole := writer(t, o)
	slow, err := whole.NewChat("Tell stories.")
	require.NoError(t, err)
	before := trainer.Answer{}
	for _, text := range []string{"Where is Tom?", "And Anna?", "Why?"} {
		a, b := say(t, c, text), say(t, slow, text)
		require.Equal(t, b.IDs, a.IDs, text)
		require.Zero(t, b.Reused)
		if before.Tokens > 0 {
			require.GreaterOrEqual(t, a.Reused, before.PromptTokens)
		}
		before = a
	}
	require.Equal(t, 3, c.Turns())
	require.True(t, c.Undo())
	again := say(t, c, "Why?")
	require.Equal(t, before.IDs, again.IDs)
	require.Equal(t, before.PromptTokens-1, again.Reused, "all but the last token of the prompt is known")
	raw, err := c.JSON()
	require.NoError(t, err)
	var row struct {
		Messages []struct{ Role, Content string }
	}
	require.NoError(t, json.Unmarshal(raw, &row))
	require.Len(t, row.Messages, 7)
	require.Equal(t, "system", row.Messages[0].Role)
	require.Equal(t, again.Text, row.Messages[6].Content)
	c.Reset()
	require.False(t, c.Undo())
}

// TestChatStopped: a reply that is stopped stays as far as it got, and the next turn is that of a conversation with it.
func TestChatStopped(t *testing.T) {
	o := trainer.GenerateOptions{MaxTokens: 60, IgnoreEnd: true, Template: "plain"}
	w := writer(t, o)
	c, err := w.NewChat("")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	a, err := c.Say(ctx, "Where is Tom?", func(string) error { stop(); return nil })
	require.ErrorIs(t, err, context.Canceled)
	require.NotEmpty(t, a.Text)
	require.Less(t, a.Tokens, 60)
	require.Equal(t, 1, c.Turns())
	next := say(t, c, "Why?")
	conv := data.Conversation{}
	for _, m := range [][2]string{{"user", "Where is Tom?"}, {data.Assistant, a.Text}, {"user", "Why?"}} {
		x, err := data.Say(m[0], m[1])
		require.NoError(t, err)
		conv.Messages = append(conv.Messages, x)
	}
	want, err := writer(t, o).Answer(t.Context(), trainer.Query{Conversation: &conv}, silent)
	require.NoError(t, err)
	require.Equal(t, want.IDs, next.IDs)
	_, err = c.Say(ctx, "Again?", silent) // stopped before its first word
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 2, c.Turns())
}

// chattyModel is a folder with a tokenizer whose words are those of a template, and weights of any value.
func chattyModel(t testing.TB, files map[string]string) string {
	dir := model(t, small)
	all := map[string]string{
		"tokenizer.json": `{"added_tokens":[{"id":0,"content":"<s>","special":true},{"id":1,"content":"</s>","special":true},{"id":2,"content":"<end>","special":true}],
			"model":{"type":"BPE","vocab":{"<s>":0,"</s>":1,"<end>":2,"a":3,"b":4,"U":5,"n":6,"d":7,"e":8,"r":9,"s":10,"t":11,"o":12},"merges":[]},
			"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[],
			"special_tokens":{"<s>":{"id":"<s>","ids":[0],"tokens":["<s>"]}}}}`,
		"tokenizer_config.json": `{"bos_token":"<s>","eos_token":"</s>"}`,
		"chat_template.jinja":   `{{ bos_token }}{% for m in messages %}{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}{% endif %}`,
	}
	for name, text := range files {
		all[name] = text
	}
	for name, text := range all {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	return dir
}

// TestChatTokens: the template's BOS is the only one, its end of a turn ends an answer, and so do the tokens of generation_config.json.
func TestChatTokens(t *testing.T) {
	dir := chattyModel(t, map[string]string{"generation_config.json": `{"eos_token_id":[1,9],"do_sample":true,"temperature":0.5,"top_p":0.75}`})
	w := writer(t, trainer.GenerateOptions{Model: dir, Device: "cpu", MaxTokens: 4})
	user, err := data.Say("user", "ab")
	require.NoError(t, err)
	text, ids, err := w.Render(&data.Conversation{Messages: []data.Message{user}})
	require.NoError(t, err)
	require.Equal(t, "<s>ab<end>", text)
	require.Equal(t, []int32{0, 3, 4, 2}, ids)
	ends, stops, err := w.Ends()
	require.NoError(t, err)
	require.Subset(t, ends, []int32{1, 9, 2, 0})
	require.Empty(t, stops)
	s, ok, err := w.Suggested()
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, trainer.Sampling{Temperature: 0.5, TopP: 0.75, TopK: 50}, s)

	w = writer(t, trainer.GenerateOptions{Model: chattyModel(t, nil), Device: "cpu"})
	_, ok, err = w.Suggested()
	require.NoError(t, err)
	require.False(t, ok)
	w = writer(t, trainer.GenerateOptions{Model: chattyModel(t, map[string]string{"chat_template.jinja": `{% for m in messages %}{{ m.content }} rs {% endfor %}`}), Device: "cpu"})
	_, stops, err = w.Ends()
	require.NoError(t, err)
	require.Equal(t, []string{"rs"}, stops, "no token ends a turn: a text does")
}

func TestChatRefuses(t *testing.T) {
	_, err := writer(t, trainer.GenerateOptions{}).NewChat("")
	require.ErrorContains(t, err, "has no chat template")
	require.ErrorContains(t, err, "chatml")
	require.Equal(t, config.ExitConfig, config.ExitCode(err))
	_, err = writer(t, trainer.GenerateOptions{Template: "absent"}).NewChat("")
	require.ErrorContains(t, err, "absent")
	for name, text := range map[string]string{"eos_token_id": `{"eos_token_id":"x"}`, "vocabulary": `{"eos_token_id":[99999]}`} {
		_, err = trainer.OpenWriter(trainer.GenerateOptions{Model: chattyModel(t, map[string]string{"generation_config.json": text}), Device: "cpu"})
		require.ErrorContains(t, err, name)
		require.Equal(t, config.ExitInput, config.ExitCode(err))
	}
	bad := writer(t, trainer.GenerateOptions{Model: chattyModel(t, map[string]string{"generation_config.json": `{"do_sample":true,"top_p":3}`}), Device: "cpu"})
	_, _, err = bad.Suggested()
	require.ErrorContains(t, err, "top-p")
	require.Equal(t, config.ExitInput, config.ExitCode(err))
	dropping := writer(t, trainer.GenerateOptions{Model: chattyModel(t, map[string]string{"chat_template.jinja": `{{ raise_exception('only poems') }}`}), Device: "cpu"})
	c, err := dropping.NewChat("")
	require.NoError(t, err)
	_, err = c.Say(t.Context(), "a", silent)
	require.ErrorContains(t, err, "only poems")
	require.Zero(t, c.Turns())
}

// savedAdapter writes an adapter of random numbers for the built-in model.
func savedAdapter(t testing.TB, seed uint64) string {
	m, err := trainer.OpenModel("builtin:tiny", trainer.ModelOptions{})
	require.NoError(t, err)
	session := plan.NewSession(plan.NewStore(threads(t, 1)))
	a, err := lora.Attach(m.Model, lora.Config{Rank: 2})
	require.NoError(t, err)
	require.NoError(t, m.Source.Load(session.Store()))
	require.NoError(t, a.Init(session.Store()))
	rng := rand.New(rand.NewPCG(seed, 1))
	for _, v := range a.Vars() {
		x := tensor.New(v.Type)
		for i := range tensor.Data[float32](x) {
			tensor.Data[float32](x)[i] = float32(rng.NormFloat64()) * 0.2
		}
		require.NoError(t, session.Store().Set(v, x))
	}
	dir := filepath.Join(t.TempDir(), "run", "adapter")
	require.NoError(t, a.Save(nil, dir, session.Store(), lora.SaveInfo{BaseModel: "builtin:tiny"}))
	require.NoError(t, session.Close())
	require.NoError(t, m.Close())
	return dir
}

// TestAdapters: several adapters on one model write what each does alone, switched to and by rows; a combination of one is that one.
func TestAdapters(t *testing.T) {
	a, b := savedAdapter(t, 1), savedAdapter(t, 2)
	alone := func(dir string) trainer.Answer {
		got, err := writer(t, trainer.GenerateOptions{Adapter: dir, MaxTokens: 12, IgnoreEnd: true}).Continue(t.Context(), "Tom", silent)
		require.NoError(t, err)
		return got
	}
	want := map[string][]int32{"a": alone(a).IDs, "b": alone(b).IDs, trainer.NoAdapter: alone("").IDs}
	require.NotEqual(t, want["a"], want["b"])
	require.NotEqual(t, want["a"], want[trainer.NoAdapter])
	o := trainer.GenerateOptions{MaxTokens: 12, IgnoreEnd: true, Rows: 2, Adapters: []trainer.NamedAdapter{{Name: "a", Dir: a}, {Name: "b", Dir: b}}}
	w := writer(t, o)
	require.Equal(t, "a", w.Using())
	var queries []trainer.Query
	for _, name := range []string{"b", "a", "none", "b", "a", "b", ""} {
		queries = append(queries, trainer.Query{Prompt: "Tom", Adapter: name})
	}
	next := 0
	require.NoError(t, w.AnswerAll(t.Context(), queries, func(i int, got trainer.Answer) error {
		require.Equal(t, next, i, "in order")
		next++
		name := queries[i].Adapter
		if name == "" {
			name = "a"
		}
		require.Equal(t, name, got.Adapter)
		require.Equal(t, want[name], got.IDs)
		return nil
	}))
	require.Equal(t, len(queries), next)
	require.ErrorContains(t, w.Use("c"), `"c"`)
	require.ErrorContains(t, w.AnswerAll(t.Context(), []trainer.Query{{Adapter: "c"}}, nil), "a, b")

	mix, err := trainer.ParseMix("m = a*1 + b*0")
	require.NoError(t, err)
	o.Mixes = []trainer.AdapterMix{mix}
	m := writer(t, o)
	require.Equal(t, "m", m.Using())
	got, err := m.Continue(t.Context(), "Tom", silent)
	require.NoError(t, err)
	require.Equal(t, want["a"], got.IDs)
}

func TestAdapterNames(t *testing.T) {
	for text, want := range map[string]trainer.NamedAdapter{"x": {Dir: "x"}, "n=x": {Name: "n", Dir: "x"}, "./a=b": {Dir: "./a=b"}, "n=./a=b": {Name: "n", Dir: "./a=b"}} {
		require.Equal(t, want, trainer.ParseAdapter(text))
	}
	for _, text := range []string{"a", "=a", "m=a*x", "m=a*NaN", "m=a*"} {
		_, err := trainer.ParseMix(text)
		require.Equal(t, config.ExitConfig, config.ExitCode(err), text)
	}
	mix, err := trainer.ParseMix("m=a+b*-0.5")
	require.NoError(t, err)
	require.Equal(t, trainer.AdapterMix{Name: "m", Of: []string{"a", "b"}, Weights: []float64{1, -0.5}}, mix)
	for says, o := range map[string]trainer.GenerateOptions{
		"runs/x":  {Adapters: []trainer.NamedAdapter{{Dir: "runs/x/adapter"}, {Dir: "other/x"}}},
		"none":    {Adapters: []trainer.NamedAdapter{{Name: "none", Dir: "x"}}},
		"already": {Adapter: "runs/x", Mixes: []trainer.AdapterMix{{Name: "x"}}},
	} {
		o.Model, o.Device = "builtin:tiny", "cpu"
		_, err := trainer.OpenWriter(o)
		require.ErrorContains(t, err, says)
		require.Equal(t, config.ExitConfig, config.ExitCode(err), "%v", err)
	}
}

// TestGoldenSmolLM2Chat: a turn rendered by the file's own template has the reference's tokens, and the model answers with the reference's.
func TestGoldenSmolLM2Chat(t *testing.T) {
	path := golden.SmolLM2.Path(t)
	raw, err := os.ReadFile(filepath.Join(golden.Dir(t), golden.SmolLM2.Folder, "expected.json"))
	require.NoError(t, err)
	var want realModel
	require.NoError(t, json.Unmarshal(raw, &want))
	ran := 0
	for _, p := range want.Prompts {
		_, asked, ok := strings.Cut(p.Text, "<|im_start|>user\n")
		if !ok {
			continue
		}
		asked, _, _ = strings.Cut(asked, "<|im_end|>")
		w := writer(t, trainer.GenerateOptions{Model: path, Device: "cpu", MaxTokens: len(p.Float32.Greedy), IgnoreEnd: true})
		user, err := data.Say("user", asked)
		require.NoError(t, err)
		text, ids, err := w.Render(&data.Conversation{Messages: []data.Message{user}})
		require.NoError(t, err)
		require.Equal(t, p.Text, text)
		require.Equal(t, p.IDs, ids)
		c, err := w.NewChat("")
		require.NoError(t, err)
		require.Equal(t, p.Float32.Greedy, say(t, c, asked).IDs)
		ran++
	}
	t.Logf("%d conversations", ran)
}
