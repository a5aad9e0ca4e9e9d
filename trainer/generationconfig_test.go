package trainer

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestEOSOfGenerationConfig: one id, a list, or nothing; in the order of the configuration, then of the file, each once.
func TestEOSOfGenerationConfig(t *testing.T) {
	for text, want := range map[string][]int32{`{"eos_token_id": 3}`: {3}, `{"eos_token_id": [4, 3, 4]}`: {4, 3}, `{"eos_token_id": null}`: nil, `{}`: nil} {

		c, err := parseGeneration([]byte(text), 5)
		require.NoError(t, err, text)
		require.Equal(t, want, mergeIDs(nil, c.EOS), text)
	}
	require.Equal(t, []int32{2, 3}, mergeIDs([]int32{2}, []int32{3, 2}))
	_, err := parseGeneration([]byte(`{"eos_token_id": 5}`), 5)
	require.ErrorContains(t, err, "vocabulary of 5")
}

// FuzzGenerationConfig: whatever the file holds, its ids are in the vocabulary and its sampling is one that Check passes, or it is refused.
func FuzzGenerationConfig(f *testing.F) {
	f.Add([]byte(`{"eos_token_id":[1,2],"do_sample":true,"temperature":0.6,"top_p":0.9,"top_k":20,"min_p":0.1,"repetition_penalty":1.1}`))
	f.Add([]byte(`{"eos_token_id":null,"do_sample":true,"temperature":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := parseGeneration(raw, 100)
		if err != nil || !json.Valid(raw) {
			require.Error(t, err)
			return
		}
		for _, id := range c.EOS {
			require.True(t, id >= 0 && id < 100)
		}
		c.sampling() // of any values: Check decides
	})
}
