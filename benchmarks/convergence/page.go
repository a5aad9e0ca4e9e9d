package main

import (
	"bytes"
	"fmt"
	"math"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// page is the Markdown of one experiment.
type page struct {
	name, title, dir string
	text             bytes.Buffer
}

// say adds a paragraph; the first call adds the title before it.
func (p *page) say(format string, args ...any) {
	if p.text.Len() == 0 {
		fmt.Fprintf(&p.text, "# %s\n\n", p.title)
	}
	fmt.Fprintf(&p.text, format+"\n\n", args...)
}

// table adds rows under a head.
func (p *page) table(head []string, rows [][]string) {
	line := func(cells []string) { fmt.Fprintf(&p.text, "| %s |\n", strings.Join(cells, " | ")) }
	line(head)
	line(slices.Repeat([]string{"---"}, len(head)))
	for _, r := range rows {
		line(r)
	}
	p.text.WriteByte('\n')
}

// picture draws a chart beside the page and shows it.
func (p *page) picture(name string, c report.Chart) error {
	file := p.name + "-" + name + ".png"
	fmt.Fprintf(&p.text, "![%s](%s)\n\n", c.Title, file)
	return c.Write(filepath.Join(p.dir, file))
}

// foot says how the page was made.
func (p *page) foot(dev device.Device, e *env) {
	size := ""
	if e.quick {
		size = " -quick"
	}
	p.say("---\n\nMade by `go run ./benchmarks/convergence -only %s%s` on %s, %s, %s.", p.name, size, dev.Info().Name, runtime.Version(),
		runtime.GOOS+"/"+runtime.GOARCH)
}

// stats are the mean and the sample standard deviation; the deviation of fewer than two values is 0.
func stats(v []float64) (mean, dev float64) {
	for _, x := range v {
		mean += x / float64(len(v))
	}
	if len(v) < 2 {
		return mean, 0
	}
	for _, x := range v {
		dev += (x - mean) * (x - mean) / float64(len(v)-1)
	}
	return mean, math.Sqrt(dev)
}

// plusMinus prints mean ± deviation.
func plusMinus(v []float64, digits int) string {
	mean, dev := stats(v)
	return fmt.Sprintf("%.*f ± %.*f", digits, mean, digits, dev)
}

// meanCurve averages curves of equal length, smoothed over neighbours.
func meanCurve(name string, curves [][]float64) report.Series {
	s := report.Series{Name: name}
	n := len(curves[0])
	for _, c := range curves {
		n = min(n, len(c))
	}
	const window = 8
	for i := window; i < n; i += window / 2 {
		sum := 0.0
		for _, c := range curves {
			for _, v := range c[i-window : i] {
				sum += v / float64(window*len(curves))
			}
		}
		s.X, s.Y = append(s.X, float64(i)), append(s.Y, sum)
	}
	return s
}
