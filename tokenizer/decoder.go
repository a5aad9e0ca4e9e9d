package tokenizer

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A decoder rewrites the tokens of a sequence; what is left at the end is joined into the text.
type decoder func(tokens []string) []string

// parseDecoder reads the decoder of a tokenizer.json; null gives nil, which joins the tokens by spaces.
func parseDecoder(raw json.RawMessage, depth int) (decoder, error) {
	growth := 1
	return parseDecoderPart(raw, depth, &growth)
}

// parseDecoderPart also multiplies growth by how many times as long the part may make a token.
func parseDecoderPart(raw json.RawMessage, depth int, growth *int) (decoder, error) {
	name, err := componentType(raw, "decoder", depth)
	if err != nil || name == "null" {
		return nil, err
	}
	switch name {
	case "Sequence":
		return parseDecoderSequence(raw, depth, growth)
	case "ByteLevel":
		return decodeByteLevel, nil
	case "ByteFallback":
		return decodeByteFallback, nil
	case "Fuse":
		return func(tokens []string) []string { return []string{strings.Join(tokens, "")} }, nil
	case "Replace":
		d, factor, err := parseReplaceDecoder(raw)
		if *growth *= min(factor, maxDecodeGrowth+1); err == nil && *growth > maxDecodeGrowth {
			err = fmt.Errorf("tokenizer: the Replace decoders may make a token more than %d times as long, which is %w", maxDecodeGrowth, ErrUnsupported)
		}
		return d, err
	case "WordPiece":
		return parseWordPieceDecoder(raw)
	case "CTC":
		return parseCTCDecoder(raw)
	case "Strip":
		return parseStripDecoder(raw)
	case "Metaspace":
		return parseMetaspaceDecoder(raw)
	case "BPEDecoder":
		c := struct{ Type, Suffix string }{Suffix: "</w>"}
		err := strict(raw, &c)
		return func(tokens []string) []string { return decodeSuffix(tokens, c.Suffix) }, err
	}
	return nil, unsupported("decoder", name,
		"Sequence", "ByteLevel", "ByteFallback", "Fuse", "Replace", "Strip", "Metaspace", "BPEDecoder",
		"WordPiece", "CTC")
}

func parseDecoderSequence(raw json.RawMessage, depth int, growth *int) (decoder, error) {
	var c struct {
		Type     string
		Decoders []json.RawMessage
	}
	if err := strict(raw, &c); err != nil {
		return nil, err
	}
	var seq []decoder
	for _, r := range c.Decoders {
		d, err := parseDecoderPart(r, depth+1, growth)
		if err != nil {
			return nil, err
		}
		if d != nil {
			seq = append(seq, d)
		}
	}
	return func(tokens []string) []string {
		for _, d := range seq {
			tokens = d(tokens)
		}
		return tokens
	}, nil
}

// decodeByteLevel turns stand-in characters into bytes. A token with any other character stands for its own UTF-8 bytes.
func decodeByteLevel(tokens []string) []string {
	var b []byte
	for _, t := range tokens {
		b = append(b, tokenBytes(t)...)
	}
	return []string{string(appendLossy(nil, b))}
}

// tokenBytes returns the bytes that a byte-level token stands for.
func tokenBytes(token string) string {
	if bytes, ok := unspellBytes(token); ok {
		return bytes
	}
	return token
}

// hexByte reads <0xNN>.
func hexByte(token string) (byte, bool) {
	if len(token) != 6 || !strings.HasPrefix(token, "<0x") || token[5] != '>' {
		return 0, false
	}
	v, err := strconv.ParseUint(token[3:5], 16, 8)
	return byte(v), err == nil
}

// decodeByteFallback joins runs of <0xNN> into text; a run that is not UTF-8 gives one U+FFFD for each byte.
func decodeByteFallback(tokens []string) []string {
	out := make([]string, 0, len(tokens))
	var run []byte
	flush := func() {
		switch {
		case len(run) == 0:
		case utf8.Valid(run):
			out = append(out, string(run))
		default:
			for range run {
				out = append(out, "\uFFFD")
			}
		}
		run = run[:0]
	}
	for _, t := range tokens {
		if b, ok := hexByte(t); ok {
			run = append(run, b)
			continue
		}
		flush()
		out = append(out, t)
	}
	flush()
	return out
}

func parseStripDecoder(raw json.RawMessage) (decoder, error) {
	var c struct {
		Type, Content string
		Start, Stop   int
	}
	if err := strict(raw, &c); err != nil {
		return nil, err
	}
	if utf8.RuneCountInString(c.Content) != 1 {
		return nil, unsupported("decoder Strip content", strconv.Quote(c.Content), "a single character")
	}
	return func(tokens []string) []string {
		out := make([]string, len(tokens))
		for i, t := range tokens {
			for n := 0; n < c.Start && strings.HasPrefix(t, c.Content); n++ {
				t = t[len(c.Content):]
			}
			for n := 0; n < c.Stop && strings.HasSuffix(t, c.Content); n++ {
				t = t[:len(t)-len(c.Content)]
			}
			out[i] = t
		}
		return out
	}, nil
}

func parseMetaspaceDecoder(raw json.RawMessage) (decoder, error) {
	c, err := parseMetaspace(raw)
	if err != nil {
		return nil, err
	}
	return func(tokens []string) []string {
		out := make([]string, len(tokens))
		for i, t := range tokens {
			space := " "
			if i == 0 && c.PrependScheme != "never" {
				space = ""
			}
			out[i] = strings.ReplaceAll(t, c.Replacement, space)
		}
		return out
	}, nil
}

func decodeSuffix(tokens []string, suffix string) []string {
	out := make([]string, len(tokens))
	for i, t := range tokens {
		space := " "
		if i == len(tokens)-1 {
			space = ""
		}
		out[i] = t
		if suffix != "" {
			out[i] = strings.ReplaceAll(t, suffix, space)
		}
	}
	return out
}
