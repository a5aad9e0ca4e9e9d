package trainer_test

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer"
)

// TestGoldenHFSave writes every family, whole, in shards and in 16 bits, and opens it again: tensors, names and keys are the file's.
func TestGoldenHFSave(t *testing.T) {
	dirs, err := filepath.Glob(filepath.Join(golden.Dir(t), "hf", "*", "model.safetensors"))
	require.NoError(t, err)
	ran := 0
	for _, path := range dirs {
		t.Run(filepath.Base(filepath.Dir(path)), func(t *testing.T) {
			m, err := trainer.OpenModel(filepath.Dir(path), trainer.ModelOptions{})
			if err != nil {
				t.Skipf("refused: %v", err)
			}
			t.Cleanup(func() { require.NoError(t, m.Close()) })
			ran++
			session := plan.NewSession(plan.NewStore(threads(t, 1)))
			t.Cleanup(func() { require.NoError(t, session.Close()) })
			require.NoError(t, m.Source.Load(session.Store()))
			for _, o := range []trainer.SaveOptions{{}, {ShardSize: 20_000}, {DType: tensor.BF16, ShardSize: 1}} {
				out := t.TempDir()
				require.NoError(t, trainer.SaveModel(nil, out, m.Model, session.Store(), o))
				sameModel(t, filepath.Dir(path), out, o.DType)
				_, err := os.Stat(filepath.Join(out, "model.safetensors.index.json"))
				require.Equal(t, o.ShardSize == 0, os.IsNotExist(err))
				again, err := trainer.OpenModel(out, trainer.ModelOptions{})
				require.NoError(t, err)
				require.NoError(t, again.Close())
			}
		})
	}
	t.Logf("%d of %d families ran", ran, len(dirs))
}

// TestSaveRange: a value that the files' dtype cannot hold is not written as infinity.
func TestSaveRange(t *testing.T) {
	m, err := trainer.OpenModel(architecture(t, small), trainer.ModelOptions{})
	require.NoError(t, err)
	session := plan.NewSession(plan.NewStore(threads(t, 1)))
	t.Cleanup(func() { require.NoError(t, session.Close()) })
	store := session.Store()
	require.NoError(t, m.Source.Load(store))
	table, err := store.Get(m.Body.Table())
	require.NoError(t, err)
	for value, ok := range map[float64]bool{65519: true, -65520: false} {
		table.Set(3, value)
		require.NoError(t, store.Set(m.Body.Table(), table))
		err = trainer.SaveModel(nil, t.TempDir(), m.Model, store, trainer.SaveOptions{DType: tensor.F16})
		if ok {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, "embed_tokens.weight: element 3 is -65520, which f16 cannot hold")
		}
		require.NoError(t, trainer.SaveModel(nil, t.TempDir(), m.Model, store, trainer.SaveOptions{DType: tensor.BF16}))
	}
	table.Set(3, math.MaxFloat32)
	require.NoError(t, store.Set(m.Body.Table(), table))
	err = trainer.SaveModel(nil, t.TempDir(), m.Model, store, trainer.SaveOptions{DType: tensor.BF16})
	require.ErrorContains(t, err, "which bf16 cannot hold; write f32")
	require.NoError(t, trainer.SaveModel(nil, t.TempDir(), m.Model, store, trainer.SaveOptions{DType: tensor.F32}))
}

// sameModel compares the tensors and configurations of two folders, the second perhaps in another dtype.
func sameModel(t *testing.T, a, b string, d tensor.DType) {
	t.Helper()
	stored, want, err := models.OpenWeights(nil, a)
	require.NoError(t, err)
	made, got, err := models.OpenWeights(nil, b)
	require.NoError(t, err)
	want.File, got.File = nil, nil
	require.Equal(t, want, got)
	names, others := stored.Names(), made.Names()
	slices.Sort(names)
	slices.Sort(others)
	require.Equal(t, names, others)
	for _, name := range names {
		x, err := stored.Read(name)
		require.NoError(t, err)
		y, err := made.Read(name)
		require.NoError(t, err)
		if d != tensor.Invalid {
			x, err = x.Convert(d)
			require.NoError(t, err)
		}
		require.Equal(t, x.Type(), y.Type(), name)
		require.Equal(t, x.Bytes(), y.Bytes(), name)
	}
	require.NoError(t, stored.Close())
	require.NoError(t, made.Close())
}
