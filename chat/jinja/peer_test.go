package jinja

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/golden"
)

// peerScript prints what jinja2, set up as transformers does, makes of each template: null where it fails.
const peerScript = `
import json, sys
try:
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment
except ImportError:
    print("needs jinja2"); sys.exit(42)
env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
env.filters["tojson"] = lambda x, ensure_ascii=False, indent=None, separators=None, sort_keys=False: json.dumps(
    x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
cases, context = json.loads(sys.argv[1]), json.loads(sys.argv[2])
out = []
for c in cases:
    try:
        out.append(env.from_string(c).render(**context))
    except Exception:
        out.append(None)
print(json.dumps(out))
`

// TestPeerJinja2 compares expressions and white space with jinja2 itself, where Python has it.
func TestPeerJinja2(t *testing.T) {
	context := `{"s": "Hello, wörld! it's ok", "p": "  pad\tded \n", "e": "", "n": -7, "f": 2.5, "t": true, "z": null, "l": [3, 1, 2, 1], "m": ["b", "A", "c"],
		"d": {"b": 1, "a": [1, "x"], "C": null}, "u": [{"k": "y", "v": 2}, {"k": "x", "v": 1}, {"k": "y", "v": 3}]}`
	var cases []string
	for _, x := range slices.Concat(peerStrings, peerLists, peerNumbers) {
		cases = append(cases, "{{ "+x+" }}")
	}
	cases = append(cases, peerTemplates...)
	arg, err := json.Marshal(cases)
	require.NoError(t, err)
	var want []*string
	require.NoError(t, json.Unmarshal(golden.Python(t, peerScript, string(arg), context), &want))
	for i, source := range cases {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			tp, err := Parse(source, Options{})
			var got Result
			if err == nil {
				got, err = tp.Render(contextOf(t, json.RawMessage(context)))
			}
			if want[i] == nil {
				require.Error(t, err, "%s gives %q", source, got.Text)
				return
			}
			require.NoError(t, err, source)
			require.Equal(t, *want[i], got.Text, source)
		})
	}
}

var peerStrings = []string{
	"s.upper()", "s.title()", "s.capitalize()", "s.swapcase()", "s|title", "s|capitalize", "p.strip()", "p.lstrip()", "p.rstrip()", "p|trim", "s.strip('Hk')",
	"s.split()", "s.split(' ', 1)", "s.rsplit(' ', 1)", "s.split('l')", "s.rsplit(None, 2)", "s.split(None, 2)", "p.split()", "'a\\nb\\r\\nc\\n'.splitlines()", "'a\\n'.splitlines(true)",
	"s.find('w')", "s.rfind('l')", "s.find('q')", "s.index('q')", "s.count('l')", "s.find('l', 5)", "s.replace('l', 'L')", "s.replace('l', 'L', 1)", "s.replace('', '-')",
	"s.partition(' ')", "s.rpartition(' ')", "s.partition('q')", "s.rpartition('q')", "s.startswith('Hell')", "s.endswith(('a', 'ok'))", "s.removeprefix('He')", "s.removesuffix('ok')",
	"'ab'.center(7)", "'abc'.center(6, '*')", "'ab'.center(5)", "'ab'.ljust(4, '.')", "'ab'.rjust(4, '.')", "'-5'.zfill(4)", "'12'.isdigit()", "'ab'.isalpha()", "'a1'.isalnum()", "' '.isspace()",
	"'Ab Cd'.istitle()", "'ab'.islower()", "'AB1'.isupper()", "'-'.join(m)", "'-'.join(l)", "s[0]", "s[-1]", "s[50]", "s[1:5]", "s[::-1]", "s[-3:]", "s[::2]", "s[7]", "s * 2", "2 * 'ab'", "s + 1", "s ~ 1 ~ none ~ t",
	"'%s-%d' % ('a', 3)", "'%5.2f|%-5s|%05d|%x' % (f, 'a', 3, 255)", "'%r' % s", "'%(a)s' % {'a': 1}", "'%s' % [1]", "'%s %s' % 'a'", "'100%%' % ()", "'%+d' % 5", "'%e' % 12345.678", "'%g' % 0.0001",
	"'{} {}'.format(1, 'x')", "'{1}{0}'.format(1, 2)", "'{a:>5}|{a:<5}|{a:^5}'.format(a='x')", "'{:05d}|{:.2f}|{:,}|{:x}'.format(42, 3.14159, 1234567, 255)", "'{{}}'.format()", "'{!r}'.format('x')", "'{'.format()",
	"s|length", "s|reverse", "s|first", "s|last", "s|list", "s|wordcount", "s|truncate(10)", "s|truncate(10, true)", "s|truncate(12, false, '')", "s|center(30)", "s|indent", "'a\\nb\\n\\nc'|indent(2, true)", "'a\\n\\nb'|indent(3, false, true)",
	"s|replace('l', 1)", "s|escape", "'<a>&'|e", "'<b>x</b>  y <!-- c -->'|striptags", "'a b/c?é'|urlencode", "'one two three four'|wordwrap(9)", "'abcdefghij kl'|wordwrap(4)", "'%s and %s'|format('a', 'b')", "s|upper|lower", "e|default('x', true)", "q|default('x')", "q|default",
	"s is string", "s is lower", "'abc' is lower", "s is iterable", "s is sequence", "s is mapping", "'x' in s", "'o' not in s", "1 in s", "s == 'x'", "s < 't'", "s|tojson", "'<é\\u2028\\x7f\"'|tojson", "'é'|tojson(ensure_ascii=true)", "['it\\'s', 'a\"b', '\\n\\t\\\\', 'é']",
	"'a' 'b'", "'\\x41\\u00e9\\101\\q'", "s.foo", "s.foo.bar", "s['upper']()", "q", "q.x", "q + 1", "1 + q", "q ~ 'a'", "q == q2", "q is defined", "q|length", "q|list", "q|string", "q|tojson", "'x' in q", "q in 'x'", "q in l", "q < 1", "not q", "q[0]", "q()", "s()",
}

