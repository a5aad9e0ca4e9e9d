package quant

import (
	"math/rand/v2"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

const benchSize = 1 << 20

func benchData() []float32 {
	rng := rand.New(rand.NewPCG(1, 2))
	x := make([]float32, benchSize)
	for i := range x {
		x[i] = float32(rng.NormFloat64() * 0.02)
	}
	return x
}

// Bytes per second count the float side: what is read when quantizing and written when dequantizing.
func BenchmarkQuantize4(b *testing.B) {
	for _, s := range []Scheme{NF4, FP4} {
		b.Run(s.String()+"/f32", func(b *testing.B) { benchQuantize4(b, benchData(), s) })
	}
	half := make([]tensor.BFloat16, benchSize)
	for i, v := range benchData() {
		half[i] = tensor.ToBF16(v)
	}
	b.Run("nf4/bf16", func(b *testing.B) { benchQuantize4(b, half, NF4) })
	b.Run("nf4/naive", func(b *testing.B) {
		x := benchData()
		b.SetBytes(4 * benchSize)
		for b.Loop() {
			naive4(x, 64, NF4)
		}
	})
}

func elementSize[E Real]() int64 {
	var e E
	if _, ok := any(e).(float32); ok {
		return 4
	}
	return 2
}

func benchQuantize4[E Real](b *testing.B, x []E, s Scheme) {
	codes, absmax := make([]byte, len(x)/2), make([]float32, len(x)/64)
	benchLevels(b, "", elementSize[E]()*int64(len(x)), func() { _ = Quantize4(codes, absmax, x, 64, s) })
}

// benchLevels times f with each set of instructions, pure Go among them.
func benchLevels(b *testing.B, name string, bytes int64, f func()) {
	eachLevel(b, func(level string) {
		b.Run(name+level, func(b *testing.B) {
			b.SetBytes(bytes)
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
	})
}

func BenchmarkDequantize4(b *testing.B) {
	b.Run("f32", benchDequantize4[float32])
	b.Run("f16", benchDequantize4[tensor.Float16])
	b.Run("bf16", benchDequantize4[tensor.BFloat16])
}

func benchDequantize4[E Real](b *testing.B) {
	x := benchData()
	codes, absmax := make([]byte, len(x)/2), make([]float32, len(x)/64)
	_ = Quantize4(codes, absmax, x, 64, NF4)
	dst := make([]E, len(x))
	b.SetBytes(elementSize[E]() * int64(len(x)))
	b.ReportAllocs()
	for b.Loop() {
		_ = Dequantize4(dst, codes, absmax, 64, NF4)
	}
}

func BenchmarkBlockwise8(b *testing.B) {
	x := benchData()
	codes, absmax := make([]byte, len(x)), make([]float32, len(x)/StateBlocksize)
	book := DynamicSigned()
	benchLevels(b, "quantize/", 4*benchSize, func() { _ = Quantize8(codes, absmax, x, StateBlocksize, book) })
	half := as[tensor.BFloat16](x)
	benchLevels(b, "quantize bf16/", 2*benchSize, func() { _ = Quantize8(codes, absmax, half, StateBlocksize, book) })
	b.Run("quantize/naive", func(b *testing.B) {
		b.SetBytes(4 * benchSize)
		for b.Loop() {
			for i, v := range x {
				codes[i] = searchNaive(&book.values, v*Rcp(0.1))
			}
		}
	})
	benchLevels(b, "quantize signed/", 4*benchSize, func() {
		for lo := 0; lo < benchSize; lo += StateBlocksize {
			book.QuantizeBlockSigned(codes[lo:lo+StateBlocksize], x[lo:lo+StateBlocksize])
		}
	})
	out, half16 := make([]float32, benchSize), make([]tensor.Float16, benchSize)
	benchLevels(b, "dequantize/", 4*benchSize, func() { _ = Dequantize8(out, codes, absmax, StateBlocksize, book) })
	benchLevels(b, "dequantize bf16/", 2*benchSize, func() { _ = Dequantize8(half, codes, absmax, StateBlocksize, book) })
	benchLevels(b, "dequantize f16/", 2*benchSize, func() { _ = Dequantize8(half16, codes, absmax, StateBlocksize, book) })
}

// BenchmarkInt8Rows measures the loops of LLM.int8() on rows of 1024; bytes per second count the float side.
func BenchmarkInt8Rows(b *testing.B) {
	const rows, cols = 256, 1024
	x := benchData()[:rows*cols]
	half, codes, stats, mask := as[tensor.Float16](x), make([]int8, rows*cols), make([]float32, cols), make([]bool, cols)
	for name, threshold := range map[string]float32{"quantize/": 0, "quantize, threshold/": 6} {
		benchLevels(b, name, 2*rows*cols, func() {
			for r := range rows {
				stats[r] = QuantizeRow(codes[r*cols:(r+1)*cols], half[r*cols:(r+1)*cols], threshold, mask)
			}
		})
	}
	acc := make([]int32, rows*cols)
	for i := range acc {
		acc[i] = int32(i * 31)
	}
	benchLevels(b, "product/", 4*rows*cols, func() { _ = DequantizeProduct(x, acc, stats[:rows], stats, x[:cols], rows, cols) })
	kept, weight := make([]float32, 8), make([]float32, 8*cols)
	benchLevels(b, "8 outliers/", 4*rows*cols, func() {
		for r := range rows {
			_ = AddOutliers(x[r*cols:(r+1)*cols], kept, weight)
		}
	})
}

// BenchmarkFormats measures the paths that all formats share; bytes per second count the float side.
func BenchmarkFormats(b *testing.B) {
	x, err := tensor.Of(benchData(), 1024, 1024)
	if err != nil {
		b.Fatal(err)
	}
	out := make([]float32, benchSize)
	for _, f := range []Format{Config{Scheme: NF4}, Config{Scheme: Int8}, AffineFormat{Bits: 4}, AffineFormat{Bits: 4, Stochastic: true},
		AffineFormat{Bits: 3, Asymmetric: true}, FP8Format{}, KBitFormat{Bits: 3},
		KBitFormat{Bits: 3, Fit: true}, BlockwiseFormat{}} {
		s, err := QuantizeTensor(x, f, Options{})
		if err != nil {
			b.Fatal(err)
		}
		benchLevels(b, "quantize/"+f.Name()+"/", 4*benchSize, func() { _, _ = QuantizeTensor(x, f, Options{}) })
		benchLevels(b, "dequantize/"+f.Name()+"/", 4*benchSize, func() { _ = DequantizeRange(s, out, 0, benchSize) })
	}
}
