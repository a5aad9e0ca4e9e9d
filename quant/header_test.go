package quant

import (
	"maps"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/stretchr/testify/require"
)

// The header of a stored weight says what the state says, for every format.
func TestReadHeader(t *testing.T) {
	for _, f := range allFormats() {
		s, err := QuantizeTensor(randomTensor(t, tensor.BF16, 7, 43), f, Options{})
		require.NoError(t, err)
		dict, err := s.StateDict("m.weight")
		require.NoError(t, err)
		h, err := ReadHeader("m.weight", dict["m.weight"].Type(), lookupIn(dict))
		require.NoError(t, err, f.Name())
		back, err := FromStateDict("m.weight", lookupIn(dict))
		require.NoError(t, err)
		blocksize := s.Blocksize
		if s.Scheme == Int8 { // a row, as the shape says
			blocksize = 0
		}
		require.Equal(t, Config{Scheme: s.Scheme, Blocksize: blocksize, Double: s.Nested()}, h.Config, f.Name())
		require.Equal(t, &Header{Config: h.Config, Bits: s.Bits, ByRow: s.ByRow, Zeros: s.Zeros != nil, Type: back.Type()}, h, f.Name())
		again, err := ParseFormat(h.Name())
		require.NoError(t, err, h.Name())
		same, err := again.New(s.Type())
		require.NoError(t, err)
		require.Equal(t, s.Blocks(), same.Blocks(), "%s is told as %s", f.Name(), h.Name())
		require.Equal(t, s.CodeBits(), same.CodeBits())
	}
}

func TestReadHeaderRefuses(t *testing.T) {
	header := func(dict map[string]*tensor.Tensor) error {
		_, err := ReadHeader("m.weight", tensor.T(tensor.F32, 3), lookupIn(dict))
		require.ErrorContains(t, err, "m.weight")
		return err
	}
	dict := dictOf(t, Config{}, 6, 48)
	other := maps.Clone(dict)
	other["m.weight.quant_state.bitsandbytes__fp4"] = other["m.weight.quant_state.bitsandbytes__nf4"]
	delete(other, "m.weight.quant_state.bitsandbytes__nf4")
	require.ErrorContains(t, header(other), "stored as fp4 but says quant_type nf4")
	require.ErrorContains(t, header(map[string]*tensor.Tensor{}), "not quantized")
	require.ErrorContains(t, header(dictOf(t, Config{Scheme: Int8}, 6, 48)), "int8 codes")
	dict = dictOf(t, Config{Double: true}, 6, 48)
	delete(dict, "m.weight.nested_quant_map")
	require.ErrorContains(t, header(dict), "nested_quant_map is missing")
	dict = dictOf(t, AffineFormat{Bits: 4}, 6, 48)
	dict["m.weight.quant_state.bitsandbyes"] = vector([]byte(`{"version": 9}`))
	require.ErrorContains(t, header(dict), "version 9")
}

// Second-level scales in other blocks or over another table are restored; the weight keeps its value.
func TestFlatten(t *testing.T) {
	x := randomTensor(t, tensor.F32, 40, 64)
	for name, change := range map[string]func(s *State){
		"blocks": func(s *State) {
			s.NestedBlocksize, s.NestedAbsmax = 8, []float32{1e-2, 2e-2, 3e-2, 4e-2, 5e-2}
		},
		"table": func(s *State) {
			m, err := LinearMap(true, 8)
			require.NoError(t, err)
			s.NestedMap = &m
		},
	} {
		s, err := Quantize(x, Config{Double: true})
		require.NoError(t, err)
		usual := *s
		require.NoError(t, s.Flatten())
		require.Equal(t, &usual, s, "the usual second level stays")
		change(s)
		want, err := s.Dequantize(tensor.F32)
		require.NoError(t, err)
		dict, err := s.StateDict("w")
		require.NoError(t, err)
		h, err := ReadHeader("w", dict["w"].Type(), lookupIn(dict))
		require.NoError(t, err)
		require.False(t, h.Config.Double, "announced as plain")
		require.NoError(t, s.Flatten(), name)
		require.False(t, s.Nested())
		require.NoError(t, s.Validate())
		got, err := s.Dequantize(tensor.F32)
		require.NoError(t, err)
		require.Equal(t, want.Bytes(), got.Bytes(), name)
	}
}