var peerLists = []string{
	"l|sort", "l|sort(reverse=true)", "m|sort", "m|sort(case_sensitive=true)", "u|sort(attribute='k')|map(attribute='v')|list", "u|sort(attribute='k,v')|map(attribute='v')|list", "l|unique|list", "m|map('upper')|list", "m|join(', ')", "u|join('+', attribute='v')", "l|sum", "u|sum(attribute='v')",
	"l|min", "l|max", "m|min", "m|max(case_sensitive=true)", "l|first", "l|last", "[]|first", "l|reverse|list", "l|batch(3)|list", "l|batch(3, 0)|list", "l|slice(3)|list", "l|slice(3, 'x')|list", "u|groupby('k')|map('first')|list", "u|selectattr('v', 'gt', 1)|map(attribute='k')|list", "u|rejectattr('v', 'eq', 2)|list", "l|select('odd')|list", "l|reject('odd')|list", "l|select|list",
	"u|selectattr('q')|list", "u|map(attribute='q', default=0)|list", "l + [4]", "l * 2", "l[1:]", "l[::-1]", "l[9]", "l[-1]", "l.count(1)", "l.index(2)", "l.index(9)", "l.append(1)", "l.pop()", "d.update({})", "d.pop('a')", "(1, 2) + (3,)", "(1,)", "()", "(1, 2) == [1, 2]", "[1, 2] < [1, 3]", "[1] == [1.0]", "1 in l", "[1] in l", "(l, m)", "[z, t, f]",
	"d", "d.keys()|list", "d.values()|list", "d.items()|list", "d.get('a')", "d.get('q')", "d.get('q', 5)", "d['a'][1]", "d.a.1", "d.q", "d['items']()|list", "(d|attr('keys'))()|list", "d.b", "'a' in d", "d|length", "d|list", "d|dictsort", "d|dictsort(true)", "d|items|list", "d|tojson", "d|tojson(indent=2)", "d|tojson(sort_keys=true)", "d|tojson(separators=(',', ':'))", "{}|tojson(indent=2)", "[]|tojson(indent=1)", "[[], {}]|tojson(indent=1)", "{1: 2, true: 3, none: 4}|tojson", "{1: 2, 1.0: 3, true: 4}",
	"dict(a=1, b=2)", "dict([('a', 1)])", "dict(d, z=1)|length", "d == dict(d)", "range(3)", "range(3)|list", "range(5, 1, -2)|list", "range(1, 4)[1]", "3 in range(5)", "range(3)|length", "range(200000)", "d is mapping", "l is sequence", "l is iterable", "l is string", "d.copy()", "l.copy()", "l.__class__", "d['__class__']", "namespace(a=1).a",
	"[1, 2, 3][d.b]", "l|list == l", "(u|first).k", "u[0]['k']", "u|map(attribute='k')|unique|join", "l|map('string')|join('-')", "[1, [2, [3]]]|string", "l is eq l", "l is sameas l", "{'a': 1}.a", "[]|sum", "[1.5, 2]|sum", "d|first", "z|length", "z|list", "l|tojson(indent=4)", "[1, 'a']|sort",
}

