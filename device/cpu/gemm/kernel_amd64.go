//go:build amd64 && !noasm

package gemm

import (
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/internal/isa"
	"golang.org/x/sys/cpu"
)

func init() {
	if !isa.Has(isa.AVX2) {
		return
	}
	avx2 := kernel{
		mr: 6, nr: 16, tile: tile16, direct: true,
		packers: packers{transpose8: transpose8AVX2, transpose6: transpose6AVX2},
		dot:     dotAVX2, dot4: dot4AVX2, axpy: axpyAVX2, axpy4: axpy4AVX2,
	}
	kernels[AVX2] = &avx2
	kernels8[AVX2] = &kernel8{mr: 6, nr: 16, per: 2, tile: int8Tile16, dot: dotInt8AVX2}
	if !isa.Has(isa.AVX512) {
		return
	}
	avx512 := avx2
	avx512.mr, avx512.nr, avx512.tile = 14, 32, tileAVX512
	avx512.tilePack = tilePackAVX512
	avx512.tileTurn[0], avx512.tileTurn[1] = tileTurnEvenAVX512, tileTurnOddAVX512
	avx512.packers = packers{rowsF32: packRowsF32AVX512, rowsBF16: packRowsBF16AVX512, rowsF16: packRowsF16AVX512,
		colsF32: packColsF32AVX512, colsBF16: packColsBF16AVX512, colsF16: packColsF16AVX512}
	avx512.dotsF32, avx512.dotsBF16, avx512.dotsF16 = dotsF32AVX512, dotsBF16AVX512, dotsF16AVX512
	kernels[AVX512] = &avx512
	if cpu.X86.HasAVX512BF16 {
		paired := avx512
		paired.pairs = &pairKernel{tile: tileBF16AVX512, rows: packRowsInt8AVX512, cols: packColsPairsAVX512}
		kernels[AVX512BF16] = &paired
	}
	if isa.BF16() {
		fastest = AVX512BF16
	}
	if isa.VNNI() {
		kernels8[AVX512] = &kernel8{mr: 14, nr: 32, per: 4, tile: int8AVX512, laneSums: laneSumsAVX512, dot: dotInt8AVX2,
			packers8: packers8{packRows: packRowsInt8AVX512, packCols: packColsInt8AVX512, packWide: packWideInt8AVX512}}
	}
}

// tile16 is tileAVX2 for any number of columns: a tile narrower than 16 goes through memory of its own.
func tile16(rows, kc int, a *float32, rs, ks int, b *float32, bs int, c *float32, ldc, cols int, alpha float32, add bool, next uintptr, step int) {
	if cols == 16 {
		tileAVX2(rows, kc, a, rs, ks, b, bs, c, ldc, alpha, add, next, step)
		return
	}
	var t [6 * 16]float32
	tileAVX2(rows, kc, a, rs, ks, b, bs, &t[0], 16, alpha, false, next, step)
	cs := unsafe.Slice(c, (rows-1)*ldc+cols)
	for r := range rows {
		row := cs[r*ldc : r*ldc+cols]
		for i, v := range t[16*r:][:cols] {
			if add {
				v += row[i]
			}
			row[i] = v
		}
	}
}

// int8Tile16 is int8AVX2 for any number of columns.
func int8Tile16(rows, kc int, a *uint32, rs, ks int, b *uint32, bs int, c *int32, ldc, cols int, start *int32, add bool, next uintptr, step int) {
	if cols == 16 {
		int8AVX2(rows, kc, a, rs, ks, b, bs, c, ldc, start, add, next, step)
		return
	}
	var t [6 * 16]int32
	int8AVX2(rows, kc, a, rs, ks, b, bs, &t[0], 16, start, false, next, step)
	cs := unsafe.Slice(c, (rows-1)*ldc+cols)
	for r := range rows {
		row := cs[r*ldc : r*ldc+cols]
		for i, v := range t[16*r:][:cols] {
			if add {
				v += row[i]
			}
			row[i] = v
		}
	}
}
