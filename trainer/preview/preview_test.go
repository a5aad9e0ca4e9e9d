package preview

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// look previews rows with the built-in model.
func look(t *testing.T, rows string, o Options, change func(*config.Config)) *Report {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rows.jsonl")
	require.NoError(t, os.WriteFile(path, []byte(rows), 0o600))
	c := config.Default(config.Finetune)
	c.Model, c.Data.SeqLen, c.Data.Path = "builtin:tiny", 128, []config.Source{{Path: path, Weight: 1}}
	if change != nil {
		change(&c)
	}
	r, err := Run(context.Background(), c, o, nil)
	require.NoError(t, err)
	return r
}

func text(t *testing.T, r *Report, o TextOptions) string {
	t.Helper()
	var b strings.Builder
	require.NoError(t, r.WriteText(&b, o))
	return b.String()
}

func TestConversation(t *testing.T) {
	r := look(t, `{"messages":[{"role":"user","content":"Hello"},{"role":"assistant","content":"Hi there"}]}`+"\n", Options{}, func(c *config.Config) { c.Data.Template = "plain" })
	require.True(t, r.Usable())
	require.Equal(t, "plain", r.Template)
	require.Empty(t, r.Problems)
	require.Contains(t, text(t, r, TextOptions{}), "User: Hello\nAssistant:⟦ Hi there</s>⟧")
	require.Contains(t, text(t, r, TextOptions{Colour: true}), green+" Hi there</s>"+plain)
}

// The template's faults are found on the rows and on the template itself.
func TestProblems(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bad.jinja")
	require.NoError(t, os.WriteFile(file, []byte(`{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}`), 0o600))
	r := look(t, `{"messages":[{"role":"user","content":"Hello"},{"role":"assistant","content":"one two"}]}`+"\n", Options{}, func(c *config.Config) { c.Data.Template = file })
	var all []string
	for _, p := range r.Problems {
		all = append(all, p.What)
		require.NotEmpty(t, p.Remedy)
	}
	joined := strings.Join(all, "\n")
	for _, says := range []string{"ends the last turn with nothing", "a token holds the end of the prompt"} {
		require.Contains(t, joined, says)
	}
	r = look(t, strings.Repeat(`{"prompt":"`+strings.Repeat("word ", 60)+`","completion":"`+strings.Repeat("yes ", 90)+`"}`+"\n", 2), Options{Rows: -1}, nil)
	require.Contains(t, fmt.Sprint(r.Problems), "2 rows longer than data.seq_len lose their end, 100.0% of all")
	require.Contains(t, fmt.Sprint(r.Problems), "1 duplicate of earlier examples")
	require.Empty(t, r.Shown)
}

// Rows of preferences that are conversations have the problems of their template.
func TestTemplateOfPairs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bad.jinja")
	require.NoError(t, os.WriteFile(file, []byte(`{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}`), 0o600))
	r := look(t, `{"prompt":[{"role":"user","content":"Hello"}],"chosen":[{"role":"assistant","content":"yes"}],"rejected":[{"role":"assistant","content":"no"}]}`+"\n",
		Options{}, func(c *config.Config) { c.Data.Template, c.Train.Objective = file, "dpo" })
	require.Contains(t, fmt.Sprint(r.Problems), "chat template "+file+": ")
}

func TestPairs(t *testing.T) {
	rows := `{"prompt":"Q","chosen":"yes","rejected":"no"}` + "\n" + `{"prompt":"Q","chosen":"a","rejected":"a"}` + "\n"
	r := look(t, rows, Options{Row: 1}, func(c *config.Config) { c.Train.Objective = "dpo" })
	require.Len(t, r.Shown, 2)
	require.Equal(t, [2]string{"chosen", "rejected"}, [2]string{r.Shown[0].Side, r.Shown[1].Side})
	require.Contains(t, text(t, r, TextOptions{}), "Q⟦no</s>⟧")
	require.Contains(t, fmt.Sprint(r.Problems), "1 pair left out whose two answers are the same")
}

