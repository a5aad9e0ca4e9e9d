package quant

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// allFormats are the usual ones and those with options that matter to the layout.
func allFormats() []Format {
	out := Formats()
	for bits := 2; bits <= 8; bits++ {
		out = append(out, AffineFormat{Bits: bits, Per: PerTensor, Asymmetric: true}, AffineFormat{Bits: bits, Per: PerChannel},
			AffineFormat{Bits: bits, Per: 5, Asymmetric: true}, AffineFormat{Bits: bits, Per: 7, Stochastic: true})
	}
	for bits := 2; bits <= 6; bits++ {
		out = append(out, KBitFormat{Bits: bits, Blocksize: 13}, KBitFormat{Bits: bits, Fit: true, Double: true})
	}
	for _, p := range []Granularity{PerTensor, PerChannel, 9} {
		out = append(out, FP8Format{Scheme: FP8E4M3, Per: p}, FP8Format{Scheme: FP8E5M2, Per: p})
	}
	return append(out, BlockwiseFormat{Map: "linear_signed", Blocksize: 33, Double: true}, BlockwiseFormat{Map: "fp8_signed_e4m3", Blocksize: 5000},
		Config{Scheme: Int8, Threshold: 6}, Config{Scheme: FP4, Blocksize: 4096})
}

func TestFormatNames(t *testing.T) {
	for _, f := range allFormats() {
		again, err := ParseFormat(f.Name())
		require.NoError(t, err, f.Name())
		require.Equal(t, f.Name(), again.Name())
		x := randomTensor(t, tensor.F32, 11, 24)
		a, err := QuantizeTensor(x, f, Options{})
		require.NoError(t, err)
		b, err := QuantizeTensor(x, again, Options{})
		require.NoError(t, err)
		require.Equal(t, a, b)
	}
	for name, want := range map[string]string{
		"int4": "int4:group=128", "int8": "int8", "int8:sym": "int8:group=128", "int3:asym,channel": "int3:channel,asym",
		"nf4:block=64": "nf4", "fp4:double,block=32": "fp4:block=32,double", "fp8_e4m3": "fp8_e4m3:channel", "cb2:fit": "cb2:fit",
		"blockwise8:map=dynamic_signed,block=256": "blockwise8", "int8:threshold=6": "int8:threshold=6", "int8:tensor": "int8:tensor",
	} {
		f, err := ParseFormat(name)
		require.NoError(t, err, name)
		require.Equal(t, want, f.Name())
	}
	for name, want := range map[string]string{
		"": "unknown format", "nf5": "unknown format", "int1": "unknown", "int9": "unknown", "int+4": "unknown", "int04": "unknown", "cb7": "unknown",
		"cb1": "unknown", "nf4:block=31": "blocksize 31", "nf4:block=-64": "positive", "nf4:block=x": "positive", "nf4:block": "needs a value",
		"nf4:double=1": "takes no value", "nf4:double,double": "twice", "nf4:group=128": `no option "group"`, "int4:group=0": "positive",
		"int4:group=128,tensor": "exclude", "int4:sym,asym": "exclude", "int8:threshold=-1": "not negative", "int8:threshold=NaN": "not negative",
		"blockwise8:map=log": "unknown map", "blockwise8:map=dynamic_signed_total9": "total", "blockwise8:map=fp8_signed_e9m9": "fp8 map", "int8:double": "no option",
		"fp8_e3m4": "unknown", "int4:": `no option ""`, "cb4:block=64,b=1,a=2": `no option "a"`,
	} {
		_, err := ParseFormat(name)
		require.ErrorContains(t, err, want, name)
	}
}

// What holds for every format: a valid state whatever the shape and type, the same bytes however the work is split, any range equal to the
// whole, and the storage that was announced.
func TestFormats(t *testing.T) {
	for _, f := range allFormats() {
		t.Run(f.Name(), func(t *testing.T) {
			for _, dims := range [][]int{{}, {0}, {0, 5}, {5, 0}, {1}, {9}, {7, 11}, {37, 172}, {2, 3, 64}, {3, 9000}} {
				for _, d := range []tensor.DType{tensor.F32, tensor.F16, tensor.BF16} {
					if len(dims) == 2 && dims[1] == 9000 && d != tensor.F32 {
						continue
					}
					checkFormat(t, f, randomTensor(t, d, dims...))
				}
			}
		})
	}
}

