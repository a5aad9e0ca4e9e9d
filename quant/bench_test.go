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
	b.SetBytes(elementSize[E]() * int64(len(x)))
	b.ReportAllocs()
	for b.Loop() {
		_ = Quantize4(codes, absmax, x, 64, s)
	}
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
	b.Run("quantize", func(b *testing.B) {
		b.SetBytes(4 * benchSize)
		b.ReportAllocs()
		for b.Loop() {
			_ = Quantize8(codes, absmax, x, StateBlocksize, book)
		}
	})
	b.Run("quantize/naive", func(b *testing.B) {
		b.SetBytes(4 * benchSize)
		for b.Loop() {
			for i, v := range x {
				codes[i] = searchNaive(&book.values, v*Rcp(0.1))
			}
		}
	})
	b.Run("requantize signed", func(b *testing.B) {
		b.SetBytes(4 * benchSize)
		for b.Loop() {
			for lo := 0; lo < benchSize; lo += StateBlocksize {
				book.QuantizeBlockSigned(codes[lo:lo+StateBlocksize], x[lo:lo+StateBlocksize])
			}
		}
	})
	b.Run("dequantize", func(b *testing.B) {
		b.SetBytes(4 * benchSize)
		b.ReportAllocs()
		for b.Loop() {
			_ = Dequantize8(x, codes, absmax, StateBlocksize, book)
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
	for _, f := range []Format{Config{Scheme: NF4}, Config{Scheme: Int8}, AffineFormat{Bits: 4}, AffineFormat{Bits: 3, Asymmetric: true}, FP8Format{}, KBitFormat{Bits: 3},
		KBitFormat{Bits: 3, Fit: true}, BlockwiseFormat{}} {
		s, err := QuantizeTensor(x, f, Options{})
		if err != nil {
			b.Fatal(err)
		}
		b.Run("quantize/"+f.Name(), func(b *testing.B) {
			b.SetBytes(4 * benchSize)
			for b.Loop() {
				_, _ = QuantizeTensor(x, f, Options{})
			}
		})
		b.Run("dequantize/"+f.Name(), func(b *testing.B) {
			b.SetBytes(4 * benchSize)
			b.ReportAllocs()
			for b.Loop() {
				_ = DequantizeRange(s, out, 0, benchSize)
			}
		})
	}
}
