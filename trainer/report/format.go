package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Bytes prints a size with three figures in binary units: "512 B", "1.50 KiB", "15.9 GiB".
func Bytes(n int64) string {
	if n > -1024 && n < 1024 {
		return strconv.FormatInt(n, 10) + " B"
	}
	return scaled(float64(n), 1024, []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}, " ")
}

// Count prints a count with three figures: "999", "1.23k", "8.03B" (k, M, B, T are powers of a thousand).
func Count(n int64) string {
	if n > -1000 && n < 1000 {
		return strconv.FormatInt(n, 10)
	}
	return scaled(float64(n), 1000, []string{"", "k", "M", "B", "T", "Qa", "Qi"}, "")
}

// Duration prints a duration in its two largest units: "850ms", "4.2s", "3m05s", "2h07m", "3d04h".
func Duration(d time.Duration) string {
	if d < 0 {
		return "-" + Duration(-max(d, -math.MaxInt64))
	}
	whole := func(d, unit time.Duration) int64 { return int64(d / unit) }
	const day = 24 * time.Hour
	switch {
	case d < 999500*time.Microsecond:
		return strconv.FormatInt(int64(d.Round(time.Millisecond)/time.Millisecond), 10) + "ms"
	case d < 59950*time.Millisecond:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + "s"
	}
	d = d.Round(time.Second)
	switch {
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", whole(d, time.Minute), whole(d%time.Minute, time.Second))
	case d < day:
		return fmt.Sprintf("%dh%02dm", whole(d, time.Hour), whole(d%time.Hour, time.Minute))
	}
	return fmt.Sprintf("%dd%02dh", whole(d, day), whole(d%day, time.Hour))
}

// scaled divides v by base until three figures stand before the point at most.
func scaled(v, base float64, units []string, gap string) string {
	unit := 0
	// 999.5 would print as a fourth figure.
	for math.Abs(v) >= min(base, 999.5) && unit < len(units)-1 {
		v /= base
		unit++
	}
	digits := 0
	switch a := math.Abs(v); {
	case a < 9.995:
		digits = 2
	case a < 99.95:
		digits = 1
	}
	text := strconv.FormatFloat(v, 'f', digits, 64)
	return strings.TrimSpace(text + gap + units[unit])
}
