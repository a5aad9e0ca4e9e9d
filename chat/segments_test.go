package chat

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/bitsandbyes/bitsandbyes/chat/jinja"
	"github.com/bitsandbyes/bitsandbyes/internal/cputime"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
)

// generated is what the segments call the model's own, by message; it checks that they lie end to end.
func generated(t require.TestingT, r Rendering, segs []Segment) map[int]string {
	out, pos, last := map[int]string{}, 0, -1
	for _, s := range segs {
		require.Equal(t, pos, s.Start)
		require.GreaterOrEqual(t, s.Index, last)
		require.Greater(t, s.End, s.Start)
		if pos, last = s.End, s.Index; s.Generated {
			out[s.Index] += r.Text[s.Start:s.End]
		}
	}
	require.Equal(t, len(r.Text), pos)
	return out
}

func TestSegments(t *testing.T) {
	llama2 := `{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system = messages[0]['content'] %}{% else %}` +
		`{% set loop_messages = messages %}{% set system = false %}{% endif %}{% for m in loop_messages %}` +
		`{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}` +
		`{% if loop.index0 == 0 and system %}{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + m['content'] %}{% else %}{% set content = m['content'] %}{% endif %}` +
		`{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}`
	thinking := `{% for m in messages %}{% set c = m.content %}{% if m.role == 'assistant' and '</think>' in c and not loop.last %}{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}` +
		`<|{{ m.role }}|>{{ c }}<|end|>
{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}`
	marked := `{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<end>{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}`
	bare := `{% for m in messages %}{{ m.role }}: {{ m.content | trim }}
{% endfor %}`
	system := append([]Value{Message("system", "be kind")}, talk("q", "a1", "q2", " a2 ")...)
	for name, c := range map[string]struct {
		source string
		in     []Value
		want   map[int]string
	}{
		"chatml":            {chatML, talk("q", "a1", "q2", "a2\n"), map[int]string{1: "a1<|im_end|>", 3: "a2\n<|im_end|>"}},
		"same text":         {chatML, talk("x", "x", "x", "x"), map[int]string{1: "x<|im_end|>", 3: "x<|im_end|>"}},
		"ends with a user":  {chatML, talk("q", "a", "q2"), map[int]string{1: "a<|im_end|>"}},
		"system folded in":  {llama2, system, map[int]string{2: "a1 </s>", 4: "a2 </s>"}},
		"thoughts dropped":  {thinking, talk("q", "<think>\nt\n</think>\n\na", "q2", "<think>u</think>b"), map[int]string{1: "a<|end|>", 3: "<think>u</think>b<|end|>"}},
		"marked":            {marked, talk("q", "a1", "q2", "a2"), map[int]string{1: "a1<end>", 3: "a2<end>"}},
		"no prompt, no end": {bare, talk("q", "a1", "q2", " a2"), map[int]string{1: "a1\n", 3: "a2\n"}},
		"end once":          {endOnce, talk("q", "a1", "q2", "a2"), map[int]string{1: "a1<|end|>", 3: "a2<|end|>\n<eos>"}},
	} {
		t.Run(name, func(t *testing.T) {
			r, segs, err := parse(t, c.source).Segments(Input{Messages: c.in})
			require.NoError(t, err)
			require.Equal(t, c.want, generated(t, r, segs), r.Text)
			for _, s := range segs {
				require.Equal(t, Role(c.in[s.Index]), s.Role)
			}
		})
	}
}

// endOnce ends the whole with a token that no turn before the last one has.
const endOnce = `{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>
{% endfor %}{% if add_generation_prompt %}<|assistant|>{% else %}<eos>{% endif %}`

func TestSegmentsNamesTheTurn(t *testing.T) {
	tp := parse(t, `{% for m in messages %}{{ messages|length }}{{ m.content | upper }}{% endfor %}`)
	_, _, err := tp.Segments(Input{Messages: talk("q", "a", "r", "b")})
	var se *SegmentError
	require.ErrorAs(t, err, &se)
	require.Equal(t, 1, se.Index)
	require.ErrorContains(t, err, "turn 1 (assistant)")
}

func TestSegmentsOfAnyText(t *testing.T) {
	tp := parse(t, chatML)
	rapid.Check(t, func(t *rapid.T) {
		texts := rapid.SliceOfN(rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "\n", "<|im_end|>", "assistant\n", "</think>", "a"})), 1, 6).Draw(t, "texts")
		r, segs, err := tp.Segments(Input{Messages: talk(texts...)})
		require.NoError(t, err)
		got := generated(t, r, segs)
		for i := 1; i < len(texts); i += 2 {
			require.Equal(t, texts[i]+"<|im_end|>", got[i])
		}
	})
}

