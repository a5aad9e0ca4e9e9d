package jinja

import (
	"fmt"
	"slices"
)

// parser turns tokens into a tree; each method reads from p.i on.
type parser struct {
	name       string
	toks       []token
	i          int
	depth      int
	loops      int
	macros     []*macro // those being read, innermost last
	generation bool
}

func newParser(name, src string) (*parser, error) {
	toks, err := tokenize(name, src)
	if err != nil {
		return nil, err
	}
	return &parser{name: name, toks: toks}, nil
}

func (p *parser) tok() token { return p.toks[p.i] }

func (p *parser) advance() token {
	t := p.toks[p.i]
	if t.kind != tokEOF {
		p.i++
	}
	return t
}

func (p *parser) fail(where pos, format string, a ...any) error {
	return &Error{Name: p.name, Line: where.line, Col: where.col, Reason: fmt.Sprintf(format, a...)}
}

func (p *parser) is(kind tokenKind, s string) bool { t := p.tok(); return t.kind == kind && t.s == s }

func (p *parser) isName(s string) bool { return p.is(tokName, s) }
func (p *parser) isOp(s string) bool   { return p.is(tokOp, s) }

func (p *parser) skip(kind tokenKind, s string) bool {
	if p.is(kind, s) {
		p.i++
		return true
	}
	return false
}

func (p *parser) expect(kind tokenKind, s string) error {
	if p.skip(kind, s) {
		return nil
	}
	return p.fail(p.tok().pos, "%s stands where '%s' should", p.tok(), s)
}

func (p *parser) ident() (string, error) {
	t := p.tok()
	if t.kind != tokName {
		return "", p.fail(t.pos, "%s stands where a name should", t)
	}
	p.i++
	return t.s, nil
}

// enter counts nesting; every recursive rule calls it, and leave when it is done.
func (p *parser) enter() error {
	if p.depth++; p.depth > maxNesting {
		return p.fail(p.tok().pos, "blocks or brackets lie more than %d deep in each other", maxNesting)
	}
	return nil
}

func (p *parser) leave() { p.depth-- }

func (p *parser) template() ([]stmt, error) {
	body, end, err := p.body(pos{1, 1}, "")
	if err == nil && end != "" {
		err = p.fail(p.tok().pos, "'%s' ends a block that was not begun", end)
	}
	return body, err
}

// blockWords end or divide blocks; they are no statements of their own.
var blockWords = []string{"endif", "elif", "else", "endfor", "endset", "endmacro", "endcall", "endfilter", "endwith", "endgeneration"}

// body reads statements up to one of the ends, whose name it consumes and returns; the rest of that tag is the caller's. Without
// ends it reads to the end of the template.
func (p *parser) body(open pos, of string, ends ...string) ([]stmt, string, error) {
	if err := p.enter(); err != nil {
		return nil, "", err
	}
	defer p.leave()
	var out []stmt
	for {
		t := p.advance()
		switch t.kind {
		case tokText:
			out = append(out, &textStmt{t.pos, t.s})
		case tokVarBegin:
			x, err := p.tuple(true)
			if err == nil {
				err = p.expect(tokVarEnd, "}}")
			}
			if err != nil {
				return nil, "", err
			}
			out = append(out, &outStmt{t.pos, x})
		case tokBlockBegin:
			word := p.tok()
			if word.kind == tokName && slices.Contains(ends, word.s) {
				p.i++
				return out, word.s, nil
			}
			if word.kind == tokName && slices.Contains(blockWords, word.s) {
				if of != "" {
					return nil, "", p.fail(word.pos, "'%s' stands inside the '%s' of line %d, which ends with '%s'", word.s, of, open.line, ends[0])
				}
				return nil, "", p.fail(word.pos, "'%s' ends a block that was not begun", word.s)
			}
			s, err := p.statement()
			if err != nil {
				return nil, "", err
			}
			out = append(out, s)
		default:
			if len(ends) > 0 {
				return nil, "", p.fail(open, "'%s' has no '%s'", of, ends[len(ends)-1])
			}
			return out, "", nil
		}
	}
}

// endTag closes the tag that is open.
func (p *parser) endTag() error { return p.expect(tokBlockEnd, "%}") }

