package profile

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// TextOptions say how much a text shows. The zero value shows everything.
type TextOptions struct {
	Depth   int  // of scopes; 0: all
	Merge   bool // put layers that differ in their number alone together
	Kernels int  // rows of the table of kernels; 0: all
	Shapes  int  // rows of the table of kernels by operation and shapes; 0: all
	Tensors int  // rows of the tensors at the peak; 0: all
}

// Brief are the options of a text for a terminal.
var Brief = TextOptions{Depth: 5, Merge: true, Kernels: 20, Shapes: 12, Tensors: 10}

// Width is the number of columns that no line of a text exceeds.
const Width = 120

// WriteText prints the result for people, in lines of at most Width columns.
func (r *Result) WriteText(w io.Writer, o TextOptions) error {
	t := &text{}
	if r.Title != "" {
		t.line("profile of %s", r.Title)
	}
	t.line("device   %s", r.Device.Name)
	if r.Steps.Count > 0 {
		r.writeSummary(t)
		r.writeKernels(t, o)
		r.writeScopes(t, o)
		r.writeShapes(t, o)
	}
	r.Memory.writeText(t, o)
	_, err := io.WriteString(w, t.b.String())
	return err
}

// text collects lines.
type text struct{ b strings.Builder }

func (t *text) line(format string, args ...any) {
	s := []rune(fmt.Sprintf(format, args...))
	if len(s) > Width {
		s = append(s[:Width-1], '…')
	}
	t.b.WriteString(strings.TrimRight(string(s), " ") + "\n")
}

// list prints items after a heading, on as many lines as they need.
func (t *text) list(heading string, items ...string) {
	row := fmt.Sprintf("%-9s", heading)
	for i, item := range items {
		if i+1 < len(items) {
			item += ", "
		}
		if len([]rune(row+item)) > Width && strings.TrimSpace(row) != "" {
			t.line("%s", row)
			row = strings.Repeat(" ", 9)
		}
		row += item
	}
	t.line("%s", row)
}

func (r *Result) writeSummary(t *text) {
	if l := r.Limits; l != nil && len(l.Memory) > 0 {
		s := fmt.Sprintf("%.0f GFLOP/s f32", l.Flops["f32"]/1e9)
		if f := l.Flops["i8"]; f > 0 {
			s += fmt.Sprintf(", %.0f GOP/s int8", f/1e9)
		}
		most := l.Memory[len(l.Memory)-1]
		t.line("limits   %s; memory %.1f GB/s read, %.1f GB/s copied; measured just before", s, most.Read/1e9, most.Copy/1e9)
	}
	all := total(r.Launches)
	runs := 0.0
	for _, p := range r.Plans {
		runs += p.Runs
	}
	s := r.Steps.Seconds
	t.line("steps    %d after %d to warm up, %s each (%s to %s)", r.Steps.Count, r.Steps.Warmup, seconds(r.Time.Step), seconds(slices.Min(s)),
		seconds(slices.Max(s)))
	t.line("a step   %s launches in %s runs of plans; %s, %s read and written", number(all.Calls), number(runs), flops(all.Flops),
		report.Bytes(int64(all.Bytes)))
	share := func(name string, x float64) string {
		return fmt.Sprintf("%s %s (%.1f%%)", name, seconds(x), 100*ratio(x, r.Time.Step))
	}
	t.list("time", share("kernels", r.Time.Kernels), share("between launches", r.Time.Gaps), share("inputs of plans", r.Time.Feed),
		share("outputs", r.Time.Fetch), share("around plans", r.Time.Outside))
	if r.Time.Busy > 0 {
		t.line("threads  %.0f%% of %d busy within kernels", 100*r.Time.Busy, r.Device.Threads)
	}
	if !r.Steps.Exact {
		t.line("         the device has no timer: each launch was waited for, which adds to its time")
	}
}

func total(ls []Launch) (w Work) {
	for i := range ls {
		w.add(ls[i].Work)
	}
	return w
}

func (r *Result) writeKernels(t *text, o TextOptions) {
	t.line("")
	t.line("%-40s %7s %9s %9s %6s %9s %8s %9s %6s", "kernel", "calls", "total", "mean", "share", "GFLOP/s", "GB/s", "of limit", "busy")
	row := func(name string, w Work) {
		busy := ""
		if w.Threads > 0 {
			busy = fmt.Sprintf("%.0f%%", 100*ratio(w.Threads, w.Seconds*float64(r.Device.Threads)))
		}
		t.line("%-40s %7s %9s %9s %5.1f%% %9s %8s %9s %6s", short(name, 40), number(w.Calls), seconds(w.Seconds), seconds(ratio(w.Seconds, w.Calls)),
			100*ratio(w.Seconds, r.Time.Step), rate(w.Flops, w.Seconds, ""), rate(w.Bytes, w.Seconds, estimateMark(w)), limit(w), busy)
	}
	var rest, all Work
	n := 0
	for i, k := range r.Kernels {
		all.add(k.Work)
		if o.Kernels == 0 || i < o.Kernels {
			row(k.Name, k.Work)
			continue
		}
		rest.add(k.Work)
		n++
	}
	if n > 0 {
		row(fmt.Sprintf("%d more kernels", n), rest)
	}
	row("all kernels", all)
	outside := r.Time.Step - r.Time.Kernels
	t.line("%-40s %7s %9s %9s %5.1f%%", "outside kernels", "", seconds(outside), "", 100*ratio(outside, r.Time.Step))
	t.line("")
	t.line("of limit: the time that the work takes at the device's limits, as a share of its time; a for arithmetic, m for memory,")
	t.line("whichever limits more of it. ~: bytes of the operands, where an operation does not tell its work.")
}

