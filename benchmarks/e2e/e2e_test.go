package main

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestChecks runs those that stay in the process on the processor, briefly.
func TestChecks(t *testing.T) {
	s := &suite{ctx: t.Context(), device: "cpu:threads=2", dir: t.TempDir(), steps: 6, long: 8, shape: "tiny"}
	for _, c := range checks {
		switch c.name {
		case "steady", "planned", "offload":
			text, err := c.run(s)
			require.NoError(t, err, c.name)
			require.NotEmpty(t, text)
		}
	}
}

// TestDifference: curves of other lengths are never near.
func TestDifference(t *testing.T) {
	mean, most := difference([]float64{1, 2}, []float64{1, 3})
	require.Equal(t, []float64{0.5, 1}, []float64{mean, most})
	mean, _ = difference([]float64{1}, nil)
	require.True(t, math.IsNaN(mean))
}

// TestUnknownCheck: a misspelt check is no success.
func TestUnknownCheck(t *testing.T) {
	s := &suite{ctx: t.Context(), device: "cpu"}
	require.ErrorContains(t, s.main("steady,planed", 0), `no check "planed"; there are curve, resume`)
}
