package gemm

import "unsafe"

// kernel8 is one set of inner loops for int8. The unit of its panels is 32 bits: `per` neighbours along K.
type kernel8 struct {
	mr, nr int
	per    int // 4 bytes, signed in A and plus 128 in B; or 2 numbers of 16 bits
	// tile adds the product of two packed strips and start[row] to c, or stores it if add is false.
	tile func(kc int, a, b *uint32, c *int32, ldc int, start *int32, add bool)
	// laneSums adds the bytes of each lane of a strip of A; nil where per is 2.
	laneSums func(kc int, a *uint32, sums *int32)
	// dot is the inner product of dotRound*rounds elements; nil: in Go.
	dot func(rounds int, x, y *int8) int32
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
func int8Go(kc int, a, b *uint32, c *int32, ldc int, start *int32, add bool) {
	var s [4][4]int32
	as, bs := unsafe.Slice((*[4]uint32)(unsafe.Pointer(a)), kc), unsafe.Slice((*[4]uint32)(unsafe.Pointer(b)), kc)
	for k := range as {
		for i, x := range as[k] {
			lo, hi := int32(int16(x)), int32(x)>>16
			row := &s[i]
			for j, w := range bs[k] {
				row[j] += lo*int32(int16(w)) + hi*(int32(w)>>16)
			}
		}
	}
	cs, starts := unsafe.Slice(c, 3*ldc+4), unsafe.Slice(start, 4)
	for i := range 4 {
		row := cs[i*ldc : i*ldc+4]
		for j := range row {
			v := s[i][j] + starts[i]
			if add {
				v += row[j]
			}
			row[j] = v
		}
	}
}
