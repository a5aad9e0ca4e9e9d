package layers_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// serialModel is what the library saved: one quantized layer.
type serialModel struct {
	Weight *layers.Quantized `name:"weight"`
	Bias   *graph.Var        `name:"bias"`
}

// TestGoldenBNBSerialLayers takes the state dicts that the library wrote through a layer and a store and back: names, types and bytes are
// equal.
func TestGoldenBNBSerialLayers(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(golden.Dir(t), "bnb", "serial", "*.safetensors"))
	require.NoError(t, err)
	ran := 0
	for _, path := range paths {
		if strings.HasSuffix(path, ".ref.safetensors") {
			continue // original and dequantized values
		}
		ran++
		t.Run(filepath.Base(path), func(t *testing.T) {
			want, prefix := readSerial(t, path)
			st, err := quant.FromStateDict(prefix+"weight", func(name string) (*tensor.Tensor, bool, error) {
				v, ok := want[name]
				return v, ok, nil
			})
			require.NoError(t, err)
			cfg := quant.Config{Scheme: st.Scheme, Double: st.Nested()}
			if st.Scheme.FourBit() {
				cfg.Blocksize = st.Blocksize
			}
			q, err := layers.NewQuantized(prefix+"weight", cfg, st.Shape.Dims()...)
			require.NoError(t, err)
			q.DType = st.DType
			m := &serialModel{Weight: q}
			store := newStore(t)
			require.NoError(t, q.SetState(st, store))
			if b, ok := want[prefix+"bias"]; ok {
				m.Bias = graph.NewVar(prefix+"bias", b.Type())
				require.NoError(t, store.Set(m.Bias, b))
			}
			got := file{}
			require.NoError(t, layers.StateDict(m, store, func(name string, v *tensor.Tensor) error {
				got[prefix+name] = v.Clone()
				return nil
			}))
			require.Len(t, got, len(want))
			for name, v := range want {
				require.Contains(t, got, name)
				require.Equal(t, v.Type(), got[name].Type(), name)
				require.Equal(t, v.Bytes(), got[name].Bytes(), name)
			}
		})
	}
	t.Logf("%d files", ran)
}

// readSerial reads a file and finds the module that its tensors belong to.
func readSerial(t *testing.T, path string) (tensors file, prefix string) {
	t.Helper()
	f, err := checkpoint.OpenSafetensors(vfs.OS{}, path)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	tensors = file{}
	for _, name := range f.Names() {
		if tensors[name], err = f.Read(name); err != nil {
			require.NoError(t, err)
		}
		if p, ok := strings.CutSuffix(name, "weight"); ok {
			prefix = p
		}
	}
	return tensors, prefix
}
