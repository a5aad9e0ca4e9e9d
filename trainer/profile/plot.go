package profile

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	align "gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"

	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// Size of the picture: that of the other plots of a run, and how much of it the legend takes.
const (
	plotDPI     = 96
	legendShare = 0.27
	maxColumns  = 800
)

// shades are the colours of the categories: greys and browns of what stays, then those of what comes and goes, told apart by the
// colour-blind too (after Okabe & Ito 2008).
var shades = map[Category]color.RGBA{
	Weights: {120, 120, 120, 255}, Parameters: {0, 114, 178, 255}, Gradients: {213, 94, 0, 255}, States: {150, 110, 40, 255},
	OtherVars: {170, 170, 190, 255}, Constants: {90, 70, 90, 255}, Inputs: {240, 228, 66, 255}, Saved: {0, 158, 115, 255},
	Temporaries: {86, 180, 233, 255}, Scratch: {204, 121, 167, 255}, Free: {232, 232, 232, 255},
}

// column is a stretch of the step with the bytes of each category.
type column struct {
	from, to float64
	held     map[Category]int64
	live     int64
}

// columns are the stretches of the step, by time in milliseconds or, in a dry profile, by launch.
func (m *Memory) columns() (out []column, timed bool) {
	x := 0.0
	for _, r := range m.Runs {
		pm := &m.Plans[r.Plan]
		timed = len(r.Start) == pm.Launches+1
		for i := range pm.Launches {
			c := column{from: x, to: x + 1, held: map[Category]int64{}, live: pm.live(i)}
			if timed {
				c.from, c.to = 1e3*r.Start[i], 1e3*r.Start[i+1]
			}
			for cat, held := range pm.Held {
				c.held[cat] = held[i+1]
			}
			x = c.to
			out = append(out, c)
		}
	}
	return out, timed
}

// thin keeps of neighbouring columns the one with the most in it, until there are few enough to draw.
func thin(cs []column) []column {
	if len(cs) <= maxColumns {
		return cs
	}
	out := make([]column, 0, maxColumns)
	for k := range maxColumns {
		part := cs[len(cs)*k/maxColumns : len(cs)*(k+1)/maxColumns]
		best := part[0]
		for _, c := range part {
			if c.live > best.live {
				best = c
			}
		}
		best.from, best.to = part[0].from, part[len(part)-1].to
		out = append(out, best)
	}
	return out
}

// PNG draws the memory of the step: what is held at each moment, by category.
func (m *Memory) PNG() ([]byte, error) {
	all, timed := m.columns()
	cs := thin(all)
	p := plot.New()
	p.Title.Text = "memory of a step"
	if m.Title != "" {
		p.Title.Text += ": " + m.Title
	}
	p.X.Label.Text = "launch"
	if timed {
		p.X.Label.Text = "time in the step, ms"
	}
	unit, name := unitOf(m.Bytes)
	p.Y.Label.Text = name
	p.Y.Min, p.Y.Max = 0, 1.05*float64(m.Bytes)/unit
	if len(cs) == 0 {
		cs = []column{{to: 1}}
	}
	p.X.Min, p.X.Max = 0, cs[len(cs)-1].to
	p.X.Tick.Marker, p.Y.Tick.Marker = roundTicks{}, roundTicks{}
	legend := plot.NewLegend()
	legend.Top, legend.YPosition, legend.Padding = true, 0, vg.Points(3)
	legend.TextStyle.Font.Size = vg.Points(10)
	if err := m.stack(p, &legend, cs, unit); err != nil {
		return nil, fmt.Errorf("memory plot: %w", err)
	}
	if err := m.markPeak(p, all, unit); err != nil {
		return nil, fmt.Errorf("memory plot: %w", err)
	}
	return renderWith(p, &legend)
}

// roundTicks labels five to ten round values.
type roundTicks struct{}

// Ticks implements plot.Ticker.
func (roundTicks) Ticks(low, high float64) (out []plot.Tick) {
	if !(high > low) {
		return nil
	}
	each := math.Pow(10, math.Floor(math.Log10(high-low)))
	for _, f := range []float64{0.1, 0.2, 0.5, 1} {
		if (high-low)/(f*each) <= 10 {
			each *= f
			break
		}
	}
	for k := math.Ceil(low / each); k*each <= high; k++ {
		out = append(out, plot.Tick{Value: k * each, Label: strconv.FormatFloat(k*each, 'g', 6, 64)})
	}
	return out
}

// unitOf is the largest binary unit of which there are at least two.
func unitOf(n int64) (float64, string) {
	unit, name := 1.0, "B"
	for _, next := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if float64(n) < 2*1024*unit {
			break
		}
		unit, name = unit*1024, next
	}
	return unit, name
}

