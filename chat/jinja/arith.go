package jinja

import (
	"math"
	"math/bits"
	"strings"
)

func (u *unaryExpr) eval(m *machine, s *scope) (Value, error) {
	v, err := m.eval(s, u.x)
	if err != nil {
		return nil, err
	}
	if n, ok := integer(v); ok {
		if u.op == "+" {
			return Int(n), nil
		}
		if n == math.MinInt64 {
			return nil, overflow()
		}
		return Int(-n), nil
	}
	if f, ok := v.(Float); ok {
		if u.op == "-" {
			f = -f
		}
		return f, nil
	}
	if un, ok := v.(*undefined); ok {
		return nil, un.err()
	}
	return nil, faultf("%s has no sign", article(v))
}

func (b *binaryExpr) eval(m *machine, s *scope) (Value, error) {
	l, err := m.eval(s, b.l)
	if err != nil {
		return nil, err
	}
	r, err := m.eval(s, b.r)
	if err != nil {
		return nil, err
	}
	return m.binary(b.op, l, r)
}

func overflow() error { return faultf("the number leaves 64 bits") }

func (m *machine) binary(op string, l, r Value) (Value, error) {
	if u, ok := l.(*undefined); ok {
		return nil, u.err()
	}
	if ls, ok := l.(String); ok && op == "%" {
		return m.percent(string(ls), r)
	}
	if u, ok := r.(*undefined); ok {
		return nil, u.err()
	}
	if a, ok := integer(l); ok {
		if b, ok := integer(r); ok {
			return intOp(op, a, b)
		}
	}
	if a, ok := number(l); ok {
		if b, ok := number(r); ok {
			return floatOp(op, a, b)
		}
	}
	switch op {
	case "+":
		return m.add(l, r)
	case "*":
		if n, ok := integer(r); ok {
			return m.repeat(l, n)
		}
		if n, ok := integer(l); ok {
			return m.repeat(r, n)
		}
	}
	return nil, m.operands(op, l, r)
}

func (m *machine) operands(op string, l, r Value) error {
	f := &fault{reason: "'" + op + "' does not work on " + article(l) + " and " + article(r)}
	_, ls := l.(String)
	_, rs := r.(String)
	if op == "+" && (ls || rs) {
		f.remedy = "join values of different kinds with ~"
	}
	return f
}

func (m *machine) add(l, r Value) (Value, error) {
	switch l := l.(type) {
	case String:
		if r, ok := r.(String); ok {
			if err := m.grow(len(l) + len(r)); err != nil {
				return nil, err
			}
			return l + r, nil
		}
	case *List:
		if r, ok := r.(*List); ok {
			items, err := m.addItems(l.Items, r.Items)
			return &List{Items: items}, err
		}
	case *Tuple:
		if r, ok := r.(*Tuple); ok {
			items, err := m.addItems(l.Items, r.Items)
			return &Tuple{Items: items}, err
		}
	}
	return nil, m.operands("+", l, r)
}

func (m *machine) addItems(l, r []Value) ([]Value, error) {
	if err := m.items(len(l) + len(r)); err != nil {
		return nil, err
	}
	return append(append(make([]Value, 0, len(l)+len(r)), l...), r...), nil
}

// repeat is v * n.
func (m *machine) repeat(v Value, n int64) (Value, error) {
	n = max(n, 0)
	times := func(unit int) (int, error) {
		hi, lo := bits.Mul64(uint64(unit), uint64(n))
		if hi != 0 || lo > math.MaxInt32 {
			return 0, budget("bytes of memory", m.limits.Alloc)
		}
		return int(lo), nil
	}
	switch v := v.(type) {
	case String:
		total, err := times(len(v))
		if err == nil {
			err = m.grow(total)
		}
		if err != nil {
			return nil, err
		}
		if len(v) == 0 {
			return v, nil
		}
		return String(strings.Repeat(string(v), int(n))), nil
	case *List:
		items, err := m.repeatItems(v.Items, int(n), times)
		return &List{Items: items}, err
	case *Tuple:
		items, err := m.repeatItems(v.Items, int(n), times)
		return &Tuple{Items: items}, err
	}
	return nil, m.operands("*", v, Int(n))
}

func (m *machine) repeatItems(items []Value, n int, times func(int) (int, error)) ([]Value, error) {
	total, err := times(len(items))
	if err == nil {
		err = m.items(total)
	}
	if err != nil || total == 0 {
		return nil, err
	}
	out := make([]Value, 0, total)
	for range n {
		out = append(out, items...)
	}
	return out, nil
}

func intOp(op string, a, b int64) (Value, error) {
	switch op {
	case "+":
		if c := a + b; (c > a) == (b > 0) || b == 0 {
			return Int(c), nil
		}
		return nil, overflow()
	case "-":
		if c := a - b; (c < a) == (b > 0) || b == 0 {
			return Int(c), nil
		}
		return nil, overflow()
	case "*":
		c := a * b
		if a != 0 && (c/a != b || a == -1 && b == math.MinInt64) {
			return nil, overflow()
		}
		return Int(c), nil
	case "**":
		return intPower(a, b)
	}
	if b == 0 {
		return nil, faultf("division by zero")
	}
	if b == -1 && op != "/" {
		if op == "%" {
			return Int(0), nil
		}
		return intOp("*", a, -1)
	}
	switch op {
	case "//":
		q := a / b
		if a%b != 0 && (a < 0) != (b < 0) {
			q--
		}
		return Int(q), nil
	case "%":
		c := a % b
		if c != 0 && (c < 0) != (b < 0) {
			c += b
		}
		return Int(c), nil
	}
	return Float(float64(a) / float64(b)), nil
}

func intPower(a, b int64) (Value, error) {
	if b < 0 {
		return floatOp("**", float64(a), float64(b))
	}
	switch {
	case a == 0 && b > 0, a == 1:
		return Int(a), nil
	case a == -1:
		return Int(1 - 2*(b&1)), nil
	case b > 63:
		return nil, overflow()
	}
	out := Value(Int(1))
	for range b {
		var err error
		if out, err = intOp("*", int64(out.(Int)), a); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func floatOp(op string, a, b float64) (Value, error) {
	switch op {
	case "+":
		return Float(a + b), nil
	case "-":
		return Float(a - b), nil
	case "*":
		return Float(a * b), nil
	case "**":
		if a == 0 && b < 0 {
			return nil, faultf("zero to a negative power")
		}
		p := math.Pow(a, b)
		if math.IsNaN(p) && !math.IsNaN(a) && !math.IsNaN(b) {
			return nil, faultf("a negative number to a broken power")
		}
		return Float(p), nil
	}
	if b == 0 {
		return nil, faultf("division by zero")
	}
	switch op {
	case "//":
		return Float(math.Floor(a / b)), nil
	case "%":
		c := math.Mod(a, b)
		if c != 0 && (c < 0) != (b < 0) {
			c += b
		}
		return Float(c), nil
	}
	return Float(a / b), nil
}
