package report

import (
	"fmt"
	"image/color"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// Series is one set of points of a Chart.
type Series struct {
	Name   string // in the legend; empty: none
	X, Y   []float64
	Dots   bool     // marks without a line between them
	Labels []string // beside the points; nil: none
}

// Chart is a picture of curves and points. Points that are not finite, and on a logarithmic axis those that are not positive, are
// left out.
type Chart struct {
	Title, XLabel, YLabel string
	LogX, LogY            bool
	LegendLeft            bool // the legend stands at the left, for curves that end high
	Series                []Series
}

// palette tells eight series apart, in print and for the colour-blind (after Okabe & Ito 2008).
var palette = []color.RGBA{
	{0, 114, 178, 255}, {213, 94, 0, 255}, {0, 158, 115, 255}, {204, 121, 167, 255}, {230, 159, 0, 255}, {86, 180, 233, 255},
	{90, 90, 90, 255}, {150, 110, 40, 255},
}

// PNG draws the chart, PlotWidth by PlotHeight pixels. Equal charts give equal bytes. A chart without points has empty axes.
func (c Chart) PNG() ([]byte, error) {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = c.Title, c.XLabel, c.YLabel
	p.Legend.Top, p.Legend.Left = true, c.LegendLeft
	p.Add(plotter.NewGrid())
	shown := 0
	for i, s := range c.Series {
		if len(s.X) != len(s.Y) || (s.Labels != nil && len(s.Labels) != len(s.X)) {
			return nil, fmt.Errorf("chart %q: series %q has %d x, %d y and %d labels", c.Title, s.Name, len(s.X), len(s.Y), len(s.Labels))
		}
		points, labels := c.points(s)
		shown += len(points)
		if err := addSeries(p, s, points, labels, i); err != nil {
			return nil, fmt.Errorf("chart %q: %w", c.Title, err)
		}
	}
	if shown == 0 {
		p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = 0, 1, 0, 1
		return render(p)
	}
	c.axis(&p.X, c.LogX)
	c.axis(&p.Y, c.LogY)
	return render(p)
}

// axis makes an axis logarithmic if it is to be, and leaves room around marks and their labels. The limits of a logarithmic axis are
// positive, since other points are left out; a single value gets room.
func (c Chart) axis(a *plot.Axis, log bool) {
	room := 0.0
	for _, s := range c.Series {
		if s.Dots {
			room = 0.08
		}
	}
	if !log {
		width := a.Max - a.Min
		a.Min, a.Max = a.Min-room*width, a.Max+room*width
		return
	}
	a.Scale, a.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	ratio := math.Pow(a.Max/a.Min, room)
	if a.Min == a.Max {
		ratio = 2
	}
	a.Min, a.Max = a.Min/ratio, a.Max*ratio
}

// Write replaces the file at path by the picture.
func (c Chart) Write(path string) error {
	data, err := c.PNG()
	if err != nil {
		return err
	}
	return WriteFile(path, data)
}

// points are the points of a series that can be shown, with their labels.
func (c Chart) points(s Series) (out plotter.XYs, labels []string) {
	ok := func(v float64, log bool) bool { return math.Abs(v) <= largestShown && (!log || v > 0) }
	for i := range s.X {
		if !ok(s.X[i], c.LogX) || !ok(s.Y[i], c.LogY) {
			continue
		}
		out = append(out, plotter.XY{X: s.X[i], Y: s.Y[i]})
		if s.Labels != nil {
			labels = append(labels, s.Labels[i])
		}
	}
	return out, labels
}

// addSeries draws points in the colour and with the mark of series i.
func addSeries(p *plot.Plot, s Series, points plotter.XYs, labels []string, i int) error {
	if len(points) == 0 {
		return nil
	}
	col := palette[i%len(palette)]
	var thumbs []plot.Thumbnailer
	if !s.Dots {
		line, err := plotter.NewLine(thin(points))
		if err != nil {
			return err
		}
		line.Color, line.Width = col, vg.Points(1.5)
		if i >= len(palette) {
			line.Dashes = []vg.Length{vg.Points(4), vg.Points(2)}
		}
		p.Add(line)
		thumbs = append(thumbs, line)
	}
	if s.Dots || len(points) == 1 {
		scatter, err := plotter.NewScatter(points)
		if err != nil {
			return err
		}
		scatter.GlyphStyle = draw.GlyphStyle{Color: col, Radius: vg.Points(3.5), Shape: marks[i%len(marks)]}
		p.Add(scatter)
		thumbs = append(thumbs, scatter)
	}
	if labels != nil {
		l, err := plotter.NewLabels(plotter.XYLabels{XYs: points, Labels: labels})
		if err != nil {
			return err
		}
		l.Offset = vg.Point{X: vg.Points(6), Y: vg.Points(2)}
		p.Add(l)
	}
	if s.Name != "" {
		p.Legend.Add(s.Name, thumbs...)
	}
	return nil
}

var marks = []draw.GlyphDrawer{draw.CircleGlyph{}, draw.SquareGlyph{}, draw.TriangleGlyph{}, draw.CrossGlyph{}, draw.PlusGlyph{}}

// largestShown bounds values so that the arithmetic of axes stays finite.
const largestShown = 1e100
