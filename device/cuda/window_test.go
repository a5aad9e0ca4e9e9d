package cuda

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestWindowBorder: channels of 2^31-1 positions are taken, larger ones and longer reaches are refused by name. Nothing is computed.
func TestWindowBorder(t *testing.T) {
	one := ops.Window{Rank: 1, Kernel: [3]int32{1}, Stride: [3]int32{1}, Dilation: [3]int32{1}}
	two := ops.Window{Rank: 2, Kernel: [3]int32{1, 1}, Stride: [3]int32{1, 1}, Dilation: [3]int32{1, 1}}
	flat := func(n int) tensor.Type { return tensor.T(tensor.F16, 1, 1, n) }
	w, err := newWindow(one, flat(math.MaxInt32), flat(math.MaxInt32))
	require.NoError(t, err)
	require.Equal(t, [2]int32{math.MaxInt32, math.MaxInt32}, [2]int32{w.ins, w.outs})

	padded, wide := one, one
	padded.Lo[0] = 1
	wide.Kernel[0], wide.Dilation[0] = 3, 1<<30
	many := ops.Window{Rank: 3, Kernel: [3]int32{2048, 2048, 512}, Stride: [3]int32{1, 1, 1}, Dilation: [3]int32{1, 1, 1}}
	plane := tensor.T(tensor.F16, 1, 1, 1<<16, 1<<15)
	for name, c := range map[string]struct {
		w    ops.Window
		x, y tensor.Type
		text string
	}{
		"axis":    {one, flat(math.MaxInt32 + 1), flat(1), "the positions"},
		"product": {two, plane, tensor.T(tensor.F16, 1, 1, 1, 1), "the positions"},
		"results": {two, tensor.T(tensor.F16, 1, 1, 1, 1), plane, "the results"},
		"padding": {padded, flat(math.MaxInt32), flat(5), "the reach"},
		"taps":    {many, tensor.T(tensor.F16, 1, 1, 5, 5, 5), tensor.T(tensor.F16, 1, 1, 1, 1, 1), "the taps"},
		"kernel":  {wide, flat(9), flat(1), "the reach"},
	} {
		_, err := newWindow(c.w, c.x, c.y)
		require.ErrorContains(t, err, c.text, name)
		require.ErrorContains(t, err, "2147483647 at most", name)
	}

	_, _, _, err = channelSizes(flat(math.MaxInt32+1), flat(1))
	require.ErrorContains(t, err, "positions are of 32 bits")
	channels, ins, outs, err := channelSizes(tensor.T(tensor.F16, 1<<14, 1<<14, math.MaxInt32), tensor.T(tensor.F16, 1<<14, 1<<14, 7))
	require.NoError(t, err)
	require.Equal(t, int64(1)<<28, channels)
	require.Equal(t, [2]int32{math.MaxInt32, 7}, [2]int32{ins, outs})

	_, err = buildMaxPool(testDevice(t), ops.MaxPoolOp{Window: two}, device.Spec{In: []tensor.Type{plane}, Out: []tensor.Type{plane, plane}})
	require.ErrorContains(t, err, "max_pool: the positions")
	_, err = buildConv(testDevice(t), "conv", two, 1, device.Spec{Out: []tensor.Type{plane}}, [3]tensor.Type{plane, tensor.T(tensor.F16, 1, 1, 1, 1), plane})
	require.ErrorContains(t, err, "conv: the positions")
}