func checkFormat(t *testing.T, f Format, x *tensor.Tensor) {
	s, err := QuantizeTensor(x, f, Options{Seed: 3})
	if c, ok := f.(Config); ok && c.Scheme == Int8 && x.Shape().Rank() == 0 {
		require.ErrorContains(t, err, "one scale a row")
		return
	}
	require.NoError(t, err)
	require.NoError(t, s.Validate())
	split, err := QuantizeTensor(x, f, Options{Seed: 3, Parallel: halves})
	require.NoError(t, err)
	require.Equal(t, s, split, "parallel parts give the same bytes")
	n := x.Shape().Size()
	if n > 0 {
		require.InDelta(t, 8*float64(s.Bytes())/float64(n), f.BitsPerWeight(x.Shape()), 1e-9)
	}
	all, err := s.Dequantize(tensor.F32)
	require.NoError(t, err)
	want := tensor.Data[float32](all)
	require.Equal(t, x.Shape(), all.Shape())
	got := make([]float32, n)
	for lo := 0; lo < n; lo += 1237 {
		require.NoError(t, s.Read(got[lo:min(lo+1237, n)], lo))
	}
	require.True(t, slices.Equal(want, got))
	require.Zero(t, testing.AllocsPerRun(1, func() { _ = DequantizeRange(s, got, 0, n) }))
	for _, d := range []tensor.DType{tensor.F16, tensor.BF16} {
		half, err := s.Dequantize(d)
		require.NoError(t, err)
		wide, err := all.Convert(d)
		require.NoError(t, err)
		require.Equal(t, wide.Bytes(), half.Bytes(), "one rounding from float32")
	}
	codes := make([]uint8, n)
	require.NoError(t, s.Unpack(codes, 0, n))
	again := *s
	again.Codes = make([]byte, len(s.Codes))
	require.NoError(t, again.Pack(codes, 0))
	require.Equal(t, s.Codes, append(s.Codes[:0:0], again.Codes...))
	for b := range s.Blocks() {
		lo, hi := s.Span(b)
		require.Less(t, lo, hi)
		require.Equal(t, b, s.Block(lo))
		require.Equal(t, b, s.Block(hi-1))
		if b > 0 {
			_, before := s.Span(b - 1)
			require.Equal(t, before, lo)
		}
	}
}

// Each code is the one whose value lies nearest to the element, in exact arithmetic up to the rounding of the values.
func TestFormatsRoundToNearest(t *testing.T) {
	for _, f := range allFormats() {
		if a, ok := f.(AffineFormat); ok && a.Stochastic {
			continue
		}
		t.Run(f.Name(), func(t *testing.T) {
			x := randomTensor(t, tensor.F32, 5, 172)
			s, err := QuantizeTensor(x, f, Options{})
			require.NoError(t, err)
			if s.Nested() {
				return // codes are chosen before the scales are rounded
			}
			e, err := s.Encoder()
			require.NoError(t, err)
			codes := make([]uint8, s.Size())
			require.NoError(t, s.Unpack(codes, 0, len(codes)))
			for i, v := range tensor.Data[float32](x) {
				b := s.Block(i)
				best := math.Inf(1)
				for c := range 1 << s.CodeBits() {
					if d := math.Abs(float64(e.Value(b, uint8(c))) - float64(v)); d < best {
						best = d
					}
				}
				got := math.Abs(float64(e.Value(b, codes[i])) - float64(v))
				require.LessOrEqual(t, got, best+1e-5*float64(s.Absmax[b]), "element %d: %v", i, v)
				require.Equal(t, codes[i], e.Code(b, v))
			}
		})
	}
}

// The general path through a Source gives the bytes of the paths that follow the CUDA kernels.
func TestSourceEqualsKernels(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		x := blocks(rt)
		for i, v := range x {
			if v-v != 0 || abs32(v) > 0x1p121 {
				x[i] = 0
			}
		}
		w, err := tensor.Of(x, len(x))
		require.NoError(rt, err)
		for _, cfg := range []Config{{}, {Scheme: FP4, Blocksize: 32}, {Double: true}} {
			want, err := Quantize(w, cfg)
			require.NoError(rt, err)
			got, err := cfg.Quantize(opaque{From(w)}, Options{})
			require.NoError(rt, err)
			require.Equal(rt, want, got)
		}
		s, err := QuantizeTensor(w, BlockwiseFormat{Blocksize: 64}, Options{})
		require.NoError(rt, err)
		codes, absmax := make([]byte, len(x)), make([]float32, Blocks(len(x), 64))
		require.NoError(rt, Quantize8(codes, absmax, x, 64, DynamicSigned()))
		require.Equal(rt, codes, append([]byte{}, s.Codes...))
		require.Equal(rt, absmax, s.Absmax)
		if len(x) == 0 {
			return
		}
		s, err = QuantizeTensor(w, Config{Scheme: Int8}, Options{})
		require.NoError(rt, err)
		rows := make([]int8, len(x))
		_, err = QuantizeRows(rows, absmax[:1], x, 1, len(x), 0)
		require.NoError(rt, err)
		require.Equal(rt, tensor.AsBytes(rows), append([]byte{}, s.Codes...))
		require.Equal(rt, absmax[:1], s.Absmax)
	})
}

