package report

import (
	"bytes"
	"fmt"
	"image/color"
	"image/png"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

// Size of the loss plot in pixels, and the number of points above which neighbours are averaged.
const (
	PlotWidth  = 1200
	PlotHeight = 675
	plotDPI    = 96
	maxPoints  = 2000
)

// LossPlot draws the training loss, the loss smoothed, and the evaluation points against the step, as a PNG of PlotWidth by
// PlotHeight pixels. Equal rows give equal bytes. Losses that are not finite are left out; no rows give empty axes.
func LossPlot(title string, rows []Row) ([]byte, error) {
	loss, eval := curves(rows)
	p := plot.New()
	p.Title.Text = title
	p.X.Label.Text = "step"
	p.Y.Label.Text = "loss"
	p.Legend.Top = true
	p.Add(plotter.NewGrid())
	light, strong, mark := color.RGBA{R: 158, G: 188, B: 218, A: 255}, color.RGBA{R: 31, G: 91, B: 160, A: 255}, color.RGBA{R: 214, G: 84, B: 20, A: 255}
	for _, c := range []struct {
		name   string
		points plotter.XYs
		color  color.Color
		width  vg.Length
		dots   bool
	}{
		{"loss", thin(loss), light, 1, len(loss) == 1},
		{"loss, smoothed", thin(smooth(loss)), strong, 2, false},
		{"eval loss", eval, mark, 1.5, true},
	} {
		if err := addCurve(p, c.name, c.points, c.color, c.width, c.dots); err != nil {
			return nil, fmt.Errorf("loss plot: %w", err)
		}
	}
	if len(loss)+len(eval) == 0 {
		p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = 0, 1, 0, 1
	}
	return render(p)
}

// WriteLossPlot replaces the file at path by the plot.
func WriteLossPlot(path, title string, rows []Row) error {
	data, err := LossPlot(title, rows)
	if err != nil {
		return err
	}
	if err := WriteFile(path, data); err != nil {
		return fmt.Errorf("loss plot: %w", err)
	}
	return nil
}

func addCurve(p *plot.Plot, name string, points plotter.XYs, c color.Color, width vg.Length, dots bool) error {
	if len(points) == 0 {
		return nil
	}
	line, err := plotter.NewLine(points)
	if err != nil {
		return err
	}
	line.Color, line.Width = c, width
	thumbs := []plot.Thumbnailer{line}
	p.Add(line)
	if dots {
		scatter, err := plotter.NewScatter(points)
		if err != nil {
			return err
		}
		scatter.GlyphStyle = draw.GlyphStyle{Color: c, Radius: vg.Points(3), Shape: draw.CircleGlyph{}}
		p.Add(scatter)
		thumbs = append(thumbs, scatter)
	}
	p.Legend.Add(name, thumbs...)
	return nil
}

func render(p *plot.Plot) ([]byte, error) {
	toLength := func(pixels int) vg.Length { return vg.Length(pixels) * vg.Inch / plotDPI }
	canvas := vgimg.NewWith(vgimg.UseWH(toLength(PlotWidth), toLength(PlotHeight)), vgimg.UseDPI(plotDPI))
	p.Draw(draw.New(canvas))
	var out bytes.Buffer
	quick := png.Encoder{CompressionLevel: png.BestSpeed} // a fifth of the time of the usual level and 2% more bytes: most of a plot is white
	if err := quick.Encode(&out, canvas.Image()); err != nil {
		return nil, fmt.Errorf("loss plot: %w", err)
	}
	return out.Bytes(), nil
}

// curves picks the finite points of rows. Losses are bounded so that axis arithmetic stays finite.
func curves(rows []Row) (loss, eval plotter.XYs) {
	finite := func(v float64) bool { return math.Abs(v) <= largestShown }
	for _, r := range rows {
		if finite(r.Loss) {
			loss = append(loss, plotter.XY{X: float64(r.Step), Y: r.Loss})
		}
		if r.EvalLoss != nil && finite(*r.EvalLoss) {
			eval = append(eval, plotter.XY{X: float64(r.Step), Y: *r.EvalLoss})
		}
	}
	return loss, eval
}

// smooth is an exponential mean over about a fiftieth of the run, corrected for its start as in Adam. Fewer than three
// points have no trend to show.
func smooth(points plotter.XYs) plotter.XYs {
	if len(points) < 3 {
		return nil
	}
	decay := 1 - 1/math.Max(5, float64(len(points))/50)
	out := make(plotter.XYs, len(points))
	var mean float64
	weight := 1.0
	for i, p := range points {
		mean = decay*mean + (1-decay)*p.Y
		weight *= decay
		out[i] = plotter.XY{X: p.X, Y: mean / (1 - weight)}
	}
	return out
}

// thin averages runs of neighbours until at most maxPoints remain.
func thin(points plotter.XYs) plotter.XYs {
	group := (len(points) + maxPoints - 1) / maxPoints
	if group <= 1 {
		return points
	}
	var out plotter.XYs
	for at := 0; at < len(points); at += group {
		part := points[at:min(at+group, len(points))]
		var sum plotter.XY
		for _, p := range part {
			sum.X += p.X / float64(len(part))
			sum.Y += p.Y / float64(len(part))
		}
		out = append(out, sum)
	}
	return out
}
