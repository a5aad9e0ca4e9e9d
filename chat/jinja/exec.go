package jinja

import "fmt"

func (t *textStmt) exec(m *machine, _ *scope) (flow, error) { return flowNext, m.write(t.s) }

func (o *outStmt) exec(m *machine, s *scope) (flow, error) {
	// A macro called on its own writes straight into the output, so that generation blocks inside it have their place there.
	if c, ok := o.x.(*callExpr); ok {
		fn, a, err := m.prepare(s, c)
		if err != nil {
			return flowNext, err
		}
		if fn.macro != nil {
			return flowNext, at(m.t.name, c.pos, m.runMacro(fn.macro, a))
		}
		v, err := fn.fn(m, a)
		if err != nil {
			return flowNext, at(m.t.name, c.pos, err)
		}
		return flowNext, m.print(v)
	}
	v, err := m.eval(s, o.x)
	if err != nil {
		return flowNext, err
	}
	return flowNext, m.print(v)
}

func (m *machine) print(v Value) error {
	text, err := m.text(v)
	if err != nil {
		return err
	}
	return m.write(text)
}

func (i *ifStmt) exec(m *machine, s *scope) (flow, error) {
	for k, c := range i.conds {
		v, err := m.eval(s, c)
		if err != nil {
			return flowNext, err
		}
		if truth(v) {
			return m.block(i.bodies[k], s)
		}
	}
	return m.block(i.other, s)
}

func (l *loopControl) exec(*machine, *scope) (flow, error) { return l.f, nil }

func (st *setStmt) exec(m *machine, s *scope) (flow, error) {
	v, err := m.eval(s, st.x)
	if err != nil {
		return flowNext, err
	}
	return flowNext, m.assign(s, st.target, v)
}

func (st *setBlock) exec(m *machine, s *scope) (flow, error) {
	v, err := m.capture(st.body, s.sub())
	if err == nil {
		v, err = m.chain(s, st.filters, v)
	}
	if err != nil {
		return flowNext, err
	}
	return flowNext, m.assign(s, st.target, v)
}

func (f *filterStmt) exec(m *machine, s *scope) (flow, error) {
	v, err := m.capture(f.body, s.sub())
	if err == nil {
		v, err = m.chain(s, f.filters, v)
	}
	if err != nil {
		return flowNext, err
	}
	return flowNext, m.print(v)
}

// chain applies the filters of a block.
func (m *machine) chain(s *scope, fs []*filterExpr, v Value) (Value, error) {
	for _, f := range fs {
		var err error
		if v, err = m.eval(s, &filterExpr{pos: f.pos, x: &constant{f.pos, v}, name: f.name, args: f.args}); err != nil {
			return nil, err
		}
	}
	return v, nil
}

func (w *withStmt) exec(m *machine, s *scope) (flow, error) {
	inner := s.sub()
	for i, x := range w.vals {
		v, err := m.eval(s, x)
		if err == nil {
			err = m.assign(inner, w.targets[i], v)
		}
		if err != nil {
			return flowNext, err
		}
	}
	_, err := m.block(w.body, inner)
	return flowNext, err
}

func (g *generationStmt) exec(m *machine, s *scope) (flow, error) {
	if m.out != m.main {
		m.unplaced = true
	}
	if m.out != m.main || m.generating {
		_, err := m.block(g.body, s.sub())
		return flowNext, err
	}
	start := len(m.out.buf)
	m.generating = true
	_, err := m.block(g.body, s.sub())
	m.generating = false
	if end := len(m.out.buf); end > start {
		m.out.spans = append(m.out.spans, Span{start, end})
	}
	return flowNext, err
}

func (st *macroStmt) exec(m *machine, s *scope) (flow, error) {
	s.set(st.m.name, m.macroValue(st.m, s))
	return flowNext, nil
}

