package tokenizer

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
)

// TrainOptions says what TrainBPE learns. The zero value learns as GPT-2's tokenizer splits, up to 32,000 tokens.
type TrainOptions struct {
	// VocabSize is the number of tokens wanted, special tokens and the 256 bytes included; 0 means 32,000. Text with too few
	// distinct words gives fewer.
	VocabSize int
	// SpecialTokens get the first ids, in this order.
	SpecialTokens []string
	// BOS, EOS and Pad name the special tokens of these roles; each is added to SpecialTokens when missing.
	BOS, EOS, Pad string
	// AddBOS puts BOS in front of every encoded text.
	AddBOS bool
	// Pattern is the regular expression whose matches are the words that merges stay within; "" means GPT-2's.
	Pattern string
	// MinFrequency is the least count of a pair that is worth a token; 0 means 1.
	MinFrequency int
}

// TrainBPE learns a byte-level BPE tokenizer: again and again the most frequent pair of adjacent tokens becomes a token (Sennrich
// et al. 2016; on bytes: Radford et al. 2019). Of pairs equally frequent, the one with the lowest ids wins, so the same texts in
// any order give the same file. The error is an option that makes no sense or a Pattern that fails.
func TrainBPE(texts iter.Seq[string], opts TrainOptions) (*HF, error) {
	opts, err := opts.complete()
	if err != nil {
		return nil, err
	}
	p, err := compilePattern(opts.Pattern)
	if err != nil {
		return nil, err
	}
	counts, err := countWords(texts, p, opts.SpecialTokens)
	if err != nil {
		return nil, err
	}
	tr := newBPETrainer(counts, opts)
	tr.learn(opts)
	raw, err := tr.file(opts)
	if err != nil {
		return nil, err
	}
	t, err := ParseHF(raw)
	if err != nil {
		return nil, err
	}
	t.specials = specials{lookup(t.ids, opts.BOS), lookup(t.ids, opts.EOS), lookup(t.ids, opts.Pad)}
	return t, nil
}

