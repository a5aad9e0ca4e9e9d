package quantize_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/quantize"
)

// TestGoldenHFQuantize: a folder of any family that is quantized holds the codes that loading the full-precision one with the same setting
// gives, for every linear layer but the head, and dequantized it has the original's tensors again, near their values.
func TestGoldenHFQuantize(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(golden.Dir(t), "hf", "*", "model.safetensors"))
	require.NoError(t, err)
	ran := 0
	for _, path := range paths {
		dir := filepath.Dir(path)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			raw, err := os.ReadFile(filepath.Join(dir, "config.json"))
			require.NoError(t, err)
			_, err = models.ParseConfig(raw)
			if err != nil {
				t.Skipf("refused: %v", err)
			}
			ran++
			for _, scheme := range []string{"nf4", "int8"} {
				tmp := t.TempDir()
				out, back := filepath.Join(tmp, "quantized"), filepath.Join(tmp, "restored")
				_, err := quantize.Run(context.Background(), quantize.Options{In: dir, Out: out, Scheme: scheme, Double: scheme == "nf4"})
				require.NoError(t, err)
				made := statesOf(t, out, trainer.ModelOptions{})
				want := statesOf(t, dir, trainer.ModelOptions{Quantize: config.Quantize{Scheme: scheme, Double: scheme == "nf4"}})
				require.NotEmpty(t, want)
				require.Equal(t, want, made)
				_, err = quantize.Dequantize(context.Background(), quantize.DequantizeOptions{In: out, Out: back})
				require.NoError(t, err)
				near(t, dir, back)
			}
		})
	}
	t.Logf("%d of %d families ran", ran, len(paths))
}

// statesOf loads a model and returns the codes of each quantized weight, after checking which there are.
func statesOf(t *testing.T, dir string, o trainer.ModelOptions) map[string][]byte {
	t.Helper()
	m, err := trainer.OpenModel(dir, o)
	require.NoError(t, err)
	store := plan.NewStore(cpu.New(cpu.Options{Threads: 1}))
	require.NoError(t, m.Source.Load(store))
	out := map[string][]byte{}
	layers.Walk(m.Model, func(p layers.Param) {
		if p.Quantized == nil {
			head := strings.HasPrefix(p.Name, "lm_head")
			table := p.Var == m.Body.Table() || strings.Contains(p.Name, "wpe")
			router := strings.HasSuffix(p.Name, "mlp.gate.weight")
			require.True(t, p.Type.Rank() == 1 || head || table || router, "%s stays in full precision", p.Name)
			return
		}
		st, err := p.Quantized.State(store)
		require.NoError(t, err)
		out[p.Name] = st.Codes
	})
	require.NoError(t, store.Close())
	require.NoError(t, m.Close())
	return out
}

// near compares a folder with one that went through quantization.
func near(t *testing.T, want, got string) {
	t.Helper()
	a, err := checkpoint.OpenDir(nil, want)
	require.NoError(t, err)
	b, err := checkpoint.OpenDir(nil, got)
	require.NoError(t, err)
	require.ElementsMatch(t, a.Names(), b.Names())
	for _, name := range a.Names() {
		x, err := a.Read(name)
		require.NoError(t, err)
		y, err := b.Read(name)
		require.NoError(t, err)
		require.Equal(t, x.Shape(), y.Shape(), name)
		most := 0.0
		for i := range x.Type().Size() {
			most = max(most, x.At(i), -x.At(i))
		}
		for i := range x.Type().Size() {
			require.InDelta(t, x.At(i), y.At(i), 0.2*most, name)
		}
	}
	require.NoError(t, a.Close())
	require.NoError(t, b.Close())
}
