package ops_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestDocumentRoom: room follows what is promised, within what the rows can hold, and is not made where no list can be.
func TestDocumentRoom(t *testing.T) {
	const most = ops.MaxDocuments
	for _, c := range []struct {
		b, t           int
		bounds         ops.DocumentBounds
		slots, longest int32 // 0: no list
	}{
		{2, 300, ops.DocumentBounds{}, 4, 300},
		{2, 3000, ops.DocumentBounds{}, 20, 3000},
		{2, 300, ops.DocumentBounds{Most: 7, Longest: 100}, 8, 128},
		{1, 1, ops.DocumentBounds{Most: 7, Longest: 100}, 2, 1},
		{2, 4096, ops.DocumentBounds{Most: most * 5 / 4, Longest: math.MaxInt}, most, 4096},
		{2, 4096, ops.DocumentBounds{Most: most*5/4 + 1}, 0, 0},
		{2, 4096, ops.DocumentBounds{Most: math.MaxInt}, 0, 0},
		{most, 3, ops.DocumentBounds{}, most, 3},
		{most + 1, 3, ops.DocumentBounds{}, 0, 0},
	} {
		g := graph.New("room")
		x := g.Input("x", tensor.T(tensor.BF16, c.b, c.t, 2, 8))
		y := ops.Attend(x, x, x, ops.AttendOptions{Causal: true, DocStart: g.Input("doc", tensor.T(tensor.I32, c.b, c.t)), Bounds: c.bounds})
		require.NoError(t, g.Err(), "%+v", c)
		op, ok := y.Node().Op.(ops.Attention)
		require.True(t, ok)
		require.Equal(t, c.longest, op.Longest, "%+v", c)
		var slots int32
		for _, n := range g.Nodes() {
			if list, ok := n.Op.(ops.Documents); ok {
				slots = list.Slots
			}
		}
		require.Equal(t, c.slots, slots, "%+v", c)
	}
}
