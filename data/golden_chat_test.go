package data

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/chat"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
)

// TestGoldenChatRows loads the conversation of every real template as a row: the tokens are those of the expected text, and the answers
// are trained and nothing that the user said is.
func TestGoldenChatRows(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(golden.Dir(t), "chat", "templates.json"))
	if err != nil {
		t.Skipf("no golden templates: %v", err)
	}
	var file map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(raw, &file))
	var now time.Time
	require.NoError(t, json.Unmarshal(file["now"], &now))
	for section, raw := range file {
		var cases map[string]chatCase
		if json.Unmarshal(raw, &cases) != nil {
			continue
		}
		for name, c := range cases {
			t.Run(section+"/"+name, func(t *testing.T) { goldenRow(t, c, now) })
		}
	}
}

type chatCase struct {
	Template string                     `json:"chat_template"`
	Data     map[string]json.RawMessage `json:"data"`
	Target   string                     `json:"target"`
}

func goldenRow(t *testing.T, c chatCase, now time.Time) {
	extra := map[string]json.RawMessage{}
	special := map[string]string{}
	row := map[string]any{"messages": c.Data["messages"]}
	for k, v := range c.Data {
		var token string
		switch {
		case k == "messages":
		case k == "tools":
			row["tools"] = v
		case strings.HasSuffix(k, "_token") && json.Unmarshal(v, &token) == nil:
			special[k] = token
		case k != "add_generation_prompt":
			extra[k] = v
		}
	}
	row["chat_template_kwargs"] = extra
	line, err := json.Marshal(row)
	require.NoError(t, err)
	tmpl, err := chat.Parse(c.Template, chat.Options{Special: special, Now: func() time.Time { return now }})
	require.NoError(t, err)
	set, err := Load(context.Background(), byteEncoder{}, []File{{Path: write(t, "a.jsonl", string(line))}}, Options{SeqLen: 1 << 20, Renderer: NewRenderer(tmpl)})
	if err != nil {
		if strings.Contains(err.Error(), "only text is trained on") {
			t.Log(err)
			return
		}
		require.NotContains(t, string(c.Data["messages"]), `"assistant"`, "%v", err) // nothing to learn
		require.ErrorContains(t, err, "no assistant turn")
		return
	}
	e := example(t, set, 0)
	if bytes.Equal(c.Data["add_generation_prompt"], []byte("false")) || c.Data["add_generation_prompt"] == nil {
		require.Equal(t, c.Target, bytesOf(e.IDs))
	}
	var trainedText, rest strings.Builder
	for i, id := range e.IDs {
		if e.Labels[i] == Ignore {
			rest.WriteByte(byte(id - 10))
		} else {
			trainedText.WriteByte(byte(id - 10))
		}
	}
	var messages []struct {
		Role    string
		Content any
	}
	require.NoError(t, json.Unmarshal(c.Data["messages"], &messages))
	for _, m := range messages {
		text, _ := m.Content.(string)
		if text = strings.TrimSpace(text); text == "" || strings.Contains(text, "<think>") {
			continue
		}
		if m.Role == Assistant {
			require.Contains(t, trainedText.String(), text)
		} else {
			require.NotContains(t, trainedText.String(), text)
		}
	}
}
