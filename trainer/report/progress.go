package report

import (
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Redraw limits of the two displays.
const (
	redrawEvery = 100 * time.Millisecond
	plainEvery  = 10 * time.Second
	lineWidth   = 79
	etaWindow   = 50 // steps over which the time of a step is averaged
	plainLines  = 20 // least number of plain lines of a run, however short
)

// IsTerminal reports whether f is a character device, as a terminal is and a file or a pipe is not.
func IsTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// ProgressOptions configure a Progress. The zero value prints plain lines every ten seconds.
type ProgressOptions struct {
	Terminal bool             // redraw one line in place
	Total    int64            // steps of the run, 0 when unknown
	Width    int              // columns of the live line, 0 = those of the terminal, 79 where it does not tell
	Every    time.Duration    // between plain lines, 0 = 10 s
	Now      func() time.Time // nil = time.Now
}

// Progress shows how a run goes: on a terminal one line redrawn in place at most ten times a second, else a line now and
// then, and one for each twentieth of the run, the first step, the last and each evaluation. It may be used from several goroutines. Errors of the output
// are ignored: a closed terminal does not stop a run.
type Progress struct {
	mu      sync.Mutex
	out     io.Writer
	o       ProgressOptions
	last    time.Time // when something was shown
	shown   bool      // a live line stands on the terminal
	pending *Row      // newest row, not shown yet
	seconds float64   // mean time of a step
	steps   int64
	peak    int64
}

// NewProgress returns a display that writes to out.
func NewProgress(out io.Writer, o ProgressOptions) *Progress {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Every <= 0 {
		o.Every = plainEvery
	}
	return &Progress{out: out, o: o}
}

// Step shows a finished step.
func (p *Progress) Step(r Row) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.steps++
	if r.Seconds >= 0 && !math.IsInf(r.Seconds, 0) {
		p.seconds += (r.Seconds - p.seconds) / float64(min(p.steps, etaWindow))
	}
	p.peak = max(p.peak, r.MemoryBytes)
	p.pending = &r
	every, now := p.o.Every, p.o.Now()
	if p.o.Terminal {
		every = redrawEvery
	}
	notable := p.steps == 1 || r.Step == p.o.Total || !p.o.Terminal && (r.EvalLoss != nil || p.entersPart(r.Step))
	if notable || now.Sub(p.last) >= every {
		p.show(now)
	}
}

// entersPart reports whether a twentieth of the run ends with a step.
func (p *Progress) entersPart(step int64) bool {
	part := func(s int64) int64 { return s / max(p.o.Total/plainLines, 1) }
	return p.o.Total > 0 && part(step) != part(step-1)
}

// Printf prints a line of its own above the live line.
func (p *Progress) Printf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	fmt.Fprintln(p.out, strings.TrimRight(fmt.Sprintf(format, args...), "\n"))
	if p.o.Terminal && p.pending != nil {
		p.show(p.o.Now())
	}
}

// Done shows the last step, if it was not yet shown, and ends the live line.
func (p *Progress) Done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pending != nil {
		p.show(p.o.Now())
	}
	if p.shown {
		fmt.Fprintln(p.out)
		p.shown = false
	}
}

func (p *Progress) show(now time.Time) {
	text := p.text(*p.pending)
	p.last = now
	if !p.o.Terminal {
		fmt.Fprintln(p.out, text)
		p.pending = nil
		return
	}
	width := p.width()
	text = bar(p.pending.Step, p.o.Total, width-utf8.RuneCountInString(text)) + text
	if n := utf8.RuneCountInString(text); n > width {
		text = string([]rune(text)[:width])
	}
	// Carriage return, text, erase to the end of the line: one write, so that nothing flickers.
	fmt.Fprint(p.out, "\r"+text+"\x1b[K")
	p.shown = true
}

// width is that of the live line; a terminal may change its size at any time.
func (p *Progress) width() int {
	if p.o.Width > 0 {
		return p.o.Width
	}
	if f, ok := p.out.(*os.File); ok {
		if n := terminalWidth(f) - 1; n > 0 { // the last column would wrap on some
			return n
		}
	}
	return lineWidth
}

// Columns of the bar itself, and what stands around it.
const (
	barMost, barLeast = 24, 6
	barFrame          = len("[]  12% ")
)

// bar is "[######------]  50% " within some columns; nothing where they are too few or the total is not known.
func bar(step, total int64, columns int) string {
	n := min(columns-barFrame, barMost)
	if total <= 0 || n < barLeast {
		return ""
	}
	share := float64(min(max(step, 0), total)) / float64(total)
	full := int(share * float64(n))
	return fmt.Sprintf("[%s%s] %3.0f%% ", strings.Repeat("#", full), strings.Repeat("-", n-full), math.Floor(100*share))
}

func (p *Progress) erase() {
	if p.shown {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.shown = false
	}
}

// text is "step 12/100  loss 1.2345  lr 2.00e-04  3.08k tok/s  MFU 61%  7.40 GiB  ETA 3m05s".
func (p *Progress) text(r Row) string {
	parts := []string{fmt.Sprintf("step %d", r.Step)}
	if p.o.Total > 0 {
		parts[0] += fmt.Sprintf("/%d", p.o.Total)
	}
	parts = append(parts, "loss "+lossText(r.Loss))
	if r.EvalLoss != nil {
		parts = append(parts, "eval "+lossText(*r.EvalLoss))
	}
	if margin, ok := r.More["reward_margin"]; ok {
		parts = append(parts, fmt.Sprintf("margin %.3f  right %.0f%%", margin, 100*r.More["reward_accuracy"]))
	}
	parts = append(parts, fmt.Sprintf("lr %.2e", r.LR))
	if r.TokensPerSec >= 0 && r.TokensPerSec < math.MaxInt64 {
		parts = append(parts, Count(int64(math.Round(r.TokensPerSec)))+" tok/s")
	}
	if r.MFU > 0 {
		parts = append(parts, fmt.Sprintf("MFU %.0f%%", 100*r.MFU))
	}
	if p.peak > 0 {
		parts = append(parts, Bytes(p.peak))
	}
	if left := p.o.Total - r.Step; p.o.Total > 0 && left > 0 {
		if eta := p.seconds * float64(left) * float64(time.Second); eta < math.MaxInt64 {
			parts = append(parts, "ETA "+Duration(time.Duration(eta)))
		}
	}
	return strings.Join(parts, "  ")
}

func lossText(v float64) string {
	if a := math.Abs(v); a != 0 && a < 1e-3 || a >= 1e5 {
		return fmt.Sprintf("%.3e", v)
	}
	return fmt.Sprintf("%.4f", v)
}