// TestSegmentsOfLongTalk would take minutes if each turn were rendered on its own.
func TestSegmentsOfLongTalk(t *testing.T) {
	texts := make([]string, 2000)
	for i := range texts {
		texts[i] = strings.Repeat("word ", i%7+1)
	}
	used := cputime.Clock(cputime.Process) // a busy machine may take its time
	r, segs, err := parse(t, chatML).Segments(Input{Messages: talk(texts...)})
	require.NoError(t, err)
	require.Less(t, used(), 2*time.Second)
	for i, got := range generated(t, r, segs) {
		require.Equal(t, texts[i]+"<|im_end|>", got)
	}
}

// TestSegmentsEnd: a template that is slow in each rendering, and writes every turn otherwise so that each has to be looked at, ends by the
// budget of all renderings together.
func TestSegmentsEnd(t *testing.T) {
	turns := `{% for m in messages %}<{{ m.role }}{{ loop.index }}>{{ m.content }}</{{ loop.index }}>{% endfor %}` +
		`{% if add_generation_prompt %}<assistant{{ messages | length + 1 }}>{% endif %}`
	texts := make([]string, 200)
	for i := range texts {
		texts[i] = "word"
	}
	in := Input{Messages: talk(texts...)}
	_, _, err := parse(t, turns).Segments(in)
	require.NoError(t, err)

	_, _, err = parse(t, `{% for i in range(90000) %}{% set x = i * i %}{% endfor %}`+turns).Segments(in)
	var je *jinja.Error
	require.ErrorAs(t, err, &je)
	require.True(t, je.Budget)
	require.ErrorContains(t, err, "one by one")
}

// FuzzSegments: whatever the template, the pieces lie end to end, or there is an error.
func FuzzSegments(f *testing.F) {
	for _, s := range []string{chatML, endOnce, bosTwice, `{{ messages[-1].content }}`, `{% generation %}{{ messages }}{% endgeneration %}`} {
		f.Add(s, "q", "a</think>b")
	}
	f.Fuzz(func(t *testing.T, source, ask, reply string) {
		tp, err := Parse(source, Options{Limits: jinja.Limits{Steps: 20_000, Alloc: 1 << 20}})
		if err != nil {
			return
		}
		tp.Check(nil)
		r, segs, err := tp.Segments(Input{Messages: talk(ask, reply, reply, ask)})
		if err == nil {
			generated(t, r, segs)
		}
	})
}

func BenchmarkSegments(b *testing.B) {
	tp, in := parse(b, chatML), Input{Messages: append([]Value{Message("system", "be kind")}, talk("a question of some words", "an answer of some words")...)}
	for b.Loop() {
		if _, _, err := tp.Segments(in); err != nil {
			b.Fatal(err)
		}
	}
}

// TestGoldenChatSegments takes every real template's own conversation apart: each reply must be found whole.
func TestGoldenChatSegments(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(golden.Dir(t), "chat", "templates.json"))
	if err != nil {
		t.Skipf("no golden templates: %v", err)
	}
	var file map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(data, &file))
	for section, raw := range file {
		var cases map[string]struct {
			ChatTemplate string                     `json:"chat_template"`
			Data         map[string]json.RawMessage `json:"data"`
		}
		if section == "now" {
			continue
		}
		require.NoError(t, json.Unmarshal(raw, &cases))
		for name, c := range cases {
			t.Run(section+"/"+name, func(t *testing.T) {
				in := Input{Extra: map[string]Value{}}
				for k, raw := range c.Data {
					v, err := FromJSON(raw)
					require.NoError(t, err)
					list, _ := v.(*jinja.List)
					switch {
					case k == "messages":
						in.Messages = list.Items
					case k == "tools" && list != nil:
						in.Tools = list.Items
					case k != "add_generation_prompt":
						in.Extra[k] = v
					}
				}
				tp, err := Parse(c.ChatTemplate, Options{Now: func() time.Time { return time.Unix(0, 0).UTC() }})
				require.NoError(t, err)
				r, segs, err := tp.Segments(in)
				require.NoError(t, err)
				got := generated(t, r, segs)
				for i, m := range in.Messages {
					content, _ := m.(*jinja.Dict).Get("content")
					if s, ok := content.(jinja.String); ok && isReply(Role(m)) && s != "" {
						_, answer, cut := strings.Cut(string(s), "</think>")
						if !cut {
							answer = string(s)
						}
						require.Contains(t, got[i], answer)
					}
				}
			})
		}
	}
}
