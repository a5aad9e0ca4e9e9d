package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/internal/isa"
	"github.com/bitsandbyes/bitsandbyes/internal/probe"
)

// passes is how often the rows are timed: before the peers and after them.
const passes = 2

// rounds of a figure in one pass.
const rounds = 5

// figure is one row on a number of threads.
type figure struct {
	row     row
	threads int
	seconds float64
	failed  error
	limit   float64 // in the row's unit, 0: none
	peers   []peerTime
}

// table is what was measured.
type table struct {
	machine string
	probes  []probe.Result
	figures []*figure
	notes   []string // versions of peers, rows that they lack
}

// measureTable times every wanted row on every number of threads.
func measureTable(ctx context.Context, o options, log io.Writer) (*table, error) {
	t := &table{machine: machine()}
	for _, n := range o.threads {
		figures, err := t.measure(ctx, o, n, log)
		if err != nil {
			return nil, err
		}
		t.figures = append(t.figures, figures...)
	}
	return t, nil
}

func (t *table) measure(ctx context.Context, o options, threads int, log io.Writer) ([]*figure, error) {
	var figures []*figure
	for _, r := range rows() {
		if o.wanted(r.name) && (!r.one || threads == 1) {
			figures = append(figures, &figure{row: r, threads: threads, seconds: math.Inf(1)})
		}
	}
	var limits probe.Result
	for pass := range passes {
		p, err := probe.Measure(ctx, probe.Options{Threads: threads})
		if err != nil {
			return nil, err
		}
		limits = larger(limits, p)
		fmt.Fprintf(log, "%d threads, pass %d of %d: %.0f GFLOP/s f32, %.1f GB/s read, %.1f GB/s copied\n", threads, pass+1, passes, p.FMA/1e9,
			p.Largest().Read/1e9, p.Largest().Copy/1e9)
		if err := timeAll(ctx, o, figures, threads, log); err != nil {
			return nil, err
		}
		if pass == 0 {
			t.runPeers(ctx, o, figures, threads, log)
		}
	}
	t.probes = append(t.probes, limits)
	for _, f := range figures {
		f.limit = limitOf(f.row.bound, limits)
	}
	return figures, nil
}

// timeAll times each row once and keeps the better figure. A row without its data fails alone.
func timeAll(ctx context.Context, o options, figures []*figure, threads int, log io.Writer) error {
	for _, f := range figures {
		took, err := timeRow(ctx, f.row, threads, wallClock(), rounds, o.share(passes*rounds))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			f.failed = err
			fmt.Fprintf(log, "  %s: %v\n", f.row.name, err)
			continue
		}
		f.seconds = min(f.seconds, took.Seconds())
		fmt.Fprintf(log, "  %-24s %s\n", f.row.name, f.row.value(took.Seconds()))
	}
	return nil
}

// wallClock tells the time that passes.
func wallClock() func() time.Duration {
	began := time.Now()
	return func() time.Duration { return time.Since(began) }
}

func timeRow(ctx context.Context, r row, threads int, now func() time.Duration, rounds int, each time.Duration) (took time.Duration, err error) {
	dev := cpu.New(cpu.Options{Threads: threads})
	defer func() { err = errors.Join(err, dev.Close()) }()
	b, err := r.open(dev)
	if err != nil {
		return 0, err
	}
	defer func() {
		err = errors.Join(err, b.close())
		runtime.GC() // the next row's operands would else lie beside this one's
	}()
	return b.best(ctx, now, rounds, each)
}

// larger joins two probes of the same machine: other programs only ever lower a figure.
func larger(a, b probe.Result) probe.Result {
	if a.Threads == 0 {
		return b
	}
	a.FMA, a.Dot8, a.DotBF16 = max(a.FMA, b.FMA), max(a.Dot8, b.Dot8), max(a.DotBF16, b.DotBF16)
	for i := range a.Memory {
		a.Memory[i].Read, a.Memory[i].Copy = max(a.Memory[i].Read, b.Memory[i].Read), max(a.Memory[i].Copy, b.Memory[i].Copy)
	}
	return a
}

