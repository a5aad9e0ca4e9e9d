package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// maxFile caps the size of any file that Load reads.
const maxFile = 256 << 20

// Load reads a tokenizer from a directory that holds tokenizer.json (with the names of the special tokens from
// tokenizer_config.json, special_tokens_map.json, generation_config.json and config.json, the first that has one), from a
// tokenizer.json alone, or from a llama2.c tokenizer (.bin).
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
	switch strings.ToLower(filepath.Ext(path)) {
	case ".json":
		t, err := ParseHF(raw)
		return orError(t, path, err)
	case ".bin":
		t, err := ParseLlama2C(raw, 0)
		return orError(t, path, err)
	}
	return nil, fmt.Errorf("%s: %w", path, unsupported("tokenizer file", filepath.Base(path), "a directory with tokenizer.json", "*.json", "*.bin"))
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
	raw, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	if len(raw) > maxFile {
		return nil, fmt.Errorf("tokenizer: %s is larger than %d bytes, the limit for a tokenizer", path, maxFile)
	}
	return raw, nil
}

// source is where the files of a tokenizer lie.
type source interface {
	read(name string) ([]byte, error)
	path(name string) string // for messages
}

type folder string

func (f folder) path(name string) string          { return filepath.Join(string(f), name) }
func (f folder) read(name string) ([]byte, error) { return readFile(f.path(name)) }

// LoadFiles is Load of a directory whose files are in memory, by name.
func LoadFiles(files map[string][]byte) (Tokenizer, error) { return loadDir(memory(files)) }

type memory map[string][]byte

func (m memory) path(name string) string { return name }

func (m memory) read(name string) ([]byte, error) {
	raw, ok := m[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return raw, nil
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
	path := dir.path("tokenizer.json")
	raw, err := dir.read("tokenizer.json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w; only tokenizer.json is read from a directory (a tokenizer.model must be converted to it first)", err)
	}
	if err != nil {
		return nil, err
	}
	var c dirConfig
	if _, err := readJSON(dir, "tokenizer_config.json", &c); err != nil {
		return nil, err
	}
	extra, err := extraTokens(dir, raw, c)
	if err != nil {
		return nil, err
	}
	t, err := parseHF(raw, extra)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := t.nameSpecials(dir); err != nil {
		return nil, err
	}
	return t, t.rewrap(c, dir)
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
