package regex

import (
	"strings"
	"testing"
	"time"

	"github.com/bitsandbyes/bitsandbyes/internal/cputime"
	"github.com/stretchr/testify/require"
)

// endless backtracks without end on texts of x.
const endless = `(x|xx)+y`

func compile(t *testing.T, expr string, o Options) *Regexp {
	t.Helper()
	r, err := Compile(expr, o)
	require.NoError(t, err)
	return r
}

// found are the bounds of the matches in s; each is called before one is kept.
func found(t *testing.T, r *Regexp, s string, each func()) (out [][2]int) {
	t.Helper()
	require.NoError(t, r.Find(s, func(from, to int) bool {
		each()
		out = append(out, [2]int{from, to})
		return true
	}))
	return out
}

func TestFind(t *testing.T) {
	r := compile(t, `^é+|b(?!c)|$`, Options{Multiline: true, Time: time.Minute})
	require.Equal(t, [][2]int{{0, 4}, {5, 6}, {8, 8}, {9, 11}, {11, 11}}, found(t, r, "éé\xffbbc\né", func() {}))
	n := 0
	require.NoError(t, r.Find("éé", func(int, int) bool { n++; return false }))
	require.Equal(t, 1, n, "the caller has enough")
	one := compile(t, `^é+|b(?!c)`, Options{Time: time.Minute})
	for s, want := range map[string]bool{"é": true, "\né": false, "bcb": true, "": false} {
		have, err := one.Match(s)
		require.NoError(t, err)
		require.Equal(t, want, have, s)
	}
	_, err := Compile("(", Options{})
	require.Error(t, err)
}

// TestEndless: an expression that backtracks without end ends in bounded time, alone and as one of several matches.
func TestEndless(t *testing.T) {
	r := compile(t, endless, Options{Time: 50 * time.Millisecond})
	used := cputime.Clock(cputime.Process) // a busy machine may take its time
	_, err := r.Match(strings.Repeat("x", 60) + "zy")
	require.ErrorIs(t, err, ErrSlow)
	n := 0
	require.ErrorIs(t, r.Find("xyxxy"+strings.Repeat("x", 60), func(int, int) bool { n++; return true }), ErrSlow)
	require.Equal(t, 2, n, "no match comes twice")
	require.Less(t, used(), time.Minute)
	_, err = compile(t, endless, Options{Time: time.Minute}).Match(strings.Repeat("x", 100_000) + "zy")
	require.ErrorIs(t, err, ErrDeep, "how far a match may go back is bounded as well")
}

// TestSlow: matches that are each quick enough take too long together, the longer the text the more.
func TestSlow(t *testing.T) {
	work := func(n *int) func(int, int) bool {
		return func(int, int) bool {
			*n++
			for used := cputime.Clock(cputime.Process); used() < time.Millisecond; {
			}
			return true
		}
	}
	few, all := 0, 0
	r := compile(t, `x[yz]?`, Options{Time: 20 * time.Millisecond})
	require.ErrorIs(t, r.Find(strings.Repeat("x", 1000), work(&few)), ErrSlow)
	require.Less(t, few, 1000)
	r = compile(t, `x[yz]?`, Options{Time: 20 * time.Millisecond, PerSecond: 5})
	require.NoError(t, r.Find(strings.Repeat("x", 300), work(&all)))
	require.Equal(t, 300, all)
}

// TestWaiting: time that passes while others compute does not end a search, and one that begins again finds every match once.
func TestWaiting(t *testing.T) {
	if _, ok := cputime.Thread(); !ok {
		t.Skip("the system does not tell the time of a thread")
	}
	const expr = `x[yz]?|\s*(?=é)|$`
	text := strings.Repeat("xy é xz ", 25)
	want := found(t, compile(t, expr, Options{Time: time.Minute}), text, func() {})
	n := 0
	have := found(t, compile(t, expr, Options{Time: time.Second}), text, func() {
		if n++; n < 12 {
			time.Sleep(100 * time.Millisecond)
		}
	})
	require.Equal(t, want, have)
}

// TestCounted: what the wall's clock ends goes on until the time on a processor is used.
func TestCounted(t *testing.T) {
	text := "xy" + strings.Repeat("x", 27) + "zxy"
	r := compile(t, endless, Options{Time: time.Hour})
	used := cputime.Clock(cputime.Process)
	want := found(t, r, text, func() {})
	require.Len(t, want, 2)
	r = compile(t, endless, Options{Time: 20*used() + time.Second})
	r.re.MatchTimeout = time.Nanosecond
	require.Equal(t, want, found(t, r, text, func() {}))
}
