package report

import (
	"bytes"
	"image/png"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBars(t *testing.T) {
	for name, b := range map[string]Bars{
		"empty": {Title: "none"},
		"two":   {Groups: []string{"a", "b"}, Series: []BarSeries{{Name: "x", Values: []float64{10, 0}}, {Name: "y", Values: []float64{1e5, 3}}}},
		"plain": {Groups: []string{"a"}, Series: []BarSeries{{Name: "x", Values: []float64{2}}}},
	} {
		raw, err := b.PNG()
		require.NoError(t, err, name)
		img, err := png.Decode(bytes.NewReader(raw))
		require.NoError(t, err, name)
		require.Equal(t, PlotWidth, img.Bounds().Dx())
		again, err := b.PNG()
		require.NoError(t, err)
		require.True(t, bytes.Equal(raw, again), name)
	}
	_, err := Bars{Title: "t", Groups: []string{"a"}, Series: []BarSeries{{Name: "x"}}}.PNG()
	require.ErrorContains(t, err, `bars "t": series "x" has 0 values for 1 groups`)
}
