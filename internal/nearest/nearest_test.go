package nearest

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOf(t *testing.T) {
	names := []string{"user", "assistant", "tool"}
	for got, want := range map[string]string{"asistant": "assistant", "Assistant": "assistant", "assitsant": "assistant", "usr": "user", "narrator": "", "": ""} {
		require.Equal(t, want, Of(got, names, 2), got)
	}
	require.Equal(t, "tool", Of("took", []string{"cook book", "tool", "took it"}, 3))
	require.Equal(t, 1, Distance("ab", "ba"))
	require.Equal(t, 3, Distance("", "abc"))
}
