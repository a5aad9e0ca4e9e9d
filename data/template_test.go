package data

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/chat"
	"github.com/bitsandbyes/bitsandbyes/chat/jinja"
)

// Every built-in template passes the examination that users' templates get, and its labels are the assistant's words and end tokens.
func TestBuiltinTemplates(t *testing.T) {
	require.Contains(t, TemplateNames(), "chatml")
	for _, name := range TemplateNames() {
		t.Run(name, func(t *testing.T) {
			tmpl, err := BuiltinTemplate(name, chat.Options{Special: map[string]string{"bos_token": "<s>", "eos_token": "</s>"}})
			require.NoError(t, err)
			require.True(t, tmpl.HasGeneration())
			for _, f := range tmpl.Check(nil) {
				require.Contains(t, []chat.Code{chat.WritesBOS, chat.OtherEnd, chat.IgnoresPrompt}, f.Code, f.Message)
			}
			set := load(t, Options{Renderer: NewRenderer(tmpl)}, write(t, "a.jsonl",
				`{"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Q1"},{"role":"assistant","content":"A1"},{"role":"user","content":"Q2"},{"role":"assistant","content":"A2"}]}`))
			text := strings.ReplaceAll(shown(example(t, set, 0)), "[ A", "[A") // some answers begin with a space
			require.Equal(t, 2, strings.Count(text, "[A"), text)
			for _, part := range strings.Split(text, "[A")[1:] {
				answer, rest, ok := strings.Cut(part, "]")
				require.True(t, ok)
				require.Regexp(t, `^[12](\$|</s>|<\|end\|>|<\|eot_id\|>|<end_of_turn>)$`, answer)
				require.NotContains(t, rest, "A1")
				require.NotContains(t, rest, "A2")
			}
			require.Contains(t, text, "Be brief.")
			require.NotContains(t, text, "<s><s>")
		})
	}
	_, err := BuiltinTemplate("none", chat.Options{})
	require.ErrorContains(t, err, "chatml")
}

// Without generation blocks the turns are found by comparing renderings; both give the same labels.
func TestTemplatesWithoutGeneration(t *testing.T) {
	marked, err := BuiltinTemplate("chatml", chat.Options{})
	require.NoError(t, err)
	plain, err := chat.Parse(strings.NewReplacer("{%- generation %}", "", "{% endgeneration %}", "").Replace(marked.Source()), chat.Options{})
	require.NoError(t, err)
	require.False(t, plain.HasGeneration())
	for _, mask := range []Mask{MaskPrompt, MaskLast, MaskNone} {
		row := write(t, "a.jsonl", `{"messages":[{"role":"user","content":"same"},{"role":"assistant","content":"same"},{"role":"user","content":"c"},{"role":"assistant","content":"same"}]}`)
		a := load(t, Options{Renderer: NewRenderer(marked), Mask: mask}, row)
		b := load(t, Options{Renderer: NewRenderer(plain), Mask: mask}, row)
		require.Equal(t, shown(example(t, a, 0)), shown(example(t, b, 0)))
	}
	// A turn of the user is trained with its header where a row asks for it.
	set := load(t, Options{Renderer: NewRenderer(plain)}, write(t, "a.jsonl", `{"messages":[{"role":"user","content":"a","train":true},{"role":"assistant","content":"b","train":false}]}`))
	require.Contains(t, shown(example(t, set, 0)), "user\na$")
	require.Contains(t, shown(example(t, set, 0)), "assistant\nb$")
	require.Positive(t, set.Report().Trained)
}