// opaque hides what a source is.
type opaque struct{ Source }

// Converting equals quantizing the dequantized tensor, and to the same format it changes nothing that matters.
func TestConvert(t *testing.T) {
	x := randomTensor(t, tensor.BF16, 9, 172)
	for _, from := range Formats() {
		s, err := QuantizeTensor(x, from, Options{})
		require.NoError(t, err)
		wide, err := s.Dequantize(tensor.F32)
		require.NoError(t, err)
		for _, to := range Formats() {
			got, err := Convert(s, to, Options{Parallel: halves})
			require.NoError(t, err)
			want, err := QuantizeTensor(wide, to, Options{})
			require.NoError(t, err)
			want.DType = s.DType
			require.Equal(t, want, got, "%s to %s", from.Name(), to.Name())
		}
	}
	s, err := Quantize(x, Config{})
	require.NoError(t, err)
	s.Codes = s.Codes[1:]
	_, err = Convert(s, AffineFormat{Bits: 4}, Options{})
	require.ErrorContains(t, err, "bytes of 4-bit codes")
}

// Stochastic rounding is right on average, is bounded by one step, and depends on seed and index alone.
func TestStochasticRounding(t *testing.T) {
	const n = 64
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(i-n/2) / n * 1.99
	}
	x[0] = -1
	w, err := tensor.Of(x, n)
	require.NoError(t, err)
	f := AffineFormat{Bits: 3, Per: PerTensor, Stochastic: true}
	mean := make([]float64, n)
	const runs = 4000
	for seed := range uint64(runs) {
		s, err := QuantizeTensor(w, f, Options{Seed: seed})
		require.NoError(t, err)
		back, err := s.Dequantize(tensor.F32)
		require.NoError(t, err)
		for i := range mean {
			require.Less(t, math.Abs(back.At(i)-float64(x[i])), float64(s.Absmax[0])*1.0001)
			mean[i] += back.At(i) / runs
		}
	}
	for i, m := range mean {
		require.InDelta(t, x[i], m, 5*0.5*float64(1)/3/math.Sqrt(runs), "element %d", i)
	}
	seen := map[string]bool{}
	for seed := range uint64(50) {
		s, err := QuantizeTensor(w, f, Options{Seed: seed})
		require.NoError(t, err)
		seen[string(s.Codes)] = true
	}
	require.Len(t, seen, 50, "seeds differ")
}

// A fitted table never does worse than the one it starts from, by much on a distribution unlike the normal one.
func TestFittedTable(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 6))
	for name, draw := range map[string]func() float64{
		"normal":   rng.NormFloat64,
		"clusters": func() float64 { return float64(rng.IntN(3)-1)*0.8 + 0.03*rng.NormFloat64() },
	} {
		x := make([]float32, 1<<14)
		for i := range x {
			x[i] = float32(draw())
		}
		w, err := tensor.Of(x, len(x))
		require.NoError(t, err)
		for bits := 2; bits <= 6; bits++ {
			plain, fitted := squaredError(t, w, KBitFormat{Bits: bits}), squaredError(t, w, KBitFormat{Bits: bits, Fit: true})
			require.Less(t, fitted, plain*1.0001, "%s %d bits", name, bits)
			if name == "clusters" && bits == 2 {
				require.Less(t, fitted, plain*0.7)
			}
		}
	}
}

// A fitted table keeps the value 0, so what pruning left out stays out.
func TestFittedTableKeepsZero(t *testing.T) {
	x := randomTensor(t, tensor.F32, 16, 64)
	for i := 0; i < x.Shape().Size(); i += 2 {
		x.Set(i, 0)
	}
	for bits := 2; bits <= 6; bits++ {
		s, err := QuantizeTensor(x, KBitFormat{Bits: bits, Fit: true, Double: bits%2 == 0}, Options{})
		require.NoError(t, err)
		back, err := s.Dequantize(tensor.F32)
		require.NoError(t, err)
		for i := 0; i < x.Shape().Size(); i += 2 {
			require.Zero(t, back.At(i), "%d bits, element %d", bits, i)
		}
	}
}

