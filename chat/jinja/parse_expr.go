package jinja

import (
	"math"
	"slices"
	"strconv"
	"strings"
)

// expression reads one expression, inline if included.
func (p *parser) expression() (expr, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	x, err := p.or()
	for err == nil && p.isName("if") {
		c := &condExpr{pos: p.advance().pos, then: x}
		if c.cond, err = p.or(); err != nil {
			return nil, err
		}
		if p.skip(tokName, "else") {
			if c.other, err = p.expression(); err != nil {
				return nil, err
			}
		}
		x = c
	}
	return x, err
}

// tuple reads expressions divided by commas; one alone is itself. Where conditions is false, a following if is not part of it.
func (p *parser) tuple(conditions bool) (expr, error) {
	read := p.or
	if conditions {
		read = p.expression
	}
	at := p.tok().pos
	x, err := read()
	if err != nil || !p.isOp(",") {
		return x, err
	}
	t := &listExpr{pos: at, items: []expr{x}, tuple: true}
	for p.skip(tokOp, ",") {
		if k := p.tok().kind; k == tokVarEnd || k == tokBlockEnd || p.isOp(")") || p.isName("recursive") {
			break
		}
		if x, err = read(); err != nil {
			return nil, err
		}
		t.items = append(t.items, x)
	}
	return t, nil
}

func (p *parser) or() (expr, error) {
	l, err := p.and()
	for err == nil && p.isName("or") {
		at := p.advance().pos
		var r expr
		r, err = p.and()
		l = &logicExpr{at, false, l, r}
	}
	return l, err
}

func (p *parser) and() (expr, error) {
	l, err := p.not()
	for err == nil && p.isName("and") {
		at := p.advance().pos
		var r expr
		r, err = p.not()
		l = &logicExpr{at, true, l, r}
	}
	return l, err
}

func (p *parser) not() (expr, error) {
	if !p.isName("not") {
		return p.compare()
	}
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	at := p.advance().pos
	x, err := p.not()
	return &notExpr{at, x}, err
}

func (p *parser) compare() (expr, error) {
	x, err := p.sum()
	if err != nil {
		return nil, err
	}
	c := &compareExpr{pos: p.tok().pos, first: x}
	for {
		t, op := p.tok(), ""
		switch {
		case t.kind == tokOp && slices.Contains([]string{"==", "!=", "<", "<=", ">", ">="}, t.s), p.isName("in"):
			op = t.s
			p.i++
		case p.isName("not") && p.toks[p.i+1].kind == tokName && p.toks[p.i+1].s == "in":
			op = "not in"
			p.i += 2
		}
		if op == "" {
			break
		}
		r, err := p.sum()
		if err != nil {
			return nil, err
		}
		c.ops, c.rest = append(c.ops, op), append(c.rest, r)
	}
	if len(c.ops) == 0 {
		return x, nil
	}
	return c, nil
}

// binary reads a chain of operators that bind from the left.
func (p *parser) binary(operand func() (expr, error), ops ...string) (expr, error) {
	l, err := operand()
	for err == nil && p.tok().kind == tokOp && slices.Contains(ops, p.tok().s) {
		t := p.advance()
		var r expr
		r, err = operand()
		l = &binaryExpr{t.pos, t.s, l, r}
	}
	return l, err
}

func (p *parser) sum() (expr, error)     { return p.binary(p.concat, "+", "-") }
func (p *parser) product() (expr, error) { return p.binary(p.power, "*", "/", "//", "%") }
func (p *parser) power() (expr, error) {
	return p.binary(func() (expr, error) { return p.unary(true) }, "**")
}

func (p *parser) concat() (expr, error) {
	x, err := p.product()
	if err != nil || !p.isOp("~") {
		return x, err
	}
	c := &concatExpr{pos: p.tok().pos, items: []expr{x}}
	for p.skip(tokOp, "~") {
		if x, err = p.product(); err != nil {
			return nil, err
		}
		c.items = append(c.items, x)
	}
	return c, nil
}

func (p *parser) unary(filters bool) (expr, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	var x expr
	var err error
	if t := p.tok(); p.isOp("-") || p.isOp("+") {
		p.i++
		if x, err = p.unary(false); err == nil {
			x = &unaryExpr{t.pos, t.s, x}
		}
	} else {
		x, err = p.primary()
	}
	if err == nil {
		x, err = p.postfix(x)
	}
	if err == nil && filters {
		x, err = p.filters(x)
	}
	return x, err
}

