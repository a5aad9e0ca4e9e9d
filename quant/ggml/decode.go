package ggml

import (
	"encoding/binary"
	"math"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// The functions below take one block, or, for single elements, any number of them. Sizes are the caller's business. A product that is
// added to is converted to float32 first, which keeps the compiler from fusing the two.

func decodeF32(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
	}
}

func decodeF16(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = f16(src[2*i:])
	}
}

func decodeBF16(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = tensor.BFloat16(binary.LittleEndian.Uint16(src[2*i:])).Float32()
	}
}

// decodeQ4_0: f16 d, 16 bytes of two codes: the low halves are elements 0-15. x = d (q - 8).
func decodeQ4_0(dst []float32, src []byte) {
	d := f16(src)
	for i, q := range src[2:18] {
		dst[i] = d * float32(int(q&15)-8)
		dst[i+16] = d * float32(int(q>>4)-8)
	}
}

// decodeQ4_1: f16 d, f16 m, codes as in Q4_0. x = d q + m.
func decodeQ4_1(dst []float32, src []byte) {
	d, m := f16(src), f16(src[2:])
	for i, q := range src[4:20] {
		dst[i] = float32(d*float32(q&15)) + m
		dst[i+16] = float32(d*float32(q>>4)) + m
	}
}

// decodeQ5_0: f16 d, 32 fifth bits, codes as in Q4_0. x = d (q - 16).
func decodeQ5_0(dst []float32, src []byte) {
	d, high := f16(src), binary.LittleEndian.Uint32(src[2:])
	for i, q := range src[6:22] {
		lo, hi := fifth(q&15, high>>i), fifth(q>>4, high>>(i+16))
		dst[i] = d * float32(lo-16)
		dst[i+16] = d * float32(hi-16)
	}
}

// decodeQ5_1: f16 d, f16 m, 32 fifth bits, codes as in Q4_0. x = d q + m.
func decodeQ5_1(dst []float32, src []byte) {
	d, m, high := f16(src), f16(src[2:]), binary.LittleEndian.Uint32(src[4:])
	for i, q := range src[8:24] {
		lo, hi := fifth(q&15, high>>i), fifth(q>>4, high>>(i+16))
		dst[i] = float32(d*float32(lo)) + m
		dst[i+16] = float32(d*float32(hi)) + m
	}
}

// fifth puts the lowest bit of high above four bits.
func fifth(low byte, high uint32) int { return int(low) | int(high&1)<<4 }

// decodeQ8_0: f16 d, 32 int8. x = d q.
func decodeQ8_0(dst []float32, src []byte) {
	d := f16(src)
	for i, q := range src[2:34] {
		dst[i] = d * float32(int8(q))
	}
}

// nonlinear are the 16 values of IQ4_NL and IQ4_XS (kvalues_iq4nl in ggml-common.h).
var nonlinear = [16]float32{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}

// decodeIQ4_NL: f16 d, codes as in Q4_0, into a table. x = d table[q].
func decodeIQ4_NL(dst []float32, src []byte) {
	table16(dst, src[2:18], f16(src), &nonlinear)
}

// table16 decodes 32 codes as Q4_0 packs them through a table.
func table16(dst []float32, codes []byte, d float32, table *[16]float32) {
	for i, q := range codes[:16] {
		dst[i] = d * table[q&15]
		dst[i+16] = d * table[q>>4]
	}
}

// e2m1 are twice the values of a 4-bit float: MXFP4's scale is halved in return.
var e2m1 = [16]float32{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}

// decodeMXFP4: a power of two as E8M0, codes as in Q4_0, into the values of E2M1 (OCP Microscaling Formats 1.0).
func decodeMXFP4(dst []float32, src []byte) {
	half := uint32(0x00200000) << src[0] // 2^(e-128), which is subnormal for e = 0 and 1
	if src[0] >= 2 {
		half = uint32(src[0]-1) << 23
	}
	table16(dst, src[1:17], math.Float32frombits(half), &e2m1)
}
