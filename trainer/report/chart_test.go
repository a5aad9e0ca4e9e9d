package report

import (
	"bytes"
	"image/png"
	"math"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestChart(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	for name, c := range map[string]Chart{
		"empty":     {Title: "none"},
		"lines":     {Series: []Series{{Name: "a", X: []float64{1, 2, 3}, Y: []float64{1, nan, 2}}, {Name: "b", X: []float64{1}, Y: []float64{4}}}},
		"log":       {LogX: true, LogY: true, Series: []Series{{X: []float64{0, 1, 10}, Y: []float64{1, -1, 3}}}},
		"nothing":   {LogY: true, Series: []Series{{X: []float64{1, 2}, Y: []float64{0, inf}}}},
		"labels":    {Series: []Series{{Dots: true, X: []float64{1, nan}, Y: []float64{2, 3}, Labels: []string{"nf4", "lost"}}}},
		"many":      {Series: make([]Series, 20)},
		"one value": {LogX: true, Series: []Series{{X: []float64{5}, Y: []float64{5}}}},
	} {
		a, err := c.PNG()
		require.NoError(t, err, name)
		img, err := png.Decode(bytes.NewReader(a))
		require.NoError(t, err, name)
		require.Equal(t, PlotWidth, img.Bounds().Dx())
		require.Equal(t, PlotHeight, img.Bounds().Dy())
		b, err := c.PNG()
		require.NoError(t, err)
		require.True(t, bytes.Equal(a, b), "%s: equal charts give equal bytes", name)
	}
}

func TestChartErrors(t *testing.T) {
	_, err := Chart{Title: "t", Series: []Series{{Name: "s", X: []float64{1}}}}.PNG()
	require.ErrorContains(t, err, `chart "t": series "s" has 1 x, 0 y`)
	_, err = Chart{Series: []Series{{X: []float64{1}, Y: []float64{1}, Labels: []string{}}}}.PNG()
	require.Error(t, err)
	require.Error(t, Chart{}.Write(filepath.Join(t.TempDir(), "no", "such", "folder.png")))
}