var peerNumbers = []string{
	"7 // 2", "-7 // 2", "7 % 3", "-7 % 3", "7 % -3", "7 / 2", "2 ** 10", "2 ** -1", "-2 ** 2", "7.5 // 2", "-7.5 % 2", "1 / 0", "1 // 0", "1 % 0", "0 ** 0", "1e16", "1e15", "1e-5", "0.0001", "1.0", "1e100", "0.1 + 0.2", "3.0 * 2", "1_000", "0x1f", "0b11", "0o17", "n|abs", "f|round", "2.675|round(2)", "3.5|round", "2.5|round", "12345|round(-2)", "12350|round(-2)", "-12350|round(-2)", "15|round(-1)", "25|round(-1)", "7|round", "7|round(1, 'ceil')",
	"2.1|round(0, 'ceil')", "2.19|round(1, 'floor')", "'42'|int", "'x'|int", "'x'|int(7)", "'3.7'|int", "3.7|int", "'0x1f'|int(base=16)", "z|int", "'1.5'|float", "'x'|float", "t + 1", "t|int", "true == 1", "true is sameas 1", "1 is sameas 1", "n is odd", "n is even", "4 is divisibleby 2", "1 < 2 < 3", "1 < 3 < 2", "1 == 1.0", "1 < 'a'", "none < 1", "z is none", "t is true", "1 is true", "t is boolean", "1 is boolean", "n is number", "t is number", "t is integer",
	"1 if t", "1 if not t", "1 if not t else 2", "(1 if not t) is defined", "1 if z else 2 if z else 3", "t and 'x'", "z or 'x'", "not t", "not not t", "not 1 == 2", "1 + 2 ~ 3", "1 ~ 2 + 3", "2 * 3 ~ 4", "-n", "+n", "-n|abs", "-1 if t else 1", "1 in [1] and 2 not in [1]", "[1, 2, 3]|length > 2", "'a' if l|length == 4 else 'b'", "l is defined and l", "n is not defined or t", "n is odd and t", "4 is divisibleby(2) and t", "1 is eq 1", "1 is lt 2", "1|string + 'a'", "f|string", "1e3|int", "f is float", "3|float", "none|string", "t|string|lower", "5|tojson", "f|tojson", "1e400|tojson", "loop", "not l is none", "n is eq(-7)",
}

var peerTemplates = []string{
	"a\n{% if t %}\n  b\n{% endif %}\nc\n", "a\n  {% if t %}  \n  b\n  {% endif %}  c\n\n", "  {%- if t -%}  x  {%- endif -%}  ", "  {%+ if t %}x{% endif +%}\n y", "{# c #}\nx\n  {# d #}\ny", "{#- c -#}  x", "a  {{- s -}}  b", "  {{ n }}\n\n{{ n }}\n", "x {% raw %} {{ y }} {% endraw %}\n z", "x {%- raw -%} {{ y }} {%- endraw -%}\n z",
	"{% for x in l %}{{ loop.index }}{{ loop.first }}{{ loop.last }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('a', 'b') }}{{ loop.revindex0 }}{{ loop.changed(x) }};{% endfor %}",
	"{% for x in [] %}{% else %}none{% endfor %}", "{% for x in l if x > 1 %}{{ loop.length }}{{ x }}{% endfor %}", "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{% for x in l %}{% if x == 2 %}{% break %}{% endif %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}",
	"{% set x = 1 %}{% for i in l %}{{ x }}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}", "{% set ns = namespace(x=0) %}{% for i in l %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}", "{% if t %}{% set y = 5 %}{% endif %}{{ y }}", "{% set a, b = 1, 2 %}{{ b }}{{ a }}", "{% set x %}{{ s }}!{% endset %}{{ x|length }}", "{% set x | upper %}ab{% endset %}{{ x }}",
	"{% macro m(a, b=2, c='x') %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, c=3) }}{{ m() }}{{ m(b=1, a=0) }}", "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{% endmacro %}{{ m(q=2) }}", "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}", "{% macro m(x) %}<{{ caller(x) }}>{% endmacro %}{% call(y) m(5) %}{{ y }}{{ n }}{% endcall %}",
	"{% macro f() %}{{ x }}{% endmacro %}{% set x = 1 %}{{ f() }}", "{% macro fact(k) %}{% if k > 1 %}{{ k }}*{{ fact(k - 1) }}{% else %}1{% endif %}{% endmacro %}{{ fact(4) }}", "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a }}", "{% filter upper %}a{{ s }}{% endfilter %}", "{% for x in [1, [2, [3]]] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}{% endif %}{% endfor %}", "{% print 1, 2 %}", "{{ 1, 2 }}",
	"{% for x in 'ab' %}{{ x }},{% endfor %}", "{% for x in z %}{% endfor %}", "{% for a, b in [[1, 2, 3]] %}{% endfor %}", "{% set l.x = 1 %}", "{% endif %}", "{% if t %}", "{{ }}", "{{ 1 2 }}", "{% foo %}", "{{ s|nofilter }}", "{{ s is notest }}", "{% for x in l %}{% set ns = namespace(y=x) %}{{ ns.y }}{% endfor %}", "{% set j = joiner('|') %}{% for x in l %}{{ j() }}{{ x }}{% endfor %}", "{% set c = cycler(1, 2) %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}",
	"{%- for x in l %}\n  {{- x }}\n{%- endfor %}\n", "{% if q is not defined %}{% set q = 3 %}{% endif %}{{ q }}", "{% for x in l -%}\n {{ x }}\n{%- endfor %}", "{% set x = [] %}{% set _ = x.append(1) %}{{ x }}", "\r\na\rb\n",
}
