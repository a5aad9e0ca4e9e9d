package tokenizer

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// byteRune spells every byte with a printable character, as GPT-2's vocabulary does: the printable Latin-1 characters stand for
// themselves and the other 68 bytes for U+0100 onwards, in order.
func byteRune(b byte) rune {
	switch {
	case printableByte(b):
		return rune(b)
	case b <= ' ':
		return 0x100 + rune(b)
	case b <= 0xA0:
		return 0x100 + 33 + rune(b) - 0x7F
	default:
		return 0x100 + 67
	}
}

// runeByte is the inverse of byteRune.
func runeByte(r rune) (byte, bool) {
	if r < 0x100 {
		return byte(r), r >= 0 && printableByte(byte(r))
	}
	switch n := r - 0x100; {
	case n <= ' ':
		return byte(n), true
	case n < 67:
		return byte(n - 33 + 0x7F), true
	case n == 67:
		return 0xAD, true
	}
	return 0, false
}

func printableByte(b byte) bool {
	return b >= '!' && b <= '~' || b >= 0xA1 && b <= 0xAC || b >= 0xAE
}

// spellBytes writes each byte of s as its stand-in character.
func spellBytes(s string) string {
	var b strings.Builder
	b.Grow(2 * len(s))
	for i := range len(s) {
		b.WriteRune(byteRune(s[i]))
	}
	return b.String()
}

// unspellBytes is the inverse of spellBytes; false means that some character stands for no byte.
func unspellBytes(s string) (string, bool) {
	out := make([]byte, 0, len(s))
	for _, r := range s {
		b, ok := runeByte(r)
		if !ok {
			return "", false
		}
		out = append(out, b)
	}
	return string(out), true
}

// appendLossy appends src to dst with U+FFFD for each maximal part that begins a character and cannot end it, and for each
// other stray byte (the practice that Unicode 3.9 recommends).
func appendLossy(dst []byte, src []byte) []byte {
	for len(src) > 0 {
		r, n := utf8.DecodeRune(src)
		if r == utf8.RuneError && n == 1 {
			n = badPrefix(src)
			dst = utf8.AppendRune(dst, utf8.RuneError)
		} else {
			dst = append(dst, src[:n]...)
		}
		src = src[n:]
	}
	return dst
}

// badPrefix returns the length of the ill-formed part at the start of s: the longest start of some well-formed character, or 1.
func badPrefix(s []byte) int {
	lo, hi, want := secondByte(s[0])
	if want == 0 || len(s) < 2 || s[1] < lo || s[1] > hi {
		return 1
	}
	n := 2
	for n < want && n < len(s) && s[n]&0xC0 == 0x80 {
		n++
	}
	return n
}

// secondByte returns the range of the second byte after a leading byte and the length of the character; 0 for no leading byte
// of a character with several bytes (Unicode table 3-7).
func secondByte(b byte) (lo, hi byte, length int) {
	lo, hi = 0x80, 0xBF
	switch {
	case b >= 0xC2 && b <= 0xDF:
		return lo, hi, 2
	case b == 0xE0:
		return 0xA0, hi, 3
	case b == 0xED:
		return lo, 0x9F, 3
	case b >= 0xE1 && b <= 0xEF:
		return lo, hi, 3
	case b == 0xF0:
		return 0x90, hi, 4
	case b == 0xF4:
		return lo, 0x8F, 4
	case b >= 0xF1 && b <= 0xF3:
		return lo, hi, 4
	}
	return 0, 0, 0
}

// heldBack returns how many bytes at the end of s may still become a character when more bytes follow.
func heldBack(s []byte) int {
	for n := 1; n <= 3 && n <= len(s); n++ {
		tail := s[len(s)-n:]
		if tail[0] < 0x80 {
			return 0
		}
		if _, _, want := secondByte(tail[0]); want > 0 {
			if n < want && badPrefix(tail) == n {
				return n
			}
			return 0
		}
	}
	return 0
}

// hexToken spells a byte as SentencePiece vocabularies do.
func hexToken(b byte) string { return fmt.Sprintf("<0x%02X>", b) }