func (p *parser) statement() (stmt, error) {
	t := p.tok()
	word, err := p.ident()
	if err != nil {
		return nil, err
	}
	switch word {
	case "if":
		return p.ifStatement(t.pos)
	case "for":
		return p.forStatement(t.pos)
	case "set":
		return p.setStatement(t.pos)
	case "macro":
		return p.macroStatement(t.pos)
	case "call":
		return p.callStatement(t.pos)
	case "filter":
		return p.filterStatement(t.pos)
	case "with":
		return p.withStatement(t.pos)
	case "generation":
		return p.generationStatement(t.pos)
	case "break", "continue":
		return p.loopControl(t)
	case "print":
		return p.printStatement(t.pos)
	case "include", "import", "from", "extends", "block":
		return nil, &Error{Name: p.name, Line: t.pos.line, Col: t.pos.col, Reason: fmt.Sprintf("'%s' is refused: it refers to other templates, and a chat template stands alone", word),
			Remedy: "write the text of the other template in its place"}
	}
	return nil, &Error{Name: p.name, Line: t.pos.line, Col: t.pos.col, Reason: fmt.Sprintf("there is no statement '%s'", word),
		Remedy: "the statements are if, for, set, macro, call, filter, with, generation, break, continue, raw and print"}
}

// printStatement reads values divided by commas, which are written one after the other.
func (p *parser) printStatement(at pos) (stmt, error) {
	all := &concatExpr{pos: at}
	for {
		x, err := p.expression()
		if err != nil {
			return nil, err
		}
		all.items = append(all.items, x)
		if !p.skip(tokOp, ",") {
			return &outStmt{at, all}, p.endTag()
		}
	}
}

func (p *parser) ifStatement(at pos) (stmt, error) {
	s := &ifStmt{pos: at}
	for word := "elif"; ; {
		if word == "elif" {
			cond, err := p.tuple(false)
			if err != nil {
				return nil, err
			}
			s.conds = append(s.conds, cond)
		}
		if err := p.endTag(); err != nil || word == "endif" {
			return s, err
		}
		ends := []string{"elif", "else", "endif"}
		if word == "else" {
			ends = ends[2:]
		}
		body, end, err := p.body(at, "if", ends...)
		if err != nil {
			return nil, err
		}
		if word == "else" {
			s.other = body
		} else {
			s.bodies = append(s.bodies, body)
		}
		word = end
	}
}

func (p *parser) forStatement(at pos) (stmt, error) {
	s := &forStmt{pos: at}
	var err error
	if s.target, err = p.target(false); err != nil {
		return nil, err
	}
	if err = p.expect(tokName, "in"); err != nil {
		return nil, err
	}
	if s.iter, err = p.tuple(false); err != nil {
		return nil, err
	}
	if p.skip(tokName, "if") {
		if s.filter, err = p.expression(); err != nil {
			return nil, err
		}
	}
	s.recursive = p.skip(tokName, "recursive")
	if err = p.endTag(); err != nil {
		return nil, err
	}
	p.loops++
	body, end, err := p.body(at, "for", "else", "endfor")
	p.loops--
	if err != nil {
		return nil, err
	}
	if s.body = body; end == "else" {
		if err = p.endTag(); err != nil {
			return nil, err
		}
		if s.other, _, err = p.body(at, "for", "endfor"); err != nil {
			return nil, err
		}
	}
	return s, p.endTag()
}

func (p *parser) loopControl(t token) (stmt, error) {
	if p.loops == 0 {
		return nil, p.fail(t.pos, "'%s' stands outside a loop", t.s)
	}
	f := flowBreak
	if t.s == "continue" {
		f = flowContinue
	}
	return &loopControl{t.pos, f}, p.endTag()
}

func (p *parser) setStatement(at pos) (stmt, error) {
	t, err := p.target(true)
	if err != nil {
		return nil, err
	}
	if p.skip(tokOp, "=") {
		x, err := p.tuple(true)
		if err != nil {
			return nil, err
		}
		return &setStmt{at, t, x}, p.endTag()
	}
	s := &setBlock{pos: at, target: t}
	for p.isOp("|") {
		p.i++
		f, err := p.filter(nil)
		if err != nil {
			return nil, err
		}
		s.filters = append(s.filters, f)
	}
	s.body, err = p.simpleBody(at, "set")
	return s, err
}

// simpleBody closes the tag and reads up to endWORD, whose tag it closes. Loops outside are out of reach of break inside.
func (p *parser) simpleBody(at pos, word string) ([]stmt, error) {
	if err := p.endTag(); err != nil {
		return nil, err
	}
	loops := p.loops
	p.loops = 0
	defer func() { p.loops = loops }()
	body, _, err := p.body(at, word, "end"+word)
	if err != nil {
		return nil, err
	}
	return body, p.endTag()
}

