package checkpoint

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestSkipPatternsEnd: patterns that backtrack without end are given up, not waited for at each module.
func TestSkipPatternsEnd(t *testing.T) {
	q := &Quantization{Skip: slices.Repeat([]string{`(?:(.)|(.))+(?:\1\2){9}`}, 20)}
	require.NoError(t, q.compile())
	for range 20 {
		require.False(t, q.Skips("model.layers.11.self_attn.mlp.gate_proj"))
	}
	require.EqualValues(t, maxSlow, q.skip.slow.Load())
	require.True(t, (&Quantization{Skip: []string{"a.*"}}).Skips("a.b"))
}
