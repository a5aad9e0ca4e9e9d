package tokenizer

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/bitsandbyes/bitsandbyes/internal/regex"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestScannersEqualRegex compares each hand-written scanner with its pattern in the general engine.
func TestScannersEqualRegex(t *testing.T) {
	for _, expr := range []string{gpt2Pattern, llama3Pattern, qwenPattern, cl100kPattern} {
		re, err := regex.Compile(expr, regex.Options{Time: matchTime})
		require.NoError(t, err)
		slow, fast := &pattern{regex: re}, &pattern{scan: scannerFor(expr)}
		alphabet := []rune("aZsStTrReEvVmMlLdD'' \u00a0\t\n\r\r\n\u0085\u2028\u3000 019½Ⅷ٣!?.-é中🤗\u0301\u200d\u0000ÅßΩ")
		rapid.Check(t, func(t *rapid.T) {
			text := string(rapid.SliceOfN(rapid.SampledFrom(alphabet), 0, 24).Draw(t, "text"))
			require.Equal(t, parts(t, slow, text), parts(t, fast, text), "%q", text)
		})
		for r := rune(0); r <= unicode.MaxRune; r += 1 + r>>11 {
			if !utf8.ValidRune(r) || r == 'ſ' {
				continue
			}
			for _, text := range []string{"a" + string(r) + "b", "  " + string(r) + "1", "'" + string(r)} {
				require.Equal(t, parts(t, slow, text), parts(t, fast, text), "%q", text)
			}
		}
	}
}

// TestScannerLongS holds the one place where Oniguruma, which the files are written for, folds case more widely.
func TestScannerLongS(t *testing.T) {
	fast := &pattern{scan: scannerFor(llama3Pattern)}
	require.Equal(t, "'ſ|x", parts(t, fast, "'ſx"))
}

func parts(t require.TestingT, p *pattern, text string) string {
	var out []string
	require.NoError(t, p.each(text, func(part string, _ bool) error {
		out = append(out, part)
		return nil
	}))
	return strings.Join(out, "|")
}

func TestInvalidUTF8StaysInOneEncoding(t *testing.T) {
	for _, expr := range []string{gpt2Pattern, llama3Pattern, qwenPattern} {
		fast := &pattern{scan: scannerFor(expr)}
		text := "ab\xff\xfe c\xc3"
		require.Equal(t, text, strings.ReplaceAll(parts(t, fast, text), "|", ""))
	}
}
