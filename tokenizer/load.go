package tokenizer

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// maxFile caps the size of any file that Load reads.
const maxFile = 256 << 20

// Load reads a tokenizer. A directory holds tokenizer.json, or else a SentencePiece tokenizer.model, a tiktoken file of that name, or
// one *.tiktoken; the names of the special tokens come from tokenizer_config.json, special_tokens_map.json, generation_config.json and
// config.json, the first that has one. A file is a tokenizer.json, a SentencePiece model, a tiktoken file, or a llama2.c tokenizer
// (.bin), told apart by what it holds. Any of them may be compressed with gzip.
func Load(path string) (Tokenizer, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	if info.IsDir() {
		return loadDir(folder(path))
	}
	raw, err := readFile(path)
	if err != nil {
		return nil, err
	}
	if strings.HasSuffix(strings.ToLower(strings.TrimSuffix(path, ".gz")), ".bin") {
		t, err := ParseLlama2C(raw, 0)
		return orError(t, path, err)
	}
	t, err := parseAny(raw, path, nil, dirConfig{})
	return orError(t, path, err)
}

// parseAny reads a file by what it holds.
func parseAny(raw []byte, path string, extra []addedToken, c dirConfig) (*HF, error) {
	start := bytes.TrimLeft(raw[:min(len(raw), 64)], " \t\r\n\ufeff")
	switch {
	case bytes.HasPrefix(start, []byte("{")):
		return parseHF(raw, extra)
	case looksTiktoken(raw):
		opts := TiktokenOptions{Name: encodingOf(path)}
		for key, a := range c.Decoder {
			id, err := strconv.ParseInt(key, 10, 32)
			if err != nil {
				return nil, fmt.Errorf("tokenizer: added_tokens_decoder: id %q: %w", key, err)
			}
			if opts.Special == nil {
				opts.Special = map[string]int32{}
			}
			opts.Special[a.Content] = int32(id)
		}
		t, err := ParseTiktoken(raw, opts)
		if err != nil {
			return nil, err
		}
		t.original = original{"tokenizer.model", raw}
		return t, nil
	case len(raw) > 0 && bytes.IndexByte([]byte{1<<3 | 2, 2<<3 | 2, 3<<3 | 2}, raw[0]) >= 0: // the fields of a ModelProto
		return parseSentencePiece(raw, c.Legacy != nil && !*c.Legacy)
	}
	return nil, unsupported("tokenizer file", filepath.Base(path),
		"a directory", "tokenizer.json", "a SentencePiece tokenizer.model", "a tiktoken file", "llama2.c's *.bin")
}

// encodingOf returns the tiktoken encoding that a file is named after, or "".
func encodingOf(path string) string {
	name := strings.TrimSuffix(strings.TrimSuffix(filepath.Base(path), ".gz"), ".tiktoken")
	if _, ok := encodings[name]; ok {
		return name
	}
	return ""
}

// orError keeps a failed parse from becoming a non-nil interface, and names the file.
func orError[T Tokenizer](t T, path string, err error) (Tokenizer, error) {
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	defer func() { _ = f.Close() }() // opened for reading: nothing is lost
	raw, err := readCapped(f, path)
	if err != nil {
		return nil, err
	}
	return unzip(raw, path)
}

// unzip takes gzip off, if there is any.
func unzip(raw []byte, path string) ([]byte, error) {
	if !bytes.HasPrefix(raw, []byte{0x1F, 0x8B, 8}) {
		return raw, nil
	}
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %s: %w", path, err)
	}
	return readCapped(z, path)
}

func readCapped(r io.Reader, path string) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %s: %w", path, err)
	}
	if len(raw) > maxFile {
		return nil, fmt.Errorf("tokenizer: %s holds more than %d bytes, the limit for a tokenizer", path, maxFile)
	}
	return raw, nil
}

// source is where the files of a tokenizer lie.
type source interface {
	read(name string) ([]byte, error)
	path(name string) string // for messages
	tiktoken() string        // the name of the first *.tiktoken, or ""
}

type folder string

func (f folder) path(name string) string          { return filepath.Join(string(f), name) }
func (f folder) read(name string) ([]byte, error) { return readFile(f.path(name)) }

