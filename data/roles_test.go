package data

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/chat"
)

// TestRoles: a role that nobody knows is refused with its place; those of OpenAI, of the template and of the options pass.
func TestRoles(t *testing.T) {
	tmpl, err := chat.Parse(`{% for m in messages %}{% if m.role == 'critic' or m['role'] == "judge" %}#{% endif %}<{{ m.role }}>{{ m.content }}
{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}`, chat.Options{})
	require.NoError(t, err)
	rows := func(role string) string {
		return `{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}` + "\n" +
			fmt.Sprintf(`{"messages":[{"role":"user","content":"a"},{"role":%q,"content":"c"},{"role":"assistant","content":"b"}]}`, role)
	}
	for _, role := range []string{"system", "developer", "user", "tool", "function", "ipython", "critic", "judge", "narrator", "gpt", "human"} {
		load(t, Options{Renderer: NewRenderer(tmpl), Roles: []string{"narrator"}}, write(t, "a.jsonl", rows(role)))
	}
	for role, hint := range map[string]string{"asistant": `did you mean "assistant"? `, "User": `did you mean "user"? `, "naratr": `did you mean "narrator"? `, "critics": "known are",
		"": "known are", "x'y": "known are", strings.Repeat("long", 1<<18): "known are"} {
		_, err := loadErr(Options{Renderer: NewRenderer(tmpl), Roles: []string{"narrator"}}, write(t, "a.jsonl", rows(role)))
		require.ErrorContains(t, err, fmt.Sprintf("a.jsonl:2: turn 2 has the role %.40q, which is not known; ", role))
		require.ErrorContains(t, err, hint)
		require.ErrorContains(t, err, "system, developer, user, assistant, tool, function, ipython, narrator and what the chat template names; list another in data.roles (trainer eval: --role)")
		require.Less(t, len(err.Error()), 400)
	}
	load(t, Options{Renderer: NewRenderer(tmpl), AnyRole: true}, write(t, "a.jsonl", rows("asistant")))
	pair := `{"prompt":[{"role":"usr","content":"a"}],"chosen":[{"role":"assistant","content":"b"}],"rejected":[{"role":"assistant","content":"c"}]}`
	_, err = loadErr(Options{Pairs: true, Renderer: NewRenderer(tmpl)}, write(t, "a.jsonl", pair))
	require.ErrorContains(t, err, `turn 1 has the role "usr", which is not known; did you mean "user"?`)
	_, err = loadErr(Options{Renderer: chatML{}}, write(t, "a.jsonl", rows("critic")))
	require.ErrorContains(t, err, `the role "critic"`, "this template has no roles of its own")
}
