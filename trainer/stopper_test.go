package trainer

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestStopper: however a text is cut into pieces, what comes out is the text before the first stop, and nothing is held longer than needed.
func TestStopper(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOfN(rapid.RuneFrom([]rune("ab")), 0, 30, -1).Draw(t, "text")
		stops := rapid.SliceOfN(rapid.StringOfN(rapid.RuneFrom([]rune("ab")), 1, 5, -1), 0, 3).Draw(t, "stops")
		want, found := text, false
		for _, s := range stops {
			if i := strings.Index(text, s); i >= 0 && i <= len(want) && (!found || i < len(want)) {
				want, found = text[:i], true
			}
		}
		s := stopper{stops: stops}
		var got string
		stopped := false
		for rest := text; rest != "" && !stopped; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "piece")
			var out string
			out, stopped = s.push(rest[:n])
			rest = rest[n:]
			got += out
		}
		got += s.flush()
		require.Equal(t, found, stopped)
		if !found {
			require.Equal(t, want, got)
		} else {
			require.True(t, strings.HasPrefix(text, got))
			for _, stop := range stops {
				require.NotContains(t, got, stop)
			}
		}
	})
	s := stopper{stops: []string{"\nUser:"}}
	out, _ := s.push("hi\nUs")
	require.Equal(t, "hi", out)
	out, _ = s.push("ual")
	require.Equal(t, "\nUsual", out)
}