func (f folder) tiktoken() string {
	found, err := filepath.Glob(filepath.Join(string(f), "*.tiktoken"))
	if err != nil || len(found) == 0 {
		return ""
	}
	return filepath.Base(found[0])
}

// LoadFiles is Load of a directory whose files are in memory, by name.
func LoadFiles(files map[string][]byte) (Tokenizer, error) { return loadDir(memory(files)) }

type memory map[string][]byte

func (m memory) path(name string) string { return name }

func (m memory) read(name string) ([]byte, error) {
	raw, ok := m[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return unzip(raw, name)
}

func (m memory) tiktoken() string {
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if strings.HasSuffix(name, ".tiktoken") {
			return name
		}
	}
	return ""
}

// readJSON reads a file of the directory into v and reports whether there is one.
func readJSON(dir source, name string, v any) (bool, error) {
	raw, err := dir.read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return false, fmt.Errorf("tokenizer: %s: %w", dir.path(name), err)
	}
	return true, nil
}

// dirConfig is what the files beside tokenizer.json say.
type dirConfig struct {
	Class   string `json:"tokenizer_class"`
	AddBOS  *bool  `json:"add_bos_token"`
	AddEOS  *bool  `json:"add_eos_token"`
	Legacy  *bool  `json:"legacy"`
	Decoder map[string]struct {
		Content    string
		SingleWord bool `json:"single_word"`
		LStrip     bool
		RStrip     bool
		Normalized bool
		Special    bool
	} `json:"added_tokens_decoder"`
}

func loadDir(dir source) (Tokenizer, error) {
	name, raw, err := mainFile(dir)
	if err != nil {
		return nil, err
	}
	var c dirConfig
	if _, err := readJSON(dir, "tokenizer_config.json", &c); err != nil {
		return nil, err
	}
	var t *HF
	if strings.HasPrefix(name, "tokenizer.json") {
		var extra []addedToken
		if extra, err = extraTokens(dir, raw, c); err == nil {
			t, err = parseHF(raw, extra)
		}
	} else if t, err = parseAny(raw, name, nil, c); err == nil {
		err = t.addListed(dir, c)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir.path(name), err)
	}
	t.grown = nil // the files list these tokens already
	if err := t.nameSpecials(dir); err != nil {
		return nil, err
	}
	if err := t.keepCompanions(dir); err != nil {
		return nil, err
	}
	return t, t.rewrap(c, dir)
}

