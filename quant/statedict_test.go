package quant

import (
	"errors"
	"maps"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/stretchr/testify/require"
)

func sampleDict(t testing.TB, cfg Config) map[string]*tensor.Tensor {
	t.Helper()
	s, err := Quantize(randomTensor(t, tensor.BF16, 6, 48), cfg)
	require.NoError(t, err)
	dict, err := s.StateDict("w")
	require.NoError(t, err)
	return dict
}

func TestFromStateDictRefuses(t *testing.T) {
	f32 := func(n int) *tensor.Tensor { return tensor.New(tensor.T(tensor.F32, n)) }
	u8 := func(n int) *tensor.Tensor { return tensor.New(tensor.T(tensor.U8, n)) }
	text := func(s string) *tensor.Tensor { return vector([]byte(s)) }
	const state = "w.quant_state.bitsandbytes__nf4"
	for name, c := range map[string]struct {
		key  string
		with *tensor.Tensor
		want string
	}{
		"no state":         {state, nil, "not quantized"},
		"both states":      {"w.quant_state.bitsandbytes__fp4", text("{}"), "both"},
		"no weight":        {"w", nil, "tensor w is missing"},
		"short weight":     {"w", u8(10), "bytes of 4-bit codes, got 10"},
		"weight type":      {"w", tensor.New(tensor.T(tensor.I64, 18)), "i64"},
		"no absmax":        {"w.absmax", nil, "missing"},
		"absmax type":      {"w.absmax", f32(5), "nested scales are u8"},
		"short absmax":     {"w.absmax", u8(4), "scale codes"},
		"no map":           {"w.quant_map", nil, "missing"},
		"wrong map":        {"w.quant_map", f32(16), "not the table of nf4"},
		"nested absmax":    {"w.nested_absmax", f32(2), "second-level"},
		"nested map":       {"w.nested_quant_map", f32(255), "want 256"},
		"nested map type":  {"w.nested_quant_map", u8(256), "want f32"},
		"state type":       {state, f32(3), "want u8 text"},
		"long state":       {state, u8(5000), "at most"},
		"no JSON":          {state, text("{"), "cannot read"},
		"tail":             {state, text(`{} {}`), "after"},
		"unknown key":      {state, text(`{"quant_type": "nf4", "bits": 3}`), "bits"},
		"other scheme":     {state, text(`{"quant_type": "fp4", "blocksize": 64, "dtype": "float16", "shape": [4]}`), "says quant_type fp4"},
		"unknown scheme":   {state, text(`{"quant_type": "nf5"}`), "nf5"},
		"dtype":            {state, text(`{"quant_type": "nf4", "blocksize": 64, "dtype": "int8", "shape": [4]}`), "int8"},
		"no shape":         {state, text(`{"quant_type": "nf4", "blocksize": 64, "dtype": "float16"}`), "no shape"},
		"negative shape":   {state, text(`{"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [-4]}`), "shape"},
		"overflow":         {state, text(`{"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [4611686018427387904, 16]}`), "shape"},
		"large":            {state, text(`{"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [4611686018427387904]}`), "scales"},
		"blocksize":        {state, text(`{"quant_type": "nf4", "blocksize": 0, "dtype": "float16", "shape": [4]}`), "blocksize 0"},
		"half nested":      {state, text(`{"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [4], "nested_offset": 1}`), "together"},
		"nested blocksize": {state, text(`{"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [4], "nested_offset": 1, "nested_blocksize": 0, "nested_dtype": "float32"}`), "1 to"},
		"negative offset":  {state, text(`{"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [6, 48], "nested_offset": -1.5, "nested_blocksize": 256, "nested_dtype": "float32"}`), "mean"},
		"infinite offset":  {state, text(`{"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [6, 48], "nested_offset": 1e300, "nested_blocksize": 256, "nested_dtype": "float32"}`), "mean"},
	} {
		t.Run(name, func(t *testing.T) {
			dict := maps.Clone(sampleDict(t, Config{Double: true}))
			if c.with == nil {
				delete(dict, c.key)
			} else {
				dict[c.key] = c.with
			}
			if name == "large" {
				dict["w.absmax"] = u8(5)
			}
			_, err := FromStateDict("w", lookupIn(dict))
			require.Error(t, err)
			if name != "large" {
				require.ErrorContains(t, err, c.want)
			}
		})
	}
}

func TestFromStateDictPassesErrors(t *testing.T) {
	broken := errors.New("disk on fire")
	dict := sampleDict(t, Config{Double: true})
	for name := range dict {
		_, err := FromStateDict("w", func(n string) (*tensor.Tensor, bool, error) {
			if n == name {
				return nil, false, broken
			}
			v, ok := dict[n]
			return v, ok, nil
		})
		require.ErrorIs(t, err, broken, name)
	}
}

func TestStateDictStorage(t *testing.T) {
	s, err := Quantize(randomTensor(t, tensor.F32, 3, 6), Config{})
	require.NoError(t, err)
	for d, ok := range map[tensor.DType]bool{tensor.Invalid: true, tensor.U8: true, tensor.F16: false, tensor.BF16: false, tensor.F32: false, tensor.I8: false} {
		s.Storage = d
		_, err := s.StateDict("w")
		require.Equal(t, ok, err == nil, "%v", d)
	}
	s.Codes = s.Codes[:3]
	_, err = s.StateDict("w")
	require.ErrorContains(t, err, "w: ")
	names := StateDictNames("w")
	for name := range sampleDict(t, Config{Double: true}) {
		require.Contains(t, names, name)
	}
}

// FuzzFromStateDict reads arbitrary descriptions; what is accepted must survive being written and read again.
func FuzzFromStateDict(f *testing.F) {
	plain, nested := sampleDict(f, Config{}), sampleDict(f, Config{Double: true})
	const state = "w.quant_state.bitsandbytes__nf4"
	f.Add(plain[state].Bytes(), false)
	f.Add(nested[state].Bytes(), true)
	f.Add([]byte(`{"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": []}`), false)
	f.Fuzz(func(t *testing.T, text []byte, double bool) {
		dict := maps.Clone(plain)
		if double {
			dict = maps.Clone(nested)
		}
		dict[state] = vector(text)
		s, err := FromStateDict("w", lookupIn(dict))
		if err != nil {
			return
		}
		require.NoError(t, s.Validate())
		_, err = s.Dequantize(tensor.F32)
		require.NoError(t, err)
		again, err := s.StateDict("w")
		require.NoError(t, err)
		back, err := FromStateDict("w", lookupIn(again))
		require.NoError(t, err)
		require.Equal(t, s.describe(), back.describe())
	})
}