func (p *parser) filterStatement(at pos) (stmt, error) {
	s := &filterStmt{pos: at}
	for {
		f, err := p.filter(nil)
		if err != nil {
			return nil, err
		}
		s.filters = append(s.filters, f)
		if !p.skip(tokOp, "|") {
			break
		}
	}
	var err error
	s.body, err = p.simpleBody(at, "filter")
	return s, err
}

func (p *parser) withStatement(at pos) (stmt, error) {
	s := &withStmt{pos: at}
	for p.tok().kind != tokBlockEnd {
		if len(s.targets) > 0 {
			if err := p.expect(tokOp, ","); err != nil {
				return nil, err
			}
		}
		t, err := p.target(false)
		if err == nil {
			err = p.expect(tokOp, "=")
		}
		if err != nil {
			return nil, err
		}
		x, err := p.expression()
		if err != nil {
			return nil, err
		}
		s.targets, s.vals = append(s.targets, t), append(s.vals, x)
	}
	var err error
	s.body, err = p.simpleBody(at, "with")
	return s, err
}

func (p *parser) generationStatement(at pos) (stmt, error) {
	p.generation = true
	body, err := p.simpleBody(at, "generation")
	return &generationStmt{at, body}, err
}

func (p *parser) macroStatement(at pos) (stmt, error) {
	name, err := p.ident()
	if err != nil {
		return nil, err
	}
	m := &macro{name: name}
	if err := p.signature(m); err != nil {
		return nil, err
	}
	return &macroStmt{at, m}, p.macroBody(at, m, "macro")
}

func (p *parser) callStatement(at pos) (stmt, error) {
	m := &macro{name: "caller"}
	if p.isOp("(") {
		if err := p.signature(m); err != nil {
			return nil, err
		}
	}
	where := p.tok().pos
	x, err := p.expression()
	if err != nil {
		return nil, err
	}
	call, ok := x.(*callExpr)
	if !ok {
		return nil, p.fail(where, "a call block calls a macro: {%% call name(...) %%}")
	}
	return &callStmt{at, call, m}, p.macroBody(at, m, "call")
}

func (p *parser) macroBody(at pos, m *macro, word string) error {
	p.macros = append(p.macros, m)
	var err error
	m.body, err = p.simpleBody(at, word)
	p.macros = p.macros[:len(p.macros)-1]
	return err
}

// signature reads (a, b=default).
func (p *parser) signature(m *macro) error {
	if err := p.expect(tokOp, "("); err != nil {
		return err
	}
	for !p.isOp(")") {
		if len(m.params) > 0 {
			if err := p.expect(tokOp, ","); err != nil {
				return err
			}
			if p.isOp(")") {
				break
			}
		}
		where := p.tok().pos
		name, err := p.ident()
		if err != nil {
			return err
		}
		m.params = append(m.params, name)
		if p.skip(tokOp, "=") {
			x, err := p.expression()
			if err != nil {
				return err
			}
			m.defaults = append(m.defaults, x)
		} else if len(m.defaults) > 0 {
			return p.fail(where, "the parameter '%s' has no default but follows one that has", name)
		}
	}
	return p.expect(tokOp, ")")
}

// target reads what is assigned to: names, with commas a tuple; with attrs also ns.attr.
func (p *parser) target(attrs bool) (target, error) {
	first, err := p.oneTarget(attrs)
	if err != nil || !p.isOp(",") {
		return first, err
	}
	t := target{pos: first.pos, items: []target{first}}
	for p.skip(tokOp, ",") {
		if p.tok().kind != tokName && !p.isOp("(") || p.isName("in") {
			break
		}
		next, err := p.oneTarget(attrs)
		if err != nil {
			return t, err
		}
		t.items = append(t.items, next)
	}
	return t, nil
}

func (p *parser) oneTarget(attrs bool) (target, error) {
	if err := p.enter(); err != nil {
		return target{}, err
	}
	defer p.leave()
	at := p.tok().pos
	if p.skip(tokOp, "(") {
		t, err := p.target(attrs)
		if err != nil {
			return t, err
		}
		return t, p.expect(tokOp, ")")
	}
	name, err := p.ident()
	if err != nil {
		return target{}, err
	}
	switch name {
	case "true", "false", "none", "True", "False", "None":
		return target{}, p.fail(at, "'%s' cannot be assigned to", name)
	}
	t := target{pos: at, name: name}
	if attrs && p.skip(tokOp, ".") {
		t.attr, err = p.ident()
	}
	return t, err
}
