//go:build amd64 && !noasm

package gemm

import "github.com/bitsandbyes/bitsandbyes/internal/isa"

func init() {
	if !isa.Has(isa.AVX2) {
		return
	}
	avx2 := kernel{
		mr: 6, nr: 16, tile: tileAVX2,
		transpose8: transpose8AVX2, transpose6: transpose6AVX2,
		dot: dotAVX2, dot4: dot4AVX2, axpy: axpyAVX2, axpy4: axpy4AVX2,
	}
	kernels[AVX2] = &avx2
	kernels8[AVX2] = &kernel8{mr: 6, nr: 16, per: 2, tile: int8AVX2, dot: dotInt8AVX2}
	if !isa.Has(isa.AVX512) {
		return
	}
	avx512 := avx2
	avx512.mr, avx512.nr, avx512.tile = 14, 32, tileAVX512
	kernels[AVX512] = &avx512
	if isa.VNNI() {
		kernels8[AVX512] = &kernel8{mr: 14, nr: 32, per: 4, tile: int8AVX512, laneSums: laneSumsAVX512, dot: dotInt8AVX2}
	}
}
