package trainer_test

import (
	"context"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

func planned(t testing.TB, c config.Config) *trainer.Planned {
	t.Helper()
	p, err := trainer.Plan(context.Background(), c, trainer.Hooks{Device: threads(t, 1)})
	require.NoError(t, err)
	return p
}

func bytesText(n int64) string { return strconv.FormatInt(n, 10) }

// deep is a model of six blocks whose activations are most of what a step takes.
func deep(t testing.TB) config.Config {
	c := pretrain(t)
	c.Model, c.Data.SeqLen = architecture(t, shape{32, 32, 96, 6, 128}), 64
	c.Train.Batch, c.Train.MicroBatch = 8, 8
	return c
}

// TestFewestBlocks gives ever less memory: as few blocks as possible are recomputed, one less does not fit, and the numbers stay the same.
func TestFewestBlocks(t *testing.T) {
	c := deep(t)
	c.Train.Checkpointing = "off"
	off := planned(t, c)
	c.Train.Checkpointing = "on"
	on := planned(t, c)
	require.Less(t, on.TotalBytes, off.TotalBytes)
	require.Equal(t, 6, on.Recompute)
	c.Train.Checkpointing = "auto"
	digest := run(t, c, trainer.Hooks{Device: threads(t, 1)}).WeightsDigest
	before := 0
	for i := int64(0); i <= 4; i++ {
		budget := off.TotalBytes - i*(off.TotalBytes-on.TotalBytes)/4
		c.Train.Memory = bytesText(budget)
		p := planned(t, c)
		require.LessOrEqual(t, p.TotalBytes, budget)
		require.GreaterOrEqual(t, p.Recompute, before)
		if p.Recompute > 0 && p.Recompute < 5 && p.Recompute != before {
			tight := c
			tight.Train.Memory = bytesText(p.TotalBytes - 1)
			require.Greater(t, planned(t, tight).Recompute, p.Recompute)
			c.Out = filepath.Join(t.TempDir(), "run")
			require.Equal(t, digest, run(t, c, trainer.Hooks{Device: threads(t, 1)}).WeightsDigest, "recomputed numbers are the same")
		}
		before = p.Recompute
	}
	require.Greater(t, before, 3)
}

// TestRefusalTable: what does not fit is refused with settings that do, and they do.
func TestRefusalTable(t *testing.T) {
	c := deep(t)
	c.Train.Checkpointing, c.Train.MicroBatch = "on", 2
	two := planned(t, c)
	c.Train.MicroBatch, c.Train.Memory = 8, bytesText(two.TotalBytes+1024)
	err := fails(t, context.Background(), c, trainer.Hooks{Device: threads(t, 1)}, config.ExitMemory, "Settings and what they need", "--fit")
	lines := strings.Split(err.Error(), "\n")
	var fitting []string
	for _, l := range lines {
		if strings.HasSuffix(l, "fits") {
			fitting = strings.Fields(l)
		}
	}
	require.Equal(t, []string{"2", "on", "64"}, fitting[:3])
	require.Equal(t, report.Bytes(two.TotalBytes), strings.Join(fitting[3:5], " "))

	c.Train.Checkpointing, c.Train.Fit = "auto", true
	p := planned(t, c)
	require.LessOrEqual(t, p.TotalBytes, two.TotalBytes+1024)
	require.Equal(t, 2, p.MicroBatch)
	require.Contains(t, p.Text(), "fits")
	s := run(t, c, trainer.Hooks{Device: threads(t, 1)})
	free := c
	free.Train.Memory, free.Out = "", filepath.Join(t.TempDir(), "run")
	free.Train.MicroBatch, free.Train.Fit = 2, false
	require.Equal(t, run(t, free, trainer.Hooks{Device: threads(t, 1)}).WeightsDigest, s.WeightsDigest, "the batch stays, so the update does")
}

// TestPlanWithoutData plans with the longest rows there can be.
func TestPlanWithoutData(t *testing.T) {
	t.Chdir(t.TempDir())
	c := deep(t)
	with := planned(t, c)
	c.Data.Path = config.Default(config.Pretrain).Data.Path
	without := planned(t, c)
	require.Zero(t, without.Steps)
	require.Equal(t, with.TotalBytes, without.TotalBytes)
	require.Contains(t, without.Text(), "data.path is rows.jsonl, which does not exist")
	c.Data.Path = []config.Source{{Path: "missing.jsonl", Weight: 1}}
	_, err := trainer.Plan(context.Background(), c, trainer.Hooks{})
	require.ErrorContains(t, err, "missing.jsonl")
}

// TestPlanOfPairs: a pair has two rows, so the arithmetic of a token is that of one row.
func TestPlanOfPairs(t *testing.T) {
	p := planned(t, prefer(t, "orpo"))
	want, longest := 0.0, 0
	for n, r := range p.Lengths {
		want, longest = max(want, float64(r.Flops)/float64(2*p.MicroBatch*n)), max(longest, n)
	}
	require.InEpsilon(t, want, p.FlopsPerToken, 1e-12)
	require.InEpsilon(t, want*float64(longest*2*4)/p.FlopRate, p.StepSeconds, 1e-12)
}

// TestGoldenHFMemory compares what is planned for models of every family, in every mode, with what the device then hands out.
func TestGoldenHFMemory(t *testing.T) {
	dirs, err := filepath.Glob(filepath.Join(golden.Dir(t), "hf", "*", "config.json"))
	require.NoError(t, err)
	ran := 0
	for _, file := range dirs {
		dir := filepath.Dir(file)
		for _, mode := range []string{"full", "lora", "qlora"} {
			t.Run(filepath.Base(dir)+"/"+mode, func(t *testing.T) {
				c := adapt(t, dir)
				switch mode {
				case "full":
					c.Adapter.Type, c.Quantize.Scheme = "none", "none"
				case "lora":
					c.Quantize.Scheme = "none"
				}
				c.Train.Steps, c.Data.Val, c.Eval.Every, c.Eval.Samples, c.Eval.Tokens = 2, 0.2, 1, 2, 4 // the second row has seen an evaluation
				dev := threads(t, 1)
				p, err := trainer.Plan(context.Background(), c, trainer.Hooks{Device: dev})
				if err != nil && config.ExitCode(err) != config.ExitFailure {
					t.Skipf("refused: %v", err)
				}
				require.NoError(t, err)
				var most int64
				run(t, c, trainer.Hooks{Device: dev, OnStep: func(r report.Row) error { most = r.MemoryBytes; return nil }})
				require.InEpsilon(t, p.TotalBytes, most, 0.02, "planned %d, held %d", p.TotalBytes, most)
				ran++
			})
		}
	}
	t.Logf("%d runs of %d families", ran, len(dirs))
}

// TestMemoryOfPreferences compares plans with a reference, live and asked before, with what the device hands out.
func TestMemoryOfPreferences(t *testing.T) {
	for name, c := range map[string]config.Config{"dpo": prefer(t, "dpo"), "dpo of every weight": full(prefer(t, "dpo")), "kto": prefer(t, "kto"),
		"orpo": prefer(t, "orpo")} {
		t.Run(name, func(t *testing.T) {
			p := planned(t, c)
			var most int64
			run(t, c, trainer.Hooks{Device: threads(t, 1), OnStep: func(r report.Row) error { most = r.MemoryBytes; return nil }})
			require.InEpsilon(t, p.TotalBytes, most, 0.02, "planned %d, held %d", p.TotalBytes, most)
		})
	}
}
