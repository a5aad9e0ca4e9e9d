package tokenizer

import (
	"maps"
	"slices"
	"strings"
)

// preset is how a byte-level tokenizer cuts text, for files that give it by name only.
type preset struct {
	patterns     []string // each cuts what the one before left; the last cuts what the model sees
	ignoreMerges bool     // a word that is a token is not merged
	nfc          bool     // the model's own tokenizer.json normalizes to NFC
}

// Patterns that have no scanner of their own.
const (
	qwen35Pattern = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	o200kPattern  = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|` +
		`[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|` +
		`\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	tekkenPattern = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|` +
		`[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|` +
		`\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	deepseek3Pattern = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|" +
		` ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	threeDigits = `\p{N}{1,3}`
	oneDigit    = `\p{N}`
	cjkRun      = `[一-龥぀-ゟ゠-ヿ]+`
)

// The ways of cutting, each under every name that llama.cpp's converter gives it.
var (
	presetGPT2      = preset{patterns: []string{gpt2Pattern}}
	presetDigits    = preset{patterns: []string{oneDigit, gpt2Pattern}}
	presetLlama3    = preset{patterns: []string{llama3Pattern}, ignoreMerges: true}
	presetCL100K    = preset{patterns: []string{llama3Pattern}}
	presetQwen2     = preset{patterns: []string{qwenPattern}, nfc: true}
	presetQwen35    = preset{patterns: []string{qwen35Pattern}, nfc: true}
	presetO200K     = preset{patterns: []string{o200kPattern}}
	presetTekken    = preset{patterns: []string{tekkenPattern}, ignoreMerges: true}
	presetDeepseek3 = preset{patterns: []string{threeDigits, cjkRun, deepseek3Pattern}}

	ggufPresets = map[string]preset{
		"gpt-2": presetGPT2, "gpt2": presetGPT2, "phi-2": presetGPT2, "mpt": presetGPT2, "olmo": presetGPT2, "dbrx": presetCL100K, "smaug-bpe": presetCL100K,
		"smollm": presetDigits, "starcoder": presetDigits, "refact": presetDigits, "command-r": presetDigits, "codeshell": presetDigits,
		"llama3": presetLlama3, "llama-v3": presetLlama3, "llama-bpe": presetLlama3, "falcon3": presetLlama3,
		"qwen2": presetQwen2, "deepseek-r1-qwen": presetQwen2, "stablelm2": {patterns: []string{qwenPattern}}, "qwen35": presetQwen35,
		"gpt-4o": presetO200K, "llama4": presetO200K, "tekken": presetTekken, "deepseek-v3": presetDeepseek3,
	}

	// ggufAddBOS are the names whose tokenizers begin texts with BOS where the file does not say.
	ggufAddBOS = []string{"llama3", "llama-v3", "llama-bpe", "falcon3", "tekken"}
)

// GGUFPreNames returns the values of tokenizer.ggml.pre that FromGGUF knows, sorted.
func GGUFPreNames() []string { return slices.Sorted(maps.Keys(ggufPresets)) }

func ggufPre(name string) (preset, error) {
	p, ok := ggufPresets[name]
	if !ok {
		if name == "" {
			name = "(absent)"
		}
		return p, unsupported("tokenizer.ggml.pre", name, GGUFPreNames()...)
	}
	return p, nil
}

// assembleByteLevel builds a byte-level BPE tokenizer from its parts.
func assembleByteLevel(vocab map[string]int32, merges mergeList, p preset, added []addedToken) (*HF, error) {
	m := &bpe{vocab: vocab, rules: make(map[uint64]uint64, len(merges)), unk: -1, ignoreMerges: p.ignoreMerges}
	for rank, pair := range merges {
		if err := m.addMerge(rank, pair.left, pair.right); err != nil {
			return nil, err
		}
	}
	m.setFallback()
	m.setRaw()
	t := &HF{specials: noSpecials(), model: m, decoder: decodeByteLevel, byteLevel: true}
	if err := t.setVocab(vocab, added); err != nil {
		return nil, err
	}
	if err := t.cut(p); err != nil {
		return nil, err
	}
	t.file.AddedTokens = added
	return t, t.setAdded(added)
}

// cut sets the normalizer and the pre-tokenizer that a preset stands for.
func (t *HF) cut(p preset) error {
	file, err := p.file()
	if err != nil {
		return err
	}
	if t.normalizer, err = parseNormalizer(file.Normalizer, 0); err != nil {
		return err
	}
	if t.pre, err = parsePreTokenizer(file.PreTokenizer, 0); err != nil {
		return err
	}
	lastByteLevel(t.pre).raw = true
	t.file = file
	return nil
}

// file writes a preset as the parts of a tokenizer.json.
func (p preset) file() (hfFile, error) {
	var f hfFile
	steps := make([]any, 0, len(p.patterns)+1)
	for _, expr := range p.patterns {
		steps = append(steps, object{"type": "Split", "pattern": object{"Regex": expr}, "behavior": "Isolated", "invert": false})
	}
	level := object{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}
	var err error
	if f.PreTokenizer, err = plainJSON(object{"type": "Sequence", "pretokenizers": append(steps, level)}); err != nil {
		return f, err
	}
	if f.Decoder, err = plainJSON(level); err != nil {
		return f, err
	}
	if p.nfc {
		f.Normalizer, err = plainJSON(object{"type": "NFC"})
	}
	return f, err
}

// cutMerge reads a merge written as "left right".
func cutMerge(s string) (mergePair, bool) {
	left, right, ok := strings.Cut(s, " ")
	return mergePair{left, right}, ok && left != "" && right != "" && !strings.Contains(right, " ")
}
