package chat

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// maxConfig bounds the files a template is looked for in; Llama 3's tokenizer_config.json has 50 kB.
const maxConfig = 16 << 20

// ErrNoTemplate is returned for a folder that has no chat template.
var ErrNoTemplate = errors.New("no chat template")

// Load finds the chat template of a model's folder, as transformers does: chat_template.jinja, else chat_template.json, else the
// key chat_template of tokenizer_config.json. Of a list of named templates it takes the one called variant, or "default" where
// variant is empty; further ones may lie in additional_chat_templates/VARIANT.jinja. Special tokens come from
// tokenizer_config.json and special_tokens_map.json.
func Load(dir, variant string, o Options) (*Template, error) {
	return folder{read: readFile, dir: dir}.load(variant, o)
}

// LoadFiles is Load for a folder whose files are in memory, by name; name stands before theirs in errors.
func LoadFiles(name string, files map[string][]byte, variant string, o Options) (*Template, error) {
	read := func(path string) ([]byte, error) {
		rel, err := filepath.Rel(name, path)
		if err != nil {
			return nil, err
		}
		data, ok := files[filepath.ToSlash(rel)]
		if !ok {
			return nil, fs.ErrNotExist
		}
		return data, nil
	}
	return folder{read: read, dir: name}.load(variant, o)
}

// folder is where the files of a model are read from.
type folder struct {
	read func(path string) ([]byte, error)
	dir  string
}

func (f folder) load(variant string, o Options) (*Template, error) {
	dir := f.dir
	special, config, err := f.readConfig()
	if err != nil {
		return nil, err
	}
	for k, v := range o.Special {
		special[k] = v
	}
	o.Special = special
	if variant != "" && variant != "default" {
		if strings.ContainsAny(variant, `/\`) || variant == ".." {
			return nil, fmt.Errorf("the template name %q is not the name of a file; give one without slashes", variant)
		}
		path := filepath.Join(dir, "additional_chat_templates", variant+".jinja")
		if source, err := f.read(path); err == nil {
			return parseFrom(path, string(source), o)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	} else if t, err := f.loadAlone(o); t != nil || err != nil {
		return t, err
	}
	path := filepath.Join(dir, "tokenizer_config.json")
	source, err := named(config["chat_template"], variant)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return parseFrom(path+" (chat_template)", source, o)
}

// LoadFile reads a template from a file of its own, or from a JSON file with the key chat_template.
func LoadFile(path string, o Options) (*Template, error) { return folder{read: readFile}.file(path, o) }

func (f folder) file(path string, o Options) (*Template, error) {
	data, err := f.read(path)
	if err != nil {
		return nil, err
	}
	if filepath.Ext(path) != ".json" {
		return parseFrom(path, string(data), o)
	}
	var file map[string]json.RawMessage
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	source, err := named(file["chat_template"], "")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return parseFrom(path, source, o)
}

// loadAlone tries the two files that hold nothing but the template.
func (f folder) loadAlone(o Options) (*Template, error) {
	for _, name := range []string{"chat_template.jinja", "chat_template.json"} {
		t, err := f.file(filepath.Join(f.dir, name), o)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return t, err
		}
	}
	return nil, nil
}

func parseFrom(name, source string, o Options) (*Template, error) {
	if o.Name == "" {
		o.Name = name
	}
	return Parse(source, o)
}

// named takes one template out of a string or a list of {name, template}.
func named(raw json.RawMessage, variant string) (string, error) {
	if variant == "" {
		variant = "default"
	}
	if len(raw) == 0 || string(raw) == "null" {
		return "", fmt.Errorf("%w: the key chat_template is not there; give one, as the instruct variant of the model has it", ErrNoTemplate)
	}
	var one string
	if json.Unmarshal(raw, &one) == nil {
		if variant != "default" {
			return "", fmt.Errorf("%w called %q: chat_template is a single one without a name", ErrNoTemplate, variant)
		}
		return one, nil
	}
	var list []struct{ Name, Template string }
	if err := json.Unmarshal(raw, &list); err != nil {
		return "", fmt.Errorf("the key chat_template is neither a string nor a list of {name, template}: %w", err)
	}
	var have []string
	for _, e := range list {
		if e.Name == variant {
			return e.Template, nil
		}
		have = append(have, e.Name)
	}
	return "", fmt.Errorf("%w called %q; there are %q", ErrNoTemplate, variant, have)
}

// readConfig reads the special tokens, and the rest of tokenizer_config.json.
func (f folder) readConfig() (special map[string]string, config map[string]json.RawMessage, err error) {
	special = map[string]string{}
	for _, name := range []string{"special_tokens_map.json", "tokenizer_config.json"} {
		path := filepath.Join(f.dir, name)
		config = nil
		data, err := f.read(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if err := json.Unmarshal(data, &config); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", path, err)
		}
		for k, raw := range config {
			if s, ok := tokenText(raw); ok && strings.HasSuffix(k, "_token") {
				special[k] = s
			}
		}
	}
	return special, config, nil
}

// tokenText is a token given as a string or as {"content": ...}.
func tokenText(raw json.RawMessage) (string, bool) {
	var s *string
	if json.Unmarshal(raw, &s) == nil {
		if s == nil {
			return "", false
		}
		return *s, true
	}
	var o struct{ Content *string }
	if json.Unmarshal(raw, &o) != nil || o.Content == nil {
		return "", false
	}
	return *o.Content, true
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxConfig {
		return nil, fmt.Errorf("%s is larger than %d MiB, which no template is", path, maxConfig>>20)
	}
	return data, nil
}
