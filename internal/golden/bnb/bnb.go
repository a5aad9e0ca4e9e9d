// Package bnb holds the bodies of the tests that compare a device with bitsandbytes, so that each backend runs them: reference data in the
// folder bnb of package golden.
package bnb

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Read reads the cases of NAME.json and returns a reader of the tensors of NAME.safetensors.
func Read(t testing.TB, name string, cases any) func(key string) *tensor.Tensor {
	t.Helper()
	dir := filepath.Join(golden.Dir(t), "bnb")
	raw, err := os.ReadFile(filepath.Join(dir, name+".json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &struct{ Cases any }{cases}))
	f, err := checkpoint.OpenSafetensors(vfs.OS{}, filepath.Join(dir, name+".safetensors"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	return func(key string) *tensor.Tensor {
		x, err := f.Read(key)
		require.NoError(t, err)
		return x
	}
}

// Folder is a model that transformers and bitsandbytes stored quantized.
type Folder struct {
	Dir          string
	Raw          json.RawMessage // its quantization_config
	Quantization *checkpoint.Quantization
}

// Folders lists them; the model that they were made of lies beside them in the folder base.
func Folders(t testing.TB) (out []Folder) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(golden.Dir(t), "bnb", "llama", "*", "config.json"))
	require.NoError(t, err)
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		require.NoError(t, err)
		var c struct {
			Quantization json.RawMessage `json:"quantization_config"`
		}
		require.NoError(t, json.Unmarshal(raw, &c))
		q, err := checkpoint.ParseQuantization(c.Quantization)
		require.NoError(t, err)
		if q != nil {
			out = append(out, Folder{filepath.Dir(path), c.Quantization, q})
		}
	}
	t.Logf("%d of %d folders are quantized", len(out), len(paths))
	return out
}

// NormError is the norm of got - want over that of want.
func NormError(got, want *tensor.Tensor) float64 {
	var diff, norm float64
	for i := range want.Type().Size() {
		diff += math.Pow(got.At(i)-want.At(i), 2)
		norm += math.Pow(want.At(i), 2)
	}
	return math.Sqrt(diff / norm)
}

// inputs makes an input of each tensor; nil gives an absent value.
func inputs(g *graph.Graph, in []*tensor.Tensor) ([]graph.Value, plan.Feed) {
	vals, feed := make([]graph.Value, len(in)), plan.Feed{}
	for i, x := range in {
		if x != nil {
			vals[i] = g.Input(fmt.Sprintf("in%d", i), x.Type())
			feed[vals[i]] = x
		}
	}
	return vals, feed
}
