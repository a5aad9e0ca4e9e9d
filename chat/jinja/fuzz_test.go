package jinja

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// FuzzParse: any source is parsed or refused with a place; nothing panics.
func FuzzParse(f *testing.F) {
	for _, s := range seeds() {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, source string) {
		_, err := Parse(source, Options{})
		var e *Error
		if err != nil && (!errors.As(err, &e) || e.Line < 1 || e.Col < 1) {
			t.Fatalf("an error without a place: %v", err)
		}
	})
}

// FuzzRender: any template ends within its budgets, over a context of every plain kind.
func FuzzRender(f *testing.F) {
	for _, s := range seeds() {
		f.Add(s)
	}
	context := `{"messages": [{"role": "user", "content": "hé"}, {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1.5}}}]}],
		"a": "text", "n": -3, "f": 0.5, "t": true, "l": [3, "x", [1, 2], null], "d": {"k": {"v": [1]}}}`
	f.Fuzz(func(t *testing.T, source string) {
		tp, err := Parse(source, Options{Limits: Limits{Steps: 20_000, Alloc: 1 << 20, Output: 1 << 16}})
		if err != nil {
			return
		}
		v, err := FromJSON([]byte(context))
		require.NoError(t, err)
		r, err := tp.Render(v.(*Dict))
		var e *Error
		if err != nil && (!errors.As(err, &e) || e.Line < 1) {
			t.Fatalf("an error without a place: %v", err)
		}
		if len(r.Text) > 1<<16 {
			t.Fatalf("%d bytes of output", len(r.Text))
		}
		last := 0
		for _, s := range r.Generated {
			if s.Start < last || s.End <= s.Start || s.End > len(r.Text) {
				t.Fatalf("span %v of %d bytes", s, len(r.Text))
			}
			last = s.End
		}
		if utf8.ValidString(source) && !utf8.ValidString(r.Text) {
			t.Fatalf("text that is no UTF-8: %q", r.Text)
		}
	})
}

// FuzzFromJSON: any data is read or refused, and what is read prints as JSON again.
func FuzzFromJSON(f *testing.F) {
	for _, s := range []string{`{"a": [1, 2.5, null, true, "x"], "a": 2}`, `1e999`, `123456789012345678901`, strings.Repeat("[", 500), `"\ud800"`, `{"a"`, `[1] 2`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, data string) {
		v, err := FromJSON([]byte(data))
		if err != nil {
			return
		}
		c := NewDict()
		c.Set("v", v)
		tp, err := Parse(`{{ v|tojson }}{{ v }}`, Options{})
		require.NoError(t, err)
		_, err = tp.Render(c)
		var e *Error
		if err != nil && (!errors.As(err, &e) || !e.Budget) {
			t.Fatal(err)
		}
	})
}

// seeds are templates that between them use every statement, operator, filter, test and method.
func seeds() []string {
	out := []string{
		"{% raw %}{{ x }}{% endraw %}{#- c -#}{%- if a -%} a {%+ endif +%}\n", `{% for k, v in d.items() recursive %}{{ loop.index }}{{ loop(v) }}{% else %}-{% endfor %}`,
		`{% set ns = namespace(x=1) %}{% set ns.x = ns.x + 1 %}{{ ns.x }}{% set y %}z{% endset %}{{ y | upper }}`,
		`{% macro m(a, b=2) %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{{ caller() if caller }}{% endmacro %}{% call m(1, c=3) %}x{% endcall %}`,
		`{% generation %}{{ a }}{% endgeneration %}{% filter upper %}x{% endfilter %}{% with q=1 %}{{ q }}{% endwith %}`,
		`{% for i in range(9, 0, -2) if i != 3 %}{% if i == 5 %}{% continue %}{% elif i == 1 %}{% break %}{% endif %}{{ i }}{% endfor %}`,
		`{{ a[0] ~ a[::-1] ~ l[1:] ~ -n ** 2 // 3 % 2 / 1 }}{{ 1 < 2 <= 3 and not 'x' in l or n is not defined }}`,
		`{{ '%s %05.1f %(k)s' % (1, 2) }}{{ '{:>8}{!r}{k}'.format(1, 'x', k=2) }}`, `{{ messages | tojson(indent=2) }}{{ strftime_now('%Y-%m-%d') }}`,
		`{{ cycler(1, 2).next() }}{{ joiner()() }}{{ dict(a=1) }}{{ raise_exception('x') }}`,
	}
	for name := range filters {
		out = append(out, `{{ a|`+name+` }}{{ l|`+name+`(2) }}{{ d|`+name+`('k', 'v') }}{{ n|`+name+` }}`)
	}
	for name := range tests {
		if name[0] >= 'a' {
			out = append(out, `{{ a is `+name+` }}{{ n is `+name+`(2) }}{{ l is not `+name+` }}`)
		}
	}
	for kind, ms := range methods {
		for name := range ms {
			out = append(out, `{{ {'string': a, 'dict': d, 'list': l, 'tuple': (1, 2), 'float': f}['`+kind+`'].`+name+`('x', 1) }}{{ a.`+name+`() }}{{ a.`+name+`(4) }}`)
		}
	}
	return out
}
