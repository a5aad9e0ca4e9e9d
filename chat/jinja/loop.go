package jinja

import "fmt"

// loopValue is the variable loop inside a for.
type loopValue struct {
	items   []Value
	i       int
	depth   int
	changed Value
	run     func(m *machine, items []Value, depth int) error // of a recursive loop
}

// loopSteps is what one turn of a loop counts besides its body: a scope of its own is made for it.
const loopSteps = 4

func (f *forStmt) exec(m *machine, s *scope) (flow, error) {
	v, err := m.eval(s, f.iter)
	if err != nil {
		return flowNext, err
	}
	items, err := m.list(v)
	if err != nil {
		return flowNext, at(m.t.name, f.iter.place(), err)
	}
	return flowNext, f.run(m, s, items, 0)
}

func (f *forStmt) run(m *machine, s *scope, items []Value, depth int) error {
	items, err := f.choose(m, s, items)
	if err != nil {
		return err
	}
	if len(items) == 0 {
		_, err := m.block(f.other, s.sub())
		return err
	}
	loop := &loopValue{items: items, depth: depth}
	if f.recursive {
		loop.run = func(m *machine, items []Value, depth int) error { return f.run(m, s, items, depth) }
	}
	for i, it := range items {
		if err := m.spend(loopSteps); err != nil {
			return at(m.t.name, f.pos, err)
		}
		inner := s.sub()
		loop.i = i
		inner.set("loop", loop)
		if err := m.assign(inner, f.target, it); err != nil {
			return err
		}
		fl, err := m.block(f.body, inner)
		if err != nil {
			return err
		}
		if fl == flowBreak {
			break
		}
	}
	return nil
}

// choose keeps the items that the loop's if accepts.
func (f *forStmt) choose(m *machine, s *scope, items []Value) ([]Value, error) {
	if f.filter == nil {
		return items, nil
	}
	var kept []Value
	for _, it := range items {
		if err := m.spend(loopSteps); err != nil {
			return nil, at(m.t.name, f.pos, err)
		}
		inner := s.sub()
		if err := m.assign(inner, f.target, it); err != nil {
			return nil, err
		}
		v, err := m.eval(inner, f.filter)
		if err != nil {
			return nil, err
		}
		if truth(v) {
			kept = append(kept, it)
		}
	}
	return kept, m.items(len(kept))
}

// attr is loop.NAME.
func (l *loopValue) attr(name string) (Value, bool) {
	n := len(l.items)
	at := func(i int, what string) Value {
		if i < 0 || i >= n {
			return &undefined{what: "there is no " + what + " item: 'loop." + what + "item'"}
		}
		return l.items[i]
	}
	switch name {
	case "index":
		return Int(l.i + 1), true
	case "index0":
		return Int(l.i), true
	case "revindex":
		return Int(n - l.i), true
	case "revindex0":
		return Int(n - l.i - 1), true
	case "first":
		return Bool(l.i == 0), true
	case "last":
		return Bool(l.i == n-1), true
	case "length":
		return Int(n), true
	case "depth":
		return Int(l.depth + 1), true
	case "depth0":
		return Int(l.depth), true
	case "previtem":
		return at(l.i-1, "prev"), true
	case "nextitem":
		return at(l.i+1, "next"), true
	case "cycle":
		i := l.i
		return &callable{name: "loop.cycle", fn: func(_ *machine, a *args) (Value, error) {
			if len(a.pos) == 0 {
				return nil, faultf("loop.cycle needs values to go through")
			}
			return a.pos[i%len(a.pos)], nil
		}}, true
	case "changed":
		return &callable{name: "loop.changed", fn: l.hasChanged}, true
	}
	return nil, false
}

func (l *loopValue) hasChanged(m *machine, a *args) (Value, error) {
	now := &Tuple{Items: a.pos}
	if l.changed != nil {
		same, err := m.equal(l.changed, now, 0)
		if err != nil || same {
			return Bool(false), err
		}
	}
	l.changed = now
	return Bool(true), nil
}

// recurse is loop(items) in a recursive loop.
func (l *loopValue) recurse(m *machine, a *args) (Value, error) {
	if l.run == nil {
		return nil, faultf("the loop is called but is not marked recursive")
	}
	if len(a.pos) != 1 {
		return nil, faultf("loop(...) takes one argument and gets %d", len(a.pos))
	}
	items, err := m.list(a.pos[0])
	if err != nil {
		return nil, err
	}
	outer, generating := m.out, m.generating
	m.out, m.generating = &output{}, false
	err = l.run(m, items, l.depth+1)
	text := m.out.buf
	m.out, m.generating = outer, generating
	if err != nil {
		return nil, err
	}
	return m.str(string(text))
}

// list is the items that v gives when gone through.
func (m *machine) list(v Value) ([]Value, error) {
	switch v := v.(type) {
	case *List:
		return v.Items, m.spend(len(v.Items) / 16)
	case *Tuple:
		return v.Items, m.spend(len(v.Items) / 16)
	case *Dict:
		return v.keys, m.spend(len(v.keys) / 16)
	case *undefined:
		if v.unsafe {
			return nil, v.err()
		}
		return nil, nil
	case String:
		if err := m.items(len(v)); err != nil {
			return nil, err
		}
		out := make([]Value, 0, len(v))
		for _, r := range string(v) {
			out = append(out, String(string(r)))
		}
		return out, nil
	case rangeValue:
		if err := m.items(int(v.n)); err != nil {
			return nil, err
		}
		out := make([]Value, v.n)
		for i := range out {
			out[i] = Int(v.start + int64(i)*v.step)
		}
		return out, nil
	}
	return nil, &fault{reason: article(v) + " cannot be gone through", remedy: "give a list, or test it first, as in {% if tools %}"}
}

// err is what an undefined value is where a defined one is needed.
func (u *undefined) err() error {
	if u.unsafe {
		return &fault{reason: u.what + " is refused by the sandbox", remedy: "templates may not change what they are given; build a new value"}
	}
	return &fault{reason: u.what + " is undefined", remedy: "give it, or test it first with 'is defined'"}
}

// article names the kind of v in a sentence.
func article(v Value) string {
	switch v := v.(type) {
	case None:
		return "none"
	case *undefined:
		return "undefined (" + v.what + ")"
	case Int:
		return fmt.Sprintf("the int %d", int64(v))
	}
	return "a " + v.kind()
}
