package trainer_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// TestGoldenHFPackedLoss: the first step of every family has one loss and one gradient norm, packed, padded, and in micro-batches of any
// size, over documents on both sides of every length that its positions or windows depend on.
func TestGoldenHFPackedLoss(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(golden.Dir(t), "hf", "*", "config.json"))
	require.NoError(t, err)
	var rows strings.Builder
	for i, n := range []int{2, 3, 4, 5, 9, 20, 2, 4, 13, 7, 3, 6} {
		var ids []string
		for k := range n {
			ids = append(ids, fmt.Sprint(3+(i*17+k*29)%110))
		}
		fmt.Fprintf(&rows, `{"input_ids": [%s]}`+"\n", strings.Join(ids, ","))
	}
	data := filepath.Join(t.TempDir(), "rows.jsonl")
	require.NoError(t, os.WriteFile(data, []byte(rows.String()), 0o600))
	ran := 0
	for _, path := range paths {
		t.Run(filepath.Base(filepath.Dir(path)), func(t *testing.T) {
			raw, err := os.ReadFile(path)
			require.NoError(t, err)
			if _, err := models.ParseConfig(raw); err != nil {
				t.Skipf("refused: %v", err)
			}
			ran++
			var first []report.Row
			for _, o := range []struct {
				pack  bool
				micro int
			}{{true, 2}, {false, 12}, {false, 3}, {true, 1}} {
				c := config.Default(config.Finetune)
				c.Model, c.Out, c.Device = filepath.Dir(path), filepath.Join(t.TempDir(), "run"), "cpu"
				c.Quantize.Scheme, c.Adapter.R = "none", 4
				c.Data.Path, c.Data.SeqLen, c.Data.Val, c.Data.Pack = []config.Source{{Path: data, Weight: 1}}, 32, 0, o.pack
				c.Train.Batch, c.Train.MicroBatch, c.Train.Steps, c.Train.DType = 12, o.micro, 1, "f32"
				run(t, c, trainer.Hooks{OnStep: func(r report.Row) error { first = append(first, r); return nil }})
			}
			for _, r := range first[1:] {
				require.InDelta(t, first[0].Loss, r.Loss, 1e-5)
				require.InEpsilon(t, first[0].GradNorm, r.GradNorm, 1e-4)
				require.Equal(t, first[0].Tokens, r.Tokens)
			}
		})
	}
	t.Logf("%d of %d families ran", ran, len(paths))
}
