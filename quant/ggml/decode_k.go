package ggml

// Super-blocks of 256 elements: one or two float16 for the whole, and small scales for parts of 16 or 32.

// decodeQ2_K: 16 bytes with a scale (low half) and a minimum for 16 elements each, 64 bytes of four codes, f16 d, f16 dmin.
// x = (d scale) q - (dmin min). The four codes of a byte are 32 elements apart.
func decodeQ2_K(dst []float32, src []byte) {
	scales, codes := src[:16], src[16:80]
	d, dmin := f16(src[80:]), f16(src[82:])
	for part, sc := range scales {
		dl, ml := d*float32(sc&15), dmin*float32(sc>>4)
		qs, shift := codes[part/8*32+part%2*16:], part%8/2*2
		out := dst[16*part : 16*part+16]
		for i := range out {
			out[i] = float32(dl*float32(qs[i]>>shift&3)) - ml
		}
	}
}

// decodeQ3_K: 32 bytes of third bits, 64 bytes of four low codes, 12 bytes of sixteen 6-bit scales, f16 d.
// x = d (scale - 32) (q - 4), where q has its third bit from the mask.
func decodeQ3_K(dst []float32, src []byte) {
	mask, codes, packed, d := src[:32], src[32:96], src[96:108], f16(src[108:])
	for part := range 16 {
		low := packed[part%8] >> (part / 8 * 4) & 15
		high := packed[8+part%4] >> (part / 4 * 2) & 3
		dl := d * float32(int(low|high<<4)-32)
		qs, shift := codes[part/8*32+part%2*16:], part%8/2*2
		hs, bit := mask[part%2*16:], part/2
		out := dst[16*part : 16*part+16]
		for i := range out {
			q := int(qs[i]>>shift&3) | int(hs[i]>>bit&1)<<2
			out[i] = dl * float32(q-4)
		}
	}
}

// scaleMin unpacks the 6-bit scale and minimum of part j of Q4_K and Q5_K from their 12 bytes (get_scale_min_k4).
func scaleMin(packed []byte, j int) (scale, minimum float32) {
	if j < 4 {
		return float32(packed[j] & 63), float32(packed[j+4] & 63)
	}
	return float32(packed[j+4]&15 | packed[j-4]>>6<<4), float32(packed[j+4]>>4 | packed[j]>>6<<4)
}

// decodeQ4_K: f16 d, f16 dmin, 12 bytes of scales and minima for 32 elements each, 128 bytes of two codes, 32 elements apart.
// x = (d scale) q - (dmin min).
func decodeQ4_K(dst []float32, src []byte) {
	d, dmin, codes := f16(src), f16(src[2:]), src[16:144]
	for part := range 8 {
		scale, minimum := scaleMin(src[4:16], part)
		dl, ml := d*scale, dmin*minimum
		qs, shift := codes[part/2*32:], part%2*4
		out := dst[32*part : 32*part+32]
		for i := range out {
			out[i] = float32(dl*float32(qs[i]>>shift&15)) - ml
		}
	}
}

// decodeQ5_K is Q4_K with 32 bytes of fifth bits before the codes: bit j of byte i is that of element 32 j + i.
func decodeQ5_K(dst []float32, src []byte) {
	d, dmin, high, codes := f16(src), f16(src[2:]), src[16:48], src[48:176]
	for part := range 8 {
		scale, minimum := scaleMin(src[4:16], part)
		dl, ml := d*scale, dmin*minimum
		qs, shift := codes[part/2*32:], part%2*4
		out := dst[32*part : 32*part+32]
		for i := range out {
			out[i] = float32(dl*float32(qs[i]>>shift&15|high[i]>>part&1<<4)) - ml
		}
	}
}

// decodeQ6_K: 128 bytes of low halves, 64 bytes of high pairs, 16 int8 scales for 16 elements each, f16 d. x = (d scale) (q - 32).
func decodeQ6_K(dst []float32, src []byte) {
	low, high, scales, d := src[:128], src[128:192], src[192:208], f16(src[208:])
	for part := range 8 { // 32 elements, two scales
		ls, lshift := low[part/4*64+part%2*32:], part%4/2*4
		hs, hshift := high[part/4*32:], part%4*2
		out := dst[32*part : 32*part+32]
		dl := [2]float32{d * float32(int8(scales[2*part])), d * float32(int8(scales[2*part+1]))}
		for i := range out {
			q := int(ls[i]>>lshift&15) | int(hs[i]>>hshift&3)<<4
			out[i] = dl[i/16] * float32(q-32)
		}
	}
}

// decodeIQ4_XS: f16 d, 2 bytes of high pairs and 4 bytes of low halves of eight 6-bit scales, 8 runs of codes as in IQ4_NL.
// x = d (scale - 32) table[q].
func decodeIQ4_XS(dst []float32, src []byte) {
	d, high := f16(src), uint(src[2])|uint(src[3])<<8
	for part := range 8 {
		low := src[4+part/2] >> (part % 2 * 4) & 15
		scale := int(low) | int(high>>(2*part)&3)<<4
		table16(dst[32*part:], src[8+16*part:24+16*part], d*float32(scale-32), &nonlinear)
	}
}

// decodeTQ1_0: 48 bytes of five and 4 bytes of four ternary digits, f16 d. x = d (digit - 1). A byte holds ceil(256/243 n): multiplied
// by a power of three (in 8 bits), its digit is the upper byte of three times the rest.
func decodeTQ1_0(dst []float32, src []byte) {
	d := f16(src[52:])
	at := 0
	for _, run := range []struct{ from, to, digits int }{{0, 32, 5}, {32, 48, 5}, {48, 52, 4}} {
		power := uint8(1)
		for range run.digits {
			for _, q := range src[run.from:run.to] {
				dst[at] = d * float32(int(uint16(q*power)*3>>8)-1)
				at++
			}
			power *= 3
		}
	}
}

// decodeTQ2_0: 64 bytes of four codes, 32 elements apart, f16 d. x = d (q - 1).
func decodeTQ2_0(dst []float32, src []byte) {
	d := f16(src[64:])
	for part := range 8 {
		qs, shift := src[part/4*32:], part%4*2
		for i := range 32 {
			dst[32*part+i] = d * float32(int(qs[i]>>shift&3)-1)
		}
	}
}
