package data

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// chatML renders as most small models have it; calls of tools stand as JSON.
type chatML struct {
	drop, bare bool // leaves the assistant's words out, or its end token
}

func (c chatML) Render(conv *Conversation) (out Rendered, err error) {
	var b strings.Builder
	if conv.Tools != nil {
		fmt.Fprintf(&b, "<|im_start|>tools\n%s<|im_end|>\n", conv.Tools)
	}
	for i, m := range conv.Messages {
		if m.Content == "REFUSED" {
			return out, errors.New("the template refuses this")
		}
		fmt.Fprintf(&b, "<|im_start|>%s\n", m.Role)
		t := Turn{Message: i, Start: b.Len(), Bare: c.bare}
		if !c.drop || m.Role != Assistant {
			b.WriteString(m.Content)
		}
		if fields, err := object(m.Fields); err != nil {
			return out, err
		} else if calls := get(fields, "tool_calls"); calls != nil && !(c.drop && m.Role == Assistant) {
			b.Write(calls)
		}
		if !c.bare {
			b.WriteString("<|im_end|>")
		}
		t.End = b.Len()
		b.WriteString("\n")
		out.Turns = append(out.Turns, t)
	}
	out.Text = b.String()
	if c.bare {
		out.Text = strings.TrimSuffix(out.Text, "\n")
	}
	return out, nil
}

// shown is the text of an example with its trained parts in brackets.
func shown(e Example) string {
	var b strings.Builder
	in := false
	for i, id := range e.IDs {
		if yes := e.Labels[i] != Ignore; yes != in {
			in = yes
			b.WriteString(map[bool]string{true: "[", false: "]"}[yes])
		}
		if id < 10 {
			fmt.Fprintf(&b, "<%d>", id)
		} else {
			b.WriteByte(byte(id - 10))
		}
	}
	if in {
		b.WriteString("]")
	}
	return strings.ReplaceAll(strings.ReplaceAll(b.String(), "<|im_start|>", "^"), "<|im_end|>", "$")
}

const twoTurns = `{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"},{"role":"assistant","content":"d"}`

