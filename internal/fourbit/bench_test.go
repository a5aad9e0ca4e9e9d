package fourbit

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/bitsandbyes/bitsandbyes/internal/isa"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// measure reports the rate of the fastest call of f, which other work on the machine disturbs least.
func measure(b *testing.B, elements int, f func()) {
	fastest := time.Duration(math.MaxInt64)
	for b.Loop() {
		from := time.Now()
		f()
		fastest = min(fastest, time.Since(from))
	}
	b.ReportMetric(float64(elements)/float64(fastest.Nanoseconds()), "Gweights/s")
}

func benchLevels(b *testing.B, f func(b *testing.B, l isa.Level)) {
	for _, l := range append(fastLevels(), isa.Generic) {
		b.Run(l.String(), func(b *testing.B) { f(b, l) })
	}
}

// BenchmarkDecode is decoding in the cache.
func BenchmarkDecode(b *testing.B) {
	const n = 1 << 15
	for _, d := range floatTypes {
		b.Run(d.String(), func(b *testing.B) {
			benchLevels(b, func(b *testing.B, l isa.Level) {
				w, _ := finiteMatrix(rand.New(rand.NewPCG(1, 1)), 1, n, 64, d)
				o := output{half: d != tensor.F32, round: d}
				if o.half {
					o.halves = make([]uint16, n)
				} else {
					o.words = make([]uint32, n)
				}
				measure(b, n, func() { w.decode(l, o, 0) })
			})
		})
	}
}

// BenchmarkPack is strips of 320 elements, from rows where a block is a part of a row and from others.
func BenchmarkPack(b *testing.B) {
	const rows, kb = 512, 320
	for _, d := range floatTypes {
		for _, cols := range []int{4096, 688} {
			m, _ := finiteMatrix(rand.New(rand.NewPCG(2, 2)), rows, cols, 64, d)
			b.Run(fmt.Sprintf("%v/lanes/%d", d, cols), func(b *testing.B) {
				benchLevels(b, func(b *testing.B, l isa.Level) {
					width := max(2*lanesOf(l), 4)
					dst, i := make([]float32, width*kb), 0
					measure(b, width*kb, func() {
						if !m.packLanes(l, dst, width, i%(rows/width)*width, width, 0, kb) {
							b.Skip("no assembly")
						}
						i++
					})
				})
			})
			b.Run(fmt.Sprintf("%v/rows/%d", d, cols), func(b *testing.B) {
				benchLevels(b, func(b *testing.B, l isa.Level) {
					width := max(2*lanesOf(l), 4)
					dst, i := make([]float32, 2*width*kb), 0
					measure(b, 2*width*kb, func() {
						if !m.packRows(l, dst, width*kb, width, 2, 0, kb, i%(cols/width/2)*width*2) {
							b.Skip("no assembly")
						}
						i++
					})
				})
			})
		}
	}
}

// BenchmarkTables is tables of 64 blocks, in elements of blocks of 64.
func BenchmarkTables(b *testing.B) {
	for _, d := range floatTypes {
		b.Run(d.String(), func(b *testing.B) {
			benchLevels(b, func(b *testing.B, l isa.Level) {
				w, tables := finiteMatrix(rand.New(rand.NewPCG(5, 5)), 1, 4096, 64, d)
				measure(b, 16*4096, func() {
					for range 16 {
						makeTables(l, tables, w.Absmax, &w.Values, d, false)
					}
				})
			})
		})
	}
}

// BenchmarkScales is restoring the scales of 128 blocks, in elements of blocks of 64.
func BenchmarkScales(b *testing.B) {
	w := newWeight(rand.New(rand.NewPCG(6, 6)), 128*64, 64, true)
	for i := range w.Nested {
		w.Nested[i] = 0.5
	}
	benchLevels(b, func(b *testing.B, l isa.Level) {
		scales := make([]float32, 128)
		measure(b, 16*128*64, func() {
			for range 16 {
				w.scales(l, scales, 0)
			}
		})
	})
}

// BenchmarkDot is products of vectors by 16 rows of 4096 in the cache, tables included.
func BenchmarkDot(b *testing.B) {
	const rows, cols, blocks = 16, 4096, 64
	for _, d := range floatTypes {
		for _, vectors := range []int{1, 2, 4} {
			b.Run(fmt.Sprintf("%v/%d", d, vectors), func(b *testing.B) {
				benchLevels(b, func(b *testing.B, l isa.Level) {
					m, tables := finiteMatrix(rand.New(rand.NewPCG(3, 3)), rows, cols, 64, d)
					x, out, n := make([]float32, vectors*cols), make([]float32, vectors*rows), unit(l, cols, 64)
					measure(b, rows*cols, func() {
						for r := 0; r < rows; r += 2 {
							makeTables(l, tables[:2*blocks], m.Absmax[r*blocks:], &m.Values, d, false)
							dot(l, &dotArgs{out[r:], rows, 2, m.Codes[r*cols/2:], tables, blocks, 64 / n, x, cols}, vectors, n)
						}
					})
				})
			})
		}
	}
}

// BenchmarkSumRows is the transposed product of one vector.
func BenchmarkSumRows(b *testing.B) {
	const rows, cols, blocks = 16, 4096, 64
	benchLevels(b, func(b *testing.B, l isa.Level) {
		m, tables := finiteMatrix(rand.New(rand.NewPCG(4, 4)), rows, cols, 64, tensor.F32)
		x, y, n := make([]float32, rows), make([]float32, cols), unit(l, cols, 64)
		measure(b, rows*cols, func() { sumRows(l, &sumArgs{y, x, m.Codes, cols / 2, tables, blocks, 64 / n}, n) })
	})
}
