package jinja

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

func filterLength(m *machine, v Value, a *args) (Value, error) {
	n, err := length(v)
	if s, ok := v.(String); ok {
		err = cmpErr(err, m.scan(len(s)))
	}
	return Int(n), cmpErr(err, a.none())
}

func length(v Value) (int, error) {
	switch v := v.(type) {
	case String:
		return utf8.RuneCountInString(string(v)), nil
	case *List:
		return len(v.Items), nil
	case *Tuple:
		return len(v.Items), nil
	case *Dict:
		return v.Len(), nil
	case rangeValue:
		return int(v.n), nil
	case *undefined:
		return 0, nil
	}
	return 0, faultf("%s has no length", article(v))
}

func filterInt(m *machine, v Value, a *args) (Value, error) {
	p, err := a.take("int", "default", "base")
	if err != nil {
		return nil, err
	}
	if n, ok := integer(v); ok {
		return Int(n), nil
	}
	other := Value(Int(0))
	if p[0] != nil {
		other = p[0]
	}
	f, isFloat := v.(Float)
	if s, ok := v.(String); ok {
		if err := m.grow(3 * len(s)); err != nil { // errors of reading numbers quote them
			return nil, err
		}
		text, base := strings.TrimFunc(string(s), isSpace), int64(10)
		if b, ok := integer(p[1]); ok && b >= 2 && b <= 36 {
			base = b
		}
		if base != 10 && len(text) > 2 && text[0] == '0' && text[1] > '9' {
			text = text[2:]
		}
		if n, err := strconv.ParseInt(strings.ReplaceAll(text, "_", ""), int(base), 64); err == nil {
			return Int(n), nil
		}
		x, err := strconv.ParseFloat(text, 64)
		f, isFloat = Float(x), err == nil
	}
	if !isFloat || math.IsNaN(float64(f)) || math.Abs(float64(f)) >= 1<<63 {
		return other, nil
	}
	return Int(f), nil
}

func filterFloat(m *machine, v Value, a *args) (Value, error) {
	p, err := a.take("float", "default")
	if err != nil {
		return nil, err
	}
	if f, ok := number(v); ok {
		return Float(f), nil
	}
	if s, ok := v.(String); ok {
		if err := m.grow(len(s)); err != nil {
			return nil, err
		}
		if f, err := strconv.ParseFloat(strings.TrimFunc(string(s), isSpace), 64); err == nil {
			return Float(f), nil
		}
	}
	if p[0] != nil {
		return p[0], nil
	}
	return Float(0), nil
}

func filterAbs(_ *machine, v Value, a *args) (Value, error) {
	if n, ok := integer(v); ok {
		if n < 0 {
			return intOp("*", n, -1)
		}
		return Int(n), a.none()
	}
	f, ok := v.(Float)
	if !ok {
		return nil, faultf("abs takes a number, and not %s", article(v))
	}
	return Float(math.Abs(float64(f))), a.none()
}

func filterRound(m *machine, v Value, a *args) (Value, error) {
	p, err := a.take("round", "precision", "method")
	if err != nil {
		return nil, err
	}
	f, ok := number(v)
	if !ok {
		return nil, faultf("round takes a number, and not %s", article(v))
	}
	digits, _ := integer(p[0])
	if digits > 300 || digits < -300 {
		return nil, faultf("round keeps between -300 and 300 digits")
	}
	how := "common"
	if p[1] != nil {
		if how, err = stringArg("the method of round", p[1]); err != nil {
			return nil, err
		}
	}
	scale := math.Pow(10, float64(digits))
	switch how {
	case "common":
		if n, ok := integer(v); ok {
			return roundInt(n, -digits), nil
		}
		if digits <= 0 {
			return Float(math.RoundToEven(f*scale) / scale), nil
		}
		// Decimal rounding of the exact value, as Python does.
		if err := m.spend(int(digits)); err != nil {
			return nil, err
		}
		f, err = strconv.ParseFloat(strconv.FormatFloat(f, 'f', int(digits), 64), 64)
		return Float(f), err
	case "ceil":
		return Float(math.Ceil(f*scale) / scale), nil
	case "floor":
		return Float(math.Floor(f*scale) / scale), nil
	}
	return nil, faultf("the method of round is common, ceil or floor, and not %.20q", how)
}

