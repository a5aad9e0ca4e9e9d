package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

func chatFlags() generateFlags {
	return generateFlags{GenerateOptions: trainer.GenerateOptions{Model: "builtin:tiny", Device: "cpu", MaxTokens: 10, IgnoreEnd: true, Template: "plain"}}
}

// talked runs a conversation over pipes.
func talked(t *testing.T, o generateFlags, lines ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, msg bytes.Buffer
	w, err := trainer.OpenWriter(o.GenerateOptions)
	require.NoError(t, err)
	defer func() { require.NoError(t, w.Close()) }()
	p := &program{in: strings.NewReader(strings.Join(lines, "\n")), out: &out, err: &msg}
	err = p.chat(context.Background(), w, o)
	return out.String(), msg.String(), err
}

// TestChatPipes: a line is a turn, commands do what they say, and the last line needs no end.
// TestVisible: a model's words do not steer the terminal; standard output that is none gets them as they are.
func TestVisible(t *testing.T) {
	var b bytes.Buffer
	n, err := visible{&b}.Write([]byte("a\x1b]52;c;ZXZpbA==\a\tb\u202ec\n"))
	require.NoError(t, err)
	require.Equal(t, 24, n)
	require.Equal(t, "a\\x1b]52;c;ZXZpbA==\\x07\tb\\u202ec\n", b.String())
	require.Equal(t, &b, (&program{out: &b}).text())
}