func TestTemplateErrors(t *testing.T) {
	row := write(t, "a.jsonl", `{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}`)
	for source, says := range map[string]string{
		`{{ raise_exception('roles must alternate') }}`:                                          "roles must alternate",
		`{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}`: "turn 2",
	} {
		tmpl, err := chat.Parse(source, chat.Options{})
		require.NoError(t, err)
		_, err = loadErr(Options{Renderer: NewRenderer(tmpl)}, row)
		require.ErrorContains(t, err, says)
		require.ErrorContains(t, err, "a.jsonl:1")
	}
	bare, err := chat.Parse(`{% for m in messages %}{{ m.role }}: {{ m.content }}{% if not loop.last %}`+"{{ '\n' }}"+`{% endif %}{% endfor %}`, chat.Options{})
	require.NoError(t, err)
	set := load(t, Options{Renderer: NewRenderer(bare), EOS: []int32{2}}, row)
	require.True(t, strings.HasSuffix(shown(example(t, set, 0)), "b<2>]"), shown(example(t, set, 0)))
	require.Equal(t, 1, set.Report().Ended)
}

// TestRendererGivesUp: a template that always runs out of its budget is not waited for at every row of a file.
func TestRendererGivesUp(t *testing.T) {
	tmpl, err := chat.Parse(`{% for i in range(1000) %}{{ i }}{% endfor %}`, chat.Options{Limits: jinja.Limits{Steps: 100}})
	require.NoError(t, err)
	r, m := NewRenderer(tmpl), Message{Role: Assistant, Fields: []byte(`{"role":"assistant","content":"a"}`)}
	for range maxSpent {
		_, err = r.Render(&Conversation{Messages: []Message{m}})
		require.ErrorContains(t, err, "more than 100 steps")
	}
	_, err = r.Render(&Conversation{Messages: []Message{m}})
	require.ErrorContains(t, err, "not tried again")
}

// The prompt that a template gives at inference is compared with what training has before the answer.
func TestRenderingAgainstInference(t *testing.T) {
	row := write(t, "a.jsonl", `{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}`)
	const body = `{% for m in messages %}{{ m.role + ':' + m.content + ';' }}{% endfor %}{% if add_generation_prompt %}{{ 'PROMPT' }}{% endif %}`
	for source, differs := range map[string]string{
		strings.Replace(body, "PROMPT", "assistant:", 1): "",
		`{% for m in messages %}{{ m.role + ':' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content + ';' }}{% endgeneration %}{% else %}{{ m.content + ';' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'model:' }}{% endif %}`: `a.jsonl:1: before turn 2, from byte 7 on: trained behind "assistant:", given "model:"`,
	} {
		tmpl, err := chat.Parse(source, chat.Options{})
		require.NoError(t, err)
		r := load(t, Options{Renderer: NewRenderer(tmpl)}, row).Report()
		if differs == "" {
			require.Empty(t, r.Differs)
			continue
		}
		require.Len(t, r.Differs, 1)
		require.Contains(t, r.Differs[0], differs)
	}
}

// alphabet has tokens for <s> and </s>, as a tokenizer that finds special tokens in text.
type alphabet struct{ byteEncoder }

func (a alphabet) Encode(text string) ([]int32, error) {
	ids, err := a.byteEncoder.Encode(strings.NewReplacer("<s>", "\x01", "</s>", "\x02").Replace(text))
	for i := range ids {
		if ids[i] < 13 {
			ids[i] -= 10
		}
	}
	return ids, err
}

// A text that begins with BOS or ends with EOS does not get another.
func TestSpecialTokensAreNotDoubled(t *testing.T) {
	for row, want := range map[string]string{
		`{"prompt":"<s>a","completion":"b</s>"}`: "<1>a[b<2>]",
		`{"prompt":"a","completion":"b</s>"}`:    "<1>a[b<2>]",
		`{"prompt":"<s>a","completion":"b"}`:     "<1>a[b<2>]",
		`{"text":"<s>ab</s>"}`:                   "<1>[ab<2>]",
		`{"text":"ab"}`:                          "<1>[ab<2>]",
	} {
		set, err := Load(t.Context(), alphabet{}, []File{{Path: write(t, "a.jsonl", row)}}, Options{BOS: []int32{1}, EOS: []int32{2}})
		require.NoError(t, err)
		require.Equal(t, want, shown(example(t, set, 0)), row)
	}
}