func squaredError(t testing.TB, x *tensor.Tensor, f Format) (sum float64) {
	t.Helper()
	s, err := QuantizeTensor(x, f, Options{})
	require.NoError(t, err)
	back, err := s.Dequantize(tensor.F32)
	require.NoError(t, err)
	for i := range x.Shape().Size() {
		d := back.At(i) - x.At(i)
		sum += d * d
	}
	return sum
}

// On normal data more bits do better. Quantiles of the normal distribution do better than integers of as many bits until the steps near
// zero are small against those at the ends, at 6 bits; fitted tables always do.
func TestErrorAgainstBits(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	x := make([]float32, 1<<16)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	w, err := tensor.Of(x, 256, 256)
	require.NoError(t, err)
	last := math.Inf(1)
	for bits := 2; bits <= 6; bits++ {
		cb, ints := squaredError(t, w, KBitFormat{Bits: bits}), squaredError(t, w, AffineFormat{Bits: bits, Per: 64})
		require.Less(t, cb, last)
		if bits < 6 {
			require.Less(t, cb, ints, "%d bits", bits)
		}
		require.Less(t, squaredError(t, w, KBitFormat{Bits: bits, Fit: true}), ints, "%d bits", bits)
		last = cb
	}
	v, err := NormalLevels(4)
	require.NoError(t, err)
	nf4 := NF4.Values()
	require.InDeltaSlice(t, nf4[:], v, 2e-6)
	_, err = NormalLevels(7)
	require.Error(t, err)
	require.True(t, slices.IsSorted(v))
}

// Affine codes by hand.
func TestAffineByHand(t *testing.T) {
	x := []float32{-1, 0.5, 0, 2, 0.1, -0.3, 0, 0}
	w, err := tensor.Of(x, 2, 4)
	require.NoError(t, err)
	s, err := QuantizeTensor(w, AffineFormat{Bits: 2, Per: PerChannel, Asymmetric: true}, Options{})
	require.NoError(t, err)
	require.Equal(t, []float32{1, float32(float64(float32(0.1)+0.3) / 3)}, []float32{s.Absmax[0], s.Absmax[1]})
	require.Equal(t, []uint8{1, 2}, s.Zeros)
	codes := make([]uint8, 8)
	require.NoError(t, s.Unpack(codes, 0, 8))
	require.Equal(t, []uint8{0, 1, 1, 3, 3, 0, 2, 2}, codes) // 0.5 is a tie and goes to the even multiple 0
	require.Equal(t, []byte{0<<0 | 1<<2 | 1<<4 | 3<<6, 3 | 0<<2 | 2<<4 | 2<<6}, append([]byte{}, s.Codes...))
	s, err = QuantizeTensor(w, AffineFormat{Bits: 4, Per: 2}, Options{})
	require.NoError(t, err)
	require.NoError(t, s.Unpack(codes, 0, 8))
	require.Equal(t, []uint8{1, 11, 8, 15, 10, 1, 8, 8}, codes) // 0.5 over the float32 next to 1/7 is below 3.5
	require.Nil(t, s.Zeros)
	require.Zero(t, s.Absmax[3])
}

func TestFormatsRefuse(t *testing.T) {
	x := randomTensor(t, tensor.F32, 8, 300)
	for _, f := range allFormats() {
		for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
			bad := x.Clone()
			bad.Set(1700, v)
			_, err := QuantizeTensor(bad, f, Options{Parallel: halves})
			require.ErrorContains(t, err, "NaN or infinity", f.Name())
		}
		_, err := QuantizeTensor(tensor.New(tensor.T(tensor.F64, 4)), f, Options{})
		require.ErrorContains(t, err, "f64 cannot be quantized", f.Name())
		_, err = QuantizeTensor(nil, f, Options{})
		require.ErrorContains(t, err, "no tensor")
		_, err = f.Quantize(nil, Options{})
		require.ErrorContains(t, err, "no source", f.Name())
		_, err = f.Quantize(broken{}, Options{})
		require.ErrorContains(t, err, "disk on fire", f.Name())
	}
	_, err := QuantizeTensor(x, nil, Options{})
	require.ErrorContains(t, err, "no format")
	s, err := Quantize(x, Config{})
	require.NoError(t, err)
	_, err = Convert(s, nil, Options{})
	require.ErrorContains(t, err, "no format")
	for _, f := range []Format{AffineFormat{}, AffineFormat{Bits: 9}, AffineFormat{Bits: 4, Per: -3}, KBitFormat{Bits: 7}, KBitFormat{Bits: 4, Blocksize: -1},
		FP8Format{Scheme: Int8}, BlockwiseFormat{Map: "x"}, BlockwiseFormat{Blocksize: -5}, Config{Scheme: KBit}, Config{Scheme: Int8, Double: true}} {
		_, err := QuantizeTensor(x, f, Options{})
		require.ErrorContains(t, err, "quant: ", f.Name())
		require.Zero(t, f.BitsPerWeight(x.Shape()), f.Name())
	}
}