// roundInt rounds to the nearest multiple of 10 to the zeros, halves to the even one.
func roundInt(n, zeros int64) Value {
	if zeros <= 0 {
		return Int(n)
	}
	if zeros > 18 {
		return Int(0)
	}
	unit := int64(1)
	for range zeros {
		unit *= 10
	}
	q, r := n/unit, n%unit
	if r < 0 {
		q, r = q-1, r+unit
	}
	if r > unit/2 || r == unit/2 && q%2 != 0 {
		q++
	}
	return Int(q * unit)
}

// gone is list with a copy counted.
func (m *machine) gone(v Value) ([]Value, error) {
	items, err := m.list(v)
	if err == nil {
		err = m.items(len(items))
	}
	return items, err
}

func filterList(m *machine, v Value, a *args) (Value, error) {
	items, err := m.gone(v)
	return &List{Items: items}, cmpErr(err, a.none())
}

func filterEnd(last bool) filterFunc {
	return func(m *machine, v Value, a *args) (Value, error) {
		items, err := m.list(v)
		if err = cmpErr(err, a.none()); err != nil {
			return nil, err
		}
		switch {
		case len(items) == 0:
			return &undefined{what: "the first or last item of an empty " + v.kind()}, nil
		case last:
			return items[len(items)-1], nil
		}
		return items[0], nil
	}
}

func filterReverse(m *machine, v Value, a *args) (Value, error) {
	if s, ok := v.(String); ok {
		return m.sliceString(string(s), [3]Value{nil, nil, Int(-1)})
	}
	items, err := m.gone(v)
	if err = cmpErr(err, a.none()); err != nil {
		return nil, err
	}
	items = slices.Clone(items)
	slices.Reverse(items)
	return &List{Items: items}, nil
}

func filterItems(m *machine, v Value, a *args) (Value, error) {
	if _, ok := v.(*undefined); ok {
		return &List{}, nil
	}
	if _, ok := v.(*Dict); !ok {
		return nil, faultf("items takes a dict, and not %s", article(v))
	}
	return dictItems(m, v, a)
}

// path is v.a.b for "a.b"; parts that are numbers are indices.
func (m *machine) path(v, attr Value) (Value, error) {
	if n, ok := integer(attr); ok {
		return m.index(v, Int(n))
	}
	s, err := stringArg("the attribute", attr)
	if err = cmpErr(err, m.scan(len(s))); err != nil {
		return nil, err
	}
	for part := range strings.SplitSeq(s, ".") {
		i := Value(String(part))
		if n, err := strconv.Atoi(part[:min(len(part), 20)]); err == nil && len(part) < 20 {
			i = Int(n)
		}
		if err = m.spend(1); err == nil {
			v, err = m.index(v, i)
		}
		if err != nil {
			return nil, err
		}
	}
	return v, nil
}

// sortKey is what values are ordered by: letters without case, unless asked for.
func (m *machine) sortKey(v, attr Value, caseful bool) (Value, error) {
	if attr != nil && attr != Value(None{}) {
		if s, ok := attr.(String); ok && strings.Contains(string(s), ",") {
			t := &Tuple{}
			for part := range strings.SplitSeq(string(s), ",") {
				k, err := m.sortKey(v, String(part), caseful)
				if err != nil {
					return nil, err
				}
				t.Items = append(t.Items, k)
			}
			return t, nil
		}
		var err error
		if v, err = m.path(v, attr); err != nil {
			return nil, err
		}
	}
	if s, ok := v.(String); ok && !caseful {
		return m.str(strings.ToLower(string(s)))
	}
	return v, nil
}

// sorted orders items by keys, stably.
func (m *machine) sorted(items, keys []Value, reverse bool) ([]Value, error) {
	order := make([]int, len(items))
	for i := range order {
		order[i] = i
	}
	var failed error
	slices.SortStableFunc(order, func(a, b int) int {
		if failed != nil {
			return 0
		}
		// What is equal needs no order: [none, none] can be sorted.
		c := 0
		same, err := m.equal(keys[a], keys[b], 0)
		if err == nil && !same {
			c, err = m.order(keys[a], keys[b], 0)
		}
		if failed = err; c == unordered {
			c = 0
		}
		if reverse {
			c = -c
		}
		return c
	})
	out := make([]Value, len(items))
	for i, o := range order {
		out[i] = items[o]
	}
	return out, failed
}

