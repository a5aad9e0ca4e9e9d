//go:build amd64 && !noasm

package probe

import "github.com/bitsandbyes/bitsandbyes/internal/isa"

func init() {
	assembly[isa.AVX2] = loops{
		fma: func(n int) float32 {
			var sums [8]float32
			fmaAVX2(n, fmaScale, fmaAdd, &sums[0])
			return total(sums[:])
		},
		fmaOps: 2 * 12 * 8,
		read: func(b []byte) uint64 {
			var sums [4]uint64
			readAVX2(len(b)/block, &b[0], &sums[0])
			return total(sums[:])
		},
		stream: func(dst, src []byte) { streamAVX2(len(src)/block, &dst[0], &src[0]) },
	}
	l := loops{
		fma: func(n int) float32 {
			var sums [16]float32
			fmaAVX512(n, fmaScale, fmaAdd, &sums[0])
			return total(sums[:])
		},
		fmaOps: 2 * 16 * 16,
		read: func(b []byte) uint64 {
			var sums [8]uint64
			readAVX512(len(b)/block, &b[0], &sums[0])
			return total(sums[:])
		},
		stream: func(dst, src []byte) { streamAVX512(len(src)/block, &dst[0], &src[0]) },
	}
	if isa.VNNI() {
		const ones = 0x01010101
		l.dot8, l.dot8Ops = func(n int) int32 {
			var sums [16]int32
			dot8VNNI(n, ones, &sums[0])
			return total(sums[:])
		}, 2*16*16*4
	}
	if isa.BF16() {
		const ones = 0x3f803f80
		l.dotBF16, l.dotBF16Ops = func(n int) float32 {
			var sums [16]float32
			dotBF16(n, ones, &sums[0])
			return total(sums[:])
		}, 2*16*16*2
	}
	assembly[isa.AVX512] = l
}

func total[T float32 | uint64 | int32](xs []T) (sum T) {
	for _, x := range xs {
		sum += x
	}
	return sum
}