// Whatever the magnitudes, finite elements give finite values that are off by no more than their block's largest, or an error that says
// what is too large.
func TestFormatsAtTheEdges(t *testing.T) {
	all := allFormats()
	rapid.Check(t, func(rt *rapid.T) {
		x := blocks(rt)
		for i, v := range x {
			if v-v != 0 {
				x[i] = math.Float32frombits(math.Float32bits(v)&signBit | infBits - 1)
			}
		}
		w, err := tensor.Of(x, 1, len(x))
		require.NoError(rt, err)
		f := all[rapid.IntRange(0, len(all)-1).Draw(rt, "format")]
		s, err := QuantizeTensor(w, f, Options{})
		if err != nil {
			require.ErrorContains(rt, err, "holds up to")
			return
		}
		back := make([]float32, len(x))
		require.NoError(rt, s.Read(back, 0))
		for i, v := range back {
			lo, hi := s.Span(s.Block(i))
			require.Zero(rt, v-v, "%s: %v became %v", f.Name(), x[i], v)
			bound := float64(AbsMax(x[lo:hi]))*1.01 + 0x1p-126
			if s.Nested() { // scales next to a huge one are rounded to it
				bound = float64(AbsMax(x))
			}
			require.LessOrEqual(rt, math.Abs(float64(v)-float64(x[i])), bound+0x1p-126, "%s: %v became %v", f.Name(), x[i], v)
		}
	})
}

// Scales so far apart that the kernels' reciprocal of their distance is 0 are refused: all would become their mean.
func TestDoubleRefusesScalesFarApart(t *testing.T) {
	x := tensor.New(tensor.T(tensor.F32, 1, 128))
	x.Set(0, 3e38)
	x.Set(64, 1)
	_, err := QuantizeTensor(x, KBitFormat{Bits: 4, Double: true}, Options{})
	require.ErrorContains(t, err, "second level holds up to")
	_, err = QuantizeTensor(x, KBitFormat{Bits: 4}, Options{})
	require.NoError(t, err)
}

// A scale that the 8 bits round beyond the largest float32 is refused: its block would come back as infinities and NaN.
func TestDoubleRefusesScalesThatOverflow(t *testing.T) {
	x := tensor.New(tensor.T(tensor.F32, 1, 65))
	x.Set(0, math.MaxFloat32)
	x.Set(64, 2.2153389e+38)
	f := KBitFormat{Bits: 2, Double: true}
	_, err := QuantizeTensor(x, f, Options{})
	require.ErrorContains(t, err, "the scale of block 0 of f32[1,65] rounds to infinity, and its second level holds up to")
	x.Set(0, 3.4e38)
	_, err = QuantizeTensor(x, f, Options{})
	require.NoError(t, err)
}

// The largest float32 stays finite: the step is rounded down, and one code more would be infinite.
func TestStochasticRoundingOfTheLargest(t *testing.T) {
	x := tensor.New(tensor.T(tensor.F32, 1, 1<<16))
	for i, d := 0, tensor.Data[float32](x); i < len(d); i++ {
		d[i] = -math.MaxFloat32
	}
	for seed := range uint64(32) {
		s, err := QuantizeTensor(x, AffineFormat{Bits: 8, Per: PerTensor, Stochastic: true}, Options{Seed: seed})
		require.NoError(t, err)
		require.NotContains(t, s.Codes, byte(0))
	}
}

type broken struct{}

func (broken) Type() tensor.Type         { return tensor.T(tensor.F32, 4, 4) }
func (broken) Read([]float32, int) error { return fmt.Errorf("disk on fire") }
