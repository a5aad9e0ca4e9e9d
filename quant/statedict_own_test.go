package quant

import (
	"maps"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/stretchr/testify/require"
)

// Every format is stored and read back as it is, empty tensors included.
func TestStateDictOfFormats(t *testing.T) {
	for _, f := range allFormats() {
		for _, dims := range [][]int{{7, 43}, {0, 5}, {2, 3, 64}} {
			s, err := QuantizeTensor(randomTensor(t, tensor.BF16, dims...), f, Options{})
			require.NoError(t, err)
			dict, err := s.StateDict("block.weight")
			require.NoError(t, err)
			known := StateDictNames("block.weight")
			for name := range dict {
				require.Contains(t, known, name)
			}
			back, err := FromStateDict("block.weight", lookupIn(dict))
			require.NoError(t, err, f.Name())
			if s.Scheme == Int8 {
				require.Equal(t, tensor.F16, back.DType)
				back.DType = s.DType
			}
			if s.Nested() && s.Scheme.FourBit() {
				back.NestedMap = nil // bitsandbytes stores the usual table too
			}
			require.Equal(t, s.Blocks(), back.Blocks())
			a, err := s.Dequantize(tensor.F32)
			require.NoError(t, err)
			b, err := back.Dequantize(tensor.F32)
			require.NoError(t, err)
			require.Equal(t, a.Bytes(), b.Bytes(), f.Name())
			require.Equal(t, s.Bytes(), back.Bytes())
			require.Equal(t, s.Type(), back.Type())
		}
	}
}

func TestInt8Names(t *testing.T) {
	s, err := QuantizeTensor(randomTensor(t, tensor.F16, 3, 4), Config{Scheme: Int8}, Options{})
	require.NoError(t, err)
	for name, want := range map[string][]string{
		"a.b.weight": {"a.b.weight", "a.b.SCB", "a.b.weight_format"},
		"weight":     {"weight", "SCB", "weight_format"},
		"experts.up": {"experts.up", "experts.up.SCB", "experts.up.weight_format"},
	} {
		dict, err := s.StateDict(name)
		require.NoError(t, err)
		require.Len(t, dict, 3)
		for _, n := range want {
			require.Contains(t, dict, n)
		}
		require.Equal(t, tensor.T(tensor.U8), dict[want[2]].Type())
		delete(dict, want[2]) // files of the first versions have none
		_, err = FromStateDict(name, lookupIn(dict))
		require.NoError(t, err)
	}
}

func dictOf(t testing.TB, f Format, dims ...int) map[string]*tensor.Tensor {
	t.Helper()
	s, err := QuantizeTensor(randomTensor(t, tensor.BF16, dims...), f, Options{})
	require.NoError(t, err)
	dict, err := s.StateDict("m.weight")
	require.NoError(t, err)
	return dict
}

// refuse changes one tensor of a state dict (nil removes it) and wants the error to say why it cannot be read.
func refuse(t *testing.T, dict map[string]*tensor.Tensor, key string, with *tensor.Tensor, want string) {
	t.Helper()
	dict = maps.Clone(dict)
	if with == nil {
		delete(dict, key)
	} else {
		dict[key] = with
	}
	_, err := FromStateDict("m.weight", lookupIn(dict))
	require.ErrorContains(t, err, want)
	require.ErrorContains(t, err, "m.weight", "the tensor is named")
}

func TestInt8Refused(t *testing.T) {
	dict := dictOf(t, Config{Scheme: Int8}, 3, 8)
	for format, want := range map[uint8]string{1: "1 (col32)", 2: "2 (col_turing)", 3: "3 (col_ampere)", 4: "newer library"} {
		refuse(t, dict, "m.weight_format", tensor.Scalar(format), want)
	}
	refuse(t, dict, "m.weight_format", vector([]float32{0}), "want one u8")
	refuse(t, dict, "m.weight_format", vector([]byte{0, 0}), "want one u8")
	refuse(t, dict, "m.SCB", nil, "not quantized")
	refuse(t, dict, "m.SCB", vector([]float32{1, 2}), "3 scales")
	refuse(t, dict, "m.SCB", vector([]byte{1, 2, 3}), "want f32")
	refuse(t, dict, "m.SCB", vector([]float32{1, -2, 3}), "scale 1 is -2")
	refuse(t, dict, "m.weight", nil, "missing")
	refuse(t, dict, "m.weight", tensor.New(tensor.T(tensor.U8, 3, 8)), "int8 codes")
	refuse(t, dict, "m.weight", tensor.Scalar[int8](3), "int8 codes")
	bad := tensor.New(tensor.T(tensor.I8, 3, 8))
	bad.Set(5, -128)
	refuse(t, dict, "m.weight", bad, "code 5 is -128")
	refuse(t, dict, "m.weight.quant_state.bitsandbytes__nf4", vector([]byte("{}")), "two kinds")
	delete(dict, "m.SCB")
	refuse(t, dict, "m.weight.quant_state.bitsandbytes__af4", vector([]byte("{}")), "quantized as af4")
}

