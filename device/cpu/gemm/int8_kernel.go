package gemm

import "unsafe"

// kernel8 is one set of inner loops for int8. The unit of its panels is 32 bits: `per` neighbours along K.
type kernel8 struct {
	mr, nr int
	per    int // 4 bytes, signed in A and plus 128 in B; or 2 numbers of 16 bits
	// tile sets rows x cols of c, at most mr x nr, to the product over kc units plus start[row], or adds that. Row r of A at unit k is
	// a[r*rs+k*ks], row k of B begins at b[k*bs].
	tile func(rows, kc int, a *uint32, rs, ks int, b *uint32, bs int, c *int32, ldc, cols int, start *int32, add bool, next uintptr, step int)
	// laneSums adds the bytes of each of the w lanes of a strip of A; nil where per is 2.
	laneSums func(kc int, a *uint32, w int, sums *int32)
	packers8
	// dot is the inner product of dotRound*rounds elements; nil: in Go.
	dot func(rounds int, x, y *int8) int32
}

// packers8 make strips of four bytes a unit, each byte exclusive-or flip; see the assembly.
type packers8 struct {
	packRows func(kc int, dst *uint32, w, put int, src *int8, lds, lanes int, flip uint32)
	packCols func(kc int, dst *uint32, w int, src *int8, lds, have int, flip uint32)
	// packWide is packCols for whole strips of nr side by side, stride units from one to the next.
	packWide func(kc int, dst *uint32, strips, stride int, src *int8, lds int, flip uint32)
}

// kernels8 holds what this processor runs. A kernel that is absent stands for the next lower one.
var kernels8 = [numKernels]*kernel8{Generic: {mr: 4, nr: 4, per: 2, tile: int8Go}}

// int8Kernel is the best set of loops that k allows.
func (k Kernel) int8Kernel() *kernel8 {
	k = k.resolve()
	for kernels8[k] == nil {
		k--
	}
	return kernels8[k]
}

// int8Go is the micro-kernel in Go, 4x4.
func int8Go(rows, kc int, a *uint32, rs, ks int, b *uint32, bs int, c *int32, ldc, cols int, start *int32, add bool, _ uintptr, _ int) {
	var s [4][4]int32
	as, bv := unsafe.Slice(a, (rows-1)*rs+(kc-1)*ks+1), unsafe.Slice(b, (kc-1)*bs+cols)
	for k := range kc {
		step := bv[k*bs : k*bs+cols]
		for i := range rows {
			x := as[i*rs+k*ks]
			lo, hi := int32(int16(x)), int32(x)>>16
			row := s[i][:len(step)]
			for j, w := range step {
				row[j] += lo*int32(int16(w)) + hi*(int32(w)>>16)
			}
		}
	}
	cs, starts := unsafe.Slice(c, (rows-1)*ldc+cols), unsafe.Slice(start, rows)
	for i := range rows {
		row := cs[i*ldc : i*ldc+cols]
		for j := range row {
			v := s[i][j] + starts[i]
			if add {
				v += row[j]
			}
			row[j] = v
		}
	}
}
