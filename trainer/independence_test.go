package trainer_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// talks is a configuration that trains an adapter in full precision on conversations of the built-in model, a whole epoch a step.
func talks(t testing.TB, template string) config.Config {
	t.Helper()
	var b strings.Builder
	for i := range 11 {
		fmt.Fprintf(&b, `{"messages":[{"role":"user","content":"Count to %d%s"},{"role":"assistant","content":"%s"},{"role":"user","content":"More"},{"role":"assistant","content":"%d"}]}`+"\n",
			i, strings.Repeat(" please", i%4), strings.Repeat("one ", 1+i%5), i)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "rows.jsonl")
	require.NoError(t, os.WriteFile(path, []byte(b.String()), 0o600))
	c := config.Default(config.Finetune)
	c.Model, c.Out, c.Device, c.Quantize.Scheme = "builtin:tiny", filepath.Join(dir, "run"), "cpu", "none"
	c.Adapter.R, c.Adapter.Dropout = 4, 0.1
	c.Data.Path, c.Data.SeqLen, c.Data.Val, c.Data.Template = []config.Source{{Path: path, Weight: 1}}, 128, 0, template
	c.Train.Steps, c.Train.NEFTune, c.Train.LR, c.Train.Schedule, c.Train.DType = 3, 5, 1e-3, "constant", "f32"
	return c
}

// TestLossOfAStep: the loss, the gradient and what follows from them do not depend on how many rows are computed at once, on the
// number of micro-batches, or on whether and how the documents are packed; dropout and noise are on.
func TestLossOfAStep(t *testing.T) {
	var want []report.Row
	for _, cut := range []struct {
		pack         bool
		batch, micro int
	}{{false, 11, 11}, {false, 11, 1}, {false, 11, 4}, {true, 11, 11}, {true, 11, 2}, {true, 11, 1}, {true, 16, 5}} {
		c := talks(t, "plain")
		c.Data.Pack, c.Train.Batch, c.Train.MicroBatch = cut.pack, cut.batch, cut.micro
		var got []report.Row
		run(t, c, trainer.Hooks{OnStep: func(r report.Row) error { got = append(got, r); return nil }})
		if want == nil {
			want = got
			continue
		}
		for i := range want {
			require.Equal(t, want[i].Tokens, got[i].Tokens, "%+v", cut)
			require.InEpsilon(t, want[i].Loss, got[i].Loss, 5e-6, "%+v step %d", cut, i+1)
			require.InEpsilon(t, want[i].GradNorm, got[i].GradNorm, 5e-5, "%+v step %d", cut, i+1)
		}
	}
}

// TestTemplateClock: a template that writes the time writes that of the run's beginning after a resumption; another template is refused.
func TestTemplateClock(t *testing.T) {
	file := filepath.Join(t.TempDir(), "clock.jinja")
	source := `{{ strftime_now('%H %M %S %f') }}{% for m in messages %}{{ '\n' + m.role + ': ' + m.content }}{% endfor %}`
	require.NoError(t, os.WriteFile(file, []byte(source), 0o600))
	c := talks(t, file)
	c.Train.LR, c.Train.NEFTune, c.Adapter.Dropout, c.Train.Batch, c.Train.MicroBatch = 0, 0, 0, 11, 11
	ctx, cancel := context.WithCancel(context.Background())
	fails(t, ctx, c, trainer.Hooks{OnStep: func(report.Row) error { cancel(); return nil }}, config.ExitStopped)
	time.Sleep(1100 * time.Millisecond)
	c.Resume = true
	var loss []float64
	run(t, c, trainer.Hooks{OnStep: func(r report.Row) error { loss = append(loss, r.Loss); return nil }})
	rows := metrics(t, c)
	require.Len(t, rows, 3)
	require.InEpsilon(t, rows[0].Loss, loss[0], 1e-6, "the same tokens, and weights that do not move")
	kept, err := os.ReadFile(filepath.Join(c.Out, "adapter", "chat_template.jinja"))
	require.NoError(t, err)
	require.Equal(t, source, string(kept), "the template lies beside the adapter")

	again := talks(t, file)
	ctx, cancel = context.WithCancel(context.Background())
	fails(t, ctx, again, trainer.Hooks{OnStep: func(report.Row) error { cancel(); return nil }}, config.ExitStopped)
	require.NoError(t, os.WriteFile(file, []byte(source+" "), 0o600))
	again.Resume = true
	fails(t, context.Background(), again, trainer.Hooks{}, config.ExitConfig, "chat template is not that of the checkpoint")
}
