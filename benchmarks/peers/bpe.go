package peers

import (
	"fmt"
	"io"
	"regexp"

	"github.com/sugarme/tokenizer"
	"github.com/sugarme/tokenizer/pretrained"
)

// Sugarme is github.com/sugarme/tokenizer with one tokenizer.json.
type Sugarme struct{ tk *tokenizer.Tokenizer }

// NewSugarme reads a tokenizer.json. The library panics on patterns that Go's regexp lacks (Llama 3, Qwen); that comes back as an
// error.
func NewSugarme(r io.Reader) (s *Sugarme, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			s, err = nil, fmt.Errorf("sugarme/tokenizer: panic while loading: %v", cause)
		}
	}()
	tk, err := pretrained.FromReader(r)
	if err != nil {
		return nil, fmt.Errorf("sugarme/tokenizer: %w", err)
	}
	return &Sugarme{tk: tk}, nil
}

// Encode returns the ids of text without added special tokens. A panic of the library comes back as an error.
func (s *Sugarme) Encode(text string) (ids []int, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			ids, err = nil, fmt.Errorf("sugarme/tokenizer: panic on %q: %v", text, cause)
		}
	}()
	e, err := s.tk.EncodeSingle(text, false)
	if err != nil {
		return nil, fmt.Errorf("sugarme/tokenizer: %q: %w", text, err)
	}
	return e.Ids, nil
}

// gpt2Trouble finds what sugarme/tokenizer v0.3.0 gets wrong with GPT-2: a run of white space before other text (its pattern
// drops the lookahead `\s+(?!\S)`) and special tokens written out in the text.
var gpt2Trouble = regexp.MustCompile(`[\s\p{Z}]{2}|<\|`)

// SugarmeFitsGPT2 says whether Sugarme is a valid comparison for text under GPT-2's byte-level BPE. Besides gpt2Trouble it
// excludes a character thrice in a row: among merges of equal rank the library does not always take the leftmost.
func SugarmeFitsGPT2(text string) bool {
	if text == "" || gpt2Trouble.MatchString(text) {
		return false
	}
	var last rune
	run := 0
	for _, r := range text {
		if r != last {
			last, run = r, 0
		}
		if run++; run == 3 {
			return false
		}
	}
	return true
}
