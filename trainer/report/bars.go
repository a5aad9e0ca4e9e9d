package report

import (
	"fmt"
	"image/color"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
)

// BarSeries is one bar of each group of Bars.
type BarSeries struct {
	Name   string    // in the legend
	Values []float64 // one a group; 0: no bar
}

// Bars is a picture of groups of bars that stand side by side.
type Bars struct {
	Title, YLabel string
	Groups        []string
	Series        []BarSeries
}

// PNG draws the bars, PlotWidth by PlotHeight pixels. Equal pictures give equal bytes.
func (b Bars) PNG() ([]byte, error) {
	p := plot.New()
	p.Title.Text, p.Y.Label.Text = b.Title, b.YLabel
	p.Legend.Top = true
	width := vg.Points(float64(barRoom) / float64(max(len(b.Series)*len(b.Groups), 1)))
	most := 0.0
	for i, s := range b.Series {
		if len(s.Values) != len(b.Groups) {
			return nil, fmt.Errorf("bars %q: series %q has %d values for %d groups", b.Title, s.Name, len(s.Values), len(b.Groups))
		}
		if len(s.Values) == 0 {
			continue
		}
		most = max(most, slices.Max(s.Values))
		chart, err := plotter.NewBarChart(plotter.Values(s.Values), width)
		if err != nil {
			return nil, fmt.Errorf("bars %q: %w", b.Title, err)
		}
		chart.Color, chart.LineStyle.Color = palette[i%len(palette)], color.Transparent
		chart.Offset = width * vg.Length(float64(i)-float64(len(b.Series)-1)/2)
		p.Add(chart)
		p.Legend.Add(s.Name, chart)
	}
	b.axes(p, most)
	return render(p)
}

// barRoom is the width of all bars together, in points.
const barRoom = 320

// axes names the groups. There is room for the legend above the highest bar.
func (b Bars) axes(p *plot.Plot, most float64) {
	if len(b.Groups) > 0 {
		p.NominalX(b.Groups...)
		p.X.Tick.Label.Rotation, p.X.Tick.Label.XAlign, p.X.Tick.Label.YAlign = 0.35, text.XRight, text.YCenter
	}
	p.X.Min, p.X.Max = -0.5, max(float64(len(b.Groups)), 1)-0.5
	p.Y.Min, p.Y.Max = 0, 1
	if most > 0 {
		p.Y.Max = most * 1.2
	}
}

// Write replaces the file at path by the picture.
func (b Bars) Write(path string) error {
	data, err := b.PNG()
	if err != nil {
		return err
	}
	return WriteFile(path, data)
}