func TestConversations(t *testing.T) {
	for _, c := range []struct {
		name, row string
		opt       Options
		want      string
	}{
		{"messages", `{"messages":[` + twoTurns + `]}`, Options{}, "^user\na$\n^assistant\n[b$]\n^user\nc$\n^assistant\n[d$]\n"},
		{"assistant", `{"messages":[` + twoTurns + `]}`, Options{Mask: MaskAssistant}, "^user\na$\n^assistant\n[b$]\n^user\nc$\n^assistant\n[d$]\n"},
		{"last", `{"messages":[` + twoTurns + `]}`, Options{Mask: MaskLast}, "^user\na$\n^assistant\nb$\n^user\nc$\n^assistant\n[d$]\n"},
		{"none", `{"messages":[` + twoTurns + `]}`, Options{Mask: MaskNone}, "<[|im_start|>user\na$\n^assistant\nb$\n^user\nc$\n^assistant\nd$\n]"},
		{"no BOS or EOS is added", `{"messages":[` + twoTurns + `]}`, Options{Mask: MaskLast, BOS: []int32{1}, EOS: []int32{2}}, "^user\na$\n^assistant\nb$\n^user\nc$\n^assistant\n[d$]\n"},
		{"train false", `{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b","train":false},{"role":"assistant","content":"c"}]}`, Options{}, "^user\na$\n^assistant\nb$\n^assistant\n[c$]\n"},
		{"weight", `{"messages":[{"role":"user","content":"a","weight":1},{"role":"assistant","content":"b","weight":0}]}`, Options{}, "^user\n[a$]\n^assistant\nb$\n"},
		{"none but train false", `{"messages":[{"role":"user","content":"a","train":false},{"role":"assistant","content":"b"}]}`, Options{Mask: MaskNone}, "<[|im_start|>user\n]a$[\n^assistant\nb$\n]"},
		{"parts", `{"messages":[{"role":"user","content":[{"type":"text","text":"a"},"b"]},{"role":"assistant","content":"c"}]}`, Options{}, "^user\nab$\n^assistant\n[c$]\n"},
		{"as a string of JSON", `{"messages":"[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"b\"}]"}`, Options{}, "^user\na$\n^assistant\n[b$]\n"},
		{"tools", `{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{\"x\": 1}"}}]},{"role":"tool","content":"7","name":"f"},{"role":"assistant","content":"b"}],"tools":[{"name":"f"}]}`, Options{},
			"^tools\n[{\"name\":\"f\"}]$\n^user\na$\n^assistant\n[[{\"id\":\"1\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":{\"x\": 1}}}]$]\n^tool\n7$\n^assistant\n[b$]\n"},
		{"empty columns", `{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"tools":"","chat_template_kwargs":" "}`, Options{}, "^user\na$\n^assistant\n[b$]\n"},
		{"sharegpt", `{"system":"s","conversations":[{"from":"human","value":"a"},{"from":"gpt","value":"b"}]}`, Options{}, "^system\ns$\n^user\na$\n^assistant\n[b$]\n"},
		{"sharegpt calls", `{"conversations":[{"from":"human","value":"a"},{"from":"function_call","value":"{\"name\":\"f\",\"arguments\":{}}"},{"from":"observation","value":"7"},{"from":"gpt","value":"b"}],"tools":"[]"}`, Options{},
			"^user\na$\n^assistant\n[[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":{}}}]$]\n^tool\n7$\n^assistant\n[b$]\n"},
		{"prompt and completion", `{"prompt":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"}],"completion":[{"role":"assistant","content":"d"}]}`, Options{}, "^user\na$\n^assistant\nb$\n^user\nc$\n^assistant\n[d$]\n"},
		{"string and messages", `{"prompt":"a","completion":[{"role":"assistant","content":"d"}]}`, Options{}, "^user\na$\n^assistant\n[d$]\n"},
		{"strings as chat", `{"prompt":"a","completion":"d"}`, Options{AsChat: true}, "^user\na$\n^assistant\n[d$]\n"},
		{"alpaca as chat", `{"instruction":"a","input":"i","output":"d","system":"s"}`, Options{AsChat: true}, "^system\ns$\n^user\na\n\ni$\n^assistant\n[d$]\n"},
		{"no end in the template", `{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}`, Options{Renderer: chatML{bare: true}, EOS: []int32{2}}, "^user\na\n^assistant\n[b<2>]"},
		{"nor after one that is marked", `{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b","train":false}]}`, Options{Mask: MaskNone, Renderer: chatML{bare: true}, EOS: []int32{2}}, "<[|im_start|>user\na\n^assistant\n]b"},
		{"no end after a turn that is not trained", `{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"}]}`, Options{Renderer: chatML{bare: true}, EOS: []int32{2}}, "^user\na\n^assistant\n[b]\n^user\nc"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.opt.Renderer == nil {
				c.opt.Renderer = chatML{}
			}
			set := load(t, c.opt, write(t, "a.jsonl", c.row))
			require.Equal(t, c.want, shown(example(t, set, 0)))
		})
	}
}