func TestChatPipes(t *testing.T) {
	name := filepath.Join(t.TempDir(), "talk.jsonl")
	out, msg, err := talked(t, chatFlags(), "/system Be brief.", "Where is Tom?", "And Anna?", "/undo", "", `Or\`, "Ben?", "/save "+name, "//undo", "/adapter", "/undo", "/undo", "/undo", "/undo")
	require.NoError(t, err, msg)
	require.Contains(t, msg, "in use: none")
	require.Contains(t, msg, "no turn to take back")
	require.NotEmpty(t, out)
	raw, err := os.ReadFile(name)
	require.NoError(t, err)
	var row struct {
		Messages []struct{ Role, Content string }
	}
	require.NoError(t, json.Unmarshal(raw, &row))
	var roles, asked []string
	for _, m := range row.Messages {
		roles = append(roles, m.Role)
		if m.Role == "user" {
			asked = append(asked, m.Content)
		}
	}
	require.Equal(t, []string{"system", "user", "assistant", "user", "assistant"}, roles)
	require.Equal(t, []string{"Where is Tom?", "Or\nBen?"}, asked)

	// The saved file is answered by --messages, its last reply left out, with the same words.
	var kept map[string][]json.RawMessage
	require.NoError(t, json.Unmarshal(raw, &kept))
	line, err := json.Marshal(map[string]any{"messages": kept["messages"][:4]})
	require.NoError(t, err)
	for _, text := range []string{string(line), "[" + string(line) + "]", string(line) + "\n\n" + string(line), strings.TrimSuffix(strings.TrimPrefix(string(line), `{"messages":`), "}")} {
		file := filepath.Join(t.TempDir(), "rows")
		require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
		code, out, msg := command(t, "generate", "--model", "builtin:tiny", "--messages", file, "--template", "plain", "--max-tokens", "10", "--ignore-end")
		require.Zero(t, code, msg)
		var got struct {
			Messages []struct{ Role, Content string }
		}
		first, _, _ := strings.Cut(out, "\n")
		require.NoError(t, json.Unmarshal([]byte(first), &got))
		require.Equal(t, row.Messages, got.Messages)
	}
	code, one, msg := command(t, "generate", "--model", "builtin:tiny", "--user", "Where is Tom?", "--system", "Be brief.", "--template", "plain", "--max-tokens", "10", "--ignore-end")
	require.Zero(t, code, msg)
	require.Equal(t, row.Messages[2].Content, one)
	_, _, err = talked(t, chatFlags(), "/reset", "/exit", "/nonsense")
	require.NoError(t, err, "nothing is read after the end")
	_, _, err = talked(t, chatFlags(), "/nonsense")
	require.ErrorContains(t, err, "/nonsense")
	require.Equal(t, config.ExitConfig, config.ExitCode(err), "a script hears of it")
}

// interrupter sends an interrupt when it is first written to.
type interrupter struct {
	io.Writer
	to   chan os.Signal
	what os.Signal
}

func (w *interrupter) Write(b []byte) (int, error) {
	if w.what != nil {
		w.to <- w.what
		w.what = nil
	}
	return w.Writer.Write(b)
}

// TestChatInterrupt: an interrupt stops the answer and the talk goes on; another signal ends it.
func TestChatInterrupt(t *testing.T) {
	o := chatFlags()
	o.MaxTokens = 400
	w, err := trainer.OpenWriter(o.GenerateOptions)
	require.NoError(t, err)
	defer func() { require.NoError(t, w.Close()) }()
	for _, c := range []struct {
		signal os.Signal
		turns  int
		code   int
	}{{os.Interrupt, 2, 0}, {os.Kill, 1, config.ExitStopped}} {
		var out, msg bytes.Buffer
		signals := make(chan os.Signal)
		chat, err := w.NewChat("")
		require.NoError(t, err)
		p := &program{in: strings.NewReader("Where is Tom?\nWhy?\n"), out: &interrupter{&out, signals, c.signal}, err: &msg}
		k := &talk{program: p, w: w, chat: chat, signals: signals}
		over := make(chan struct{})
		k.read(over)
		err = k.run(t.Context())
		close(over)
		require.Equal(t, c.code, exitCode(err))
		require.Equal(t, c.turns, chat.Turns())
		if c.code == 0 {
			require.Contains(t, msg.String(), "stopped")
		}
	}
}

// TestGenerateAdapters: rows name their adapters, and a name that is not there is said before the model runs.
func TestGenerateAdapters(t *testing.T) {
	run := filepath.Join(t.TempDir(), "run")
	code, _, msg := command(t, "finetune", "--train.steps=2", "--out", run)
	require.Zero(t, code, msg)
	rows := filepath.Join(t.TempDir(), "rows")
	require.NoError(t, os.WriteFile(rows, []byte(`{"prompt":"Tom","adapter":"none"}`+"\n"+`{"prompt":"Tom","adapter":"run"}`+"\nTom\n"), 0o644))
	args := []string{"generate", "--model", "builtin:tiny", "--adapter", filepath.Join(run, "adapter"), "--prompts", rows, "--max-tokens", "4"}
	code, out, msg := command(t, args...)
	require.Zero(t, code, msg)
	var names []string
	for line := range strings.Lines(out) {
		var a trainer.Answer
		require.NoError(t, json.Unmarshal([]byte(line), &a))
		names = append(names, a.Adapter)
	}
	require.Equal(t, []string{"none", "run", "run"}, names)
	code, _, msg = command(t, append(args, "--use", "other")...)
	require.Equal(t, 2, code)
	require.Contains(t, msg, "run")
	code, out, msg = command(t, append(args, "--mix", "half=run*0.5", "--use", "half")...)
	require.Zero(t, code, msg)
	require.Contains(t, out, `"adapter":"half"`)
}

func TestChatFlagsRefuse(t *testing.T) {
	file := func(text string) string {
		name := filepath.Join(t.TempDir(), "rows")
		require.NoError(t, os.WriteFile(name, []byte(text), 0o644))
		return name
	}
	poem := filepath.Join(t.TempDir(), "poem")
	require.NoError(t, os.WriteFile(poem, []byte("Tom\n"+`{"prompt":"Tom","adapter":"b"}`), 0o644))
	for says, c := range map[string]struct {
		code int
		args []string
	}{
		"no chat template":            {2, []string{"--user", "x"}},
		"is no file":                  {2, []string{"--user", "x", "--template", "absent"}},
		"generation_config":           {2, []string{"--sampling", "model"}},
		"model is the only":           {2, []string{"--sampling", "hot"}},
		"--system is for":             {2, []string{"--prompt", "x", "--system", "y"}},
		"expected a JSON":             {2, []string{"--user", "x", "--template-vars", "x"}},
		"NAME=A*0.7":                  {2, []string{"--mix", "x"}},
		"were all set":                {2, []string{"--chat", "--user", "y"}},
		"ends with an assist":         {3, []string{"--template", "plain", "--messages", file(`{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}`)}},
		"has no message":              {3, []string{"--template", "plain", "--messages", file(`{"messages":[]}`)}},
		"holds no conversation":       {3, []string{"--messages", file("[]")}},
		":2: is no JSON object":       {3, []string{"--messages", file(`{"messages":[{"role":"user","content":"a"}]}` + "\nx")}},
		`"usr"; did you mean "user"?`: {3, []string{"--template", "plain", "--messages", file(`{"messages":[{"role":"usr","content":"a"}]}`)}},
		"neither":                     {3, []string{"--messages", file(`{"text":"x"}`)}},
		"poem:2: ":                    {3, []string{"--prompts", poem}},
		`called "b"`:                  {3, []string{"--template", "plain", "--messages", file(`{"messages":[{"role":"user","content":"a"}],"adapter":"b"}`)}},
	} {
		code, out, msg := command(t, append([]string{"generate", "--model", "builtin:tiny"}, c.args...)...)
		require.Equal(t, c.code, code, "%v: %s", c.args, msg)
		require.Contains(t, msg, says)
		require.Empty(t, out)
	}
}

// FuzzMessageRows: whatever a file of conversations holds, it is read or refused, and every query waits for a reply.
func FuzzMessageRows(f *testing.F) {
	f.Add([]byte(`{"messages":[{"role":"user","content":"a"}],"adapter":"x"}`))
	f.Add([]byte(`[{"conversations":[{"from":"human","value":"a"}]}]`))
	f.Add([]byte(`[{"role":"user","content":["a",{"type":"text","text":"b"}]}]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := (&program{in: bytes.NewReader(raw)}).messageRows("-")
		if err != nil {
			return
		}
		require.NotEmpty(t, b.queries)
		require.Len(t, b.messages, len(b.queries))
		for _, q := range b.queries {
			require.NotEmpty(t, q.Conversation.Messages)
		}
	})
}