// macroValue binds a macro to the scope that it stands in.
func (m *machine) macroValue(mac *macro, s *scope) *callable {
	bound := *mac
	bound.in = s
	c := &callable{name: mac.name, macro: &bound}
	c.fn = func(m *machine, a *args) (Value, error) {
		outer, generating := m.out, m.generating
		m.out, m.generating = &output{}, false
		err := m.runMacro(&bound, a)
		text := m.out.buf
		m.out, m.generating = outer, generating
		if err != nil {
			return nil, err
		}
		return m.str(string(text))
	}
	return c
}

func (c *callStmt) exec(m *machine, s *scope) (flow, error) {
	fn, a, err := m.prepare(s, c.call)
	if err != nil {
		return flowNext, err
	}
	a.names, a.named = append(a.names, "caller"), append(a.named, m.macroValue(c.m, s))
	if fn.macro != nil {
		return flowNext, at(m.t.name, c.call.pos, m.runMacro(fn.macro, a))
	}
	v, err := fn.fn(m, a)
	if err != nil {
		return flowNext, at(m.t.name, c.call.pos, err)
	}
	return flowNext, m.print(v)
}

// runMacro binds the arguments and runs the body into the current output.
func (m *machine) runMacro(mac *macro, a *args) error {
	if err := m.enter(); err != nil {
		return err
	}
	defer m.leave()
	s := mac.in.sub()
	kwargs, caller := NewDict(), Value(nil)
	given := map[string]Value{}
	for i, n := range a.names {
		given[n] = a.named[i]
	}
	first := len(mac.params) - len(mac.defaults)
	for i, name := range mac.params {
		v, named := given[name]
		delete(given, name)
		switch {
		case i < len(a.pos) && named:
			return faultf("the macro '%s' gets '%s' twice", mac.name, name)
		case i < len(a.pos):
			v = a.pos[i]
		case !named && i >= first:
			var err error
			if v, err = m.eval(s, mac.defaults[i-first]); err != nil {
				return err
			}
		case !named:
			v = &undefined{what: fmt.Sprintf("the argument '%s' of '%s'", name, mac.name)}
		}
		s.set(name, v)
	}
	for _, n := range a.names {
		v, ok := given[n]
		switch {
		case !ok:
		case n == "caller" && mac.caller:
			caller = v
		case n != "caller" && mac.kwargs:
			kwargs.Set(n, v)
		default:
			return faultf("the macro '%s' has no parameter '%s'", mac.name, n)
		}
	}
	extra := &Tuple{}
	if len(a.pos) > len(mac.params) {
		extra.Items = a.pos[len(mac.params):]
		if !mac.varargs {
			return faultf("the macro '%s' takes %d arguments and gets %d", mac.name, len(mac.params), len(a.pos))
		}
	}
	if mac.varargs {
		s.set("varargs", extra)
	}
	if mac.kwargs {
		s.set("kwargs", kwargs)
	}
	if mac.caller {
		if caller == nil {
			caller = &undefined{what: "'caller' outside a call block"}
		}
		s.set("caller", caller)
	}
	_, err := m.block(mac.body, s)
	return err
}

// assign gives v to a target.
func (m *machine) assign(s *scope, t target, v Value) error {
	if t.items == nil {
		if t.attr == "" {
			s.set(t.name, v)
			return nil
		}
		held := m.lookup(s, t.name)
		ns, ok := held.(*namespace)
		if !ok {
			return at(m.t.name, t.pos, &fault{reason: fmt.Sprintf("'%s' is %s, and only a namespace takes new attributes", t.name, article(held)),
				remedy: "make one: {% set ns = namespace() %}"})
		}
		ns.vars.Set(t.attr, v)
		return m.grow(16)
	}
	items, err := m.list(v)
	if err == nil && len(items) != len(t.items) {
		err = faultf("%d values cannot be given to %d names", len(items), len(t.items))
	}
	if err != nil {
		return at(m.t.name, t.pos, err)
	}
	for i, sub := range t.items {
		if err := m.assign(s, sub, items[i]); err != nil {
			return err
		}
	}
	return nil
}
