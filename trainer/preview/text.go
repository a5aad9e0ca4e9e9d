package preview

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// TextOptions say how a report is printed.
type TextOptions struct {
	Colour bool // trained tokens green, others dim; else trained tokens stand between ⟦ and ⟧
}

const (
	green = "\x1b[32m"
	dim   = "\x1b[2m"
	bold  = "\x1b[1m"
	red   = "\x1b[31m"
	plain = "\x1b[0m"
)

// barWidth is the length of the longest bar of the histogram.
const barWidth = 40

// WriteText prints the report for people: the rows first, so that the summary stands above the prompt.
func (r *Report) WriteText(w io.Writer, o TextOptions) error {
	p := &printer{colour: o.Colour}
	for i := range r.Shown {
		p.row(&r.Shown[i])
	}
	p.summary(r)
	if r.Documents > 0 {
		p.lengths(r)
	}
	for _, b := range r.BadRows {
		p.line(red, fmt.Sprintf("%s:%d: %s", b.File, b.Line, Visible(b.Reason)))
	}
	if more := r.Bad - len(r.BadRows); more > 0 {
		p.line(red, fmt.Sprintf("... and %d more rows that cannot be used", more))
	}
	for _, q := range r.Problems {
		p.line(bold, "! "+Visible(q.What))
		p.line("", "  "+Visible(q.Remedy))
	}
	switch {
	case r.Trained == 0:
		p.line(red, "nothing is left to train on")
	case r.Bad > 0:
		p.line(red, "training would stop at the rows above")
	}
	_, err := io.WriteString(w, p.b.String())
	return err
}

type printer struct {
	b      strings.Builder
	colour bool
}

func (p *printer) line(style, text string) {
	if p.colour && style != "" {
		text = style + text + plain
	}
	p.b.WriteString(text + "\n")
}

// row prints the text of an example with its trained parts marked.
func (p *printer) row(r *Row) {
	side := ""
	if r.Side != "" {
		side = ", " + r.Side
	}
	p.line(bold, fmt.Sprintf("row %d%s (%s): %d tokens, %d trained", r.Number, side, Visible(r.Source), len(r.Tokens), r.Trained))
	for i := 0; i < len(r.Tokens); {
		trained := r.Tokens[i].Trained
		var text strings.Builder
		for ; i < len(r.Tokens) && r.Tokens[i].Trained == trained; i++ {
			text.WriteString(r.Tokens[i].Text)
		}
		p.span(Visible(text.String()), trained)
	}
	p.b.WriteString("\n\n")
}

func (p *printer) span(text string, trained bool) {
	switch {
	case p.colour && trained:
		p.b.WriteString(green + text + plain)
	case p.colour:
		p.b.WriteString(dim + text + plain)
	case trained:
		p.b.WriteString("⟦" + text + "⟧")
	default:
		p.b.WriteString(text)
	}
}

func (p *printer) summary(r *Report) {
	w := tabwriter.NewWriter(&p.b, 0, 0, 2, ' ', 0)
	put := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	for _, f := range r.Inputs {
		weight := ""
		if f.Weight != 1 {
			weight = fmt.Sprintf(", weight %v", f.Weight)
		}
		put("file", "%s: %d rows, %s (%s)%s", Visible(f.Path), f.Rows, f.Format, Visible(f.Why), weight)
	}
	if r.Template != "" {
		put("chat template", "%s", Visible(r.Template))
	}
	if r.Pairs > 0 {
		put("pairs", "%d, %d held out; %d answers", r.Pairs, r.HeldOut, r.Documents)
	} else {
		put("examples", "%d, %d held out", r.Documents, r.HeldOut)
	}
	put("tokens", "%s, %s trained (%.1f%%)", report.Count(r.Tokens), report.Count(r.Trained), 100*r.Share)
	if r.Documents > 0 {
		put("length", "from %d to %d, %.1f on average; data.seq_len %d", r.MinLen, r.MaxLen, r.MeanLen, r.SeqLen)
	}
	if r.PackedRows > 0 {
		how := "an example each, padded"
		switch {
		case r.Packed:
			how = "packed"
		case r.Pairs > 0:
			how = "a pair each, padded"
		}
		put("rows of an epoch", "%s, %s; %.1f%% of their positions hold a token, %.1f%% are trained", report.Count(int64(r.PackedRows)), how, 100*r.Efficiency, 100*r.TrainedSpace)
	}
	put("cut, left out", "%d lost their end, %d all trained tokens, %d were empty", r.Truncated, r.Dropped, r.Empty)
	put("zero labels, equal", "%d without a token to train on, %d equal an earlier one", r.ZeroLabel, r.Duplicates)
	put("read in", "%.2f s", r.Seconds)
	_ = w.Flush() // a strings.Builder never fails
}

// lengths is the histogram.
func (p *printer) lengths(r *Report) {
	most := 1
	for _, b := range r.Lengths {
		most = max(most, b.Count)
	}
	for _, b := range r.Lengths {
		if b.Count > 0 {
			fmt.Fprintf(&p.b, "  ≤ %6d tokens %8d %s\n", b.UpTo, b.Count, strings.Repeat("▆", max(b.Count*barWidth/most, 1)))
		}
	}
}

// Visible keeps text of strangers, or of their models, from steering the terminal: control characters and marks of direction are shown, not sent.
func Visible(s string) string {
	bad := func(c rune) bool {
		return c != '\n' && c != '\t' && (unicode.IsControl(c) || unicode.Is(unicode.Cf, c) && c != '\u200d' || c == '\u2028' || c == '\u2029')
	}
	if !strings.ContainsFunc(s, bad) {
		return s
	}
	var b strings.Builder
	for _, c := range s {
		switch {
		case !bad(c):
			b.WriteRune(c)
		case c < 0x100:
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			fmt.Fprintf(&b, `\u%04x`, c)
		}
	}
	return b.String()
}
