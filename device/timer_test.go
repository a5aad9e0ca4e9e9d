package device_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestLimits: bandwidth is that of the smallest working set that holds the bytes, arithmetic that of the dtype or of float32.
func TestLimits(t *testing.T) {
	l := device.Limits{Flops: map[tensor.DType]float64{tensor.F32: 10, tensor.I8: 40},
		Memory: []device.Bandwidth{{Bytes: 100, Read: 9, Copy: 7}, {Bytes: 1000, Read: 4, Copy: 5}}}
	for bytes, want := range map[int64]float64{0: 9, 100: 9, 101: 5, 1000: 5, 1 << 40: 5} {
		require.InDelta(t, want, l.Rate(bytes), 0, "%d", bytes)
	}
	require.InDelta(t, 40, l.FlopRate(tensor.I8), 0)
	require.InDelta(t, 10, l.FlopRate(tensor.BF16), 0)
	require.Zero(t, device.Limits{}.Rate(1))
	require.Zero(t, device.Limits{}.FlopRate(tensor.F32))
}
