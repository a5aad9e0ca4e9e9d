package plan_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
)

// checkLifetimes: lifetimes add up to the report, and those held at once do not overlap in the arena.
func checkLifetimes(t require.TestingT, p *plan.Plan) {
	r := p.Report()
	lives := p.Lifetimes()
	var fixed int64
	held := make([]int64, r.Launches+2)
	for i, l := range lives {
		require.LessOrEqual(t, l.Birth, l.End)
		if !l.InArena() {
			fixed += l.Bytes
			continue
		}
		require.LessOrEqual(t, l.Offset+l.Bytes, r.Arena)
		for at := l.Birth; at <= l.End; at++ {
			held[at+1] += l.Bytes
		}
		for _, m := range lives[:i] {
			if m.InArena() && m.Birth <= l.End && l.Birth <= m.End && m.Bytes > 0 && l.Bytes > 0 {
				require.False(t, m.Offset < l.Offset+l.Bytes && l.Offset < m.Offset+m.Bytes, "%v and %v overlap", m.Node, l.Node)
			}
		}
	}
	most := int64(0)
	for _, h := range held {
		most = max(most, h)
	}
	require.Equal(t, r.Live, most)
	require.Equal(t, r.Peak(), fixed+r.Arena)
}

func TestLifetimes(t *testing.T) {
	p, _ := sgd(t, cpu.New(cpu.Options{Threads: 1}))
	checkLifetimes(t, p)
	seen := map[plan.Holding]int{}
	for _, l := range p.Lifetimes() {
		seen[l.Holding]++
		switch {
		case l.Holding == plan.HoldsVar:
			require.Equal(t, "w", l.Var.Name)
		case l.Holding == plan.HoldsSaved:
			require.Equal(t, graph.Forward, l.Node.Phase())
			require.NotEqual(t, graph.Forward, p.Launches()[l.End].Phase)
		}
	}
	for _, h := range []plan.Holding{plan.HoldsVar, plan.HoldsInput, plan.HoldsSaved, plan.HoldsTemporary} {
		require.Positive(t, seen[h], "%v", h)
	}
}

// TestLifetimesOfRandomGraphs holds for plans of any shape.
func TestLifetimesOfRandomGraphs(t *testing.T) {
	dev := cpu.New(cpu.Options{Threads: 1})
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		p, err := plan.Compile(w.outs, plan.Options{Device: dev})
		require.NoError(t, err)
		checkLifetimes(t, p)
		require.NoError(t, p.Close())
	})
}
