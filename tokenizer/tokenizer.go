// Package tokenizer turns text into token ids and back.
//
// Load reads Hugging Face's tokenizer.json (an added-token splitter, normalizers, pre-tokenizers, a model, a post-processor and a
// decoder, each named in the file), SentencePiece's .model, tiktoken's files and llama2.c's tokenizer.bin; FromGGUF takes the metadata of
// a GGUF file. What this package does not implement is refused by name when the file is loaded: a tokenizer that is nearly right trains a
// model that is quietly wrong. All but llama2.c's become an HF, which WithTokens extends and Files writes as the files that other
// libraries read. TrainBPE learns a byte-level BPE vocabulary from text.
//
// Files are treated as hostile: sizes are capped before anything is allocated, ids and merges are checked, and regular
// expressions run under a time limit.
package tokenizer

import (
	"errors"
	"fmt"
	"strings"
)

// A Tokenizer maps text to ids and back. Implementations are safe for concurrent use.
type Tokenizer interface {
	// Encode is EncodeWith with the zero options: the ids of text with the special tokens that the tokenizer adds around
	// a single sequence.
	Encode(text string) ([]int32, error)
	// EncodeWith is Encode under options.
	EncodeWith(text string, opts EncodeOptions) ([]int32, error)
	// Decode is DecodeWith with the zero options: special tokens are kept, unknown ids are skipped, and bytes that are
	// not UTF-8 become U+FFFD.
	Decode(ids []int32) string
	// DecodeWith is Decode under options.
	DecodeWith(ids []int32, opts DecodeOptions) string
	// VocabSize is the largest id plus one: the rows that an embedding needs.
	VocabSize() int
	// Token returns the token of an id as the vocabulary spells it (a byte-level token is spelt with stand-in characters).
	Token(id int32) (string, bool)
	// ID returns the id of a token spelt as Token spells it.
	ID(token string) (int32, bool)
	// Special reports whether id is a control token, which DecodeOptions.SkipSpecial leaves out.
	Special(id int32) bool
	// BOS returns the token that begins a sequence, if the tokenizer names one.
	BOS() (int32, bool)
	// EOS returns the token that ends a sequence, if the tokenizer names one.
	EOS() (int32, bool)
	// Pad returns the padding token, if the tokenizer names one.
	Pad() (int32, bool)
}

// EncodeOptions changes how text is encoded. The zero value follows the tokenizer's file.
type EncodeOptions struct {
	// NoSpecial leaves out the special tokens that the post-processor adds around the text. Those written in the text
	// itself are still found.
	NoSpecial bool
	// SpecialAsText treats special tokens written in the text as plain text, so that untrusted text cannot forge them.
	SpecialAsText bool
}

// DecodeOptions changes how ids are decoded. The zero value keeps every token.
type DecodeOptions struct {
	// SkipSpecial leaves out special tokens.
	SkipSpecial bool
}

// ErrUnsupported is wrapped by every error that refuses a component this package does not implement.
var ErrUnsupported = errors.New("not supported")

// unsupported names what was found, of which kind, and what would have been accepted.
func unsupported(kind, name string, have ...string) error {
	if name == "" {
		name = "(no type)"
	}
	return fmt.Errorf("tokenizer: %s %s is %w; supported: %s", kind, name, ErrUnsupported, strings.Join(have, ", "))
}

// specials holds the ids of the named tokens; -1 means absent.
type specials struct{ bos, eos, pad int32 }

func noSpecials() specials { return specials{-1, -1, -1} }

// BOS returns the token that begins a sequence, if one is named.
func (s specials) BOS() (int32, bool) { return s.bos, s.bos >= 0 }

// EOS returns the token that ends a sequence, if one is named.
func (s specials) EOS() (int32, bool) { return s.eos, s.eos >= 0 }

// Pad returns the padding token, if one is named.
func (s specials) Pad() (int32, bool) { return s.pad, s.pad >= 0 }