// stack adds an area a category, from the bottom.
func (m *Memory) stack(p *plot.Plot, legend *plot.Legend, cs []column, unit float64) error {
	base := make([]float64, len(cs))
	fixed := map[Category]int64{}
	for _, a := range m.Fixed {
		fixed[a.Category] = a.Bytes
	}
	type entry struct {
		text  string
		thumb plot.Thumbnailer
	}
	var entries []entry
	for _, c := range Categories {
		most := int64(0)
		top := make([]float64, len(cs))
		for i := range cs {
			n := fixed[c]
			switch {
			case c == Free:
				n = m.Arena - cs[i].live
			case c.arena():
				n = cs[i].held[c]
			}
			most = max(most, n)
			top[i] = base[i] + float64(n)
		}
		if most == 0 {
			continue
		}
		area, err := areaBetween(cs, base, top, unit, shades[c])
		if err != nil {
			return err
		}
		p.Add(area)
		entries = append(entries, entry{c.label(most), area})
		base = top
	}
	for i := len(entries) - 1; i >= 0; i-- { // as they are stacked
		legend.Add(entries[i].text, entries[i].thumb)
	}
	return nil
}

// label is the entry of a category in the legend.
func (c Category) label(most int64) string {
	switch {
	case c == Free:
		return string(c)
	case c.arena():
		return string(c) + ", at most " + report.Bytes(most)
	}
	return string(c) + ", " + report.Bytes(most)
}

// areaBetween is the area between two lines of steps.
func areaBetween(cs []column, low, high []float64, unit float64, c color.Color) (*plotter.Polygon, error) {
	points := make(plotter.XYs, 0, 4*len(cs))
	for i := range cs {
		points = append(points, plotter.XY{X: cs[i].from, Y: high[i] / unit}, plotter.XY{X: cs[i].to, Y: high[i] / unit})
	}
	for i := len(cs) - 1; i >= 0; i-- {
		points = append(points, plotter.XY{X: cs[i].to, Y: low[i] / unit}, plotter.XY{X: cs[i].from, Y: low[i] / unit})
	}
	area, err := plotter.NewPolygon(points)
	if err != nil {
		return nil, err
	}
	area.Color, area.LineStyle.Width = c, 0
	return area, nil
}

// markPeak draws a line at the fullest moment and one at what is allocated.
func (m *Memory) markPeak(p *plot.Plot, cs []column, unit float64) error {
	if m.Peak == nil || len(cs) == 0 {
		return nil
	}
	best := cs[0]
	for _, c := range cs {
		if c.live > best.live {
			best = c
		}
	}
	x := (best.from + best.to) / 2
	top := float64(m.Peak.Bytes) / unit
	line, err := plotter.NewLine(plotter.XYs{{X: x, Y: 0}, {X: x, Y: top}})
	if err != nil {
		return err
	}
	line.Dashes, line.Width = []vg.Length{vg.Points(4), vg.Points(3)}, vg.Points(1)
	label, err := plotter.NewLabels(plotter.XYLabels{XYs: plotter.XYs{{X: x, Y: top}}, Labels: []string{"peak " + report.Bytes(m.Peak.Bytes)}})
	if err != nil {
		return err
	}
	label.TextStyle[0].Font.Size = vg.Points(10)
	label.Offset = vg.Point{X: vg.Points(4), Y: vg.Points(3)}
	if x > (p.X.Min+p.X.Max)/2 {
		label.TextStyle[0].XAlign, label.Offset.X = align.XRight, vg.Points(-4)
	}
	p.Add(line, label)
	return nil
}

// renderWith draws the plot with the legend at its right.
func renderWith(p *plot.Plot, legend *plot.Legend) ([]byte, error) {
	toLength := func(pixels int) vg.Length { return vg.Length(pixels) * vg.Inch / plotDPI }
	width, height := toLength(report.PlotWidth), toLength(report.PlotHeight)
	canvas := vgimg.NewWith(vgimg.UseWH(width, height), vgimg.UseDPI(plotDPI))
	whole := draw.New(canvas)
	side := width * legendShare
	p.Draw(draw.Crop(whole, 0, -side, 0, 0))
	legend.Left = true
	legend.Draw(draw.Crop(whole, width-side+vg.Points(8), 0, 0, -vg.Points(30)))
	var out bytes.Buffer
	if _, err := (vgimg.PngCanvas{Canvas: canvas}).WriteTo(&out); err != nil {
		return nil, fmt.Errorf("memory plot: %w", err)
	}
	return out.Bytes(), nil
}
