package quant

import "encoding/binary"

// codeBytes is the number of bytes that n codes of the given width fill when they are packed without gaps.
func codeBytes(n, bits int) int { return n/8*bits + (n%8*bits+7)/8 }

// PackCodes writes codes of 1 to 8 bits, given one a byte, without gaps: code i takes bits i·bits and following of a stream whose bit 0
// is the lowest of the first byte. Spare bits of the last byte are 0. dst holds the whole stream; the first code is written at element
// `first`, a multiple of 8, so parts can be packed at the same time. It returns the largest code that was too wide, 0 if none was;
// upper bits of such codes are dropped.
func PackCodes(dst []byte, codes []uint8, first, bits int) (tooWide uint8) {
	dst = dst[first/8*bits:]
	mask := uint8(1<<bits - 1)
	for ; len(codes) >= 8; codes = codes[8:] {
		var word uint64
		for i, c := range codes[:8] {
			if c > mask {
				tooWide = max(tooWide, c)
			}
			word |= uint64(c&mask) << (i * bits)
		}
		for i := range bits {
			dst[i] = byte(word >> (8 * i))
		}
		dst = dst[bits:]
	}
	var word uint64
	for i, c := range codes {
		if c > mask {
			tooWide = max(tooWide, c)
		}
		word |= uint64(c&mask) << (i * bits)
	}
	for i := range codeBytes(len(codes), bits) {
		dst[i] = byte(word >> (8 * i))
	}
	return tooWide
}

// UnpackCodes is the inverse of PackCodes: it writes codes first to first+len(dst)-1, one a byte; first may be any element.
func UnpackCodes(dst []uint8, src []byte, first, bits int) {
	mask := uint64(1<<bits - 1)
	for first%8 != 0 && len(dst) > 0 {
		dst[0] = uint8(wordAt(src, first/8*bits, bits) >> (first % 8 * bits) & mask)
		dst, first = dst[1:], first+1
	}
	for ; len(dst) > 0; first += 8 {
		word := wordAt(src, first/8*bits, bits)
		if len(dst) < 8 {
			for i := range dst {
				dst[i] = uint8(word >> (i * bits) & mask)
			}
			return
		}
		d := dst[:8]
		for i := range d {
			d[i] = uint8(word >> (i * bits) & mask)
		}
		dst = dst[8:]
	}
}

// wordAt loads the bytes of eight codes, fewer at the end of the stream.
func wordAt(src []byte, at, bits int) uint64 {
	if at+8 <= len(src) {
		return binary.LittleEndian.Uint64(src[at:])
	}
	var word uint64
	for i := range min(bits, len(src)-at) {
		word |= uint64(src[at+i]) << (8 * i)
	}
	return word
}
