package jinja

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// hostile are templates that would run for ever, grow without bound, or go too deep.
var hostile = map[string]string{
	"recursive macro":       `{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}`,
	"recursive expression":  `{% macro f() %}{% set x = f() ~ 'a' %}{% endmacro %}{{ f() }}`,
	"two macros":            `{% macro g() %}{{ f() }}{% endmacro %}{% macro f() %}{{ g() }}{{ g() }}{% endmacro %}{{ f() }}`,
	"caller":                `{% macro f() %}{% call f() %}{{ caller() }}{% endcall %}{% endmacro %}{{ f() }}`,
	"recursive loop":        `{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}`,
	"huge range":            `{% for i in range(100000000) %}x{% endfor %}`,
	"nested ranges":         `{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}`,
	"nested ranges, output": `{% for i in range(100000) %}{% for j in range(100000) %}xxxxxxxxxxxxxxxxxxxx{% endfor %}{% endfor %}`,
	"string times":          `{{ 'x' * 1000000000000 }}`,
	"string times string":   `{% set s = 'x' * 10000000 %}{{ (s * 10000)|length }}`,
	"list times":            `{{ ([1] * 1000000000)|length }}`,
	"doubling":              `{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(1000) %}{% set ns.s = ns.s + ns.s %}{% endfor %}`,
	"doubling by concat":    `{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(1000) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}`,
	"doubling lists":        `{% set ns = namespace(s=[1]) %}{% for i in range(1000) %}{% set ns.s = ns.s + ns.s %}{% endfor %}`,
	"replace":               `{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(1000) %}{% set ns.s = ns.s.replace('a', 'aaaaaaaaaaaaaaaa') %}{% endfor %}`,
	"replace empty":         `{% set s = 'x' * 1000000 %}{{ s|replace('', s) }}`,
	"join":                  `{% set s = 'x' * 1000000 %}{{ s.join(range(100000)|map('string')|list) }}`,
	"join filter":           `{% set s = 'x' * 1000000 %}{{ range(100000)|join(s) }}`,
	"center":                `{{ 'x'.center(1000000000000) }}{{ 'x'|center(1000000000000) }}`,
	"percent":               `{{ '%1000000000d' % 1 }}`,
	"format":                `{{ '{:^1000000000}'.format('x') }}`,
	"indent":                `{{ ('\n' * 1000000)|indent(1000000) }}`,
	"wordwrap":              `{{ ('x' * 10000000)|wordwrap(1) }}`,
	"batch":                 `{{ range(100000)|batch(100000, 'x')|list|length }}{% for i in range(100000) %}{{ range(1)|batch(100000, 'x')|list|length }}{% endfor %}`,
	"slice":                 `{% for i in range(100000) %}{{ [1]|slice(100000)|list|length }}{% endfor %}`,
	"tower of lists":        `{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}`,
	"tower compared":        `{% set ns = namespace(x=[], y=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% set ns.y = [ns.y] %}{% endfor %}{{ ns.x == ns.y }}`,
	"wide tower":            `{% set ns = namespace(x=['a']) %}{% for i in range(150) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}`,
	"wide tower as JSON":    `{% set ns = namespace(x=['a']) %}{% for i in range(150) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x|tojson }}`,
	"wide tower compared":   `{% set ns = namespace(x=['a'], y=['a']) %}{% for i in range(150) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}`,
	"keys of tuples":        `{% set ns = namespace(x=('a',)) %}{% for i in range(150) %}{% set ns.x = (ns.x, ns.x) %}{% endfor %}{{ {ns.x: 1} }}`,
	"namespace in itself":   `{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}`,
	"long searches":         `{% set s = 'a' * 10000000 %}{% for i in range(100000) %}{% if 'b' in s %}{% endif %}{% endfor %}`,
	"long lengths":          `{% set s = 'é' * 5000000 %}{% for i in range(100000) %}{% if s|length == 1 %}{% endif %}{% endfor %}`,
	"long indices":          `{% set s = 'é' * 5000000 %}{% for i in range(100000) %}{% set x = s[-1] %}{% endfor %}`,
	"strip":                 `{% set s = 'é' * 1000000 %}{% for i in range(100000) %}{% set x = s.strip(s) %}{% endfor %}`,
	"list searches":         `{% set l = range(100000)|list %}{% for i in l %}{% if -1 in l %}{% endif %}{% endfor %}`,
	"sort":                  `{% for i in range(100000) %}{% set x = range(100000)|sort %}{% endfor %}`,
	"map of map":            `{% for i in range(100000) %}{% set x = range(100000)|map('string')|list %}{% endfor %}`,
	"captures":              `{% for i in range(100000) %}{% set x %}{{ 'x' * 100000 }}{% endset %}{% endfor %}`,
	"JSON indent":           `{% set ns = namespace(x=[1]) %}{% for i in range(190) %}{% set ns.x = [ns.x, 1, 2, 3] %}{% endfor %}{% for i in range(100000) %}{% set x = ns.x|tojson(indent=64) %}{% endfor %}`,
	"varargs":               `{% macro f() %}{{ varargs|length }}{% endmacro %}{% for i in range(100000) %}{{ f(*range(100000)) }}{% endfor %}`,
}

