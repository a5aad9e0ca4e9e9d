package tokenizer

import (
	"unicode"
	"unicode/utf8"
)

// gpt2Pattern is the split of the ByteLevel pre-tokenizer.
const gpt2Pattern = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

// The patterns of the Llama 3 family (digits in groups of three) and of Qwen (single digits).
const (
	llama3Pattern = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	qwenPattern   = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
)

// scanner returns the end of the match that begins at i. The patterns with a scanner match at every position.
type scanner func(s string, i int) int

// scannerFor returns the hand-written equivalent of a well-known pattern, or nil. It is several times as fast as the regular
// expression, and the tests hold the two equal.
func scannerFor(pattern string) scanner {
	switch pattern {
	case gpt2Pattern:
		return scanGPT2
	case llama3Pattern:
		return func(s string, i int) int { return scanLlama3(s, i, 3) }
	case cl100kPattern:
		return scanCL100K
	case qwenPattern:
		return func(s string, i int) int { return scanLlama3(s, i, 1) }
	}
	return nil
}

type runeClass uint8

const (
	classOther runeClass = iota
	classLetter
	classNumber
	classSpace
	classEnd // past the end of the text
)

// classAt returns the class and size of the character at i.
func classAt(s string, i int) (runeClass, int) {
	if i >= len(s) {
		return classEnd, 0
	}
	switch c := s[i]; {
	case c|0x20 >= 'a' && c|0x20 <= 'z':
		return classLetter, 1
	case c >= '0' && c <= '9':
		return classNumber, 1
	case c == ' ' || c >= '\t' && c <= '\r':
		return classSpace, 1
	case c < utf8.RuneSelf:
		return classOther, 1
	}
	r, n := utf8.DecodeRuneInString(s[i:])
	switch {
	case unicode.IsLetter(r):
		return classLetter, n
	case unicode.IsNumber(r):
		return classNumber, n
	case unicode.IsSpace(r):
		return classSpace, n
	}
	return classOther, n
}

// run returns the end of the run of characters of a class that begins at i.
func run(s string, i int, class runeClass) int {
	for {
		c, n := classAt(s, i)
		if c != class {
			return i
		}
		i += n
	}
}

func scanGPT2(s string, i int) int {
	if s[i] == '\'' {
		if n := contraction(s[i+1:], false); n > 0 {
			return i + 1 + n
		}
	}
	j := i
	if s[i] == ' ' {
		j++
	}
	if class, n := classAt(s, j); class < classSpace {
		return run(s, j+n, class)
	}
	return scanSpace(s, i)
}

func scanLlama3(s string, i, digits int) int {
	if s[i] == '\'' {
		if n := contraction(s[i+1:], true); n > 0 {
			return i + 1 + n
		}
	}
	class, n := classAt(s, i)
	switch class {
	case classLetter:
		return run(s, i+n, classLetter)
	case classNumber:
		end := i
		for range digits {
			c, n := classAt(s, end)
			if c != classNumber {
				break
			}
			end += n
		}
		return end
	}
	if next, k := classAt(s, i+n); next == classLetter && s[i] != '\r' && s[i] != '\n' {
		return run(s, i+n+k, classLetter)
	}
	j := i
	if s[i] == ' ' {
		j++
	}
	if c, k := classAt(s, j); c == classOther {
		end := run(s, j+k, classOther)
		for end < len(s) && newline(s[end]) {
			end++
		}
		return end
	}
	end := run(s, i, classSpace)
	for k := end; k > i; k-- {
		if newline(s[k-1]) {
			return k
		}
	}
	return scanSpace(s, i)
}

// scanCL100K is scanLlama3 but for blanks at the end of a text.
func scanCL100K(s string, i int) int {
	if class, n := classAt(s, i); class == classSpace {
		if next, _ := classAt(s, i+n); next == classSpace || next == classEnd {
			if end := run(s, i, classSpace); end == len(s) {
				return end
			}
		}
	}
	return scanLlama3(s, i, 3)
}

func newline(c byte) bool { return c == '\r' || c == '\n' }

// scanSpace is \s+(?!\S)|\s+ at a space: the run without its last character when a word follows.
func scanSpace(s string, i int) int {
	end := run(s, i, classSpace)
	if end == len(s) {
		return end
	}
	_, n := utf8.DecodeLastRuneInString(s[i:end])
	if end-n == i {
		return end
	}
	return end - n
}

// contraction returns the length of an English ending (s, t, re, ve, m, ll, d) at the start of s. Without regard to case, the
// long s (U+017F) is an s too.
func contraction(s string, fold bool) int {
	lower := func(i int) byte {
		if i >= len(s) {
			return 0
		}
		if fold && s[i] >= 'A' && s[i] <= 'Z' {
			return s[i] | 0x20
		}
		return s[i]
	}
	a, b := lower(0), lower(1)
	switch {
	case a == 's' || a == 't' || a == 'm' || a == 'd':
		return 1
	case a == 'r' && b == 'e' || a == 'v' && b == 'e' || a == 'l' && b == 'l':
		return 2
	case fold && a == 0xC5 && b == 0xBF:
		return 2
	}
	return 0
}
