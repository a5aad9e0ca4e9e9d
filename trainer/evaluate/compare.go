package evaluate

import (
	"context"
	"fmt"
	"math"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/trainer"
)

// Comparison is what an adapter changes, measured on the same rows.
type Comparison struct {
	Adapter     string       `json:"adapter"`
	With        *Result      `json:"with"`
	Base        *Result      `json:"base"`
	Differences []Difference `json:"differences"`
}

// Difference is what one figure changed by. Rows are compared one by one, which tells much smaller differences from chance than the standard
// errors of two figures do.
type Difference struct {
	Metric     string  `json:"metric"`
	With       float64 `json:"with"`
	Base       float64 `json:"base"`
	Difference float64 `json:"difference"`
	StdErr     float64 `json:"stderr"` // of the difference; 0 with fewer than two units
	Units      int     `json:"units"`  // what was compared in pairs: questions, conversations, windows
}

// Compare measures the adapter in use and then the model without it.
func Compare(ctx context.Context, w *trainer.Writer, o Options) (*Comparison, error) {
	c := &Comparison{Adapter: w.Using()}
	if c.Adapter == trainer.NoAdapter {
		return nil, badOption("compare-base", "there is no adapter to compare with the model; give one with --adapter")
	}
	var err error
	if c.With, err = Run(ctx, w, o); err != nil {
		return nil, err
	}
	if err := w.Use(trainer.NoAdapter); err != nil {
		return nil, err
	}
	if c.Base, err = Run(ctx, w, o); err != nil {
		return nil, err
	}
	with, base := c.With.figures(), c.Base.figures()
	for i, f := range with {
		d := Difference{Metric: f.metric, Units: len(f.units)}
		d.With, _ = ratio(f.units)
		d.Base, _ = ratio(base[i].units)
		pairs := make([]unit, len(f.units))
		for j, u := range f.units {
			pairs[j] = unit{u.sum - base[i].units[j].sum, u.n}
		}
		d.Difference, d.StdErr = ratio(pairs)
		c.Differences = append(c.Differences, d)
	}
	return c, w.Use(c.Adapter)
}

// Text prints both results and what lies between them.
func (c *Comparison) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "adapter %s\n%sbase\n%sdifference\n", c.Adapter, c.With.Text(), c.Base.Text())
	for _, d := range c.Differences {
		fmt.Fprintf(&b, "%-22s %+.6f%s  (%.6f, base %.6f; pairs: %d)\n", d.Metric, d.Difference, doubt(d.StdErr, d.Units), d.With, d.Base, d.Units)
	}
	return b.String()
}

// unit is a part of what was measured that is independent of the others: a sum over n things.
type unit struct{ sum, n float64 }

// figure is a mean and the units it is of.
type figure struct {
	metric string
	units  []unit
}

// ratio is the mean of all things, and its standard error where the units, not the things in them, are independent (the estimator of a ratio;
// Cochran 1977, section 6.4). With one thing a unit it is that of a mean.
func ratio(units []unit) (mean, stderr float64) {
	var sum, n, squares float64
	for _, u := range units {
		sum, n = sum+u.sum, n+u.n
	}
	mean = sum / n
	for _, u := range units {
		d := u.sum - mean*u.n
		squares += d * d
	}
	if m := float64(len(units)); m > 1 {
		stderr = math.Sqrt(squares*m/(m-1)) / n
	}
	return mean, stderr
}

// figures are the result's, in one order.
func (r *Result) figures() (out []figure) {
	if p := r.Perplexity; p != nil {
		out = append(out, figure{"text nll", p.units})
	}
	if c := r.Conversations; c != nil {
		out = append(out, figure{"messages nll", c.units()})
	}
	if c := r.Choices; c != nil {
		plain, norm := make([]unit, len(c.Rows)), make([]unit, len(c.Rows))
		for i, row := range c.Rows {
			plain[i], norm[i] = share(row.Picked == row.Right), share(row.PickedNorm == row.Right)
		}
		out = append(out, figure{"choices accuracy", plain}, figure{"choices accuracy_norm", norm})
	}
	if e := r.Exact; e != nil {
		units := make([]unit, len(e.Rows))
		for i, row := range e.Rows {
			units[i] = share(row.Right)
		}
		out = append(out, figure{"exact accuracy", units})
	}
	return out
}

func share(yes bool) unit {
	if yes {
		return unit{1, 1}
	}
	return unit{0, 1}
}

func (c *Conversations) units() []unit {
	out := make([]unit, len(c.Rows))
	for i, row := range c.Rows {
		out[i] = unit{row.NLL * float64(row.Tokens), float64(row.Tokens)}
	}
	return out
}