func TestConversationErrors(t *testing.T) {
	user := `{"role":"user","content":"a"}`
	for _, c := range []struct {
		row, says string
		opt       Options
	}{
		{`{"messages":[` + user + `]}`, `no assistant turn to learn (its roles are "user")`, Options{}},
		{`{"messages":[]}`, "has no messages", Options{}},
		{`{"messages":[` + user + `,{"role":"assistant","content":"b","train":false}]}`, "marked train: false", Options{}},
		{`{"messages":[` + user + `,{"role":"assistant","content":"b"}]}`, "the template drops the text of assistant turn 2 (\"b\")", Options{Renderer: chatML{drop: true}}},
		{`{"messages":[` + user + `,{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":{}}}]},{"role":"assistant","content":""}]}`,
			"the template drops the call of the tool f in assistant turn 2", Options{Renderer: chatML{drop: true}}},
		{`{"messages":[{"content":"a"}]}`, `messages[0] has no role (it has "content")`, Options{}},
		{`{"messages":[{"role":"user"` + manyKeys(maxKeys) + `}]}`, "messages[0] has more than 256 keys", Options{}},
		{`{"messages":["a"]}`, "messages[0] must be an object, is a string", Options{}},
		{`{"messages":[null]}`, "messages[0] must be an object, is null", Options{}},
		{`{"messages":{"role":"user"}}`, `"messages" must be a list, is an object`, Options{}},
		{`{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}`, `content[0] is no text (type "image_url")`, Options{}},
		{`{"messages":[{"role":"user","content":3}]}`, "messages[0].content must be a string, is a number", Options{}},
		{`{"messages":[` + user + `,{"role":"assistant","content":"b","weight":0.5}]}`, "messages[1].weight is 0.5, expected", Options{}},
		{`{"messages":[` + user + `,{"role":"assistant","tool_calls":[{"function":{}}]}]}`, "messages[1].tool_calls[0] has no name", Options{}},
		{`{"messages":[` + user + `,{"role":"assistant","tool_calls":7}]}`, "must be a list, is a number", Options{}},
		{`{"conversations":[{"from":"function_call","value":"f()"}]}`, "function_call whose text is no JSON", Options{}},
		{`{"messages":[{"role":"user","content":"REFUSED"},{"role":"assistant","content":"b"}]}`, "the template refuses this", Options{}},
		{`{"messages":[{"role":"user","content":"\ud800"}]}`, "surrogate", Options{}},
		{`{"messages":[` + user + `],"tools":"x"}`, `"tools" must be a list`, Options{}},
		{`{"messages":[` + user + `],"chat_template_kwargs":[]}`, `"chat_template_kwargs" must be an object`, Options{}},
		{`{"prompt":[` + user + `,{"role":"assistant","content":"b"}],"completion":[` + user + `]}`, "no assistant turn", Options{}},
	} {
		if c.opt.Renderer == nil {
			c.opt.Renderer = chatML{}
		}
		_, err := loadErr(c.opt, write(t, "a.jsonl", c.row))
		require.ErrorContains(t, err, c.says)
		require.ErrorContains(t, err, "a.jsonl:1: ")
	}
	_, err := loadErr(Options{}, write(t, "a.jsonl", `{"messages":[`+twoTurns+`]}`))
	require.ErrorContains(t, err, "data.template")
}

