package jinja

import (
	"fmt"
	"slices"
)

func (c *constant) eval(*machine, *scope) (Value, error) { return c.v, nil }

func (n *nameExpr) eval(m *machine, s *scope) (Value, error) { return m.lookup(s, n.name), nil }

// freeLevels are the levels of names that a look-up goes through as part of its step; templates have a few.
const freeLevels = 8

// lookup finds a name: set by the template, given, or global.
func (m *machine) lookup(s *scope, name string) Value {
	v, levels, ok := s.get(name)
	if m.steps += max(0, levels-freeLevels); ok { // what is too much, the next step notices
		return v
	}
	if v, ok := m.globals.Get(name); ok {
		return v
	}
	if g, ok := globals[name]; ok {
		return g
	}
	return &undefined{what: "'" + name + "'"}
}

func (l *listExpr) eval(m *machine, s *scope) (Value, error) {
	items, err := m.evalAll(s, l.items)
	if err != nil {
		return nil, err
	}
	if l.tuple {
		return &Tuple{Items: items}, nil
	}
	return &List{Items: items}, nil
}

func (m *machine) evalAll(s *scope, xs []expr) ([]Value, error) {
	if err := m.items(len(xs)); err != nil {
		return nil, err
	}
	out := make([]Value, len(xs))
	for i, x := range xs {
		var err error
		if out[i], err = m.eval(s, x); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (d *dictExpr) eval(m *machine, s *scope) (Value, error) {
	if err := m.items(4 * len(d.keys)); err != nil {
		return nil, err
	}
	out := NewDict()
	for i, kx := range d.keys {
		kv, err := m.eval(s, kx)
		if err != nil {
			return nil, err
		}
		k, err := m.key(kv)
		if err != nil {
			return nil, at(m.t.name, kx.place(), err)
		}
		v, err := m.eval(s, d.vals[i])
		if err != nil {
			return nil, err
		}
		out.put(k, kv, v)
	}
	return out, nil
}

func (c *condExpr) eval(m *machine, s *scope) (Value, error) {
	v, err := m.eval(s, c.cond)
	switch {
	case err != nil:
		return nil, err
	case truth(v):
		return m.eval(s, c.then)
	case c.other == nil:
		return &undefined{what: "the value of an 'if' without 'else' whose condition is false"}, nil
	}
	return m.eval(s, c.other)
}

func (l *logicExpr) eval(m *machine, s *scope) (Value, error) {
	v, err := m.eval(s, l.l)
	if err != nil || truth(v) != l.and {
		return v, err
	}
	return m.eval(s, l.r)
}

func (n *notExpr) eval(m *machine, s *scope) (Value, error) {
	v, err := m.eval(s, n.x)
	if err != nil {
		return nil, err
	}
	return Bool(!truth(v)), nil
}

func (c *concatExpr) eval(m *machine, s *scope) (Value, error) {
	parts := make([]string, len(c.items))
	n := 0
	for i, x := range c.items {
		v, err := m.eval(s, x)
		if err != nil {
			return nil, err
		}
		if parts[i], err = m.text(v); err != nil {
			return nil, at(m.t.name, x.place(), err)
		}
		n += len(parts[i])
	}
	return m.joined(parts, "", n)
}

func (c *compareExpr) eval(m *machine, s *scope) (Value, error) {
	l, err := m.eval(s, c.first)
	if err != nil {
		return nil, err
	}
	for i, op := range c.ops {
		r, err := m.eval(s, c.rest[i])
		if err != nil {
			return nil, err
		}
		ok, err := m.compare(op, l, r)
		if err != nil {
			return nil, at(m.t.name, c.pos, err)
		}
		if !ok {
			return Bool(false), nil
		}
		l = r
	}
	return Bool(true), nil
}

func (a *attrExpr) eval(m *machine, s *scope) (Value, error) {
	v, err := m.eval(s, a.x)
	if err != nil {
		return nil, err
	}
	return m.attribute(v, a.name)
}

func (x *indexExpr) eval(m *machine, s *scope) (Value, error) {
	v, err := m.eval(s, x.x)
	if err != nil {
		return nil, err
	}
	i, err := m.eval(s, x.i)
	if err != nil {
		return nil, err
	}
	return m.index(v, i)
}

func (x *sliceExpr) eval(m *machine, s *scope) (Value, error) {
	v, err := m.eval(s, x.x)
	if err != nil {
		return nil, err
	}
	var parts [3]Value
	for i, px := range []expr{x.from, x.to, x.step} {
		if px == nil {
			continue
		}
		if parts[i], err = m.eval(s, px); err != nil {
			return nil, err
		}
	}
	return m.slice(v, parts)
}

func (c *callExpr) eval(m *machine, s *scope) (Value, error) {
	fn, a, err := m.prepare(s, c)
	if err != nil {
		return nil, err
	}
	return fn.fn(m, a)
}

// prepare evaluates what is called and its arguments.
func (m *machine) prepare(s *scope, c *callExpr) (*callable, *args, error) {
	v, err := m.eval(s, c.fn)
	if err != nil {
		return nil, nil, err
	}
	a, err := m.arguments(s, &c.args)
	if err != nil {
		return nil, nil, err
	}
	switch v := v.(type) {
	case *callable:
		return v, a, nil
	case *loopValue:
		return &callable{name: "loop", fn: v.recurse}, a, nil
	case *cycler:
		return &callable{name: "joiner", fn: v.join}, a, nil
	case *undefined:
		return nil, nil, at(m.t.name, c.pos, v.err())
	}
	return nil, nil, at(m.t.name, c.pos, faultf("%s cannot be called", article(v)))
}

// args are evaluated arguments.
type args struct {
	pos   []Value
	names []string
	named []Value
}

func (m *machine) arguments(s *scope, ca *callArgs) (*args, error) {
	a := &args{}
	var err error
	if a.pos, err = m.evalAll(s, ca.items); err != nil {
		return nil, err
	}
	if ca.star != nil {
		v, err := m.eval(s, ca.star)
		if err != nil {
			return nil, err
		}
		more, err := m.list(v)
		if err == nil {
			err = m.items(len(more))
		}
		if err != nil {
			return nil, at(m.t.name, ca.star.place(), err)
		}
		a.pos = append(a.pos, more...)
	}
	a.names = slices.Clip(ca.names)
	if a.named, err = m.evalAll(s, ca.named); err != nil || ca.stars == nil {
		return a, err
	}
	v, err := m.eval(s, ca.stars)
	if err != nil {
		return nil, err
	}
	d, ok := v.(*Dict)
	if !ok {
		return nil, at(m.t.name, ca.stars.place(), faultf("%s does not hold named arguments; a dict does", article(v)))
	}
	for i, k := range d.keys {
		name, ok := k.(String)
		if err := m.spend(len(ca.names)/16 + len(name)/32); err != nil {
			return nil, err
		}
		if !ok || slices.Contains(ca.names, string(name)) {
			return nil, at(m.t.name, ca.stars.place(), faultf("a named argument is no string or comes twice"))
		}
		a.names, a.named = append(a.names, string(name)), append(a.named, d.vals[i])
	}
	return a, m.items(len(a.names))
}

// take gives each parameter its value, nil where there is none.
func (a *args) take(fn string, params ...string) ([]Value, error) {
	out := make([]Value, len(params))
	if len(a.pos) > len(params) {
		return nil, faultf("'%s' takes at most %d arguments and gets %d", fn, len(params), len(a.pos))
	}
	copy(out, a.pos)
	for i, n := range a.names {
		k := slices.Index(params, n)
		if k < 0 || out[k] != nil {
			return nil, faultf("'%s' has no parameter '%s' left; its parameters are %v", fn, n, params)
		}
		out[k] = a.named[i]
	}
	return out, nil
}

func (f *filterExpr) eval(m *machine, s *scope) (Value, error) {
	v, err := m.eval(s, f.x)
	if err != nil {
		return nil, err
	}
	a, err := m.arguments(s, &f.args)
	if err != nil {
		return nil, err
	}
	return m.filter(f.name, v, a)
}

// filter applies one filter. The value that goes through is not among the arguments.
func (m *machine) filter(name string, v Value, a *args) (Value, error) {
	fn, ok := filters[name]
	if !ok {
		return nil, &fault{reason: fmt.Sprintf("there is no filter '%s'", name), remedy: "the filters are " + names(filters)}
	}
	if err := m.spend(1); err != nil {
		return nil, err
	}
	return fn(m, v, a)
}

func (t *testExpr) eval(m *machine, s *scope) (Value, error) {
	v, err := m.eval(s, t.x)
	if err != nil {
		return nil, err
	}
	a, err := m.arguments(s, &t.args)
	if err != nil {
		return nil, err
	}
	ok, err := m.test(t.name, v, a)
	return Bool(ok), err
}

func (m *machine) test(name string, v Value, a *args) (bool, error) {
	fn, ok := tests[name]
	if !ok {
		return false, &fault{reason: fmt.Sprintf("there is no test '%s'", name), remedy: "the tests are " + names(tests)}
	}
	if err := m.spend(1); err != nil {
		return false, err
	}
	return fn(m, v, a)
}
