package jinja

import (
	"fmt"
	"strings"
	"time"
)

// strftimeForms are the directives of Python's strftime whose meaning is a layout of Go's.
var strftimeForms = map[byte]string{
	'a': "Mon", 'A': "Monday", 'd': "02", 'b': "Jan", 'h': "Jan", 'B': "January", 'm': "01", 'y': "06", 'Y': "2006", 'H': "15",
	'I': "03", 'p': "PM", 'M': "04", 'S': "05", 'z': "", 'Z': "", 'j': "002", 'c': "Mon Jan _2 15:04:05 2006", 'x': "01/02/06",
	'X': "15:04:05", 'D': "01/02/06", 'F': "2006-01-02", 'T': "15:04:05", 'R': "15:04", 'e': "_2", 'r': "03:04:05 PM",
}

// strftime formats t in the C locale, as datetime.now() without a zone: %z and %Z are empty.
func strftime(t time.Time, format string) (Value, error) {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		c, plain := format[i], false
		if c == '-' && i+1 < len(format) {
			i++
			c, plain = format[i], true
		}
		s, err := directive(t, c)
		if err != nil {
			return nil, err
		}
		if plain {
			if s = strings.TrimLeft(s, "0 "); s == "" {
				s = "0"
			}
		}
		b.WriteString(s)
	}
	return String(b.String()), nil
}

func directive(t time.Time, c byte) (string, error) {
	if layout, ok := strftimeForms[c]; ok {
		if layout == "" {
			return "", nil
		}
		return t.Format(layout), nil
	}
	year, week := t.ISOWeek()
	switch c {
	case '%':
		return "%", nil
	case 'n':
		return "\n", nil
	case 't':
		return "\t", nil
	case 'f':
		return fmt.Sprintf("%06d", t.Nanosecond()/1000), nil
	case 'k':
		return fmt.Sprintf("%2d", t.Hour()), nil
	case 'l':
		return fmt.Sprintf("%2d", (t.Hour()+11)%12+1), nil
	case 's':
		return fmt.Sprint(t.Unix()), nil
	case 'C':
		return fmt.Sprintf("%02d", t.Year()/100), nil
	case 'u':
		return fmt.Sprint((int(t.Weekday())+6)%7 + 1), nil
	case 'w':
		return fmt.Sprint(int(t.Weekday())), nil
	case 'G':
		return fmt.Sprint(year), nil
	case 'V':
		return fmt.Sprintf("%02d", week), nil
	case 'U':
		return fmt.Sprintf("%02d", (t.YearDay()+6-int(t.Weekday()))/7), nil
	case 'W':
		return fmt.Sprintf("%02d", (t.YearDay()+6-(int(t.Weekday())+6)%7)/7), nil
	}
	return "", faultf("strftime_now knows no directive %%%c", c)
}
