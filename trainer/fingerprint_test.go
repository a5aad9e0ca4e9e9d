package trainer

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// TestTokenizerHash: a vocabulary that is neither JSON nor weights is part of what a resumed run must find again.
func TestTokenizerHash(t *testing.T) {
	files := func(model, template string) map[string][]byte {
		return map[string][]byte{"tokenizer.model": []byte(model), "tokenizer.json": []byte(model + template), "chat_template.jinja": []byte(template)}
	}
	require.Empty(t, tokenizerHash(map[string][]byte{"tokenizer.json": []byte("{}"), "chat_template.jinja": []byte("x")}))
	require.Equal(t, tokenizerHash(files("a", "x")), tokenizerHash(files("a", "y")), "others hash these")
	require.NotEqual(t, tokenizerHash(files("a", "x")), tokenizerHash(files("b", "x")))

	j := &job{state: runState{TokHash: tokenizerHash(files("a", "x"))}}
	require.NoError(t, j.sameRun("dir", runState{}), "of an earlier version")
	require.NoError(t, j.sameRun("dir", runState{TokHash: j.state.TokHash}))
	err := j.sameRun("dir", runState{TokHash: tokenizerHash(files("b", "x"))})
	require.ErrorContains(t, err, "tokenizer")
	require.Equal(t, config.ExitConfig, config.ExitCode(err))
}