func TestOwnRefused(t *testing.T) {
	const state = "m.weight.quant_state.bitsandbyes"
	text := func(s string) *tensor.Tensor { return vector([]byte(s)) }
	dict := dictOf(t, AffineFormat{Bits: 3, Per: 16, Asymmetric: true}, 5, 43)
	for json, want := range map[string]string{
		`{`:              "cannot read",
		`{"version": 2}`: "version 2", `{}`: "version 0",
		`{"version": 1, "colour": 3}`:                            "colour",
		`{"version": 1, "scheme": "int9"}`:                       `scheme "int9"`,
		`{"version": 1, "scheme": "nf4"}`:                        `scheme "nf4"`,
		`{"version": 1, "scheme": ""}`:                           `scheme ""`,
		`{"version": 1, "scheme": "affine", "dtype": "int8"}`:    `dtype "int8"`,
		`{"version": 1, "scheme": "affine", "dtype": "float16"}`: "no shape",
		`{"version": 1, "scheme": "affine", "dtype": "float16", "shape": [5, 43], "blocksize": 16, "bits": 9}`:                                          "9 bits",
		`{"version": 1, "scheme": "affine", "dtype": "float16", "shape": [5, 43], "blocksize": 0, "bits": 3}`:                                           "blocksize 0",
		`{"version": 1, "scheme": "affine", "dtype": "float16", "shape": [5, -43], "blocksize": 8, "bits": 3}`:                                          "shape",
		`{"version": 1, "scheme": "affine", "dtype": "float16", "shape": [5, 43], "blocksize": 16, "bits": 4, "by_row": true, "zeros": true}`:           "bytes of 4-bit codes",
		`{"version": 1, "scheme": "affine", "dtype": "float16", "shape": [5, 43], "blocksize": 16, "bits": 3, "zeros": true}`:                           "zero points",
		`{"version": 1, "scheme": "fp8_e4m3", "dtype": "float16", "shape": [5, 43], "blocksize": 16, "zeros": true}`:                                    "no zero points",
		`{"version": 1, "scheme": "kbit", "bits": 3, "dtype": "float16", "shape": [5], "blocksize": 16, "nested_blocksize": 256}`:                       "nested_offset",
		`{"version": 1, "scheme": "affine", "bits": 3, "dtype": "float16", "shape": [5], "blocksize": 16, "nested_blocksize": 256, "nested_offset": 1}`: "u8",
	} {
		refuse(t, dict, state, text(json), want)
	}
	refuse(t, dict, "m.weight.zeros", nil, "zeros is missing")
	refuse(t, dict, "m.weight.zeros", vector([]float32{1}), "want u8")
	zeros := make([]byte, 15)
	zeros[4] = 8
	refuse(t, dict, "m.weight.zeros", vector(zeros), "zero point of block 4 is 8")
	codes := append([]byte{}, dict["m.weight"].Bytes()...)
	codes[len(codes)-1] = 0xff
	refuse(t, dict, "m.weight", vector(codes), "bits behind the last")
	refuse(t, dict, "m.weight", vector(codes[1:]), "bytes of 3-bit codes")
	refuse(t, dict, "m.weight.absmax", vector(make([]float32, 14)), "15 scales")
	dict = dictOf(t, FP8Format{}, 2, 3)
	refuse(t, dict, "m.weight", vector([]byte{1, 2, 3, 0x7f, 5, 6}), "code 3 is 0x7f")
	dict = dictOf(t, KBitFormat{Bits: 2, Double: true}, 2, 64)
	refuse(t, dict, "m.weight.quant_map", vector([]float32{1, 0, 2, 3}), "below")
	refuse(t, dict, "m.weight.quant_map", vector([]float32{1, 2, 3}), "3 values")
	refuse(t, dict, "m.weight.nested_quant_map", nil, "missing")
	refuse(t, dict, state, vector(make([]byte, 5000)), "at most")
}

// FuzzOwnState reads arbitrary descriptions; what is accepted must survive being written and read again.
func FuzzOwnState(f *testing.F) {
	const state = "m.weight.quant_state.bitsandbyes"
	dicts := []map[string]*tensor.Tensor{dictOf(f, AffineFormat{Bits: 3, Per: 16, Asymmetric: true}, 5, 43), dictOf(f, KBitFormat{Bits: 5, Double: true}, 3, 50),
		dictOf(f, FP8Format{Per: PerTensor}, 9), dictOf(f, BlockwiseFormat{}, 300)}
	for i, dict := range dicts {
		f.Add(dict[state].Bytes(), uint8(i))
	}
	f.Fuzz(func(t *testing.T, text []byte, which uint8) {
		dict := maps.Clone(dicts[int(which)%len(dicts)])
		dict[state] = vector(text)
		s, err := FromStateDict("m.weight", lookupIn(dict))
		if err != nil {
			return
		}
		require.NoError(t, s.Validate())
		_, err = s.Dequantize(tensor.F32)
		require.NoError(t, err)
		again, err := s.StateDict("m.weight")
		require.NoError(t, err)
		back, err := FromStateDict("m.weight", lookupIn(again))
		require.NoError(t, err)
		require.Equal(t, s, back)
	})
}