// WriteConfig writes the tokenizer_config.json that belongs beside the saved file: it names the bos, eos and pad tokens.
func (t *HF) WriteConfig(w io.Writer) error {
	c := map[string]any{"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false}
	for name, id := range map[string]int32{"bos_token": t.bos, "eos_token": t.eos, "pad_token": t.pad} {
		if token, ok := t.Token(id); ok {
			c[name] = token
		}
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(c); err != nil {
		return fmt.Errorf("tokenizer: saving tokenizer_config.json: %w", err)
	}
	return nil
}

// complete fills in defaults and checks the options.
func (o TrainOptions) complete() (TrainOptions, error) {
	o.VocabSize = cmp.Or(o.VocabSize, 32000)
	o.Pattern = cmp.Or(o.Pattern, gpt2Pattern)
	o.MinFrequency = max(o.MinFrequency, 1)
	o.SpecialTokens = slices.Clone(o.SpecialTokens)
	for _, token := range []string{o.BOS, o.EOS, o.Pad} {
		if token != "" && !slices.Contains(o.SpecialTokens, token) {
			o.SpecialTokens = append(o.SpecialTokens, token)
		}
	}
	seen := map[string]bool{}
	for _, token := range o.SpecialTokens {
		if token == "" || seen[token] {
			return o, fmt.Errorf("tokenizer: special token %q is empty or given twice", token)
		}
		if r := []rune(token); len(r) == 1 {
			if _, ok := runeByte(r[0]); ok {
				return o, fmt.Errorf("tokenizer: special token %q is already the spelling of a byte; choose a longer one", token)
			}
		}
		seen[token] = true
	}
	if least := 256 + len(o.SpecialTokens); o.VocabSize < least {
		return o, fmt.Errorf("tokenizer: VocabSize %d is less than 256 bytes + %d special tokens = %d", o.VocabSize, len(o.SpecialTokens), least)
	}
	if o.AddBOS && o.BOS == "" {
		return o, fmt.Errorf("tokenizer: AddBOS needs a BOS token")
	}
	return o, nil
}

// countWords counts the words of the texts. Special tokens written in them are left out.
func countWords(texts iter.Seq[string], p *pattern, special []string) (map[string]int, error) {
	var entries []matchEntry
	for _, s := range special {
		entries = append(entries, matchEntry{s, &addedToken{Content: s, Special: true}})
	}
	m := newMatcher(entries)
	counts := map[string]*int{}
	add := func(word string, _ bool) error {
		n, ok := counts[word]
		if !ok {
			n = new(int)
			counts[strings.Clone(word)] = n
		}
		*n++
		return nil
	}
	for text := range texts {
		for _, seg := range m.split(text, false, nil) {
			if seg.token != nil {
				continue
			}
			if err := p.each(seg.text, add); err != nil {
				return nil, err
			}
		}
	}
	out := make(map[string]int, len(counts))
	for word, n := range counts {
		out[word] = *n
	}
	return out, nil
}

// bpeTrainer holds the words as token ids, the count of each pair, and the words each pair occurs in.
type bpeTrainer struct {
	tokens []string // by id, spelt with stand-in characters
	ids    map[string]int32
	merges [][2]string
	words  []trainWord
	pairs  map[uint64]*trainPair
	heap   []heapPair
}

type trainWord struct {
	ids   []int32
	count int
}

type trainPair struct {
	count int
	words map[int32]struct{}
}

// heapPair is a candidate with the count it had when queued; counts only fall, except when a pair is queued anew.
type heapPair struct {
	count int
	key   uint64
}

func (a heapPair) before(b heapPair) bool {
	return a.count > b.count || a.count == b.count && a.key < b.key
}

func newBPETrainer(counts map[string]int, opts TrainOptions) *bpeTrainer {
	tr := &bpeTrainer{ids: map[string]int32{}, pairs: map[uint64]*trainPair{}}
	for _, token := range opts.SpecialTokens {
		tr.add(token)
	}
	var letters []string
	for b := range 256 {
		letters = append(letters, string(byteRune(byte(b))))
	}
	slices.Sort(letters)
	for _, letter := range letters {
		tr.add(letter)
	}
	var byteID [256]int32
	for b := range 256 {
		byteID[b] = tr.ids[string(byteRune(byte(b)))]
	}
	for word, count := range counts {
		ids := make([]int32, len(word))
		for i := range len(word) {
			ids[i] = byteID[word[i]]
		}
		at := int32(len(tr.words))
		tr.words = append(tr.words, trainWord{ids, count})
		for i := range len(ids) - 1 {
			tr.count(ids[i], ids[i+1], count, at)
		}
	}
	for key, p := range tr.pairs {
		tr.heap = append(tr.heap, heapPair{p.count, key})
	}
	for i := len(tr.heap)/2 - 1; i >= 0; i-- {
		tr.down(i)
	}
	return tr
}

func (tr *bpeTrainer) add(token string) int32 {
	if id, ok := tr.ids[token]; ok {
		return id
	}
	id := int32(len(tr.tokens))
	tr.tokens = append(tr.tokens, token)
	tr.ids[token] = id
	return id
}

// count adds n to the count of a pair seen in a word.
func (tr *bpeTrainer) count(a, b int32, n int, word int32) {
	key := pairKey(a, b)
	p := tr.pairs[key]
	if p == nil {
		p = &trainPair{words: map[int32]struct{}{}}
		tr.pairs[key] = p
	}
	p.count += n
	if n > 0 {
		p.words[word] = struct{}{}
	}
}

// learn makes tokens until there are enough or no pair is frequent enough.
func (tr *bpeTrainer) learn(opts TrainOptions) {
	for len(tr.tokens) < opts.VocabSize && len(tr.heap) > 0 {
		top := tr.pop()
		p := tr.pairs[top.key]
		if p == nil {
			continue
		}
		if p.count != top.count {
			if p.count >= opts.MinFrequency {
				tr.push(heapPair{p.count, top.key})
			}
			continue
		}
		if top.count < opts.MinFrequency {
			return
		}
		tr.join(top.key, p, opts)
	}
}

// join makes one token of a pair wherever it occurs.
func (tr *bpeTrainer) join(key uint64, p *trainPair, opts TrainOptions) {
	delete(tr.pairs, key)
	a, b := int32(key>>32), int32(uint32(key))
	token := tr.tokens[a] + tr.tokens[b]
	if slices.Contains(opts.SpecialTokens, token) {
		return // an ordinary word must not become a special token
	}
	id := tr.add(token)
	tr.merges = append(tr.merges, [2]string{tr.tokens[a], tr.tokens[b]})
	fresh := map[uint64]struct{}{}
	for at := range p.words {
		w := &tr.words[at]
		out := w.ids[:0]
		for i := 0; i < len(w.ids); i++ {
			if w.ids[i] != a || i+1 == len(w.ids) || w.ids[i+1] != b {
				out = append(out, w.ids[i])
				continue
			}
			if len(out) > 0 {
				before := out[len(out)-1]
				tr.count(before, a, -w.count, at)
				tr.count(before, id, w.count, at)
				fresh[pairKey(before, id)] = struct{}{}
			}
			if i+2 < len(w.ids) {
				after := w.ids[i+2]
				tr.count(b, after, -w.count, at)
				tr.count(id, after, w.count, at)
				fresh[pairKey(id, after)] = struct{}{}
			}
			out = append(out, id)
			i++
		}
		w.ids = out
	}
	delete(tr.pairs, key)
	for key := range fresh {
		if n := tr.pairs[key]; n != nil && n.count >= opts.MinFrequency {
			tr.push(heapPair{n.count, key})
		}
	}
}

func (tr *bpeTrainer) push(h heapPair) {
	tr.heap = append(tr.heap, h)
	for i := len(tr.heap) - 1; i > 0; {
		up := (i - 1) / 2
		if !tr.heap[i].before(tr.heap[up]) {
			return
		}
		tr.heap[i], tr.heap[up] = tr.heap[up], tr.heap[i]
		i = up
	}
}

func (tr *bpeTrainer) pop() heapPair {
	top := tr.heap[0]
	last := len(tr.heap) - 1
	tr.heap[0] = tr.heap[last]
	tr.heap = tr.heap[:last]
	tr.down(0)
	return top
}

func (tr *bpeTrainer) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(tr.heap) {
			return
		}
		if child+1 < len(tr.heap) && tr.heap[child+1].before(tr.heap[child]) {
			child++
		}
		if !tr.heap[child].before(tr.heap[i]) {
			return
		}
		tr.heap[i], tr.heap[child] = tr.heap[child], tr.heap[i]
		i = child
	}
}