// limitOf is what the machine can do at most, in 1e9 a second.
func limitOf(b bound, p probe.Result) float64 {
	switch b {
	case peakF32:
		return p.FMA / 1e9
	case peakBF16: // without instructions of their own bfloat16 are multiplied as float32
		if p.DotBF16 > 0 {
			return p.DotBF16 / 1e9
		}
		return p.FMA / 1e9
	case peakInt8:
		return p.Dot8 / 1e9
	case readBandwidth:
		return p.Largest().Read / 1e9
	case copyBandwidth:
		return p.Largest().Copy / 1e9
	}
	return 0
}

// value prints seconds a call in the row's unit.
func (r row) value(seconds float64) string {
	if r.unit == "ms" {
		return fmt.Sprintf("%.3g ms", seconds*1e3)
	}
	v := r.scale / seconds
	if v >= 100 {
		return fmt.Sprintf("%.0f %s", v, r.unit)
	}
	return fmt.Sprintf("%.3g %s", v, r.unit)
}

// cells are the columns of a figure.
func (f *figure) cells() []string {
	if math.IsInf(f.seconds, 1) {
		return []string{f.row.label, fmt.Sprint(f.threads), "not measured", "", "", ""}
	}
	share := ""
	if f.limit > 0 {
		share = fmt.Sprintf("%.0f%%", 100*f.row.scale/f.seconds/f.limit)
	}
	var theirs, ratios []string
	for _, p := range f.peers {
		theirs = append(theirs, f.row.value(p.seconds)+" "+p.peer)
		ratios = append(ratios, fmt.Sprintf("%.2f", p.seconds/f.seconds))
	}
	return []string{f.row.label, fmt.Sprint(f.threads), f.row.value(f.seconds), share, strings.Join(theirs, "; "), strings.Join(ratios, "; ")}
}

var columns = []string{"work", "threads", "here", "of the limit", "peer", "times as fast"}

// print writes the table for a terminal.
func (t *table) print(w io.Writer) {
	t.head(w)
	lines := [][]string{columns}
	for _, f := range t.figures {
		lines = append(lines, f.cells())
	}
	width := make([]int, len(columns))
	for _, l := range lines {
		for i, c := range l {
			width[i] = max(width[i], len([]rune(c)))
		}
	}
	for _, l := range lines {
		var b strings.Builder
		for i, c := range l {
			b.WriteString(c + strings.Repeat(" ", width[i]-len([]rune(c))+2))
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
	t.foot(w)
}

// markdown writes it as a table of Markdown.
func (t *table) markdown(w io.Writer) {
	t.head(w)
	fmt.Fprintf(w, "\n| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for _, f := range t.figures {
		fmt.Fprintf(w, "| %s |\n", strings.Join(f.cells(), " | "))
	}
	t.foot(w)
}

func (t *table) head(w io.Writer) {
	fmt.Fprintln(w, t.machine)
	for _, p := range t.probes {
		fmt.Fprintf(w, "Limits, %d threads: %.0f GFLOP/s f32, %.0f GOP/s int8, %.1f GB/s read, %.1f GB/s copied (read and written).\n", p.Threads, p.FMA/1e9,
			p.Dot8/1e9, p.Largest().Read/1e9, p.Largest().Copy/1e9)
	}
}

func (t *table) foot(w io.Writer) {
	for _, n := range t.notes {
		fmt.Fprintln(w, "\n"+n)
	}
}

func machine() string {
	dev := cpu.New(cpu.Options{Threads: 1})
	defer func() { _ = dev.Close() }()
	name, _, _ := strings.Cut(dev.Info().Name, ",")
	return fmt.Sprintf("%s, %d processors, kernels %s; %s, %s/%s.", name, runtime.NumCPU(), isa.String(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// dataDir is the folder of reference data: BYES_TESTDATA, or shared/data beside the repository.
func dataDir() (string, error) {
	dir := os.Getenv("BYES_TESTDATA")
	if dir == "" {
		dir = filepath.Join("..", "shared", "data")
	}
	if _, err := os.Stat(dir); err != nil {
		return "", errors.Join(errNoData, err)
	}
	return dir, nil
}
