package tokenizer

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// TiktokenOptions says what a tiktoken file leaves out. The zero value tells the encoding by the number of ranks.
type TiktokenOptions struct {
	// Name is an encoding that TiktokenNames lists; it gives pattern and special tokens.
	Name string
	// Pattern cuts text into words, in place of the named encoding's.
	Pattern string
	// Special are the special tokens and their ids, in place of the named encoding's.
	Special map[string]int32
	// BOS and EOS name special tokens, in place of the named encoding's. Only Llama 3's BOS is put in front of texts.
	BOS, EOS string
}

// encoding is a tiktoken encoding known by name.
type encoding struct {
	ranks    int
	pattern  string
	special  func() map[string]int32
	bos, eos string
	addBOS   bool
}

var encodings = map[string]encoding{
	"gpt2":        {50256, gpt2Pattern, ids("<|endoftext|>", 50256), "<|endoftext|>", "<|endoftext|>", false},
	"r50k_base":   {50256, gpt2Pattern, ids("<|endoftext|>", 50256), "<|endoftext|>", "<|endoftext|>", false},
	"cl100k_base": {100256, cl100kPattern, cl100kSpecial, "", "<|endoftext|>", false},
	"o200k_base":  {199998, o200kPattern, o200kSpecial, "", "<|endoftext|>", false},
	"llama3":      {128000, llama3Pattern, llama3Special, "<|begin_of_text|>", "<|end_of_text|>", true},
	"qwen":        {151643, qwenPattern, qwenSpecial, "", "<|endoftext|>", false},
}

// cl100kPattern is cl100k_base's, with atomic groups for the possessive repetitions of the original. It differs from Llama 3's in
// blanks that end a text: they are one piece, lines among them or not.
const cl100kPattern = `'(?i:[sdmt]|ll|ve|re)|(?>[^\r\n\p{L}\p{N}]?)(?>\p{L}+)|(?>\p{N}{1,3})| ?(?>[^\s\p{L}\p{N}]+)(?>[\r\n]*)|(?>\s+)\z|\s*[\r\n]|\s+(?!\S)|\s`

func ids(token string, id int32) func() map[string]int32 {
	return func() map[string]int32 { return map[string]int32{token: id} }
}

func cl100kSpecial() map[string]int32 {
	return map[string]int32{"<|endoftext|>": 100257, "<|fim_prefix|>": 100258, "<|fim_middle|>": 100259, "<|fim_suffix|>": 100260, "<|endofprompt|>": 100276}
}

func o200kSpecial() map[string]int32 {
	return map[string]int32{"<|endoftext|>": 199999, "<|endofprompt|>": 200018}
}