// object is a JSON object, built by hand where the order of the fields is fixed by their sorting.
type object = map[string]any

// file builds the tokenizer.json.
func (tr *bpeTrainer) file(opts TrainOptions) ([]byte, error) {
	byteLevel := object{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}
	var pre any = byteLevel
	if opts.Pattern != gpt2Pattern {
		pre = object{"type": "Sequence", "pretokenizers": []any{
			object{"type": "Split", "pattern": object{"Regex": opts.Pattern}, "behavior": "Isolated", "invert": false},
			object{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
		}}
	}
	added := []addedToken{}
	for _, token := range opts.SpecialTokens {
		added = append(added, addedToken{ID: tr.ids[token], Content: token, Special: true})
	}
	var post any = byteLevel
	if opts.AddBOS {
		post = bosTemplate(opts.BOS, tr.ids[opts.BOS])
	}
	merges := tr.merges
	if merges == nil {
		merges = [][2]string{}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	err := e.Encode(object{
		"version": "1.0", "truncation": nil, "padding": nil, "added_tokens": added, "normalizer": nil,
		"pre_tokenizer": pre, "post_processor": post, "decoder": byteLevel,
		"model": object{
			"type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": nil, "end_of_word_suffix": nil,
			"fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": tr.ids, "merges": merges,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("tokenizer: writing tokenizer.json: %w", err)
	}
	return b.Bytes(), nil
}

// bosTemplate is the post-processor that puts one token in front.
func bosTemplate(token string, id int32) object {
	bos := object{"SpecialToken": object{"id": token, "type_id": 0}}
	a := object{"Sequence": object{"id": "A", "type_id": 0}}
	b := object{"Sequence": object{"id": "B", "type_id": 1}}
	return object{
		"type": "TemplateProcessing", "single": []any{bos, a}, "pair": []any{bos, a, b},
		"special_tokens": object{token: object{"id": token, "ids": []int32{id}, "tokens": []string{token}}},
	}
}
