package chat

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCheck(t *testing.T) {
	loop := func(body, after string) string {
		return `{% for m in messages %}` + body + `{% endfor %}{% if add_generation_prompt %}` + after + `{% endif %}`
	}
	for name, c := range map[string]struct {
		source string
		want   []Code
	}{
		"sound": {`{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>{% endgeneration %}{% else %}{{ m.content }}{% endif %}` +
			`{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}`, nil},
		"drops":       {loop(`{% if m.role == 'user' %}{{ m.content }}</s>{% endif %}`, `A:`), []Code{DropsAssistant, NotExtension, NoGeneration}},
		"drops early": {loop(`{% if m.role == 'user' or loop.last %}<{{ m.role }}>{{ m.content }}</s>{% endif %}`, `<assistant>`), []Code{DropsAssistant, NoGeneration, Rewrites}},
		"differs":     {loop(`<{{ m.role }}>{{ m.content }}</s>`, `<assistant><think>`), []Code{NotExtension, NoGeneration}},
		"no prompt":   {loop(`<{{ m.role }}>{{ m.content }}</s>`, ``), []Code{IgnoresPrompt, NoGeneration}},
		"no header":   {loop(`{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}</s>{% endif %}`, ``), []Code{NoGeneration}},
		"no end":      {loop(`<{{ m.role }}>{{ m.content }}`, `<assistant>`), []Code{NoEnd, NoGeneration}},
		"other end":   {chatML, []Code{OtherEnd, NoGeneration}},
		"two":         {bosTwice, []Code{NoGeneration, DoubledBOS}},
		"refuses":     {`{{ raise_exception('no') }}`, []Code{Refuses}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []Code
			for _, f := range parse(t, c.source).Check(nil) {
				got = append(got, f.Code)
				require.NotEmpty(t, f.Message)
			}
			require.Equal(t, c.want, got)
		})
	}
}

const bosTwice = `<s>{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}`

// TestCommon: characters that begin with the same bytes are not the same.
func TestCommon(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "a", 0}, {"ab", "abc", 2}, {"abc", "ab", 2}, {"。>", "、>", 0}, {"a。b", "a、b", 1}, {"é", "é", 2}, {"é!", "é", 2}, {"aé", "a\xc3", 1}} {
		require.Equal(t, c.want, common(c.a, c.b), "%q %q", c.a, c.b)
	}
}
