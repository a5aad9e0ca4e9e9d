package tokenizer

import "strings"

// byteTokens is met by tokenizers whose tokens have bytes of their own, given the id before (-1 for none).
type byteTokens interface {
	appendBytes(dst []byte, id, prev int32) ([]byte, bool)
}

// Stream decodes ids one at a time, for printing while generating. Bytes that may still become a character are held back.
// The texts that Push and Flush return, joined, are what Decode gives for all the ids. Not for concurrent use.
type Stream struct {
	tok  Tokenizer
	opts DecodeOptions
	prev int32
	held []byte

	// For tokenizers whose decoder looks at neighbours: ids[:done] have been printed, and are kept as context.
	ids  []int32
	done int
}

// NewStream returns a Stream at the start of a sequence.
func NewStream(tok Tokenizer, opts DecodeOptions) *Stream {
	return &Stream{tok: tok, opts: opts, prev: -1}
}

// Push adds an id and returns the text that is now certain, which may be empty.
func (s *Stream) Push(id int32) string {
	prev := s.prev
	s.prev = id
	if s.opts.SkipSpecial && s.tok.Special(id) {
		return ""
	}
	if b, ok := s.tok.(byteTokens); ok {
		if held, ok := b.appendBytes(s.held, id, prev); ok {
			keep := heldBack(held)
			text := string(appendLossy(nil, held[:len(held)-keep]))
			s.held = append(s.held[:0], held[len(held)-keep:]...)
			return text
		}
	}
	s.ids = append(s.ids, id)
	return s.window(false)
}

// Flush returns the text held back, at the end of a sequence, and starts anew.
func (s *Stream) Flush() string {
	text := string(appendLossy(nil, s.held)) + s.window(true)
	*s = *NewStream(s.tok, s.opts)
	return text
}

// window decodes the new ids behind the ones printed last and returns what they add. A text that ends in U+FFFD may be an
// unfinished character, so it waits.
func (s *Stream) window(end bool) string {
	if len(s.ids) == s.done {
		return ""
	}
	opts := DecodeOptions{}
	before := s.tok.DecodeWith(s.ids[:s.done], opts)
	after := s.tok.DecodeWith(s.ids, opts)
	if !end && (strings.HasSuffix(after, "\uFFFD") || len(after) <= len(before)) {
		return ""
	}
	text := strings.TrimPrefix(after, before)
	s.ids = append(s.ids[:0], s.ids[s.done:]...)
	s.done = len(s.ids)
	return text
}
