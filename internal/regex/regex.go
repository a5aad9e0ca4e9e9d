// Package regex runs regular expressions with lookahead, which the standard library's lack, that strangers wrote: how long they take is bounded. The
// bound is of time on a processor where the system tells it, because what else a machine does, and whether it is asleep meanwhile, must
// not decide what matches.
package regex

import (
	"errors"
	"runtime"
	"time"
	"unicode/utf8"

	"github.com/bitsandbyes/bitsandbyes/internal/cputime"
	"github.com/dlclark/regexp2/v2"
)

// ErrSlow says that a search used up its time, ErrDeep that one match would have to go back to too many places. Either comes of the expression and the text
// alone, unless an expression is near the limit.
var (
	ErrSlow = errors.New("it took longer than an ordinary expression ever does")
	ErrDeep = errors.New("a match goes back to too many places")
)

// Regexp is a compiled expression. Several may search with it at once.
type Regexp struct {
	expr string
	o    Options
	re   *regexp2.Regexp // ends a match after Time/hasty
}

// Options say how an expression is read and how long it may take.
type Options struct {
	Multiline bool // ^ and $ match at every line

	// All matches of a text together may take Time and, where PerSecond is set, a second for each so many bytes of the text: a hundred times what
	// an ordinary expression takes.
	Time      time.Duration
	PerSecond int
}

// A text is searched first by the clock on the wall, which costs nothing to look at, within a hasty part of its time. What takes longer begins again with the
// thread's time counted; where the system does not count it, so many times the time may pass.
const (
	hasty     = 5
	uncounted = 12
)

// longest is when waiting for a processor ends.
const longest = 1000 * time.Hour

// Compile reads an expression.
func Compile(expr string, o Options) (*Regexp, error) {
	r := &Regexp{expr: expr, o: o}
	var err error
	if r.re, err = r.compile(o.Time / hasty); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *Regexp) compile(most time.Duration) (*regexp2.Regexp, error) {
	o := regexp2.None
	if r.o.Multiline {
		o = regexp2.Multiline
	}
	re, err := regexp2.Compile(r.expr, o)
	if err == nil {
		re.MatchTimeout = most
	}
	return re, err
}

// Match reports whether the expression matches anywhere in s.
func (r *Regexp) Match(s string) (found bool, err error) {
	err = r.Find(s, func(int, int) bool {
		found = true
		return false
	})
	return found, err
}

// Find calls yield with the bounds in bytes of each match in s, in order, until it returns false. The time that yield takes counts.
func (r *Regexp) Find(s string, yield func(from, to int) bool) error {
	f := &search{text: s, runes: []rune(s), yield: yield}
	most := r.o.Time
	if r.o.PerSecond > 0 {
		most += time.Duration(len(s)) * (time.Second / time.Duration(r.o.PerSecond))
	}
	began := time.Now()
	err := f.run(r.re, func() bool { return time.Since(began) > most/hasty })
	if errors.Is(err, ErrSlow) {
		return r.counted(f, most)
	}
	return err
}

// counted runs a search with the thread's time counted.
func (r *Regexp) counted(f *search, most time.Duration) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if _, counts := cputime.Thread(); !counts {
		most *= uncounted
	}
	for wait := most + most/4; ; wait *= 2 { // the engine looks up on the wall what a single match takes
		re, err := r.compile(wait)
		if err != nil {
			return err
		}
		used := cputime.Clock(cputime.Thread)
		err = f.run(re, func() bool { return used() > most })
		if !errors.Is(err, ErrSlow) || used() > most || wait > longest {
			return err
		}
	}
}

// search is one text whose matches are sought, perhaps in several runs.
type search struct {
	text  string
	runes []rune // of text
	yield func(from, to int) bool
	seen  int // matches that yield was called with
}

// run calls yield with the matches that it was not called with yet. Whether the time is over is asked after each match: many slow ones would
// else add up without bound.
func (f *search) run(re *regexp2.Regexp, over func() bool) error {
	at, bytes, n := 0, 0, 0 // a place of the text in characters, and the same in bytes; matches so far
	step := func(to int) int {
		for ; at < to; at++ {
			_, size := utf8.DecodeRuneInString(f.text[bytes:])
			bytes += size
		}
		return bytes
	}
	slow := false
	err := re.FindRunesMatches(f.runes, 0, func(v regexp2.MatchView) bool {
		from, length, _ := v.GroupRange(0)
		lo := step(from)
		hi := step(from + length)
		if n++; n > f.seen {
			f.seen = n
			if !f.yield(lo, hi) {
				return false
			}
		}
		slow = over()
		return !slow
	})
	switch {
	case errors.Is(err, regexp2.ErrBacktrackingStackLimit):
		return ErrDeep
	case err != nil || slow: // the engine's own message for a time limit holds the whole text
		return ErrSlow
	}
	return nil
}
