package ops_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/internal/cputime"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestAbsurdWindows: whatever a caller asks for, there is a value or one error, at once, and no panic.
func TestAbsurdWindows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom([]int{-1 << 40, -3, -1, 0, 1, 2, 3, 5, 1 << 20, 1<<31 - 1, 1 << 31, 1 << 40, 1<<62 - 1})
		small := rapid.IntRange(0, 4)
		list := func(name string) []int { return rapid.SliceOfN(size, 0, 4).Draw(t, name) }
		dims := func(name string) []int { return rapid.SliceOfN(small, 0, 6).Draw(t, name) }
		d := rapid.SampledFrom([]tensor.DType{tensor.F32, tensor.F16, tensor.I32, tensor.Bool})
		g := graph.New("absurd")
		x, w := g.Input("x", tensor.T(d.Draw(t, "dx"), dims("x")...)), g.Input("w", tensor.T(d.Draw(t, "dw"), dims("w")...))
		win := ops.WindowOptions{Stride: list("stride"), Dilation: list("dilation"), Pad: list("pad"), PadEnd: list("end")}
		conv := ops.ConvOptions{WindowOptions: win, Groups: size.Draw(t, "groups"), OutputPad: list("out")}
		pool := ops.PoolOptions{WindowOptions: win, Ceil: rapid.Bool().Draw(t, "ceil"), CountPad: rapid.Bool().Draw(t, "count")}
		used := cputime.Clock(cputime.Process) // a busy machine may take its time
		for _, f := range []func() graph.Value{
			func() graph.Value { return ops.Conv(x, w, conv) },
			func() graph.Value { return ops.ConvTranspose(x, w, conv) },
			func() graph.Value { return ops.MaxPool(x, list("kernel"), pool) },
			func() graph.Value { return ops.AvgPool(x, list("kernel"), pool) },
			func() graph.Value { return ops.LpPool(x, 2, list("kernel"), pool) },
			func() graph.Value { return ops.AdaptiveAvgPool(x, list("to")...) },
			func() graph.Value { return ops.AdaptiveMaxPool(x, list("to")...) },
			func() graph.Value { return ops.MaxUnpool(x, w, list("size")...) },
			func() graph.Value { return ops.LocalResponseNorm(x, size.Draw(t, "lrn"), 1, 1, 1) },
			func() graph.Value { return ops.GroupNorm(x, size.Draw(t, "gn"), w, graph.Value{}, 1e-5) },
			func() graph.Value { return ops.LpNormalize(x, 2, size.Draw(t, "axis"), 1e-12) },
		} {
			before := 0
			if g.Err() != nil {
				before = strings.Count(g.Err().Error(), "\n") + 1
			}
			y, after := f(), 0
			if g.Err() != nil {
				after = strings.Count(g.Err().Error(), "\n") + 1
			}
			if x.Valid() && w.Valid() && before < 9 {
				require.LessOrEqual(t, after, before+1, "%v", g.Err())
				require.Equal(t, after == before, y.Valid(), "%v", g.Err())
			}
		}
		require.Less(t, used(), 5*time.Second)
	})
}
