package tokenizer

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/golden"
)

// TestGoldenTokenizerLlama2CToGGUF: the tokenizer of a llama2.c model gives the same ids after a way through GGUF's form.
func TestGoldenTokenizerLlama2CToGGUF(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(golden.Dir(t), "models", "*", "tok*.bin"))
	require.NoError(t, err)
	for _, path := range files {
		raw, err := os.ReadFile(path)
		require.NoError(t, err)
		want, err := ParseLlama2C(raw, 0)
		require.NoError(t, err)
		g, err := want.GGUF()
		require.NoError(t, err)
		got, err := FromGGUF(g)
		require.NoError(t, err)
		for _, text := range []string{"", "a", " a", "Once upon a time, there was a little girl named Lily.", "Tom  said:\n\"héllo\" 漢字\t🙂", "<s> </s><0x41>"} {
			a, err := want.Encode(text)
			require.NoError(t, err)
			b, err := got.EncodeWith(text, EncodeOptions{NoSpecial: true})
			require.NoError(t, err)
			if text == "<s> </s><0x41>" {
				require.NotEmpty(t, b) // control tokens are found in the text, as llama.cpp does
				continue
			}
			require.Equal(t, a[1:], b, text)
		}
	}
	t.Logf("%d tokenizers", len(files))
}
