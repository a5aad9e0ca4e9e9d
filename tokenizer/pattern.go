package tokenizer

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/bitsandbyes/bitsandbyes/internal/regex"
)

// All matches of a text together may take matchTime on a processor and a second for each so many bytes of it, a hundred times what an ordinary pattern takes.
const (
	matchTime = 5 * time.Second
	slowest   = 20_000
)

// maxGaveUp is on how many texts a pattern may run out of time; it is then refused at once, or a file of many rows would wait for each.
const maxGaveUp = 3

// maxPattern caps the length of a regular expression.
const maxPattern = 64 << 10

// pattern finds the pieces of a Split or Replace: a literal, a well-known pattern with a scanner, or a regular expression.
type pattern struct {
	literal string
	expr    string // of a regular expression or scanner
	scan    scanner
	regex   *regex.Regexp
	gaveUps atomic.Int32
}

// parsePattern reads {"String": s} or {"Regex": s}.
func parsePattern(raw json.RawMessage) (*pattern, error) {
	var kind map[string]string
	if err := json.Unmarshal(raw, &kind); err != nil || len(kind) != 1 {
		return nil, fmt.Errorf(`tokenizer: a pattern is {"String": ...} or {"Regex": ...}, not %s`, clip(raw))
	}
	if s, ok := kind["String"]; ok {
		return &pattern{literal: s}, nil
	}
	expr, ok := kind["Regex"]
	if !ok {
		return nil, unsupported("pattern", clip(raw), "String", "Regex")
	}
	return compilePattern(expr)
}

func compilePattern(expr string) (*pattern, error) {
	if scan := scannerFor(expr); scan != nil {
		return &pattern{expr: expr, scan: scan}, nil
	}
	if len(expr) > maxPattern {
		return nil, fmt.Errorf("tokenizer: a regular expression of %d bytes; the limit is %d", len(expr), maxPattern)
	}
	if what := foreign(expr); what != "" {
		return nil, fmt.Errorf("tokenizer: regular expression %q uses %s, which is %w", clip([]byte(expr)), what, ErrUnsupported)
	}
	// The files are written for Oniguruma, where ^ and $ match at every line.
	re, err := regex.Compile(expr, regex.Options{Multiline: true, Time: matchTime, PerSecond: slowest})
	if err != nil {
		return nil, fmt.Errorf("tokenizer: regular expression %q is %w: %.200w", clip([]byte(expr)), ErrUnsupported, err)
	}
	return &pattern{expr: expr, regex: re}, nil
}

// An escape, whole; and intervals that Oniguruma reads in its own way: {n,m}+ repeats the interval, {n}? makes it optional, {,m} begins at 0.
var (
	escaped          = regexp.MustCompile(`^\\(?:[pP]\{[^}]*\}|(?s:.)?)`)
	repeatedInterval = regexp.MustCompile(`^\{[0-9]*,?[0-9]*\}\+`)
	optionalInterval = regexp.MustCompile(`^\{[0-9]+\}\?`)
	openInterval     = regexp.MustCompile(`^\{,[0-9]+\}`)
)

// foreign names the first construct that Oniguruma and our engine read differently.
func foreign(expr string) string {
	class := false
	for i := 0; i < len(expr); i++ {
		rest := expr[i:]
		switch {
		case rest[0] == '\\':
			if len(rest) > 1 && strings.IndexByte("hHRXKONyYG", rest[1]) >= 0 {
				return rest[:2]
			}
			i += len(escaped.FindString(rest)) - 1
		case !class && repeatedInterval.MatchString(rest):
			return "a repeated interval, {n,m}+"
		case !class && optionalInterval.MatchString(rest):
			return "an optional interval, {n}?"
		case !class && openInterval.MatchString(rest):
			return "an interval without its least number, {,m}"
		case class && rest[0] == '[':
			return "a set within a set"
		case class && strings.HasPrefix(rest, "&&"):
			return "an intersection of sets"
		case class && rest[0] == ']':
			class = false
		case !class && rest[0] == '[':
			class = true
			if strings.HasPrefix(rest[1:], "^") {
				i++
			}
			if strings.HasPrefix(expr[i+1:], "]") {
				return "a set that begins with ]"
			}
		case !class && strings.HasPrefix(rest, "(?"):
			if what := foreignGroup(rest); what != "" {
				return what
			}
		}
	}
	return ""
}

// foreignGroup accepts groups whose meaning is the same in both engines: (?: (?= (?! (?<= (?<! (?> and (?i: (?i).
func foreignGroup(rest string) string {
	for _, same := range []string{"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?i)", "(?-i:"} {
		if strings.HasPrefix(rest, same) {
			return ""
		}
	}
	return "the group " + rest[:min(len(rest), 4)]
}

// each calls yield with the matches of p in s and the gaps between them, in order; empty pieces are left out.
func (p *pattern) each(s string, yield func(part string, match bool) error) error {
	if p.scan != nil {
		for i := 0; i < len(s); {
			end := p.scan(s, i)
			if err := yield(s[i:end], true); err != nil {
				return err
			}
			i = end
		}
		return nil
	}
	done := 0
	part := func(from, to int) error {
		if done < from {
			if err := yield(s[done:from], false); err != nil {
				return err
			}
		}
		done = to
		if from == to {
			return nil
		}
		return yield(s[from:to], true)
	}
	if err := p.matches(s, part); err != nil {
		return err
	}
	return part(len(s), len(s))
}

// matches calls part with the bounds of each match.
func (p *pattern) matches(s string, part func(from, to int) error) error {
	if p.regex != nil {
		return p.search(s, part)
	}
	if p.literal == "" {
		return nil
	}
	for at := 0; ; {
		i := strings.Index(s[at:], p.literal)
		if i < 0 {
			return nil
		}
		if err := part(at+i, at+i+len(p.literal)); err != nil {
			return err
		}
		at += i + len(p.literal)
	}
}

// search is matches for a regular expression.
func (p *pattern) search(s string, part func(from, to int) error) error {
	const remedy = "take the tokenizer's file anew from where the model comes from"
	if p.gaveUps.Load() >= maxGaveUp {
		return fmt.Errorf("tokenizer: regular expression %q gave up on %d texts and is not tried again; the tokenizer's file is damaged or hostile: %s",
			clip([]byte(p.expr)), maxGaveUp, remedy)
	}
	var failed error
	err := p.regex.Find(s, func(from, to int) bool {
		failed = part(from, to)
		return failed == nil
	})
	if err == nil {
		return failed
	}
	p.gaveUps.Add(1)
	return fmt.Errorf("tokenizer: regular expression %q gave up on a text of %d bytes: %w; cut the text into shorter parts, or %s",
		clip([]byte(p.expr)), len(s), err, remedy)
}

// replace writes content in place of every match.
func (p *pattern) replace(s, content string) (string, error) {
	if p.regex == nil && p.scan == nil {
		if p.literal == "" {
			return s, nil
		}
		if n := strings.Count(s, p.literal); len(s)+n*len(content) > maxGrown(s) {
			return "", errGrown
		}
		return strings.ReplaceAll(s, p.literal, content), nil
	}
	var b strings.Builder
	limit := maxGrown(s)
	err := p.each(s, func(part string, match bool) error {
		if match {
			part = content
		}
		if b.Len()+len(part) > limit {
			return errGrown
		}
		b.WriteString(part)
		return nil
	})
	return b.String(), err
}

// clip shortens a piece of JSON for an error message.
func clip(raw []byte) string {
	if len(raw) > 60 {
		return string(raw[:60]) + "..."
	}
	return string(raw)
}
