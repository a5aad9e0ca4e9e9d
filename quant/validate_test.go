package quant

import (
	"math"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/stretchr/testify/require"
)

// Parts that disagree are refused with the part that is wrong, and nothing that takes a state panics on them.
func TestValidateRefuses(t *testing.T) {
	affine, nf4, double := AffineFormat{Bits: 3, Per: 16, Asymmetric: true}, Config{}, Config{Double: true}
	int8s, kbit, blockwise := Config{Scheme: Int8}, KBitFormat{Bits: 3, Fit: true}, BlockwiseFormat{}
	for name, c := range map[string]struct {
		f      Format
		damage func(s *State)
		want   string
	}{
		"scheme":              {nf4, func(s *State) { s.Scheme = 77 }, "unknown scheme"},
		"other scheme":        {nf4, func(s *State) { s.Scheme = Blockwise8 }, "8-bit codes"},
		"bits of nf4":         {nf4, func(s *State) { s.Bits = 4 }, "nf4 of 4 bits"},
		"bits":                {affine, func(s *State) { s.Bits = 4 }, "4-bit codes"},
		"many bits":           {affine, func(s *State) { s.Bits = 9 }, "9 bits"},
		"no bits":             {kbit, func(s *State) { s.Bits = 0 }, "0 bits"},
		"blocksize":           {nf4, func(s *State) { s.Blocksize = 33 }, "blocksize 33"},
		"no blocksize":        {affine, func(s *State) { s.Blocksize = 0 }, "blocksize 0"},
		"negative blocksize":  {affine, func(s *State) { s.Blocksize = math.MinInt }, "blocksize"},
		"large blocksize":     {affine, func(s *State) { s.Blocksize = math.MaxInt }, "zero points"},
		"by row":              {nf4, func(s *State) { s.ByRow = true }, "flat order"},
		"flat":                {affine, func(s *State) { s.ByRow = false }, "zero points"},
		"flat int8":           {int8s, func(s *State) { s.ByRow = false }, "one scale a row"},
		"int8 blocks":         {int8s, func(s *State) { s.Blocksize = 2 }, "one scale a row"},
		"shape":               {nf4, func(s *State) { s.Shape = tensor.S(5, 44) }, "bytes of 4-bit codes"},
		"invalid shape":       {nf4, func(s *State) { s.Shape = tensor.S(-1) }, "invalid shape"},
		"scalar int8":         {int8s, func(s *State) { s.Shape = tensor.S() }, "one scale a row"},
		"type":                {nf4, func(s *State) { s.DType = tensor.I32 }, "i32"},
		"short codes":         {affine, func(s *State) { s.Codes = s.Codes[1:] }, "bytes of 3-bit codes"},
		"no codes":            {kbit, func(s *State) { s.Codes = nil }, "got 0"},
		"spare bits":          {affine, func(s *State) { s.Codes[len(s.Codes)-1] |= 0x80 }, "bits behind the last"},
		"short scales":        {affine, func(s *State) { s.Absmax = s.Absmax[1:] }, "scales"},
		"negative scale":      {affine, func(s *State) { s.Absmax[3] = -1 }, "scale of block 3"},
		"NaN scale":           {kbit, func(s *State) { s.Absmax[1] = float32(math.NaN()) }, "scale of block 1"},
		"short zeros":         {affine, func(s *State) { s.Zeros = s.Zeros[1:] }, "zero points"},
		"large zero":          {affine, func(s *State) { s.Zeros[2] = 8 }, "zero point of block 2 is 8"},
		"zeros of nf4":        {nf4, func(s *State) { s.Zeros = []uint8{} }, "no zero points"},
		"both levels":         {double, func(s *State) { s.Absmax = make([]float32, 4) }, "plain scales"},
		"second level":        {double, func(s *State) { s.NestedAbsmax = nil }, "second-level scales"},
		"second level alone":  {nf4, func(s *State) { s.NestedAbsmax = []float32{1} }, "none of second level"},
		"short scale codes":   {double, func(s *State) { s.AbsmaxU8 = s.AbsmaxU8[1:] }, "scale codes"},
		"offset":              {double, func(s *State) { s.NestedOffset = float32(math.Inf(1)) }, "mean"},
		"nested blocksize":    {double, func(s *State) { s.NestedBlocksize = -1 }, "second-level blocksize"},
		"small nested blocks": {double, func(s *State) { s.NestedBlocksize = 2 }, "second-level scales"},
		"nested map":          {double, func(s *State) { s.NestedMap = &[256]float32{7: float32(math.NaN())} }, "second-level scales is NaN"},
		"nested int8":         {int8s, func(s *State) { s.AbsmaxU8 = []byte{} }, "not quantized again"},
		"map of nf4":          {nf4, func(s *State) { s.Map = make([]float32, 16) }, "own table"},
		"short map":           {kbit, func(s *State) { s.Map = s.Map[1:] }, "7 values for 8 codes"},
		"descending map":      {kbit, func(s *State) { s.Map[3] = 9 }, "sort"},
		"map with infinity":   {blockwise, func(s *State) { s.Map = make([]float32, 256); s.Map[255] = float32(math.Inf(1)) }, "finite"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := QuantizeTensor(randomTensor(t, tensor.F32, 5, 43), c.f, Options{})
			require.NoError(t, err)
			c.damage(s)
			require.ErrorContains(t, s.Validate(), c.want)
			_, err = s.Dequantize(tensor.F32)
			require.ErrorContains(t, err, c.want)
			_, err = s.StateDict("w")
			require.ErrorContains(t, err, c.want)
			_, err = s.Encoder()
			require.ErrorContains(t, err, c.want)
			_, err = Convert(s, AffineFormat{Bits: 8}, Options{})
			require.ErrorContains(t, err, c.want)
		})
	}
	var none *State
	require.ErrorContains(t, none.Validate(), "no quantized state")
	_, err := Convert(nil, nf4, Options{})
	require.ErrorContains(t, err, "no quantized state")
}