func filterSort(m *machine, v Value, a *args) (Value, error) {
	p, err := a.take("sort", "reverse", "case_sensitive", "attribute")
	if err != nil {
		return nil, err
	}
	items, err := m.gone(v)
	if err != nil {
		return nil, err
	}
	keys := make([]Value, len(items))
	for i, it := range items {
		if keys[i], err = m.sortKey(it, p[2], p[1] != nil && truth(p[1])); err != nil {
			return nil, err
		}
	}
	out, err := m.sorted(items, keys, p[0] != nil && truth(p[0]))
	return &List{Items: out}, err
}

func filterDictSort(m *machine, v Value, a *args) (Value, error) {
	p, err := a.take("dictsort", "case_sensitive", "by", "reverse")
	if err != nil {
		return nil, err
	}
	d, ok := v.(*Dict)
	if !ok {
		return nil, faultf("dictsort takes a dict, and not %s", article(v))
	}
	pairs, err := dictItems(m, d, nil)
	if err != nil {
		return nil, err
	}
	by := d.keys
	if p[1] == Value(String("value")) {
		by = d.vals
	} else if p[1] != nil && p[1] != Value(String("key")) {
		return nil, faultf("dictsort orders by 'key' or 'value'")
	}
	keys := make([]Value, len(by))
	for i, k := range by {
		if keys[i], err = m.sortKey(k, nil, p[0] != nil && truth(p[0])); err != nil {
			return nil, err
		}
	}
	out, err := m.sorted(pairs.(*List).Items, keys, p[2] != nil && truth(p[2]))
	return &List{Items: out}, err
}

func filterUnique(m *machine, v Value, a *args) (Value, error) {
	p, err := a.take("unique", "case_sensitive", "attribute")
	if err != nil {
		return nil, err
	}
	items, err := m.gone(v)
	if err != nil {
		return nil, err
	}
	seen, out := map[key]bool{}, []Value(nil)
	for _, it := range items {
		kv, err := m.sortKey(it, p[1], p[0] != nil && truth(p[0]))
		if err != nil {
			return nil, err
		}
		k, err := m.key(kv)
		if err != nil {
			return nil, err
		}
		if !seen[k] {
			seen[k] = true
			out = append(out, it)
		}
	}
	return &List{Items: out}, m.items(4 * len(out))
}

func filterGroupBy(m *machine, v Value, a *args) (Value, error) {
	p, err := a.take("groupby", "attribute", "default", "case_sensitive")
	if err != nil || p[0] == nil {
		return nil, cmpErr(err, faultf("groupby takes an attribute"))
	}
	items, err := m.gone(v)
	if err != nil {
		return nil, err
	}
	caseful := p[2] != nil && truth(p[2])
	keys := make([]Value, len(items))
	byItem := map[int]Value{}
	for i, it := range items {
		k, err := m.path(it, p[0])
		if err != nil {
			return nil, err
		}
		if _, missing := k.(*undefined); missing && p[1] != nil {
			k = p[1]
		}
		byItem[i] = k
		if keys[i], err = m.sortKey(k, nil, caseful); err != nil {
			return nil, err
		}
	}
	index := make([]Value, len(items))
	for i := range index {
		index[i] = Int(i)
	}
	order, err := m.sorted(index, keys, false)
	if err != nil {
		return nil, err
	}
	out, last := &List{}, Value(nil)
	for _, o := range order {
		i := int(o.(Int))
		same := false
		if last != nil {
			if same, err = m.equal(last, keys[i], 0); err != nil {
				return nil, err
			}
		}
		if !same {
			last = keys[i]
			out.Items = append(out.Items, &Tuple{Items: []Value{byItem[i], &List{}}})
		}
		group := out.Items[len(out.Items)-1].(*Tuple).Items[1].(*List)
		group.Items = append(group.Items, items[i])
	}
	return out, m.items(8 * len(items))
}
