package trainer

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/tokenizer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// addTokens gives the tokenizer new special tokens and the model rows for them. A vocabulary that is wider than its tokenizer, as many are
// padded, has room already.
func (m *Model) addTokens(tokens []string, c *models.Config) error {
	if len(tokens) == 0 {
		return nil
	}
	hf, ok := m.Tokenizer.(*tokenizer.HF)
	if !ok {
		return badConfig("data.new_tokens", "needs a model with a tokenizer.json, or another whose tokens can be added to, beside it")
	}
	var list []tokenizer.NewToken
	for _, t := range tokens {
		list = append(list, tokenizer.NewToken{Content: t, Special: true})
	}
	grown, err := hf.WithTokens(list...)
	if err != nil {
		return badConfig("data.new_tokens", "%v", err)
	}
	files, err := grown.Files()
	if err != nil {
		return err
	}
	for name, raw := range files {
		m.TokFiles[name] = raw
	}
	for _, t := range tokens {
		if _, old := hf.ID(t); old {
			continue
		}
		if id, ok := grown.ID(t); ok {
			m.New = append(m.New, int(id))
		}
	}
	slices.Sort(m.New)
	m.Tokenizer = grown
	c.Vocab = max(c.Vocab, grown.VocabSize())
	return nil
}

// takeTokenizer reads the tokenizer of an adapter's folder, which has more tokens than the model's if the adapter was trained with new ones.
// Of one with fewer, of a model in another format, and of a folder without one the chat template is taken alone. What the model's makers
// suggest for generation stays unless the folder says something else: PEFT does not write it.
func (m *Model) takeTokenizer(fsys vfs.FS, dir string, c *models.Config) error {
	if dir == "" {
		return nil
	}
	dir, err := checkpoint.Locate(fsys, dir)
	if err != nil {
		return withCode(config.ExitInput, err)
	}
	if _, err := fsys.Stat(filepath.ToSlash(filepath.Join(dir, "tokenizer.json"))); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return m.takeTemplate(fsys, dir)
		}
		return withCode(config.ExitInput, err)
	}
	own, files := m.Tokenizer, m.TokFiles
	if err := m.readTokenizer(fsys, dir); err != nil {
		return err
	}
	if own != nil && m.Tokenizer.VocabSize() < own.VocabSize() {
		m.Tokenizer, m.TokFiles = own, files
		return m.takeTemplate(fsys, dir)
	}
	if raw, had := files[generationFile]; had && m.TokFiles[generationFile] == nil {
		m.TokFiles[generationFile] = raw
	}
	c.Vocab = max(c.Vocab, m.Tokenizer.VocabSize())
	return nil
}

// takeTemplate reads the chat template of an adapter's folder: the one that the adapter was trained with.
func (m *Model) takeTemplate(fsys vfs.FS, dir string) error {
	raw, err := vfs.ReadFile(fsys, filepath.ToSlash(filepath.Join(dir, templateFile)), maxConfigFile)
	switch {
	case err == nil:
		m.TokFiles[templateFile] = raw
	case !errors.Is(err, fs.ErrNotExist):
		return withCode(config.ExitInput, err)
	}
	return nil
}
