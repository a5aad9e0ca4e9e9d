package jinja

func filterBatch(m *machine, v Value, a *args) (Value, error) {
	p, err := a.take("batch", "linecount", "fill_with")
	if err != nil {
		return nil, err
	}
	items, err := m.gone(v)
	if err != nil {
		return nil, err
	}
	n, ok := integer(p[0])
	if !ok || n < 1 || n > maxRange {
		return nil, faultf("batch takes how many values a row has, from 1 to %d", maxRange)
	}
	out := &List{}
	for len(items) > 0 {
		k := min(int(n), len(items))
		row := append([]Value(nil), items[:k]...)
		for p[1] != nil && p[1] != Value(None{}) && len(row) < int(n) {
			row = append(row, p[1])
		}
		if err := m.items(len(row) + 2); err != nil {
			return nil, err
		}
		items = items[k:]
		out.Items = append(out.Items, &List{Items: row})
	}
	return out, nil
}

func filterSlice(m *machine, v Value, a *args) (Value, error) {
	p, err := a.take("slice", "slices", "fill_with")
	if err != nil {
		return nil, err
	}
	items, err := m.gone(v)
	if err != nil {
		return nil, err
	}
	n, ok := integer(p[0])
	if !ok || n < 1 || n > maxRange {
		return nil, faultf("slice takes a number of slices, from 1 to %d", maxRange)
	}
	if err := m.items(3 * int(n)); err != nil {
		return nil, err
	}
	out, each, extra, at := &List{}, len(items)/int(n), len(items)%int(n), 0
	for i := range int(n) {
		k := each + boolInt(i < extra)
		row := append([]Value(nil), items[at:at+k]...)
		at += k
		if p[1] != nil && p[1] != Value(None{}) && i >= extra {
			row = append(row, p[1])
		}
		out.Items = append(out.Items, &List{Items: row})
	}
	return out, nil
}

func filterExtreme(sign int) filterFunc {
	return func(m *machine, v Value, a *args) (Value, error) {
		p, err := a.take("min", "case_sensitive", "attribute")
		if err != nil {
			return nil, err
		}
		items, err := m.list(v)
		if err != nil {
			return nil, err
		}
		best, bestKey := Value(&undefined{what: "the extreme of an empty " + v.kind()}), Value(nil)
		for _, it := range items {
			k, err := m.sortKey(it, p[1], p[0] != nil && truth(p[0]))
			if err != nil {
				return nil, err
			}
			c := sign
			if bestKey != nil {
				if c, err = m.order(k, bestKey, 0); err != nil {
					return nil, err
				}
			}
			if c == sign {
				best, bestKey = it, k
			}
		}
		return best, nil
	}
}

func filterSum(m *machine, v Value, a *args) (Value, error) {
	p, err := a.take("sum", "attribute", "start")
	if err != nil {
		return nil, err
	}
	items, err := m.list(v)
	if err != nil {
		return nil, err
	}
	total := Value(Int(0))
	if p[1] != nil {
		total = p[1]
	}
	for _, it := range items {
		if p[0] != nil && p[0] != Value(None{}) {
			if it, err = m.path(it, p[0]); err != nil {
				return nil, err
			}
		}
		if err = m.spend(1); err == nil {
			total, err = m.binary("+", total, it)
		}
		if err != nil {
			return nil, err
		}
	}
	return total, nil
}

// filterMap takes an attribute of each item, or applies a filter to each.
func filterMap(m *machine, v Value, a *args) (Value, error) {
	items, err := m.gone(v)
	if err != nil {
		return nil, err
	}
	out := make([]Value, len(items))
	if len(a.pos) == 0 {
		p, err := a.take("map", "attribute", "default")
		if err != nil || p[0] == nil {
			return nil, cmpErr(err, faultf("map takes the name of a filter, or attribute=..."))
		}
		for i, it := range items {
			if out[i], err = m.path(it, p[0]); err != nil {
				return nil, err
			}
			if _, missing := out[i].(*undefined); missing && p[1] != nil {
				out[i] = p[1]
			}
		}
		return &List{Items: out}, nil
	}
	name, err := stringArg("map", a.pos[0])
	if err != nil {
		return nil, err
	}
	rest := &args{pos: a.pos[1:], names: a.names, named: a.named}
	if err := m.enter(); err != nil {
		return nil, err
	}
	defer m.leave()
	for i, it := range items {
		if out[i], err = m.filter(name, it, rest); err != nil {
			return nil, err
		}
	}
	return &List{Items: out}, nil
}

// selectFilter keeps the items, or those with an attribute, for which a test gives want; without a test, their truth decides.
func selectFilter(want, attr bool) filterFunc {
	return func(m *machine, v Value, a *args) (Value, error) {
		items, err := m.gone(v)
		if err != nil {
			return nil, err
		}
		rest := &args{pos: a.pos, names: a.names, named: a.named}
		var by Value
		if attr {
			if len(rest.pos) == 0 {
				return nil, faultf("selectattr and rejectattr take the name of an attribute")
			}
			by, rest.pos = rest.pos[0], rest.pos[1:]
		}
		name := ""
		if len(rest.pos) > 0 {
			if name, err = stringArg("the test", rest.pos[0]); err != nil {
				return nil, err
			}
			rest.pos = rest.pos[1:]
		}
		var kept []Value
		for _, it := range items {
			x := it
			if attr {
				if x, err = m.path(it, by); err != nil {
					return nil, err
				}
			}
			ok := truth(x)
			if name != "" {
				if ok, err = m.test(name, x, rest); err != nil {
					return nil, err
				}
			}
			if ok == want {
				kept = append(kept, it)
			}
		}
		return &List{Items: kept}, m.spend(len(items))
	}
}

func filterAttr(m *machine, v Value, a *args) (Value, error) {
	p, err := a.take("attr", "name")
	if err != nil {
		return nil, err
	}
	name, err := stringArg("attr", p[0])
	if err = cmpErr(err, m.grow(2*len(name))); err != nil {
		return nil, err
	}
	x, ok, err := m.member(v, name)
	if ok || err != nil {
		return x, err
	}
	return &undefined{what: "'" + name + "' of " + article(v)}, nil
}
