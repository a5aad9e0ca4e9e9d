package jinja

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/cputime"
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
	"long keys":             `{% set s = 'a' * 10000000 %}{% set d = {s: 1} %}{% for i in range(100000) %}{% if s in d %}{% endif %}{% endfor %}`,
	"long keys got":         `{% set s = 'a' * 10000000 %}{% set d = {s: 1} %}{% for i in range(100000) %}{% set x = d.get(s) %}{% endfor %}`,
	"long keys copied":      `{% set d = {'a' * 10000000: 1} %}{% for i in range(100000) %}{% set x = dict(d) %}{% set x = d.copy() %}{% endfor %}`,
	"long keys compared":    `{% set d = {'a' * 10000000: 1} %}{% set e = dict(d) %}{% for i in range(100000) %}{% if d != e %}{% endif %}{% endfor %}`,
	"long keys as names":    `{% macro f() %}{{ kwargs|length }}{% endmacro %}{% set d = {'a' * 10000000: 1} %}{% for i in range(100000) %}{% set x = f(**d) %}{% endfor %}`,
	"tuples sought":         `{% set t = ('a' * 50,) * 1000 %}{% set d = {1: 1} %}{% for i in range(100000) %}{% set x = d.get(t) %}{% endfor %}`,
	"unique":                `{{ (['a' * 10000000] * 100000)|unique(true)|list|length }}`,
	"long members":          `{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{% set x = [][s] %}{% endfor %}`,
	"attr":                  `{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{% set x = []|attr(s) %}{% endfor %}`,
	"long paths":            `{% set p = ('0.' * 1000000) ~ '0' %}{{ (['a'] * 100000)|map(attribute=p)|list|length }}`,
	"numbers":               `{% set s = 'x' * 10000000 %}{% for i in range(100000) %}{% set x = s|float + s|int %}{% endfor %}`,
	"names of filters":      `{% set s = 'x' * 10000000 %}{% for i in range(100000) %}{% if s is filter %}{% endif %}{% endfor %}`,
	"title":                 `{% set s = 'x' * 1000000 %}{% for i in range(100000) %}{% set x = s.istitle() or s.isascii() %}{% endfor %}`,
	"strip of little":       `{% set s = 'a' * 10000000 %}{% for i in range(100000) %}{% set x = 'b'.strip(s) %}{% endfor %}`,
	"hyphens":               `{% for i in range(3) %}{% set x = ('a-' * 400000)|wordwrap(10) %}{% endfor %}`,
	"words":                 `{{ (' a' * 5000000).split()|length }}`,
	"lines":                 `{{ ('\r' * 5000000).splitlines()|length }}`,
	"round":                 `{% for i in range(100000) %}{% set x = 1.5e-300|round(300) %}{% endfor %}{% for i in range(100000) %}{% set x = 1.5e-300|round(300) %}{% endfor %}`,
	"precision":             `{% for i in range(100000) %}{% set x = '%.1000f' % 1.5e-300 %}{% endfor %}`,
	"names of a format":     `{% set d = dict(range(40000)|map('string')|batch(2), x='') %}{{ ('{x}' * 300000).format(**d) }}`,
	"levels of names":       levels(180, `{% for i in range(100000) %}{{ nowhere }}{{ nowhere }}{{ nowhere }}{{ nowhere }}{{ nowhere }}{% endfor %}`),
}

// levels puts a template inside n blocks, each of which has eight names as long as the one that is sought.
func levels(n int, inside string) string {
	var b strings.Builder
	for range n {
		b.WriteString(`{% with nowherf=1, nowherg=1, nowherh=1, nowheri=1, nowherj=1, nowherk=1, nowherl=1, nowherm=1 %}`)
	}
	return b.String() + inside + strings.Repeat(`{% endwith %}`, n)
}

// TestHostileTemplates: each ends with an error, soon, and in bounded memory.
func TestHostileTemplates(t *testing.T) {
	for name, source := range hostile {
		t.Run(name, func(t *testing.T) {
			tp, err := Parse(source, Options{})
			require.NoError(t, err)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			used := cputime.Clock(cputime.Process) // a busy machine may take its time
			_, err = tp.Render(nil)
			took := used()
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

// TestSplitMakesRoomForItsParts: what is cut in one part takes no room for as many as there are bytes.
func TestSplitMakesRoomForItsParts(t *testing.T) {
	tp, err := Parse(`{{ ('x' * 10000000).split('y')|length }}`, Options{})
	require.NoError(t, err)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r, err := tp.Render(nil)
	runtime.ReadMemStats(&after)
	require.NoError(t, err)
	require.Equal(t, "1", r.Text)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<20))
}

// TestTuplesAsKeys: equal tuples are one key, others are not, whatever their parts hold.
func TestTuplesAsKeys(t *testing.T) {
	for source, want := range map[string]string{
		`{{ (1, 'a') in {(1.0, 'a'): 1} }}`:         "True",
		`{{ ((1,), 2) in {((1,), 2): 1} }}`:         "True",
		`{{ ('a', 'b') in {('a,b',): 1} }}`:         "False",
		`{{ (('a',), 'b') in {('a', ('b',)): 1} }}`: "False",
		`{{ ((), 1) in {(1, ()): 1} }}`:             "False",
		`{{ {('a' * 5000,): 1}|length }}`:           "",
	} {
		tp, err := Parse(source, Options{})
		require.NoError(t, err)
		r, err := tp.Render(nil)
		require.Equal(t, want == "", err != nil, source)
		require.Equal(t, want, r.Text, source)
	}
}

// TestLongNames: a name that would be looked up for longer than a step takes is refused.
func TestLongNames(t *testing.T) {
	_, err := Parse(`{{ x.`+strings.Repeat("a", 300)+` }}`, Options{})
	require.ErrorContains(t, err, "a name of 300 bytes")
}
