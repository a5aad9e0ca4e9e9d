package jinja

import (
	"math"
	"strings"
	"unicode/utf8"
)

// attribute is v.name: a method or attribute of the kind, then an entry of a dict, as jinja2's getattr.
func (m *machine) attribute(v Value, name string) (Value, error) {
	if a, ok, err := m.member(v, name); ok || err != nil {
		return a, err
	}
	if d, ok := v.(*Dict); ok {
		if x, ok := d.Get(name); ok {
			return x, nil
		}
	}
	return &undefined{what: "'" + name + "' of " + article(v)}, nil
}

// member is what a value has by name, without its entries.
func (m *machine) member(v Value, name string) (Value, bool, error) {
	if u, ok := v.(*undefined); ok {
		f := u.err().(*fault)
		return nil, false, &fault{reason: f.reason + " and has no '" + name + "'", remedy: f.remedy}
	}
	switch v := v.(type) {
	case *namespace:
		if x, ok := v.vars.Get(name); ok {
			return x, true, nil
		}
	case *loopValue:
		if x, ok := v.attr(name); ok {
			return x, true, nil
		}
	case *cycler:
		if x, ok := v.attr(name); ok {
			return x, true, nil
		}
	case *callable:
		if v.macro != nil && name == "name" {
			return String(v.name), true, nil
		}
	}
	if mutators[v.kind()+"."+name] {
		return &undefined{what: "the method '" + name + "' of " + article(v) + ", which changes it,", unsafe: true}, true, nil
	}
	if fn, ok := methods[v.kind()][name]; ok {
		return &callable{name: name, fn: func(m *machine, a *args) (Value, error) { return fn(m, v, a) }}, true, nil
	}
	return nil, false, nil
}

// mutators are the methods that an immutable sandbox refuses.
var mutators = map[string]bool{
	"list.append": true, "list.clear": true, "list.pop": true, "list.reverse": true, "list.insert": true, "list.sort": true,
	"list.extend": true, "list.remove": true, "dict.clear": true, "dict.pop": true, "dict.popitem": true, "dict.setdefault": true,
	"dict.update": true,
}

// index is v[i]: an entry, then a member, as jinja2's getitem.
func (m *machine) index(v, i Value) (Value, error) {
	if d, ok := v.(*Dict); ok {
		if x, ok, err := m.find(d, i); ok || err != nil {
			return x, err
		}
	} else if n, ok := integer(i); ok {
		if x, ok, err := m.nth(v, n); ok || err != nil {
			return x, err
		}
	}
	if s, ok := i.(String); ok {
		if err := m.grow(2 * len(s)); err != nil { // it is looked up, and stands in the message of what is not there
			return nil, err
		}
		x, ok, err := m.member(v, string(s))
		if ok || err != nil {
			return x, err
		}
		return &undefined{what: "'" + string(s) + "' of " + article(v)}, nil
	}
	if u, ok := v.(*undefined); ok {
		return nil, u.err()
	}
	text, err := m.text(i)
	return &undefined{what: "item " + text + " of " + article(v)}, err
}

// nth is the item at n, from the end where n is negative.
func (m *machine) nth(v Value, n int64) (Value, bool, error) {
	var items []Value
	switch v := v.(type) {
	case *List:
		items = v.Items
	case *Tuple:
		items = v.Items
	case rangeValue:
		if n < 0 {
			n += v.n
		}
		if n < 0 || n >= v.n {
			return nil, false, nil
		}
		return Int(v.start + n*v.step), true, nil
	case String:
		return m.nthRune(string(v), n)
	default:
		return nil, false, nil
	}
	if n < 0 {
		n += int64(len(items))
	}
	if n < 0 || n >= int64(len(items)) {
		return nil, false, nil
	}
	return items[n], true, nil
}

func (m *machine) nthRune(s string, n int64) (Value, bool, error) {
	if err := m.scan(len(s)); err != nil {
		return nil, false, err
	}
	if n < 0 {
		n += int64(utf8.RuneCountInString(s))
	}
	for i := range s {
		if n == 0 {
			_, w := utf8.DecodeRuneInString(s[i:])
			return String(s[i : i+w]), true, nil
		}
		n--
	}
	return nil, false, nil
}

// slice is v[from:to:step].
func (m *machine) slice(v Value, parts [3]Value) (Value, error) {
	if s, ok := v.(String); ok {
		return m.sliceString(string(s), parts)
	}
	var items []Value
	switch t := v.(type) {
	case *List:
		items = t.Items
	case *Tuple:
		items = t.Items
	case rangeValue:
		var err error
		if items, err = m.list(v); err != nil {
			return nil, err
		}
	case *undefined:
		return nil, t.err()
	default:
		return nil, faultf("%s has no slices", article(v))
	}
	from, n, step, err := sliceBounds(parts, len(items))
	if err == nil {
		err = m.items(n)
	}
	if err != nil {
		return nil, err
	}
	out := make([]Value, n)
	for i := range out {
		out[i] = items[from+i*step]
	}
	if _, ok := v.(*Tuple); ok {
		return &Tuple{Items: out}, nil
	}
	return &List{Items: out}, nil
}

func (m *machine) sliceString(s string, parts [3]Value) (Value, error) {
	if err := m.grow(4 * len(s)); err != nil {
		return nil, err
	}
	if err := m.scan(len(s)); err != nil {
		return nil, err
	}
	runes := []rune(s)
	from, n, step, err := sliceBounds(parts, len(runes))
	if err != nil {
		return nil, err
	}
	if step == 1 {
		return m.str(string(runes[from : from+n]))
	}
	var b strings.Builder
	for i := range n {
		b.WriteRune(runes[from+i*step])
	}
	return m.str(b.String())
}

// sliceBounds is Python's slice.indices, as a start, a count and a step.
func sliceBounds(parts [3]Value, length int) (from, n, step int, err error) {
	var given [3]*int
	for i, p := range parts {
		if p == nil || p == Value(None{}) {
			continue
		}
		v, ok := integer(p)
		if !ok {
			return 0, 0, 0, faultf("a slice is bounded by whole numbers, and not by %s", article(p))
		}
		x := int(min(max(v, math.MinInt32), math.MaxInt32))
		given[i] = &x
	}
	if step = 1; given[2] != nil {
		step = *given[2]
	}
	if step == 0 {
		return 0, 0, 0, faultf("the step of a slice is zero")
	}
	low, high := 0, length
	if step < 0 {
		low, high = -1, length-1
	}
	bound := func(p *int, otherwise int) int {
		if p == nil {
			return otherwise
		}
		v := *p
		if v < 0 {
			v += length
		}
		return min(max(v, low), high)
	}
	start, stop := low, high
	if step < 0 {
		start, stop = high, low
	}
	start, stop = bound(given[0], start), bound(given[1], stop)
	if step > 0 {
		n = (stop - start + step - 1) / step
	} else {
		n = (start - stop - step - 1) / -step
	}
	return start, max(n, 0), step, nil
}
