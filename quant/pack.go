package quant

import (
	"encoding/binary"
	"slices"
)

// codeBytes is the number of bytes that n codes of the given width fill when they are packed without gaps.
func codeBytes(n, bits int) int { return n/8*bits + (n%8*bits+7)/8 }

// PackCodes writes codes of 1 to 8 bits, given one a byte, without gaps: code i takes bits i·bits and following of a stream whose bit 0
// is the lowest of the first byte. Spare bits of the last byte are 0. dst holds the whole stream; the first code is written at element
// `first`, a multiple of 8, so parts can be packed at the same time. It returns the largest code that was too wide, 0 if none was;
// upper bits of such codes are dropped.
func PackCodes(dst []byte, codes []uint8, first, bits int) (tooWide uint8) {
	dst = dst[first/8*bits:]
	mask := uint8(1<<bits - 1)
	if bits == 8 {
		copy(dst, codes)
		return 0
	}
	wide := uint64(0xff&^mask) * 0x0101010101010101
	for ; len(codes) >= 8; codes = codes[8:] {
		w := binary.LittleEndian.Uint64(codes)
		if w&wide != 0 {
			tooWide = max(tooWide, slices.Max(codes[:8]))
		}
		w = packWord(w&^wide, bits)
		for i := range dst[:bits] {
			dst[i] = byte(w)
			w >>= 8
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
	for ; len(dst) >= 8; first += 8 {
		binary.LittleEndian.PutUint64(dst, unpackWord(wordAt(src, first/8*bits, bits), bits))
		dst = dst[8:]
	}
	if len(dst) > 0 {
		word := wordAt(src, first/8*bits, bits)
		for i := range dst {
			dst[i] = uint8(word >> (i * bits) & mask)
		}
	}
}

// The lower halves of pairs of bytes, of 16 bits and of 32 bits.
const lowBytes, lowWords, lowHalf = 0x00ff00ff00ff00ff, 0x0000ffff0000ffff, 0x00000000ffffffff

// packWord moves eight codes, one a byte, together.
func packWord(w uint64, bits int) uint64 {
	w = w&lowBytes | w>>8&lowBytes<<bits
	w = w&lowWords | w>>16&lowWords<<(2*bits)
	return w&lowHalf | w>>32<<(4*bits)
}

// unpackWord is the inverse of packWord; bits above eight codes do not count.
func unpackWord(w uint64, bits int) uint64 {
	four, two, one := uint64(1)<<(4*bits)-1, (uint64(1)<<(2*bits)-1)*0x0000000100000001, (uint64(1)<<bits-1)*0x0001000100010001
	w = w&four | w>>(4*bits)&four<<32
	w = w&two | w>>(2*bits)&two<<16
	return w&one | w>>bits&one<<8
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