// manyKeys are further keys of an object.
func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"k%d":0`, i)
	}
	return b.String()
}

func TestConversationPairs(t *testing.T) {
	u, good, bad := `{"role":"user","content":"a"}`, `{"role":"assistant","content":"x"}`, `{"role":"assistant","content":"y"}`
	want := [2]string{"^user\na$\n^assistant\n[x$]\n", "^user\na$\n^assistant\n[y$]\n"}
	for _, c := range []struct {
		name, row string
		opt       Options
		want      [2]string
	}{
		{"shared turns", `{"chosen":[` + u + `,` + good + `],"rejected":[` + u + `,` + bad + `]}`, Options{}, want},
		{"prompt of messages", `{"prompt":[` + u + `],"chosen":[` + good + `],"rejected":[` + bad + `]}`, Options{}, want},
		{"prompt repeated", `{"prompt":[` + u + `],"chosen":[` + u + `,` + good + `],"rejected":[` + u + `,` + bad + `]}`, Options{}, want},
		{"string prompt repeated", `{"prompt":"a","chosen":[` + u + `,` + good + `],"rejected":[` + u + `,` + bad + `]}`, Options{}, want},
		{"string prompt", `{"prompt":"a","chosen":[` + good + `],"rejected":[` + bad + `]}`, Options{}, want},
		{"one message a side", `{"conversations":[{"from":"human","value":"a"}],"chosen":{"from":"gpt","value":"x"},"rejected":{"from":"gpt","value":"y"}}`, Options{}, want},
		{"strings after messages", `{"prompt":[` + u + `],"chosen":"x","rejected":"y"}`, Options{}, want},
		{"strings as chat", `{"prompt":"a","chosen":"x","rejected":"y"}`, Options{AsChat: true}, want},
		{"alpaca as chat", `{"instruction":"a","input":"","chosen":"x","rejected":"y"}`, Options{AsChat: true}, want},
		{"question as chat", `{"question":"a","system":"","chosen":"x","rejected":"y"}`, Options{AsChat: true}, want},
		{"long answers", `{"chosen":[` + u + `,` + good + `,` + u + `,` + good + `],"rejected":[` + u + `,` + bad + `]}`, Options{},
			[2]string{"^user\na$\n^assistant\n[x$]\n^user\na$\n^assistant\n[x$]\n", want[1]}},
		{"mask is ignored", `{"prompt":[` + u + `],"chosen":[` + good + `],"rejected":[` + bad + `]}`, Options{Mask: MaskNone}, want},
		{"flags of the prompt are ignored", `{"prompt":[{"role":"user","content":"a","train":true}],"chosen":[` + good + `],"rejected":[` + bad + `]}`, Options{}, want},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.opt.Pairs, c.opt.Renderer = true, chatML{}
			set := load(t, c.opt, write(t, "a.jsonl", c.row))
			p, err := set.Pair(0)
			require.NoError(t, err)
			require.Equal(t, c.want, [2]string{shown(p.Chosen), shown(p.Rejected)})
			require.Equal(t, "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n", bytesOf(p.Prompt))
		})
	}
	for row, says := range map[string]string{
		`{"chosen":[` + good + `],"rejected":[` + bad + `]}`:                       "share no turn",
		`{"prompt":"a","chosen":[` + u + `,` + good + `],"rejected":[` + u + `]}`:  `"rejected" does not end with an answer`,
		`{"prompt":[` + u + `],"chosen":[` + good + `],"rejected":[` + good + `]}`: "no row is left",
		`{"chosen":[` + u + `,` + good + `],"rejected":[` + u + `,` + good + `]}`:  "no row is left",
		`{"prompt":[` + u + `],"chosen":[` + good + `],"rejected":3}`:              `"rejected" must be a string`,
		`{"prompt":[` + u + `],"chosen":[` + good + `]}`:                           "no format fits",
	} {
		_, err := loadErr(Options{Pairs: true, Renderer: chatML{}}, write(t, "a.jsonl", row))
		require.ErrorContains(t, err, says)
	}
}

// Tokens that straddle a border belong to the turn that holds their first byte at its front, and their last at its end: with offsets
// and without them.
func TestBordersInsideTokens(t *testing.T) {
	text := "aabbccdd"
	for at := range len(text) + 1 {
		with, err := (&Converter{Encoder: pairsOfBytes{}}).borders(&Row{}, text)
		require.NoError(t, err)
		without, err := (&Converter{Encoder: onlyEncode{pairsOfBytes{}}}).borders(&Row{}, text)
		require.NoError(t, err)
		require.NotNil(t, with.offsets)
		require.Nil(t, without.offsets)
		for _, b := range []borders{with, without} {
			lo, torn, err := b.first(at)
			require.NoError(t, err)
			require.Equal(t, at%2 == 1, torn)
			hi, err := b.behind(at)
			require.NoError(t, err)
			require.Equal(t, [2]int{at / 2, (at + 1) / 2}, [2]int{lo, hi}, "at %d", at)
		}
	}
}

// pairsOfBytes makes a token of every two bytes, and of a last one.
type pairsOfBytes struct{}

func (p pairsOfBytes) Encode(text string) ([]int32, error) {
	ids, _, err := p.EncodeOffsets(text)
	return ids, err
}

func (pairsOfBytes) EncodeOffsets(text string) (ids, offsets []int32, err error) {
	for i := 0; i < len(text); i += 2 {
		end := min(i+2, len(text))
		id := int32(text[i]) << 8
		if end > i+1 {
			id |= int32(text[i+1])
		}
		ids, offsets = append(ids, id), append(offsets, int32(i), int32(end))
	}
	return ids, offsets, nil
}

type onlyEncode struct{ Encoder }

// Whatever valid object is read, keys and values are those of encoding/json.
func TestObjectAgainstJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var value func(depth int) any
		value = func(depth int) any {
			switch n := rapid.IntRange(0, 6).Draw(t, "kind"); {
			case n == 0 && depth > 0:
				return []any{value(depth - 1), value(depth - 1)}
			case n == 1 && depth > 0:
				return map[string]any{rapid.String().Draw(t, "key"): value(depth - 1)}
			case n == 2:
				return rapid.Float64().Draw(t, "number")
			case n == 3:
				return true
			case n == 4:
				return nil
			}
			return rapid.OneOf(rapid.String(), rapid.StringMatching(`[\\"{}\[\],: ]*`)).Draw(t, "text")
		}
		in := map[string]any{}
		for range rapid.IntRange(0, 4).Draw(t, "keys") {
			in[rapid.String().Draw(t, "key")] = value(2)
		}
		raw, err := json.Marshal(in)
		require.NoError(t, err)
		if rapid.Bool().Draw(t, "indented") {
			raw, err = json.MarshalIndent(in, "\r\t", " ")
			require.NoError(t, err)
		}
		var want map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(raw, &want))
		got, err := object(raw)
		require.NoError(t, err)
		require.Len(t, got, len(want))
		for _, f := range got {
			require.Equal(t, string(want[f.key]), string(f.val))
		}
	})
}
