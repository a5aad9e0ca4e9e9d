package graph_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestPhase: a node has the phase that is set while it is built, else that of the node it is built on behalf of; passes keep it.
func TestPhase(t *testing.T) {
	g := graph.New("g")
	x := g.Input("x", tensor.T(tensor.F32, 2))
	leave := g.InPhase(graph.Backward)
	y := ops.Sin(x)
	inner := g.InPhase(graph.Recompute)
	z := ops.Cos(y)
	inner()
	w := ops.Tanh(z)
	leave()
	done := g.OnBehalf(z.Node())
	behalf := ops.Exp(w)
	set := g.InPhase(graph.Update)
	update := ops.Neg(behalf)
	set()
	done()
	after := ops.Abs(update)
	want := map[graph.Value]graph.Phase{x: graph.Forward, y: graph.Backward, z: graph.Recompute, w: graph.Backward, behalf: graph.Recompute,
		update: graph.Update, after: graph.Forward}
	move, again := graph.NewRewriter(g), graph.NewRewriter(g)
	for _, n := range g.Nodes() {
		require.Equal(t, want[n.Output(0)], n.Phase(), "%v", n)
		require.Equal(t, n.Phase(), move.Move(n).Phase())
		require.Equal(t, n.Phase(), again.Copy(n)[0].Node().Phase())
	}
	require.Equal(t, "recompute", graph.Recompute.String())
	require.Equal(t, "unknown", graph.Phase(9).String())
}
