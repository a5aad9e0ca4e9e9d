package jinja

import (
	"errors"
	"fmt"
)

// machine runs one template once.
type machine struct {
	t        *Template
	globals  *Dict
	limits   Limits
	depth    int
	steps    int
	alloc    int
	out      *output
	main     *output
	unplaced bool
	// generating is set inside a generation block of the main output.
	generating bool
}

// output collects text and the spans of generation blocks.
type output struct {
	buf   []byte
	spans []Span
}

// scope is a level of names; macros keep the one they were defined in. A level has few names, so they lie in a slice; one with many
// goes over to a map, or a template could make each look-up long.
type scope struct {
	few  []binding
	many map[string]Value
	up   *scope
}

type binding struct {
	name string
	v    Value
}

// maxFew is where a scope goes over to a map.
const maxFew = 8

func (s *scope) sub() *scope { return &scope{up: s} }

func (s *scope) set(name string, v Value) {
	if s.many != nil {
		s.many[name] = v
		return
	}
	for i := range s.few {
		if s.few[i].name == name {
			s.few[i].v = v
			return
		}
	}
	if len(s.few) < maxFew {
		s.few = append(s.few, binding{name, v})
		return
	}
	s.many = map[string]Value{name: v}
	for _, b := range s.few {
		s.many[b.name] = b.v
	}
	s.few = nil
}

// get also says how many levels were looked through.
func (s *scope) get(name string) (v Value, levels int, ok bool) {
	for ; s != nil; s = s.up {
		levels++
		if s.many != nil {
			if v, ok := s.many[name]; ok {
				return v, levels, true
			}
			continue
		}
		for i := range s.few {
			if s.few[i].name == name {
				return s.few[i].v, levels, true
			}
		}
	}
	return nil, levels, false
}

func newMachine(t *Template, context *Dict) *machine {
	if context == nil {
		context = NewDict()
	}
	n := size(context)
	m := &machine{t: t, globals: context, limits: t.limits, out: &output{}}
	m.main = m.out
	fill := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	fill(&m.limits.Steps, defaultSteps+n)
	fill(&m.limits.Depth, defaultDepth)
	fill(&m.limits.Alloc, defaultAlloc+32*n)
	fill(&m.limits.Output, defaultOutput)
	return m
}

func budget(what string, limit int) error {
	return &fault{reason: fmt.Sprintf("the rendering takes more than %d %s", limit, what), budget: true,
		remedy: "a chat template needs far less: is it one, and is the conversation whole?"}
}

// spend counts work; n is in steps.
func (m *machine) spend(n int) error {
	if m.steps += n; m.steps > m.limits.Steps || n < 0 {
		return budget("steps", m.limits.Steps)
	}
	return nil
}

// scan counts the looking through of n bytes.
func (m *machine) scan(n int) error { return m.spend(n / 32) }

// grow counts n bytes about to be allocated, and the work of filling them.
func (m *machine) grow(n int) error {
	if n < 0 || n > m.limits.Alloc-m.alloc {
		return budget("bytes of memory", m.limits.Alloc)
	}
	m.alloc += n
	return m.spend(n / 256)
}

// items counts a list of n values about to be made.
func (m *machine) items(n int) error {
	if n < 0 || n > m.limits.Alloc/16 {
		return budget("bytes of memory", m.limits.Alloc)
	}
	if err := m.grow(16 * n); err != nil {
		return err
	}
	return m.spend(n)
}

// key is v as the key of a map. A long one takes its time to hash, each time that it is looked up.
func (m *machine) key(v Value) (key, error) {
	k, err := keyOf(v)
	n := len(k.s)
	if t, ok := v.(*Tuple); ok && len(t.Items) > 0 {
		n = maxTupleKey
	}
	return k, cmpErr(m.scan(n), err)
}

// find is the value under any key; one that cannot be a key is not there.
func (m *machine) find(d *Dict, v Value) (Value, bool, error) {
	k, err := m.key(v)
	var f *fault
	if errors.As(err, &f) && !f.budget {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	i, ok := d.index[k]
	if !ok {
		return nil, false, nil
	}
	return d.vals[i], true, nil
}

// copies counts another dict with the entries of d about to be made.
func (m *machine) copies(d *Dict) error {
	n := 0
	for _, k := range d.keys {
		switch k := k.(type) {
		case String:
			n += len(k)
		case *Tuple:
			n += maxTupleKey
		}
	}
	return cmpErr(m.items(4*d.Len()), m.scan(n))
}

// str makes a string value of s, which the caller has built within what grow allowed.
func (m *machine) str(s string) (Value, error) { return String(s), m.grow(len(s)) }

func (m *machine) write(s string) error {
	if len(s) > m.limits.Output-len(m.out.buf) {
		return budget("bytes of output", m.limits.Output)
	}
	if err := m.grow(len(s)); err != nil {
		return err
	}
	m.out.buf = append(m.out.buf, s...)
	return nil
}

func (m *machine) enter() error {
	if m.depth++; m.depth > m.limits.Depth {
		return &fault{reason: fmt.Sprintf("expressions, blocks and macros lie more than %d deep in each other", m.limits.Depth), budget: true,
			remedy: "does a macro call itself without end?"}
	}
	return nil
}

func (m *machine) leave() { m.depth-- }

// eval is the way to every expression: it counts and gives errors their place.
func (m *machine) eval(s *scope, x expr) (Value, error) {
	if err := m.spend(1); err != nil {
		return nil, at(m.t.name, x.place(), err)
	}
	if err := m.enter(); err != nil {
		return nil, at(m.t.name, x.place(), err)
	}
	v, err := x.eval(m, s)
	m.leave()
	if err != nil {
		return nil, at(m.t.name, x.place(), err)
	}
	return v, nil
}

// block runs statements until one leaves the loop around them.
func (m *machine) block(body []stmt, s *scope) (flow, error) {
	if err := m.enter(); err != nil {
		if len(body) == 0 {
			return flowNext, err
		}
		return flowNext, at(m.t.name, body[0].place(), err)
	}
	defer m.leave()
	for _, st := range body {
		err := m.spend(1)
		f := flowNext
		if err == nil {
			f, err = st.exec(m, s)
		}
		if err != nil {
			return flowNext, at(m.t.name, st.place(), err)
		}
		if f != flowNext {
			return f, nil
		}
	}
	return flowNext, nil
}

// capture runs body into a string of its own.
func (m *machine) capture(body []stmt, s *scope) (Value, error) {
	outer, generating := m.out, m.generating
	m.out, m.generating = &output{}, false
	_, err := m.block(body, s)
	text := m.out.buf
	m.out, m.generating = outer, generating
	if err != nil {
		return nil, err
	}
	return m.str(string(text))
}