// writeShapes tells the launches of a kernel apart by what they compute.
func (r *Result) writeShapes(t *text, o TextOptions) {
	t.line("")
	t.line("%9s %6s %7s %9s %9s %8s %9s  %s", "total", "share", "calls", "mean", "GFLOP/s", "GB/s", "of limit", "operation and types")
	for i, k := range grouped(r.Launches, func(l *Launch) string { return l.Op + " " + l.Types }) {
		if o.Shapes > 0 && i == o.Shapes {
			break
		}
		t.line("%9s %5.1f%% %7s %9s %9s %8s %9s  %s", seconds(k.Seconds), 100*ratio(k.Seconds, r.Time.Step), number(k.Calls),
			seconds(ratio(k.Seconds, k.Calls)), rate(k.Flops, k.Seconds, ""), rate(k.Bytes, k.Seconds, estimateMark(k.Work)), limit(k.Work), k.Name)
	}
}

// estimateMark marks figures that are mostly estimated.
func estimateMark(w Work) string {
	if w.Estimated > w.Seconds/2 {
		return "~"
	}
	return ""
}

func limit(w Work) string {
	if w.Least == 0 {
		return ""
	}
	by := "m"
	if w.Arithmetic > w.Least/2 {
		by = "a"
	}
	return fmt.Sprintf("%.0f%% %s", 100*w.OfLimit(), by)
}

func (r *Result) writeScopes(t *text, o TextOptions) {
	tree := r.Scopes
	if o.Merge {
		tree = tree.Merged()
	}
	var phases []string
	for _, ph := range graph.Phases {
		if tree.Phases[ph.String()] > 0 {
			phases = append(phases, ph.String())
		}
	}
	t.line("")
	head := fmt.Sprintf("%-44s %7s %9s %6s %9s", "scope", "calls", "total", "share", "self")
	for _, ph := range phases {
		head += fmt.Sprintf(" %9s", ph)
	}
	t.line("%s", head)
	var walk func(s *Scope, depth int)
	walk = func(s *Scope, depth int) {
		row := fmt.Sprintf("%-44s %7s %9s %5.1f%% %9s", short(strings.Repeat("  ", depth)+s.Name, 44), number(s.Total.Calls), seconds(s.Total.Seconds),
			100*ratio(s.Total.Seconds, r.Time.Step), seconds(s.Self.Seconds))
		for _, ph := range phases {
			row += fmt.Sprintf(" %9s", seconds(s.Phases[ph]))
		}
		t.line("%s", row)
		if o.Depth > 0 && depth >= o.Depth {
			return
		}
		for _, p := range s.Parts {
			walk(p, depth+1)
		}
	}
	walk(tree, 0)
}

func (m *Memory) writeText(t *text, o TextOptions) {
	t.line("")
	var parts []string
	for _, a := range m.Fixed {
		parts = append(parts, string(a.Category)+" "+report.Bytes(a.Bytes))
	}
	parts = append(parts, "arena "+report.Bytes(m.Arena))
	t.line("memory   %s allocated:", report.Bytes(m.Bytes))
	t.list("", parts...)
	if m.Host > 0 {
		t.line("         and %s of host memory for paged variables", report.Bytes(m.Host))
	}
	if m.Peak == nil {
		return
	}
	pk, parts := m.Peak, nil
	for _, a := range pk.Amounts {
		if a.Category.arena() {
			parts = append(parts, string(a.Category)+" "+report.Bytes(a.Bytes))
		}
	}
	t.line("fullest  %s of the arena at launch %d of %s: %s, %s", report.Bytes(pk.Live), pk.Launch, m.Plans[pk.Plan].Name,
		cmp.Or(pk.Kernel, "no kernel"), cmp.Or(pk.Scope, noScope))
	t.list("", parts...)
	t.line("")
	t.line("%-40s %10s  %-17s  %s", "largest tensors alive then", "bytes", "category", "scope, source line")
	var rest int64
	for i, x := range pk.Tensors {
		if o.Tensors > 0 && i >= o.Tensors {
			rest += x.Bytes
			continue
		}
		where := strings.TrimPrefix(x.Scope+", "+x.Pos, ", ")
		t.line("%-40s %10s  %-17s  %s", short(strings.TrimSpace(x.Type+" "+x.Name), 40), report.Bytes(x.Bytes), x.Category, strings.TrimSuffix(where, ", "))
	}
	if rest > 0 {
		t.line("%-40s %10s", fmt.Sprintf("%d more", len(pk.Tensors)-o.Tensors), report.Bytes(rest))
	}
}

// short cuts a text to a number of columns.
func short(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}

// seconds prints a time with three figures.
func seconds(s float64) string {
	switch {
	case s == 0:
		return "0"
	case s >= 9.995:
		return fmt.Sprintf("%.1f s", s)
	case s >= 0.9995:
		return fmt.Sprintf("%.2f s", s)
	case s >= 0.9995e-3:
		return figures(s*1e3) + " ms"
	case s >= 0.9995e-6:
		return figures(s*1e6) + " µs"
	}
	return figures(s*1e9) + " ns"
}

// figures prints a number below 1000 with three figures.
func figures(x float64) string {
	switch {
	case x < 9.995:
		return fmt.Sprintf("%.2f", x)
	case x < 99.95:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.0f", x)
}

// number prints a mean count.
func number(x float64) string {
	if x == float64(int64(x)) {
		return fmt.Sprint(int64(x))
	}
	return fmt.Sprintf("%.1f", x)
}

func flops(x float64) string { return fmt.Sprintf("%.3g GFLOP", x/1e9) }

// rate prints billions a second, "-" for none.
func rate(x, s float64, mark string) string {
	if x == 0 || s == 0 {
		return "-"
	}
	return mark + figures(min(x/s/1e9, 99999))
}