func (p *parser) primary() (expr, error) {
	t := p.advance()
	switch t.kind {
	case tokName:
		return p.nameOrConstant(t), nil
	case tokString:
		s := t.s
		for p.tok().kind == tokString {
			s += p.advance().s
		}
		return &constant{t.pos, String(s)}, nil
	case tokInt:
		s := strings.ReplaceAll(t.s, "_", "")
		base := 10
		if len(s) > 1 && s[0] == '0' && s[1] > '9' {
			base = 0
		}
		n, err := strconv.ParseInt(s, base, 64)
		if err != nil {
			return nil, p.fail(t.pos, "the number %s does not fit in 64 bits", t.s)
		}
		return &constant{t.pos, Int(n)}, nil
	case tokFloat:
		f, err := strconv.ParseFloat(strings.ReplaceAll(t.s, "_", ""), 64)
		if err != nil && !math.IsInf(f, 0) {
			return nil, p.fail(t.pos, "%s is not a number", t.s)
		}
		return &constant{t.pos, Float(f)}, nil
	case tokOp:
		switch t.s {
		case "(":
			return p.parenthesis(t)
		case "[":
			items, err := p.sequence("]")
			return &listExpr{pos: t.pos, items: items}, err
		case "{":
			return p.dict(t)
		}
	}
	p.i = max(0, p.i-1)
	return nil, p.fail(t.pos, "%s stands where a value should", t)
}

func (p *parser) nameOrConstant(t token) expr {
	switch t.s {
	case "true", "True":
		return &constant{t.pos, Bool(true)}
	case "false", "False":
		return &constant{t.pos, Bool(false)}
	case "none", "None":
		return &constant{t.pos, None{}}
	}
	if n := len(p.macros); n > 0 {
		m := p.macros[n-1]
		m.varargs = m.varargs || t.s == "varargs"
		m.kwargs = m.kwargs || t.s == "kwargs"
		m.caller = m.caller || t.s == "caller"
	}
	return &nameExpr{t.pos, t.s}
}

func (p *parser) parenthesis(t token) (expr, error) {
	if p.skip(tokOp, ")") {
		return &listExpr{pos: t.pos, tuple: true}, nil
	}
	x, err := p.tuple(true)
	if err != nil {
		return nil, err
	}
	return x, p.expect(tokOp, ")")
}

// sequence reads expressions up to the closing bracket.
func (p *parser) sequence(end string) ([]expr, error) {
	var items []expr
	for !p.isOp(end) {
		if len(items) > 0 {
			if err := p.expect(tokOp, ","); err != nil {
				return nil, err
			}
			if p.isOp(end) {
				break
			}
		}
		x, err := p.expression()
		if err != nil {
			return nil, err
		}
		items = append(items, x)
	}
	return items, p.expect(tokOp, end)
}

func (p *parser) dict(t token) (expr, error) {
	d := &dictExpr{pos: t.pos}
	for !p.isOp("}") {
		if len(d.keys) > 0 {
			if err := p.expect(tokOp, ","); err != nil {
				return nil, err
			}
			if p.isOp("}") {
				break
			}
		}
		k, err := p.expression()
		if err == nil {
			err = p.expect(tokOp, ":")
		}
		if err != nil {
			return nil, err
		}
		v, err := p.expression()
		if err != nil {
			return nil, err
		}
		d.keys, d.vals = append(d.keys, k), append(d.vals, v)
	}
	return d, p.expect(tokOp, "}")
}

