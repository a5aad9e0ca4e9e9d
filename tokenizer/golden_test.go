package tokenizer

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/golden"
)

// goldenCase is one text with what another library made of it.
type goldenCase struct {
	Text    string
	IDs     []int32
	Tokens  []string
	Decoded string
	Skipped *string `json:"decoded_skip_special"`
}

// readGzip returns the contents of a gzip file.
func readGzip(t testing.TB, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	raw, err := io.ReadAll(z)
	require.NoError(t, err)
	return raw
}

// loadGolden loads a tokenizer by name, whatever the format of its file.
func loadGolden(t testing.TB, name string) *HF {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(golden.Dir(t), "tokenizers", name+".tokenizer.*"))
	require.NoError(t, err)
	if len(files) == 0 {
		t.Skipf("no file for the tokenizer %s", name)
	}
	tok, err := Load(files[0])
	require.NoError(t, err)
	return tok.(*HF)
}

// goldenFiles returns the case files: name of tokenizer -> name of case -> case, by file.
func goldenFiles(t testing.TB) map[string]map[string]map[string]goldenCase {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(golden.Dir(t), "tokenizers", "cases*.json"))
	require.NoError(t, err)
	out := map[string]map[string]map[string]goldenCase{}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		require.NoError(t, err)
		var wrapped struct {
			Cases map[string]map[string]goldenCase
		}
		require.NoError(t, json.Unmarshal(raw, &wrapped))
		if wrapped.Cases == nil {
			require.NoError(t, json.Unmarshal(raw, &wrapped.Cases))
		}
		out[filepath.Base(file)] = wrapped.Cases
	}
	return out
}

func TestGoldenTokenizer(t *testing.T) {
	for file, tokenizers := range goldenFiles(t) {
		for name, cases := range tokenizers {
			t.Run(strings.TrimSuffix(file, ".json")+"/"+name, func(t *testing.T) {
				tok := loadGolden(t, name)
				t.Logf("%d cases", len(cases))
				for label, c := range cases {
					t.Run(label, func(t *testing.T) { checkGolden(t, tok, c, file == "cases.json") })
				}
			})
		}
	}
}

// checkGolden compares one case. Decoding in transformers.js, where cases.json comes from, also cleans up spaces, which is no
// part of a tokenizer.json; its cases are compared without spaces and without special tokens.
func checkGolden(t *testing.T, tok *HF, c goldenCase, cleaned bool) {
	ids, err := tok.Encode(c.Text)
	require.NoError(t, err)
	require.Equal(t, append([]int32{}, c.IDs...), ids, "ids of %q", c.Text)
	if c.Tokens != nil && len(c.Tokens) == len(ids) {
		for i, id := range ids {
			if known, ok := tok.ID(c.Tokens[i]); ok { // the library gives the text of unknown tokens
				require.Equal(t, known, id, "token %d of %q", i, c.Text)
			}
		}
	}
	if cleaned {
		strip := func(s string) string { return strings.ReplaceAll(s, " ", "") }
		require.Equal(t, strip(c.Decoded), strip(tok.Decode(ids)))
		return
	}
	require.Equal(t, c.Decoded, tok.Decode(ids), "decoding %q", c.Text)
	if c.Skipped != nil {
		require.Equal(t, *c.Skipped, tok.DecodeWith(ids, DecodeOptions{SkipSpecial: true}))
	}
	for _, opts := range []DecodeOptions{{}, {SkipSpecial: true}} {
		require.Equal(t, tok.DecodeWith(ids, opts), streamAll(tok, ids, opts), "streaming %q", c.Text)
	}
}

func streamAll(tok Tokenizer, ids []int32, opts DecodeOptions) string {
	s := NewStream(tok, opts)
	var b strings.Builder
	for _, id := range ids {
		b.WriteString(s.Push(id))
	}
	b.WriteString(s.Flush())
	return b.String()
}

// TestGoldenTokenizerNames lays each tokenizer.json beside its config and checks that the special tokens are found.
func TestGoldenTokenizerNames(t *testing.T) {
	dir := filepath.Join(golden.Dir(t), "tokenizers")
	configs, err := filepath.Glob(filepath.Join(dir, "*.tokenizer_config.json"))
	require.NoError(t, err)
	sort.Strings(configs)
	for _, config := range configs {
		name := strings.TrimSuffix(filepath.Base(config), ".tokenizer_config.json")
		t.Run(name, func(t *testing.T) {
			to := t.TempDir()
			raw, err := os.ReadFile(config)
			require.NoError(t, err)
			file := readGzip(t, filepath.Join(dir, name+".tokenizer.json.gz"))
			require.NoError(t, os.WriteFile(filepath.Join(to, "tokenizer_config.json"), raw, 0o600))
			require.NoError(t, os.WriteFile(filepath.Join(to, "tokenizer.json"), file, 0o600))
			tok, err := Load(to)
			require.NoError(t, err)
			var want struct {
				EOS string `json:"eos_token"`
			}
			require.NoError(t, json.Unmarshal(raw, &want))
			eos, ok := tok.EOS()
			require.True(t, ok)
			token, _ := tok.Token(eos)
			require.Equal(t, want.EOS, token)
		})
	}
}

func TestGoldenTokenizerLlama2C(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(golden.Dir(t), "models", "*", "tok*.bin"))
	require.NoError(t, err)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			tok, err := Load(file)
			require.NoError(t, err)
			for _, text := range goldenTexts(t) {
				ids, err := tok.Encode(text)
				require.NoError(t, err)
				require.Equal(t, naiveLlama2C(tok.(*Llama2C), text), ids)
				require.Equal(t, text, tok.Decode(ids))
				require.Equal(t, text, streamAll(tok, ids, DecodeOptions{}))
			}
		})
	}
}

// goldenTexts returns every text of the case files that C could pass as a string.
func goldenTexts(t testing.TB) []string {
	seen := map[string]bool{}
	for _, tokenizers := range goldenFiles(t) {
		for _, cases := range tokenizers {
			for _, c := range cases {
				if len(c.Text) < 4000 {
					seen[c.Text] = true
				}
			}
		}
	}
	out := make([]string, 0, len(seen))
	for text := range seen {
		out = append(out, text)
	}
	sort.Strings(out)
	return out
}
