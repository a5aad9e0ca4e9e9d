package trainer

import (
	"math"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// TestSpikes: noise is none, a jump is one, and too few values say nothing.
func TestSpikes(t *testing.T) {
	var s spikes
	for i := range 300 {
		require.Less(t, s.add(2+0.1*math.Sin(float64(i)*1.7)), 3.0)
	}
	require.Greater(t, s.add(3), 6.0)
	require.Len(t, s.last, spikeWindow)
	var short spikes
	require.Zero(t, short.add(1))
	require.Zero(t, short.add(1000))
	var flat spikes
	for range 50 {
		require.Zero(t, flat.add(1))
	}
	require.Less(t, flat.add(1.0001), 1.0, "rounding is no spike")
}

// TestRecallSpikes: a resumed run knows the steps before it.
func TestRecallSpikes(t *testing.T) {
	var whole, resumed job
	resumed.cfg.Out = t.TempDir()
	m, err := report.CreateMetrics(filepath.Join(resumed.cfg.Out, "metrics.jsonl"))
	require.NoError(t, err)
	for i := range 3 * spikeWindow {
		r := report.Row{Step: int64(i + 1), Loss: 2 + 0.1*math.Sin(float64(i)*1.7), GradNorm: float64(i%7) + 1}
		if i%5 == 0 {
			r.GradNorm = math.NaN()
		}
		require.NoError(t, m.Append(r))
		whole.noteSpikes(r.Loss, r.GradNorm)
	}
	require.NoError(t, m.Close())
	require.NoError(t, resumed.recallSpikes())
	require.Empty(t, resumed.losses.last, "a run that begins has none")
	resumed.state.Step = 3 * spikeWindow
	require.NoError(t, resumed.recallSpikes())
	require.Equal(t, whole.losses, resumed.losses)
	require.Equal(t, whole.norms, resumed.norms)
}
