package trainer_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/verify"
)

// TestGoldenHFExport writes every family as a GGUF file in float32 and holds what is read back to the reference: everything in it where
// the file has the model's own weights, logits where they had to be scaled to mean the same in llama.cpp. Then the same with the
// reference's adapter merged.
func TestGoldenHFExport(t *testing.T) {
	dirs, err := filepath.Glob(filepath.Join(golden.Dir(t), "hf", "*", "golden.safetensors"))
	require.NoError(t, err)
	ran := 0
	for _, against := range dirs {
		dir := filepath.Dir(against)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			raw, err := os.ReadFile(filepath.Join(dir, "config.json"))
			require.NoError(t, err)
			if _, err := models.ParseConfig(raw); err != nil {
				t.Skipf("refused: %v", err)
			}
			ran++
			adapter := filepath.Join(dir, "adapter_lora_final")
			out := filepath.Join(t.TempDir(), "model.gguf")
			report, err := trainer.Export(t.Context(), trainer.ExportOptions{Model: dir, Out: out, Type: "f32"})
			require.NoError(t, err)
			t.Log(report.Warnings)
			verified(t, verify.Options{Model: out, Adapter: adapter, Against: against}, strings.Contains(string(raw), "query_pre_attn_scalar"))

			merged := filepath.Join(t.TempDir(), "merged.gguf")
			_, err = trainer.Export(t.Context(), trainer.ExportOptions{Model: dir, Adapter: adapter, Out: merged, Type: "f32"})
			require.NoError(t, err)
			verified(t, verify.Options{Model: merged, Against: mergedReference(t, against)}, false)
		})
	}
	t.Logf("%d of %d families ran", ran, len(dirs))
}

// verified computes what the reference holds; scaled leaves out gradients and adapters of queries.
func verified(t *testing.T, o verify.Options, scaled bool) {
	t.Helper()
	o.Device = threads(t, 2)
	r, err := verify.Run(t.Context(), o)
	require.NoError(t, err)
	n := 0
	for _, x := range r.Tensors {
		if scaled && (strings.Contains(x.Name, "grad.") || x.Name == "merged_lora_logits") {
			continue
		}
		require.Equal(t, verify.Checked, x.Status, "%+v", x)
		n++
	}
	require.Positive(t, n)
}

// mergedReference is a reference whose logits are those of the merged adapter.
func mergedReference(t *testing.T, against string) string {
	t.Helper()
	f, err := checkpoint.OpenSafetensors(vfs.OS{}, against)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	var keep []checkpoint.Named
	for to, from := range map[string]string{"input_ids": "input_ids", "attention_mask": "attention_mask", "labels": "labels", "logits": "merged_lora_logits"} {
		x, err := f.Read(from)
		require.NoError(t, err)
		keep = append(keep, checkpoint.Named{Name: to, Tensor: x})
	}
	path := filepath.Join(t.TempDir(), "merged.safetensors")
	require.NoError(t, checkpoint.WriteSafetensors(vfs.OS{}, path, keep, nil))
	return path
}
