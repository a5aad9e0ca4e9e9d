package report

import (
	"bytes"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func TestProgressPlain(t *testing.T) {
	var out bytes.Buffer
	c := &clock{time.Unix(0, 0)}
	p := NewProgress(&out, ProgressOptions{Total: 100, Now: c.now})
	for step := int64(1); step <= 100; step++ {
		c.at = c.at.Add(time.Second)
		r := row(step)
		r.Seconds = 1
		if step == 55 {
			v := 1.5
			r.EvalLoss = &v
		}
		p.Step(r)
		if step == 3 {
			p.Printf("note %d", 1)
		}
	}
	p.Done()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Equal(t, "step 1/100  loss 2.5000  lr 2.00e-04  1.24k tok/s  8.00 GiB  ETA 1m39s", lines[0])
	require.Equal(t, "note 1", lines[1])
	require.Contains(t, out.String(), "step 55/100  loss 2.5000  eval 1.5000")
	require.True(t, strings.HasPrefix(lines[len(lines)-1], "step 100/100"))
	require.NotContains(t, lines[len(lines)-1], "ETA")
	require.Len(t, lines, 22, "each twentieth, the first step and a note")
	require.NotContains(t, out.String(), "\r")
}

func TestProgressTerminal(t *testing.T) {
	var out bytes.Buffer
	c := &clock{time.Unix(0, 0)}
	p := NewProgress(&out, ProgressOptions{Terminal: true, Total: 1000, Now: c.now, Width: 40})
	for step := int64(1); step <= 999; step++ {
		c.at = c.at.Add(10 * time.Millisecond)
		p.Step(row(step))
	}
	redraws := strings.Count(out.String(), "\r")
	require.InDelta(t, 100, redraws, 2)
	require.NotContains(t, out.String(), "\n")
	for _, line := range strings.Split(strings.ReplaceAll(out.String(), "\x1b[K", ""), "\r") {
		require.LessOrEqual(t, len(line), 40)
	}
	out.Reset()
	p.Printf("saved")
	require.True(t, strings.HasPrefix(out.String(), "\r\x1b[Ksaved\n\rstep 999/1000"), "%q", out.String())
	p.Done()
	require.True(t, strings.HasSuffix(out.String(), "\n"))
	size := out.Len()
	NewProgress(&out, ProgressOptions{Terminal: true}).Done()
	require.Equal(t, size, out.Len())
}

func TestProgressOddNumbers(t *testing.T) {
	var out bytes.Buffer
	p := NewProgress(&out, ProgressOptions{})
	p.Step(Row{Step: 1, Loss: math.NaN(), TokensPerSec: math.Inf(1), Seconds: math.Inf(1)})
	require.Equal(t, "step 1  loss NaN  lr 0.00e+00\n", out.String())
}

func TestIsTerminal(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "x")
	require.NoError(t, err)
	require.False(t, IsTerminal(f))
	require.NoError(t, f.Close())
	require.False(t, IsTerminal(f))
}

func TestFormats(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1536: "1.50 KiB", 1 << 20: "1.00 MiB", 17066620191: "15.9 GiB", math.MaxInt64: "8.00 EiB", math.MinInt64: "-8.00 EiB", 1 << 62: "4.00 EiB", 1023 << 10: "1.00 MiB"} {
		require.Equal(t, want, Bytes(n))
	}
	for n, want := range map[int64]string{0: "0", 999: "999", 1234: "1.23k", 8030261248: "8.03B", 999999: "1.00M", -5000: "-5.00k", 12345: "12.3k"} {
		require.Equal(t, want, Count(n))
	}
	for d, want := range map[time.Duration]string{
		0: "0ms", 850 * time.Millisecond: "850ms", 999900 * time.Microsecond: "1.0s", 4200 * time.Millisecond: "4.2s", 59990 * time.Millisecond: "1m00s",
		185 * time.Second: "3m05s", 127 * time.Minute: "2h07m", 76 * time.Hour: "3d04h", -time.Second: "-1.0s", math.MinInt64: "-106751d23h",
	} {
		require.Equal(t, want, Duration(d))
	}
}

// TestBar: a bar fills what is left of the line, and is left out where there is no room.
func TestBar(t *testing.T) {
	require.Equal(t, "[#####-----]  50% ", bar(50, 100, 18))
	require.Equal(t, "[----------]   0% ", bar(0, 100, 18))
	require.Equal(t, "["+strings.Repeat("#", 24)+"] 100% ", bar(7, 7, 200))
	require.Empty(t, bar(50, 100, 13))
	require.Empty(t, bar(50, 0, 80))
	var out bytes.Buffer
	p := NewProgress(&out, ProgressOptions{Terminal: true, Total: 100, Width: 110, Now: (&clock{time.Unix(0, 0)}).now})
	r := row(1)
	r.MFU = 0.61
	p.Step(r)
	require.Regexp(t, `^\r\[-+\]   1% step 1/100  loss 2\.5000 .*MFU 61%.*ETA`, out.String())
}
