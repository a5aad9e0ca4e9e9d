package main

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// TestChecks runs those that stay in the process on the processor, briefly.
func TestChecks(t *testing.T) {
	s := &suite{ctx: t.Context(), device: "cpu:threads=2", dir: t.TempDir(), rows: 4, seq: 64, steps: 6, long: 8, scaled: 24, shape: "tiny"}
	for _, c := range checks {
		switch c.name {
		case "steady", "planned", "offload", "float16":
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

// TestFollowed: a scale that does not follow its rule, or never rises, is found.
func TestFollowed(t *testing.T) {
	rows := func(steps ...float64) (out []report.Row) { // pairs of scale and gradient norm
		for i := 0; i < len(steps); i += 2 {
			out = append(out, report.Row{Step: int64(i/2 + 1), Loss: 1, GradNorm: steps[i+1], More: map[string]float64{"loss_scale": steps[i]}})
		}
		return out
	}
	inf := math.Inf(1)
	falls, rises, err := followed(rows(32, inf, 16, inf, 8, 1, 8, 1, 16, inf, 8, 1), 2)
	require.NoError(t, err)
	require.Equal(t, []int{3, 1}, []int{falls, rises})
	for says, steps := range map[string][]float64{
		"the next scale is 32, not 16": {32, inf, 32, 1},
		"the next scale is 32, not 64": {32, 1, 32, 1, 32, 1},
		"and rise once it fits":        {32, inf, 16, inf, 8, 1},
		"step 1 has the loss":          {},
	} {
		r := rows(steps...)
		if len(r) == 0 {
			r = []report.Row{{Step: 1, Loss: 1}}
		}
		_, _, err := followed(r, 2)
		require.ErrorContains(t, err, says)
	}
}

// TestUnknownCheck: a misspelt check is no success.
func TestUnknownCheck(t *testing.T) {
	s := &suite{ctx: t.Context(), device: "cpu"}
	require.ErrorContains(t, s.main("steady,planed", 0), `no check "planed"; there are curve, float16, resume`)
}
