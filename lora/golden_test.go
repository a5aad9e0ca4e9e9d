package lora_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/internal/testdevice"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/models"
)

// Adapters that PEFT wrote must come out the same: the weights byte for byte, the configuration but for the order of
// target_modules, which PEFT leaves to chance. What came out must come out byte for byte again.
func TestGoldenHFAdapters(t *testing.T) {
	dirs, err := filepath.Glob(filepath.Join(golden.Dir(t), "hf", "*", "adapter_*"))
	require.NoError(t, err)
	require.NotEmpty(t, dirs)
	ran := 0
	for _, dir := range dirs {
		t.Run(filepath.Base(filepath.Dir(dir))+"/"+filepath.Base(dir), func(t *testing.T) {
			saved, err := lora.Load(vfs.OS{}, dir)
			if err != nil {
				require.ErrorIs(t, err, checkpoint.ErrFormat)
				t.Skipf("refused: %v", err)
			}
			model, store := openBase(t, filepath.Dir(dir))
			loadBase(t, filepath.Dir(dir), model, store)
			adapter, err := lora.AttachSaved(model, saved, store)
			require.NoError(t, err)
			once := save(t, adapter, store)
			sameFile(t, dir, once, "adapter_model.safetensors")
			sameConfig(t, filepath.Join(dir, "adapter_config.json"), filepath.Join(once, "adapter_config.json"))

			saved, err = lora.Load(vfs.OS{}, once)
			require.NoError(t, err)
			model, store = openBase(t, filepath.Dir(dir))
			loadBase(t, filepath.Dir(dir), model, store)
			adapter, err = lora.AttachSaved(model, saved, nil)
			require.NoError(t, err)
			require.NoError(t, adapter.Init(store))
			twice := save(t, adapter, store)
			sameFile(t, once, twice, "adapter_model.safetensors")
			sameFile(t, once, twice, "adapter_config.json")
			ran++
		})
	}
	t.Logf("%d of %d adapters ran", ran, len(dirs))
}

// A new adapter of the same settings must get the same configuration as PEFT writes, up to what its all-linear expands to.
func TestGoldenHFNewAdapterConfig(t *testing.T) {
	dirs, err := filepath.Glob(filepath.Join(golden.Dir(t), "hf", "*", "adapter_lora_init"))
	require.NoError(t, err)
	ran := 0
	for _, dir := range dirs {
		t.Run(filepath.Base(filepath.Dir(dir)), func(t *testing.T) {
			model, store := openBase(t, filepath.Dir(dir))
			want := readConfig(t, filepath.Join(dir, "adapter_config.json"))
			c := lora.Config{Rank: 4, Alpha: 8}
			if _, experts := want["target_parameters"].([]any); experts { // all-linear would mean them too
				saved, err := lora.Load(vfs.OS{}, dir)
				require.NoError(t, err)
				c.Targets = saved.Config.Targets
			}
			adapter, err := lora.Attach(model, c)
			require.NoError(t, err)
			require.NoError(t, adapter.Init(store))
			out := t.TempDir()
			require.NoError(t, adapter.Save(vfs.OS{}, out, store, lora.SaveInfo{BaseModel: filepath.Base(filepath.Dir(dir))}))
			got := readConfig(t, filepath.Join(out, "adapter_config.json"))
			require.Equal(t, lastParts(want["target_modules"].([]any)), got["target_modules"])
			delete(want, "target_modules")
			delete(got, "target_modules")
			require.Equal(t, want, got)
			saved, err := lora.Load(vfs.OS{}, dir)
			require.NoError(t, err)
			again, err := lora.Load(vfs.OS{}, out)
			require.NoError(t, err)
			require.Equal(t, saved.Modules(), again.Modules())
			ran++
		})
	}
	t.Logf("%d of %d families ran", ran, len(dirs))
}

// lastParts are the distinct last parts of module paths, sorted.
func lastParts(paths []any) []any {
	var names []string
	for _, p := range paths {
		names = append(names, p.(string)[strings.LastIndex(p.(string), ".")+1:])
	}
	slices.Sort(names)
	var out []any
	for _, n := range slices.Compact(names) {
		out = append(out, n)
	}
	return out
}

// openBase builds a family's model without values; a family that is not supported is skipped.
func openBase(t *testing.T, dir string) (*models.Model, *plan.Store) {
	t.Helper()
	weights, cfg, err := models.OpenWeights(vfs.OS{}, dir)
	if err != nil {
		t.Skipf("refused: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, weights.Close()) })
	model, err := models.New(cfg, layers.NewSource(layers.Options{Weights: weights}))
	require.NoError(t, err)
	store := plan.NewStore(testdevice.Open(t))
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return model, store
}

func save(t *testing.T, a *lora.Adapter, s layers.Reader) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "new", "adapter")
	require.NoError(t, a.Save(vfs.OS{}, dir, s, lora.SaveInfo{}))
	return dir
}

func sameFile(t *testing.T, a, b, name string) {
	t.Helper()
	x, err := os.ReadFile(filepath.Join(a, name))
	require.NoError(t, err)
	y, err := os.ReadFile(filepath.Join(b, name))
	require.NoError(t, err)
	require.True(t, bytes.Equal(x, y), "%s of %s differs from that of %s", name, b, a)
}

// sameConfig compares two configurations line by line, with the lines of target_modules sorted.
func sameConfig(t *testing.T, a, b string) {
	t.Helper()
	lines := func(path string) []string {
		raw, err := os.ReadFile(path)
		require.NoError(t, err)
		var out []string
		for _, l := range bytes.Split(raw, []byte("\n")) {
			out = append(out, string(bytes.TrimSuffix(l, []byte(","))))
		}
		slices.Sort(out)
		return out
	}
	require.Equal(t, lines(a), lines(b))
}

func readConfig(t *testing.T, path string) map[string]any {
	t.Helper()
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	var out map[string]any
	require.NoError(t, json.Unmarshal(raw, &out))
	return out
}