// keepCompanions reads the files that belong to the vocabulary, so that they can be written beside it.
func (t *HF) keepCompanions(dir source) error {
	t.companions = map[string][]byte{}
	for _, name := range companionFiles {
		raw, err := dir.read(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		t.companions[name] = raw
	}
	return nil
}

// vocabularyFiles are the files of a directory that hold a vocabulary, the preferred first.
var vocabularyFiles = []string{"tokenizer.json", "tokenizer.json.gz", "tokenizer.model", "tokenizer.model.gz", "qwen.tiktoken"}

// FileNames returns the names of the files that LoadFiles reads, and that belong beside a model. Those that say more of the model than
// of its tokenizer (config.json, generation_config.json) are read too, and are not among them.
func FileNames() []string {
	out := slices.Clone(vocabularyFiles)
	for _, name := range companionFiles {
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

// HasVocabulary reports whether one of the files, by name, holds a vocabulary.
func HasVocabulary(files map[string][]byte) bool {
	return slices.ContainsFunc(vocabularyFiles, func(name string) bool { return len(files[name]) > 0 })
}

// mainFile finds the file with the vocabulary.
func mainFile(dir source) (string, []byte, error) {
	names := slices.Clone(vocabularyFiles)
	if name := dir.tiktoken(); name != "" {
		names = append(names, name)
	}
	var first error
	for _, name := range names {
		raw, err := dir.read(name)
		if err == nil {
			return name, raw, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", nil, err
		}
		if first == nil {
			first = err
		}
	}
	return "", nil, fmt.Errorf("%w; nor is there a tokenizer.model or a *.tiktoken (vocab.json and merges.txt alone must be converted to tokenizer.json first)", first)
}

// extraTokens returns the added tokens that tokenizer_config.json and added_tokens.json list and tokenizer.json lacks.
func extraTokens(dir source, raw []byte, c dirConfig) ([]addedToken, error) {
	var known struct {
		AddedTokens []addedToken `json:"added_tokens"`
	}
	if err := json.Unmarshal(raw, &known); err != nil {
		return nil, fmt.Errorf("tokenizer: %s: %w", dir.path("tokenizer.json"), err)
	}
	have := map[string]bool{}
	for _, a := range known.AddedTokens {
		have[a.Content] = true
	}
	return listed(dir, c, have)
}

// addListed adds the tokens that the files beside a model of another format list.
func (t *HF) addListed(dir source, c dirConfig) error {
	have := map[string]bool{}
	for _, a := range t.file.AddedTokens {
		have[a.Content] = true
	}
	extra, err := listed(dir, c, have)
	if err != nil || len(extra) == 0 {
		return err
	}
	return t.extend(extra)
}

// listed returns the tokens of tokenizer_config.json and added_tokens.json that are not among those known, by id.
func listed(dir source, c dirConfig, have map[string]bool) ([]addedToken, error) {
	var extra []addedToken
	for key, a := range c.Decoder {
		id, err := strconv.ParseInt(key, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("tokenizer: %s: added_tokens_decoder: id %q: %w", dir.path("tokenizer_config.json"), key, err)
		}
		if !have[a.Content] {
			have[a.Content] = true
			extra = append(extra, addedToken{int32(id), a.Content, a.SingleWord, a.LStrip, a.RStrip, a.Normalized, a.Special})
		}
	}
	var added map[string]int32
	if _, err := readJSON(dir, "added_tokens.json", &added); err != nil {
		return nil, err
	}
	for content, id := range added {
		if !have[content] {
			extra = append(extra, addedToken{ID: id, Content: content, Normalized: true})
		}
	}
	slices.SortFunc(extra, func(a, b addedToken) int { return int(a.ID) - int(b.ID) })
	return extra, nil
}

// nameSpecials finds the bos, eos and pad tokens.
func (t *HF) nameSpecials(dir source) error {
	for _, name := range []string{"tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "config.json"} {
		var fields map[string]json.RawMessage
		if _, err := readJSON(dir, name, &fields); err != nil {
			return err
		}
		for _, role := range []struct {
			name string
			id   *int32
		}{{"bos_token", &t.bos}, {"eos_token", &t.eos}, {"pad_token", &t.pad}} {
			if *role.id >= 0 {
				continue
			}
			id, ok := t.tokenField(fields[role.name])
			if !ok {
				id, ok = idField(fields[role.name+"_id"])
			}
			if _, known := t.Token(id); ok && known {
				*role.id = id
			}
		}
	}
	return nil
}

// tokenField reads a token given as a string or as an object with its content.
func (t *HF) tokenField(raw json.RawMessage) (int32, bool) {
	var object struct{ Content string }
	var content string
	if json.Unmarshal(raw, &content) != nil {
		if json.Unmarshal(raw, &object) != nil {
			return 0, false
		}
		content = object.Content
	}
	return t.ID(content)
}

// idField reads an id, or the first of a list.
func idField(raw json.RawMessage) (int32, bool) {
	var id *int32
	if json.Unmarshal(raw, &id) == nil && id != nil {
		return *id, true
	}
	var list []int32
	if json.Unmarshal(raw, &list) == nil && len(list) > 0 {
		return list[0], true
	}
	return 0, false
}

// rewrap applies add_bos_token and add_eos_token. The transformers library does so for these classes, and leaves the
// post-processor of all others as the file has it.
func (t *HF) rewrap(c dirConfig, dir source) error {
	switch strings.TrimSuffix(c.Class, "Fast") {
	case "LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer":
	default:
		return nil
	}
	if c.AddBOS == nil && c.AddEOS == nil {
		return nil
	}
	var w wrapping
	if c.AddBOS == nil || *c.AddBOS {
		if t.bos < 0 {
			return fmt.Errorf("tokenizer: %s: add_bos_token is true but no bos_token is in the vocabulary", dir.path("tokenizer_config.json"))
		}
		w.prefix = []int32{t.bos}
	}
	if c.AddEOS != nil && *c.AddEOS {
		if t.eos < 0 {
			return fmt.Errorf("tokenizer: %s: add_eos_token is true but no eos_token is in the vocabulary", dir.path("tokenizer_config.json"))
		}
		w.suffix = []int32{t.eos}
	}
	t.wrapping = w
	return nil
}