// TestHostileTemplates: each ends with an error, soon, and in bounded memory.
func TestHostileTemplates(t *testing.T) {
	for name, source := range hostile {
		t.Run(name, func(t *testing.T) {
			tp, err := Parse(source, Options{})
			require.NoError(t, err)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			_, err = tp.Render(nil)
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			require.Error(t, err)
			require.Less(t, took, time.Second)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(2<<30))
			require.Less(t, after.Sys-before.Sys, uint64(1<<30))
			t.Logf("%v, %d MiB: %v", took.Round(time.Millisecond), (after.TotalAlloc-before.TotalAlloc)>>20, err)
		})
	}
}

// TestDeepSources: what goes deep in the source is refused while it is read.
func TestDeepSources(t *testing.T) {
	n := 100_000
	for _, source := range []string{
		`{{ ` + strings.Repeat("(", n) + `1` + strings.Repeat(")", n) + ` }}`,
		`{{ ` + strings.Repeat("[", n) + strings.Repeat("]", n) + ` }}`,
		`{{ ` + strings.Repeat("{1:", n) + strings.Repeat("}", n) + ` }}`,
		`{{ ` + strings.Repeat("not ", n) + `1 }}`,
		`{{ ` + strings.Repeat("-", n) + `1 }}`,
		`{{ ` + strings.Repeat("1 if 1 else ", n/2) + `1 }}`,
		`{{ ` + strings.Repeat("a(", n) + strings.Repeat(")", n) + ` }}`,
		`{{ ` + strings.Repeat("a[", n) + strings.Repeat("]", n) + ` }}`,
		`{{ 1` + strings.Repeat("|d(1", n) + strings.Repeat(")", n) + ` }}`,
		strings.Repeat("{% if 1 %}", n/2),
		strings.Repeat("{% for x in y %}", n/2),
		strings.Repeat("{% macro a() %}", n/2),
		`{% set ` + strings.Repeat("(", n) + `a` + strings.Repeat(")", n) + ` %}`,
	} {
		_, err := Parse(source, Options{})
		require.ErrorContains(t, err, "deep", source[:20])
	}
	// Chains from the left are flat to the parser; running them ends by the budget on depth.
	for _, source := range []string{`{{ 1` + strings.Repeat("+1", n) + ` }}`, `{{ a` + strings.Repeat(".b", n) + ` }}`, `{{ 1` + strings.Repeat("|d", n) + ` }}`,
		`{{ 1` + strings.Repeat(" is defined", n/2) + ` }}`, `{{ 1` + strings.Repeat(" and 1", n) + ` }}`, `{{ 1` + strings.Repeat(" if 1", n) + ` }}`} {
		tp, err := Parse(source, Options{})
		require.NoError(t, err, source[:20])
		_, err = tp.Render(nil)
		require.ErrorContains(t, err, "deep")
	}
}

func TestLimitsGrowWithTheConversation(t *testing.T) {
	c := NewDict()
	c.Set("s", String(strings.Repeat("long text ", 1<<19)))
	tp, err := Parse(`{{ s }}{{ s|length }}{{ s.split(' ')|length }}`, Options{})
	require.NoError(t, err)
	_, err = tp.Render(c)
	require.NoError(t, err)
}