func (p *parser) postfix(x expr) (expr, error) {
	for {
		var err error
		switch {
		case p.isOp("."):
			x, err = p.attribute(x)
		case p.isOp("["):
			x, err = p.subscript(x)
		case p.isOp("("):
			x, err = p.call(x)
		default:
			return x, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func (p *parser) attribute(x expr) (expr, error) {
	at := p.advance().pos
	t := p.advance()
	switch t.kind {
	case tokName:
		return &attrExpr{at, x, t.s}, nil
	case tokInt:
		n, err := strconv.ParseInt(t.s, 10, 64)
		if err != nil {
			return nil, p.fail(t.pos, "the index %s is not a number in range", t.s)
		}
		return &indexExpr{at, x, &constant{t.pos, Int(n)}}, nil
	}
	return nil, p.fail(t.pos, "%s stands where the name of an attribute should", t)
}

func (p *parser) call(x expr) (expr, error) {
	at := p.tok().pos
	a, err := p.arguments()
	return &callExpr{at, x, a}, err
}

func (p *parser) subscript(x expr) (expr, error) {
	at := p.advance().pos
	var items []expr
	var isSlice bool
	sl := &sliceExpr{pos: at, x: x}
	for part := 0; !p.isOp("]"); {
		if p.skip(tokOp, ":") {
			if part++; part > 2 {
				return nil, p.fail(at, "a slice has at most three parts")
			}
			isSlice = true
			continue
		}
		if p.skip(tokOp, ",") && !isSlice {
			part = 0
			continue
		}
		y, err := p.expression()
		if err != nil {
			return nil, err
		}
		*[]*expr{&sl.from, &sl.to, &sl.step}[part] = y
		if items = append(items, y); !p.isOp("]") && !p.isOp(":") && !p.isOp(",") {
			break
		}
	}
	if err := p.expect(tokOp, "]"); err != nil {
		return nil, err
	}
	switch {
	case isSlice:
		return sl, nil
	case len(items) == 0:
		return nil, p.fail(at, "the brackets hold no index")
	case len(items) == 1:
		return &indexExpr{at, x, items[0]}, nil
	}
	return &indexExpr{at, x, &listExpr{pos: at, items: items, tuple: true}}, nil
}

// arguments reads (a, name=b, *c, **d).
func (p *parser) arguments() (callArgs, error) {
	var a callArgs
	if err := p.expect(tokOp, "("); err != nil {
		return a, err
	}
	for n := 0; !p.isOp(")"); n++ {
		if n > 0 {
			if err := p.expect(tokOp, ","); err != nil {
				return a, err
			}
			if p.isOp(")") {
				break
			}
		}
		if err := p.argument(&a); err != nil {
			return a, err
		}
	}
	return a, p.expect(tokOp, ")")
}

func (p *parser) argument(a *callArgs) error {
	at := p.tok().pos
	switch {
	case p.isOp("*") && a.star == nil && a.stars == nil:
		p.i++
		x, err := p.expression()
		a.star = x
		return err
	case p.isOp("**") && a.stars == nil:
		p.i++
		x, err := p.expression()
		a.stars = x
		return err
	case p.tok().kind == tokName && p.toks[p.i+1].kind == tokOp && p.toks[p.i+1].s == "=":
		name := p.advance().s
		p.i++
		x, err := p.expression()
		if slices.Contains(a.names, name) {
			return p.fail(at, "the argument '%s' is given twice", name)
		}
		a.names, a.named = append(a.names, name), append(a.named, x)
		return err
	case len(a.names) > 0 || a.stars != nil:
		return p.fail(at, "an argument without a name follows one with a name")
	}
	x, err := p.expression()
	a.items = append(a.items, x)
	return err
}

// filters reads what may follow a value: | filter, is test, and calls.
func (p *parser) filters(x expr) (expr, error) {
	for {
		var err error
		switch {
		case p.skip(tokOp, "|"):
			x, err = p.filter(x)
		case p.isName("is"):
			x, err = p.test(x)
		case p.isOp("("):
			x, err = p.call(x)
		default:
			return x, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// filter reads name(args) after the bar.
func (p *parser) filter(x expr) (*filterExpr, error) {
	f := &filterExpr{pos: p.tok().pos, x: x}
	var err error
	if f.name, err = p.ident(); err != nil {
		return nil, err
	}
	if _, ok := filters[f.name]; !ok {
		return nil, &Error{Name: p.name, Line: f.line, Col: f.col, Reason: "there is no filter '" + f.name + "'", Remedy: "the filters are " + names(filters)}
	}
	if p.isOp("(") {
		f.args, err = p.arguments()
	}
	return f, err
}

func (p *parser) test(x expr) (expr, error) {
	p.i++
	negated := p.skip(tokName, "not")
	t := &testExpr{pos: p.tok().pos, x: x}
	if t.name = p.tok().s; p.tok().kind != tokName {
		return nil, p.fail(t.pos, "%s stands where the name of a test should", p.tok())
	}
	p.i++
	if _, ok := tests[t.name]; !ok {
		return nil, &Error{Name: p.name, Line: t.line, Col: t.col, Reason: "there is no test '" + t.name + "'", Remedy: "the tests are " + names(tests)}
	}
	var err error
	switch next := p.tok(); {
	case p.isOp("("):
		t.args, err = p.arguments()
	case next.kind == tokName && slices.Contains([]string{"else", "or", "and", "is", "if", "in", "not", "recursive"}, next.s):
		// The word goes on with the expression around the test.
	case next.kind == tokName, next.kind == tokString, next.kind == tokInt, next.kind == tokFloat, p.isOp("["), p.isOp("{"):
		var y expr
		if y, err = p.primary(); err == nil {
			y, err = p.postfix(y)
		}
		t.args.items = []expr{y}
	}
	if negated {
		return &notExpr{t.pos, t}, err
	}
	return t, err
}