func TestEncoderAndPackRefuse(t *testing.T) {
	s, err := Quantize(randomTensor(t, tensor.F32, 5, 43), Config{Double: true})
	require.NoError(t, err)
	_, err = s.Encoder()
	require.ErrorContains(t, err, "scales of this nf4 state are quantized")
	for _, f := range []Format{Config{}, AffineFormat{Bits: 3}} {
		s, err := QuantizeTensor(randomTensor(t, tensor.F32, 5, 43), f, Options{})
		require.NoError(t, err)
		require.ErrorContains(t, s.Pack(make([]uint8, 8), 4), "multiples of 8")
		require.ErrorContains(t, s.Pack(make([]uint8, 9), 8), "multiples of 8")
		require.ErrorContains(t, s.Pack(make([]uint8, 216), 0), "do not fit")
		require.ErrorContains(t, s.Pack(make([]uint8, 8), -8), "do not fit")
		require.ErrorContains(t, s.Pack([]uint8{1, 2, 3, 77, 5, 6, 7, 1}, 8), "code 77 does not fit")
		require.ErrorContains(t, s.Unpack(make([]uint8, 3), 0, 4), "do not fit")
		require.ErrorContains(t, s.Unpack(make([]uint8, 3), 214, 216), "do not fit")
		require.Error(t, s.Read(make([]float32, 3), 213))
		_, err = s.Dequantize(tensor.I8)
		require.ErrorContains(t, err, "cannot dequantize to i8")
		s.Blocksize = 0
		require.ErrorContains(t, s.Read(make([]float32, 3), 0), "Validate")
	}
}

// A calibrated scale may clip: elements beyond it get the outermost code.
func TestEncoderClips(t *testing.T) {
	for _, f := range allFormats() {
		if c, ok := f.(AffineFormat); ok && c.Stochastic {
			continue
		}
		s, err := f.New(tensor.T(tensor.F32, 2, 8))
		require.NoError(t, err)
		e, err := s.Encoder()
		require.NoError(t, err)
		e.SetRange(0, -0.5, 0.5)
		for _, x := range []float32{0.7, 30} {
			require.Equal(t, e.Code(0, 1e30), e.Code(0, x), "%s %v", f.Name(), x)
			require.Equal(t, e.Code(0, -1e30), e.Code(0, -2*x), "%s %v", f.Name(), -2*x)
			require.InDelta(t, 0.5, e.Value(0, e.Code(0, x)), 0.26, "%s", f.Name())
		}
		e.SetRange(0, -0x1p-99, 0x1p-99) // the quotient overflows
		require.Equal(t, e.Code(0, 0x1p-97), e.Code(0, 1e30), f.Name())
		require.Equal(t, e.Code(0, -0x1p-97), e.Code(0, -1e30), f.Name())
	}
}

func TestCheckRefuses(t *testing.T) {
	x := randomTensor(t, tensor.BF16, 2, 70)
	s, err := QuantizeTensor(x, FP8Format{}, Options{})
	require.NoError(t, err)
	require.NoError(t, s.Check())
	s.Codes[3] = 0x7f
	require.ErrorContains(t, s.Check(), "code 3 is 0x7f")
	for _, bad := range []float64{math.NaN(), math.Inf(1), -1} {
		s, err = Quantize(x, Config{})
		require.NoError(t, err)
		s.Absmax[1] = float32(bad)
		require.ErrorContains(t, s.Check(), "scale 1 is")
		s, err = Quantize(x, Config{Double: true})
		require.NoError(t, err)
		s.NestedAbsmax[0] = float32(bad)
		require.ErrorContains(t, s.Check(), "second-level scale 0 is")
	}
	s.Codes = nil
	require.ErrorContains(t, s.Check(), "got 0")
}

// FuzzParseFormat: what is accepted has a name that gives it back, and takes a tensor.
func FuzzParseFormat(f *testing.F) {
	for _, format := range allFormats() {
		f.Add(format.Name())
	}
	f.Fuzz(func(t *testing.T, name string) {
		format, err := ParseFormat(name)
		if err != nil {
			return
		}
		again, err := ParseFormat(format.Name())
		require.NoError(t, err)
		require.Equal(t, format.Name(), again.Name())
		_, err = QuantizeTensor(tensor.New(tensor.T(tensor.F32, 3, 5)), format, Options{})
		require.NoError(t, err)
	})
}
