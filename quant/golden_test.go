package quant

import (
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func bnbDir(t testing.TB) string { return filepath.Join(golden.Dir(t), "bnb") }

// sameBits compares float32 slices by their bits and names the first differences.
func sameBits(t testing.TB, want, got []float32, what string) {
	t.Helper()
	require.Len(t, got, len(want), what)
	bad := 0
	for i := range want {
		if w, g := math.Float32bits(want[i]), math.Float32bits(got[i]); w != g {
			if bad++; bad <= 5 {
				t.Errorf("%s[%d]: want %v (%08x), got %v (%08x)", what, i, want[i], w, got[i], g)
			}
		}
	}
	if bad > 0 {
		t.Errorf("%s: %d of %d differ", what, bad, len(want))
	}
}

// mapByName builds a table from the name it has in the data.
func mapByName(name string) (values []float32, ok bool) {
	if s, ok := ParseScheme(name); ok && s.FourBit() {
		v := s.storedTable()
		return v[:], true
	}
	if name == "af4" {
		v := AF4Values()
		return v[:], true
	}
	m, err := MapByName(name)
	return m[:], err == nil
}

func TestGoldenBNBMaps(t *testing.T) {
	ran := 0
	for name, want := range readSafetensors(t, filepath.Join(bnbDir(t), "maps.safetensors")) {
		t.Run(name, func(t *testing.T) {
			got, ok := mapByName(name)
			require.True(t, ok, "no table is made under this name")
			ran++
			sameBits(t, tensor.Data[float32](want), got, name)
		})
	}
	t.Logf("%d maps compared", ran)
}

func TestGoldenBNBReciprocal(t *testing.T) {
	d := readSafetensors(t, filepath.Join(bnbDir(t), "rcp_approx.safetensors"))
	for i, delta := range tensor.Data[int8](d["f16_mantissa_delta"]) {
		for _, e := range []int{-100, -14, 0, 15, 100} {
			x := float32(math.Ldexp(1+float64(i)/1024, e))
			want := math.Float32frombits(math.Float32bits(1/x) + uint32(int32(delta)))
			require.Equal(t, want, Rcp(x), "1/%v", x)
		}
	}
	x := tensor.Data[float32](d["edge_x"])
	got := make([]float32, len(x))
	for i := range x {
		got[i] = Rcp(x[i])
	}
	sameBits(t, tensor.Data[float32](d["edge_rcp"]), got, "edge_rcp")
}

func TestGoldenBNBBlockwise4(t *testing.T) {
	cases, data := readCases(t, bnbDir(t), "blockwise4")
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) { compare4(t, c, data) })
	}
	t.Logf("%d cases", len(cases))
}

// quantizeTensor4 calls Quantize4 with the tensor's own element type.
func quantizeTensor4(t testing.TB, x *tensor.Tensor, blocksize int, s Scheme) (codes []byte, absmax []float32) {
	t.Helper()
	n := x.Shape().Size()
	codes, absmax = make([]byte, PackedSize(n)), make([]float32, Blocks(n, blocksize))
	var err error
	switch x.DType() {
	case tensor.F32:
		err = Quantize4(codes, absmax, tensor.Data[float32](x), blocksize, s)
	case tensor.F16:
		err = Quantize4(codes, absmax, tensor.Data[tensor.Float16](x), blocksize, s)
	case tensor.BF16:
		err = Quantize4(codes, absmax, tensor.Data[tensor.BFloat16](x), blocksize, s)
	}
	require.NoError(t, err)
	return codes, absmax
}

func compare4(t *testing.T, c bnbCase, data map[string]*tensor.Tensor) {
	scheme, ok := ParseScheme(c.QuantType)
	require.True(t, ok)
	x := data[c.Input]
	codes, absmax := quantizeTensor4(t, x, c.Blocksize, scheme)
	assert.Equal(t, data[c.Packed].Bytes(), codes, "codes")
	s := &State{Scheme: scheme, Blocksize: c.Blocksize, Shape: x.Shape(), DType: x.DType(), Codes: codes}
	if c.Nested {
		offset := tensor.Data[float32](data[c.Offset])[0]
		assert.InEpsilon(t, offset, meanScale(absmax), 1e-6)
		s.AbsmaxU8 = make([]byte, len(absmax))
		s.NestedAbsmax, s.NestedOffset = make([]float32, Blocks(len(absmax), StateBlocksize)), offset
		quantizeScalesAround(s.AbsmaxU8, s.NestedAbsmax, absmax, offset, StateBlocksize)
		assert.Equal(t, data[c.AbsmaxU8].Bytes(), s.AbsmaxU8, "scale codes")
		sameBits(t, tensor.Data[float32](data[c.NestedAbsmax]), s.NestedAbsmax, "nested_absmax")
		restored := make([]float32, len(absmax))
		require.NoError(t, s.Scales(restored, 0, len(restored)))
		sameBits(t, tensor.Data[float32](data[c.AbsmaxRestored]), restored, "absmax_restored")
	} else {
		s.Absmax = absmax
		sameBits(t, tensor.Data[float32](data[c.Absmax]), absmax, "absmax")
	}
	for d, key := range map[tensor.DType]string{tensor.F32: c.DequantF32, tensor.F16: c.DequantF16, tensor.BF16: c.DequantBF16} {
		if key == "" {
			continue
		}
		got, err := s.Dequantize(d)
		require.NoError(t, err)
		assert.Equal(t, data[key].Bytes(), got.Bytes(), "dequantized to %v", d)
	}
}