// llama3Special are the special tokens of Llama 3. Later releases give some reserved ones another name; the tokenizer_config.json of a
// directory has them.
func llama3Special() map[string]int32 {
	named := map[int32]string{0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id", 9: "eot_id"}
	out := map[string]int32{}
	reserved := 0
	for i := range int32(256) {
		name, ok := named[i]
		if !ok {
			name = fmt.Sprintf("reserved_special_token_%d", reserved)
			reserved++
		}
		out["<|"+name+"|>"] = 128000 + i
	}
	return out
}

// qwenSpecial are the special tokens of Qwen's qwen.tiktoken.
func qwenSpecial() map[string]int32 {
	out := map[string]int32{"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}
	for i := range int32(205) {
		out[fmt.Sprintf("<|extra_%d|>", i)] = 151646 + i
	}
	return out
}

// TiktokenNames returns the encodings known by name, sorted.
func TiktokenNames() []string { return slices.Sorted(maps.Keys(encodings)) }

// ParseTiktoken reads the contents of a tiktoken file: a line for each token, its bytes in base64 and its rank, which is its id.
// Merging follows tiktoken: of all neighbours the pair that makes the token of the lowest rank joins first.
func ParseTiktoken(raw []byte, opts TiktokenOptions) (*HF, error) {
	if len(raw) > maxFile {
		return nil, fmt.Errorf("tokenizer: the tiktoken file has %d bytes; the limit is %d", len(raw), maxFile)
	}
	vocab, err := parseRanks(raw)
	if err != nil {
		return nil, err
	}
	enc, err := opts.encoding(len(vocab))
	if err != nil {
		return nil, err
	}
	m := &bpe{vocab: vocab, unk: -1, ignoreMerges: true, scored: true}
	if err := m.rankRules(); err != nil {
		return nil, err
	}
	m.setFallback()
	m.setRaw()
	for b, id := range m.byteID {
		if id < 0 {
			return nil, fmt.Errorf("tokenizer: the tiktoken file has no token for the byte %#x; it is cut short", b)
		}
	}
	var added []addedToken
	for content, id := range enc.special() {
		added = append(added, addedToken{ID: id, Content: content, Special: true})
	}
	slices.SortFunc(added, func(a, b addedToken) int { return int(a.ID) - int(b.ID) })
	t := &HF{specials: noSpecials(), model: m, decoder: decodeByteLevel, byteLevel: true}
	if err := t.setVocab(vocab, added); err != nil {
		return nil, err
	}
	if err := t.cut(preset{patterns: []string{enc.pattern}}); err != nil {
		return nil, err
	}
	t.bos, t.eos = lookup(t.ids, enc.bos), lookup(t.ids, enc.eos)
	if enc.addBOS && t.bos >= 0 {
		t.wrapping.prefix = []int32{t.bos}
	}
	t.file.AddedTokens = added
	return t, t.setAdded(added)
}

// encoding finds the named encoding, or the one that has as many ranks, and applies the options.
func (o TiktokenOptions) encoding(ranks int) (encoding, error) {
	enc, ok := encodings[o.Name]
	if !ok && o.Name != "" {
		return enc, unsupported("tiktoken encoding", o.Name, TiktokenNames()...)
	}
	for _, name := range TiktokenNames() {
		if !ok && encodings[name].ranks == ranks {
			enc, ok = encodings[name], true
		}
	}
	if o.Pattern != "" {
		if !ok {
			enc.special = func() map[string]int32 { return nil }
		}
		enc.pattern, ok = o.Pattern, true
	}
	if !ok {
		return enc, unsupported("tiktoken encoding", fmt.Sprintf("with %d ranks and neither name nor pattern", ranks), TiktokenNames()...)
	}
	if o.Special != nil {
		enc.special = func() map[string]int32 { return o.Special }
	}
	if o.BOS != "" {
		enc.bos = o.BOS
	}
	if o.EOS != "" {
		enc.eos = o.EOS
	}
	return enc, nil
}

func parseRanks(raw []byte) (map[string]int32, error) {
	vocab := make(map[string]int32, bytes.Count(raw, []byte("\n"))+1)
	number := 0
	for line := range bytes.Lines(raw) {
		number++
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			continue
		}
		text, rank, ok := strings.Cut(string(line), " ")
		token, err := base64.StdEncoding.DecodeString(text)
		id, err2 := strconv.ParseInt(rank, 10, 32)
		if !ok || err != nil || err2 != nil || id < 0 || len(token) == 0 {
			return nil, fmt.Errorf("tokenizer: line %d of the tiktoken file is %q, not a token in base64 and its rank", number, clip(line))
		}
		spelt := spellBytes(string(token))
		if old, ok := vocab[spelt]; ok {
			return nil, fmt.Errorf("tokenizer: line %d of the tiktoken file: the token %q has the ranks %d and %d", number, clip(token), old, id)
		}
		vocab[spelt] = int32(id)
	}
	if len(vocab) == 0 {
		return nil, fmt.Errorf("tokenizer: the tiktoken file has no tokens")
	}
	return vocab, nil
}

// rankRules lets every two tokens join that make a token, in the order of its id.
func (m *bpe) rankRules() error {
	m.rules = make(map[uint64]uint64, 2*len(m.vocab))
	work := 0
	for text, id := range m.vocab {
		if work += len(text) * len(text); work > maxPieceWork {
			return fmt.Errorf("tokenizer: the vocabulary's tokens are too long to search for merges (one has %d bytes); the file is damaged", len(text))
		}
		for i := range text {
			left, ok := m.vocab[text[:i]]
			if !ok {
				continue
			}
			if right, ok := m.vocab[text[i:]]; ok {
				m.rules[pairKey(left, right)] = uint64(id)<<32 | uint64(uint32(id))
			}
		}
	}
	return nil
}

// looksTiktoken reports whether a file begins as a tiktoken file does.
func looksTiktoken(raw []byte) bool {
	line, _, _ := bytes.Cut(raw[:min(len(raw), 4096)], []byte("\n"))
	text, rank, ok := strings.Cut(strings.TrimRight(string(line), "\r"), " ")
	if !ok || text == "" || rank == "" {
		return false
	}
	_, err := base64.StdEncoding.DecodeString(text)
	_, err2 := strconv.ParseUint(rank, 10, 31)
	return err == nil && err2 == nil
}