// Held-out rows come from a share or from files; token ids need no tokenizer to be shown.
func TestHeldOut(t *testing.T) {
	rows := strings.Repeat(`{"input_ids":[1,5,9],"labels":[-100,5,9]}`+"\n", 10)
	require.Equal(t, 2, look(t, rows, Options{}, func(c *config.Config) { c.Data.Val = 0.2 }).HeldOut)
	held := filepath.Join(t.TempDir(), "held.jsonl")
	require.NoError(t, os.WriteFile(held, []byte(strings.Repeat(`{"input_ids":[1,5,9]}`+"\n", 3)), 0o600))
	r := look(t, rows, Options{}, func(c *config.Config) { c.Data.ValPath = []config.Source{{Path: held, Weight: 1}} })
	require.Equal(t, 3, r.HeldOut)
	require.Len(t, r.Shown, DefaultRows)
}

func TestVisible(t *testing.T) {
	require.Equal(t, "a\n\tb", Visible("a\n\tb"))
	require.Equal(t, `\x1b[2J\x07 \x9b \u202e \u2028 é`, Visible("\x1b[2J\x07 \u009b \u202e \u2028 é"))
}

// Rows are shown as the run sees them: with the tokens that it adds, and the chat template of the adapter that it starts from.
func TestAsTrained(t *testing.T) {
	r := look(t, `{"prompt":"call ","completion":"<tool>the fox</tool>"}`+"\n", Options{}, func(c *config.Config) { c.Data.NewTokens = []string{"<tool>", "</tool>"} })
	var texts []string
	for _, tok := range r.Shown[0].Tokens {
		texts = append(texts, tok.Text)
	}
	require.Subset(t, texts, []string{"<tool>", "</tool>"})

	adapter := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(adapter, "chat_template.jinja"), []byte(`{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}`), 0o600))
	r = look(t, `{"messages":[{"role":"user","content":"Hello"},{"role":"assistant","content":"Hi there"}]}`+"\n", Options{}, func(c *config.Config) { c.Adapter.Init = adapter })
	require.Contains(t, text(t, r, TextOptions{}), "[assistant]⟦ Hi there</s>⟧")
}

// A held-out row that cannot be used stops a run as any other does.
func TestHeldOutBad(t *testing.T) {
	held := filepath.Join(t.TempDir(), "held.jsonl")
	require.NoError(t, os.WriteFile(held, []byte(`{"input_ids":[1,5,9]}`+"\n"+`{"input_ids":[1,5,9],"labels":[-100,-100,-100]}`+"\n"), 0o600))
	r := look(t, `{"input_ids":[1,5,9]}`+"\n", Options{}, func(c *config.Config) { c.Data.ValPath = []config.Source{{Path: held, Weight: 1}} })
	require.Len(t, r.BadRows, 1)
	require.False(t, r.Usable())
	require.Contains(t, text(t, r, TextOptions{}), "held.jsonl:2")
}

// TestFilling tells how full the rows of a run are, packed and padded.
func TestFilling(t *testing.T) {
	var rows strings.Builder
	for range 8 {
		rows.WriteString(`{"input_ids": [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24], "labels": [-100, -100, -100, -100, -100, -100, -100, -100, -100, -100, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24]}` + "\n")
	}
	for pack, want := range map[bool]string{
		true:  "rows of an epoch    2, packed; 62.5% of their positions hold a token, 31.2% are trained", // 6 and 2 of 20 tokens in 128
		false: "rows of an epoch    8, an example each, padded; 62.5% of their positions hold a token, 31.2% are trained",
	} {
		r := look(t, rows.String(), Options{Rows: -1}, func(c *config.Config) { c.Data.Pack, c.Data.Val = pack, 0 })
		require.Equal(t, pack, r.Packed)
		require.Contains(t, text(t, r, TextOptions{}), want)
		require.InDelta(t, 0.625, r.Efficiency, 1e-12)
		require.InDelta(t, 0.3125, r.TrainedSpace, 1e-12)
	}
}