func TestGoldenBNBBlockwise8(t *testing.T) {
	cases, data := readCases(t, bnbDir(t), "blockwise8")
	books := map[string]*Codebook{}
	for _, c := range cases {
		name := c.Map
		if name == "" {
			books[name] = DynamicSigned()
		}
		if books[name] == nil {
			require.Contains(t, data, name)
			var err error
			books[name], err = NewCodebook([256]float32(tensor.Data[float32](data[name])))
			require.NoError(t, err)
		}
		t.Run(c.Name, func(t *testing.T) { compare8(t, c, data, books[name]) })
	}
	t.Logf("%d cases, %d code books", len(cases), len(books))
}

func quantizeTensor8(t testing.TB, x *tensor.Tensor, blocksize int, book *Codebook) (codes []byte, absmax []float32) {
	t.Helper()
	n := x.Shape().Size()
	codes, absmax = make([]byte, n), make([]float32, Blocks(n, blocksize))
	var err error
	switch x.DType() {
	case tensor.F32:
		err = Quantize8(codes, absmax, tensor.Data[float32](x), blocksize, book)
	case tensor.F16:
		err = Quantize8(codes, absmax, tensor.Data[tensor.Float16](x), blocksize, book)
	case tensor.BF16:
		err = Quantize8(codes, absmax, tensor.Data[tensor.BFloat16](x), blocksize, book)
	}
	require.NoError(t, err)
	return codes, absmax
}

func dequantizeTensor8(t testing.TB, d tensor.DType, codes []byte, absmax []float32, blocksize int, book *Codebook) []byte {
	t.Helper()
	out := tensor.New(tensor.T(d, len(codes)))
	var err error
	switch d {
	case tensor.F32:
		err = Dequantize8(tensor.Data[float32](out), codes, absmax, blocksize, book)
	case tensor.F16:
		err = Dequantize8(tensor.Data[tensor.Float16](out), codes, absmax, blocksize, book)
	case tensor.BF16:
		err = Dequantize8(tensor.Data[tensor.BFloat16](out), codes, absmax, blocksize, book)
	}
	require.NoError(t, err)
	return out.Bytes()
}

func compare8(t *testing.T, c bnbCase, data map[string]*tensor.Tensor, book *Codebook) {
	codes, absmax := quantizeTensor8(t, data[c.Input], c.Blocksize, book)
	assert.Equal(t, data[c.Codes].Bytes(), codes, "codes")
	if c.Nested {
		compareNested8(t, c, data, codes, absmax, book)
		return
	}
	sameBits(t, tensor.Data[float32](data[c.Absmax]), absmax, "absmax")
	for d, key := range map[tensor.DType]string{tensor.F32: c.DequantF32, tensor.F16: c.DequantF16, tensor.BF16: c.DequantBF16} {
		if key != "" {
			assert.Equal(t, data[key].Bytes(), dequantizeTensor8(t, d, codes, absmax, c.Blocksize, book), "dequantized to %v", d)
		}
	}
}

func compareNested8(t *testing.T, c bnbCase, data map[string]*tensor.Tensor, codes []byte, absmax []float32, book *Codebook) {
	offset := tensor.Data[float32](data[c.Offset])[0]
	assert.InEpsilon(t, offset, meanScale(absmax), 1e-6)
	rest := make([]float32, len(absmax))
	for i := range rest {
		rest[i] = absmax[i] - offset
	}
	u8, nested := make([]byte, len(rest)), make([]float32, Blocks(len(rest), c.NestedBlocksize))
	require.NoError(t, Quantize8(u8, nested, rest, c.NestedBlocksize, book))
	assert.Equal(t, data[c.AbsmaxU8].Bytes(), u8, "scale codes")
	sameBits(t, tensor.Data[float32](data[c.NestedAbsmax]), nested, "nested_absmax")
	restored := make([]float32, len(absmax))
	require.NoError(t, RestoreScales(restored, u8, nested, offset, 0, len(restored), c.NestedBlocksize, &book.values))
	// The same through the format, whose own offset may move a code by one.
	s, err := QuantizeTensor(data[c.Input], BlockwiseFormat{Map: c.Map, Blocksize: c.Blocksize, Double: true}, Options{})
	require.NoError(t, err)
	assert.Equal(t, codes, append([]byte{}, s.Codes...))
	assert.Equal(t, c.NestedBlocksize, s.NestedBlocksize)
	assert.Len(t, s.NestedAbsmax, len(nested))
	assert.InEpsilon(t, offset, s.NestedOffset, 1e-6)
	for i, code := range s.AbsmaxU8 {
		assert.InDelta(t, int(u8[i]), int(code), 1)
	}
	want := data[c.Dequant]
	assert.Equal(t, want.Bytes(), dequantizeTensor8(t, want.DType(), codes, restored, c.Blocksize, book))
}

// The moments of Adam and Lion depend on the gradients alone, so their 8-bit states exercise requantization over several steps. The
// arithmetic between is not bit-exact (approximate GPU operations), hence one code of difference on 0.1% of all.
func TestGoldenBNBOptimizerStates(t *testing.T) {
	cases, data := readCases(t, bnbDir(t), "optim")
	total, off := 0, 0
	for _, c := range cases {
		if c.Informative != nil || !strings.HasSuffix(c.Cls, "8bit") || len(c.Group.Betas) != 2 || len(c.Steps) == 0 {
			continue
		}
		if !strings.HasPrefix(c.Cls, "Adam") && !strings.HasPrefix(c.Cls, "Lion") {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			n, bad := replayStates(t, c, data)
			total, off = total+n, off+bad
			t.Logf("%d of %d codes differ by one", bad, n)
		})
	}
	t.Logf("%d of %d codes differ by one", off, total)
	require.LessOrEqual(t, off, total/1000)
}
