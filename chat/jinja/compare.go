package jinja

import (
	"math"
	"strings"
)

// compare is one comparison of the language.
func (m *machine) compare(op string, l, r Value) (bool, error) {
	switch op {
	case "==":
		return m.equal(l, r, 0)
	case "!=":
		same, err := m.equal(l, r, 0)
		return !same, err
	case "in":
		return m.contains(r, l)
	case "not in":
		in, err := m.contains(r, l)
		return !in, err
	}
	c, err := m.order(l, r, 0)
	if err != nil {
		return false, err
	}
	switch op {
	case "<":
		return c == -1, nil
	case "<=":
		return c == -1 || c == 0, nil
	case ">":
		return c == 1, nil
	}
	return c == 1 || c == 0, nil
}

// unordered is what order gives for NaN.
const unordered = 2

// order is -1, 0 or 1 where Python orders the two, an error where it does not.
func (m *machine) order(l, r Value, depth int) (int, error) {
	if depth > maxJSONDepth {
		return 0, faultf("values lie too deep in each other to be compared")
	}
	if err := m.spend(1); err != nil {
		return 0, err
	}
	if u, ok := l.(*undefined); ok {
		return 0, u.err()
	}
	if u, ok := r.(*undefined); ok {
		return 0, u.err()
	}
	a, ok1 := integer(l)
	b, ok2 := integer(r)
	if ok1 && ok2 {
		return cmp(a < b, a > b), nil
	}
	x, ok1 := number(l)
	y, ok2 := number(r)
	if ok1 && ok2 {
		if math.IsNaN(x) || math.IsNaN(y) {
			return unordered, nil
		}
		return cmp(x < y, x > y), nil
	}
	if ls, ok := l.(String); ok {
		if rs, ok := r.(String); ok {
			return strings.Compare(string(ls), string(rs)), m.scan(min(len(ls), len(rs)))
		}
	}
	var li, ri []Value
	if ll, ok := l.(*List); ok {
		if rl, ok := r.(*List); ok {
			li, ri = ll.Items, rl.Items
			return m.orderItems(li, ri, depth)
		}
	}
	if lt, ok := l.(*Tuple); ok {
		if rt, ok := r.(*Tuple); ok {
			return m.orderItems(lt.Items, rt.Items, depth)
		}
	}
	return 0, faultf("%s and %s have no order", article(l), article(r))
}

func (m *machine) orderItems(l, r []Value, depth int) (int, error) {
	for i := range min(len(l), len(r)) {
		same, err := m.equal(l[i], r[i], depth+1)
		if err != nil {
			return 0, err
		}
		if !same {
			return m.order(l[i], r[i], depth+1)
		}
	}
	return cmp(len(l) < len(r), len(l) > len(r)), nil
}

func cmp(less, more bool) int {
	switch {
	case less:
		return -1
	case more:
		return 1
	}
	return 0
}

// equal is Python's ==.
func (m *machine) equal(l, r Value, depth int) (bool, error) {
	if depth > maxJSONDepth {
		return false, faultf("values lie too deep in each other to be compared")
	}
	if err := m.spend(1); err != nil {
		return false, err
	}
	if a, ok := integer(l); ok {
		if b, ok := integer(r); ok {
			return a == b, nil
		}
	}
	if a, ok := number(l); ok {
		b, ok := number(r)
		return ok && a == b, nil
	}
	switch l := l.(type) {
	case String:
		r, ok := r.(String)
		if ok && len(l) == len(r) {
			return l == r, m.scan(len(l))
		}
		return false, nil
	case None:
		return r == Value(None{}), nil
	case *undefined:
		_, ok := r.(*undefined)
		return ok, nil
	case *List:
		r, ok := r.(*List)
		if !ok {
			return false, nil
		}
		return m.equalItems(l.Items, r.Items, depth)
	case *Tuple:
		r, ok := r.(*Tuple)
		if !ok {
			return false, nil
		}
		return m.equalItems(l.Items, r.Items, depth)
	case *Dict:
		r, ok := r.(*Dict)
		if !ok || l.Len() != r.Len() {
			return false, nil
		}
		for i, k := range l.keys {
			v, ok, err := m.find(r, k)
			if err != nil || !ok {
				return false, err
			}
			if same, err := m.equal(l.vals[i], v, depth+1); err != nil || !same {
				return false, err
			}
		}
		return true, nil
	case rangeValue:
		return l == r, nil
	}
	return l == r, nil
}

func (m *machine) equalItems(l, r []Value, depth int) (bool, error) {
	if len(l) != len(r) {
		return false, nil
	}
	for i := range l {
		if same, err := m.equal(l[i], r[i], depth+1); err != nil || !same {
			return false, err
		}
	}
	return true, nil
}

// contains is "v in box".
func (m *machine) contains(box, v Value) (bool, error) {
	switch box := box.(type) {
	case String:
		s, ok := v.(String)
		if !ok {
			if u, is := v.(*undefined); is {
				return false, u.err()
			}
			return false, faultf("%s cannot be part of a string; only a string can", article(v))
		}
		return strings.Contains(string(box), string(s)), m.scan(len(box))
	case *Dict:
		k, err := m.key(v)
		if err != nil {
			if _, is := v.(*undefined); is {
				return false, nil
			}
			return false, err
		}
		_, ok := box.index[k]
		return ok, nil
	case rangeValue:
		n, ok := integer(v)
		if !ok || box.n == 0 {
			return false, nil
		}
		d := n - box.start
		return d%box.step == 0 && d/box.step >= 0 && d/box.step < box.n, nil
	}
	items, err := m.list(box)
	if err != nil {
		return false, err
	}
	for _, it := range items {
		if same, err := m.equal(it, v, 0); err != nil || same {
			return same, err
		}
	}
	return false, nil
}
