package chat

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/chat/jinja"
)

const chatML = `{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}` +
	`{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}`

func parse(t testing.TB, source string) *Template {
	t.Helper()
	tp, err := Parse(source, Options{Special: map[string]string{"bos_token": "<s>", "eos_token": "</s>"}})
	require.NoError(t, err)
	return tp
}

func talk(texts ...string) []Value {
	var out []Value
	for i, s := range texts {
		out = append(out, Message([]string{"user", "assistant"}[i%2], s))
	}
	return out
}

func TestRenderChatML(t *testing.T) {
	r, err := parse(t, chatML).Render(Input{Messages: talk("Hi"), AddGenerationPrompt: true})
	require.NoError(t, err)
	require.Equal(t, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", r.Text)
}

func TestRenderMarksGeneration(t *testing.T) {
	r, err := parse(t, `{% for m in messages %}{% if m.role == 'assistant' %}A:{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}
{% else %}U:{{ m.content }}
{% endif %}{% endfor %}`).Render(Input{Messages: talk("é", "ja", "b", "no")})
	require.NoError(t, err)
	var got []string
	for _, s := range r.Generated {
		got = append(got, r.Text[s.Start:s.End])
	}
	require.Equal(t, []string{"ja</s>", "no</s>"}, got)
}

func TestRenderRefusesWhatIsNoMessage(t *testing.T) {
	_, err := parse(t, chatML).Render(Input{Messages: []Value{jinja.String("hi")}})
	require.ErrorContains(t, err, "message 0")
	_, err = parse(t, `{{ raise_exception('roles must alternate') }}`).Render(Input{})
	var je *jinja.Error
	require.ErrorAs(t, err, &je)
	require.True(t, je.Raised)
	require.ErrorContains(t, err, "chat template:1:")
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	text := func(variant string) string {
		tp, err := Load(dir, variant, Options{})
		require.NoError(t, err)
		r, err := tp.Render(Input{})
		require.NoError(t, err)
		return r.Text
	}
	_, err := Load(dir, "", Options{})
	require.ErrorIs(t, err, ErrNoTemplate)
	write("tokenizer_config.json", `{"bos_token": {"content": "<s>"}, "eos_token": null, "chat_template": "1{{ bos_token }}"}`)
	require.Equal(t, "1<s>", text(""))
	write("tokenizer_config.json", `{"chat_template": [{"name": "default", "template": "2"}, {"name": "rag", "template": "3"}]}`)
	require.Equal(t, "2", text(""))
	require.Equal(t, "3", text("rag"))
	_, err = Load(dir, "tool", Options{})
	require.ErrorContains(t, err, `"rag"`)
	write("chat_template.json", `{"chat_template": "4"}`)
	require.Equal(t, "4", text(""))
	write("chat_template.jinja", `5`)
	require.Equal(t, "5", text(""))
	write("additional_chat_templates/tool.jinja", `6`)
	require.Equal(t, "6", text("tool"))
	_, err = Load(dir, "../x", Options{})
	require.ErrorContains(t, err, "slashes")
}
