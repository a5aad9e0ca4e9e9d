package quant

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/stretchr/testify/require"
)

// readSafetensors is a minimal reader for trusted test data.
func readSafetensors(t testing.TB, path string) map[string]*tensor.Tensor {
	t.Helper()
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	n := binary.LittleEndian.Uint64(raw)
	var header map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(raw[8:8+n], &header))
	out := map[string]*tensor.Tensor{}
	for name, text := range header {
		if name == "__metadata__" {
			continue
		}
		var h struct {
			DType   string `json:"dtype"`
			Shape   []int
			Offsets [2]int `json:"data_offsets"`
		}
		require.NoError(t, json.Unmarshal(text, &h))
		d, ok := tensor.ParseDType(strings.ToLower(h.DType))
		require.True(t, ok, h.DType)
		out[name], err = tensor.FromBytes(tensor.T(d, h.Shape...), raw[8+int(n):][h.Offsets[0]:h.Offsets[1]])
		require.NoError(t, err)
	}
	return out
}

// bnbCase is one row of the JSON lists beside the tensors.
type bnbCase struct {
	Name, Input, DType, Map, Cls string
	QuantType                    string `json:"quant_type"`
	Blocksize                    int
	NestedBlocksize              int `json:"nested_blocksize"`
	Nested                       bool
	Informative                  any
	Packed, Codes, Absmax        string
	AbsmaxU8                     string `json:"absmax_u8"`
	NestedAbsmax                 string `json:"nested_absmax"`
	AbsmaxRestored               string `json:"absmax_restored"`
	Offset, Dequant              string
	DequantF32                   string `json:"dequant_f32"`
	DequantF16                   string `json:"dequant_f16"`
	DequantBF16                  string `json:"dequant_bf16"`
	Grads                        string
	Group                        struct{ Betas []float64 }
	Steps                        map[string]struct{ State1, State2, Absmax1, Absmax2 string }
}

// readCases reads NAME.json and NAME.safetensors of a folder.
func readCases(t testing.TB, dir, name string) ([]bnbCase, map[string]*tensor.Tensor) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, name+".json"))
	require.NoError(t, err)
	var list struct{ Cases []bnbCase }
	require.NoError(t, json.Unmarshal(raw, &list))
	require.NotEmpty(t, list.Cases)
	return list.Cases, readSafetensors(t, filepath.Join(dir, name+".safetensors"))
}
