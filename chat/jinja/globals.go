package jinja

import (
	"slices"
	"strings"
)

// globals are the functions every template has; a variable of the same name hides one.
var globals = map[string]Value{
	"range":           &callable{name: "range", fn: globalRange},
	"namespace":       &callable{name: "namespace", fn: globalNamespace},
	"dict":            &callable{name: "dict", fn: globalDict},
	"cycler":          &callable{name: "cycler", fn: globalCycler},
	"joiner":          &callable{name: "joiner", fn: globalJoiner},
	"raise_exception": &callable{name: "raise_exception", fn: globalRaise},
	"strftime_now":    &callable{name: "strftime_now", fn: globalNow},
}

// names lists the keys of a table for a message.
func names[T any](table map[string]T) string {
	var out []string
	for n := range table {
		out = append(out, n)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func globalRange(_ *machine, a *args) (Value, error) {
	p, err := a.take("range", "start", "stop", "step")
	if err != nil {
		return nil, err
	}
	n := [3]int64{0, 0, 1}
	for i, v := range p {
		if v == nil {
			continue
		}
		x, ok := integer(v)
		if !ok {
			return nil, faultf("range takes whole numbers, and not %s", article(v))
		}
		if x > 1<<40 || x < -1<<40 {
			return nil, faultf("range of more than %d numbers", maxRange)
		}
		n[i] = x
	}
	if p[0] == nil {
		return nil, faultf("range takes one to three numbers")
	}
	if p[1] == nil {
		n[0], n[1] = 0, n[0]
	}
	if n[2] == 0 {
		return nil, faultf("the step of range is zero")
	}
	count := (n[1] - n[0] + n[2] - 1) / n[2]
	if n[2] < 0 {
		count = (n[1] - n[0] + n[2] + 1) / n[2]
	}
	if count > maxRange {
		return nil, &fault{reason: "range of more than 100000 numbers", budget: true, remedy: "the sandbox of jinja2 has the same limit"}
	}
	return rangeValue{n[0], n[2], max(count, 0)}, nil
}

func globalNamespace(m *machine, a *args) (Value, error) {
	d, err := globalDict(m, a)
	if err != nil {
		return nil, err
	}
	return &namespace{d.(*Dict)}, nil
}

func globalDict(m *machine, a *args) (Value, error) {
	d := NewDict()
	for _, v := range a.pos {
		if src, ok := v.(*Dict); ok {
			if err := m.copies(src); err != nil {
				return nil, err
			}
			for i, k := range src.keys {
				kk, _ := keyOf(k)
				d.put(kk, k, src.vals[i])
			}
			continue
		}
		if err := m.pairs(d, v); err != nil {
			return nil, err
		}
	}
	for i, n := range a.names {
		d.Set(n, a.named[i])
	}
	return d, m.items(4 * len(a.names))
}

// pairs puts a list of pairs into d.
func (m *machine) pairs(d *Dict, v Value) error {
	items, err := m.list(v)
	if err == nil {
		err = m.items(4 * len(items))
	}
	if err != nil {
		return err
	}
	for _, it := range items {
		pair, err := m.list(it)
		if err != nil {
			return err
		}
		if len(pair) != 2 {
			return faultf("a dict is made of pairs, and one has %d values", len(pair))
		}
		k, err := m.key(pair[0])
		if err != nil {
			return err
		}
		d.put(k, pair[0], pair[1])
	}
	return nil
}

func globalCycler(_ *machine, a *args) (Value, error) {
	if len(a.pos) == 0 {
		return nil, faultf("cycler needs values to go through")
	}
	return &cycler{items: a.pos}, nil
}

func (c *cycler) attr(name string) (Value, bool) {
	switch name {
	case "next":
		return &callable{name: "next", fn: func(*machine, *args) (Value, error) {
			v := c.items[c.next]
			c.next = (c.next + 1) % len(c.items)
			return v, nil
		}}, true
	case "reset":
		return &callable{name: "reset", fn: func(*machine, *args) (Value, error) {
			c.next = 0
			return None{}, nil
		}}, true
	case "current":
		return c.items[c.next], true
	}
	return nil, false
}

// globalJoiner makes what gives nothing when first called and the separator from then on.
func globalJoiner(_ *machine, a *args) (Value, error) {
	p, err := a.take("joiner", "sep")
	if err != nil {
		return nil, err
	}
	if p[0] == nil {
		p[0] = String(", ")
	}
	return &cycler{items: []Value{String(""), p[0]}}, nil
}

// join is a call of a joiner.
func (c *cycler) join(*machine, *args) (Value, error) {
	v := c.items[c.next]
	c.next = len(c.items) - 1
	return v, nil
}

func globalRaise(m *machine, a *args) (Value, error) {
	p, err := a.take("raise_exception", "message")
	if err != nil {
		return nil, err
	}
	text := "no message"
	if p[0] != nil {
		if text, err = m.text(p[0]); err != nil {
			return nil, err
		}
	}
	if len(text) > 1000 {
		text = strings.ToValidUTF8(text[:1000], "") + "..."
	}
	return nil, &fault{reason: text, raised: true}
}

func globalNow(m *machine, a *args) (Value, error) {
	p, err := a.take("strftime_now", "format")
	if err != nil {
		return nil, err
	}
	format, ok := p[0].(String)
	if !ok {
		return nil, faultf("strftime_now takes a format, as in strftime_now('%%d %%b %%Y')")
	}
	if err := m.grow(24 * len(format)); err != nil {
		return nil, err
	}
	return strftime(m.t.now(), string(format))
}
