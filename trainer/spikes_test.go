package trainer

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
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
