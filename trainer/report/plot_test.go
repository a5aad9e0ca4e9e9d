package report

import (
	"bytes"
	"image/png"
	"math"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLossPlot(t *testing.T) {
	long := make([]Row, 5000)
	for i := range long {
		long[i] = row(int64(i + 1))
		long[i].Loss = 2 + math.Exp(-float64(i)/500) + 0.1*math.Sin(float64(i))
		if i%1000 == 999 {
			v := long[i].Loss + 0.1
			long[i].EvalLoss = &v
		}
	}
	same := []Row{row(1), row(2), row(3), row(4)}
	bad := row(2)
	bad.Loss = math.NaN()
	huge := row(3)
	huge.Loss = math.Inf(1)
	for name, rows := range map[string][]Row{
		"none": nil, "one": {row(1)}, "two": {row(1), row(2)}, "constant": same, "not finite": {bad, huge}, "long": long, "repeated": {row(1), row(1)},
	} {
		t.Run(name, func(t *testing.T) {
			data, err := LossPlot("run", rows)
			require.NoError(t, err)
			img, err := png.Decode(bytes.NewReader(data))
			require.NoError(t, err)
			require.Equal(t, PlotWidth, img.Bounds().Dx())
			require.Equal(t, PlotHeight, img.Bounds().Dy())
			again, err := LossPlot("run", rows)
			require.NoError(t, err)
			require.True(t, bytes.Equal(data, again))
		})
	}
	require.NoError(t, WriteLossPlot(filepath.Join(t.TempDir(), "loss.png"), "run", long))
}

func TestSmoothAndThin(t *testing.T) {
	loss, eval := curves([]Row{row(1), row(2), row(3)})
	require.Empty(t, eval)
	for _, p := range smooth(loss) {
		require.InDelta(t, 2.5, p.Y, 1e-12)
	}
	require.Nil(t, smooth(loss[:2]))
	many := make([]Row, 2*maxPoints+1)
	for i := range many {
		many[i] = row(int64(i))
	}
	loss, _ = curves(many)
	thinned := thin(loss)
	require.LessOrEqual(t, len(thinned), maxPoints)
	require.Equal(t, 1.0, thinned[0].X)
}
