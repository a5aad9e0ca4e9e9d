package jinja

import (
	"strings"
	"unicode"
)

type testFunc func(m *machine, v Value, a *args) (bool, error)

// tests are what may follow 'is'. It is filled when the program starts, because some of them look other tests up.
var tests map[string]testFunc

func init() {
	tests = map[string]testFunc{
		"defined": kindTest(func(v Value) bool { _, ok := v.(*undefined); return !ok }), "undefined": isKind[*undefined],
		"none": isKind[None], "boolean": isKind[Bool], "integer": isKind[Int], "float": isKind[Float], "string": isKind[String],
		"mapping": isKind[*Dict], "callable": kindTest(isCallable),
		"number":   kindTest(func(v Value) bool { _, ok := number(v); return ok }),
		"true":     kindTest(func(v Value) bool { return v == Value(Bool(true)) }),
		"false":    kindTest(func(v Value) bool { return v == Value(Bool(false)) }),
		"escaped":  kindTest(func(Value) bool { return false }),
		"iterable": kindTest(isIterable), "sequence": kindTest(isSequence),
		"odd": remainderTest(2, 1), "even": remainderTest(2, 0), "divisibleby": isDivisible,
		"lower": caseTest(unicode.IsUpper, unicode.IsLower), "upper": caseTest(unicode.IsLower, unicode.IsUpper),
		"eq": compareTest("=="), "equalto": compareTest("=="), "==": compareTest("=="), "ne": compareTest("!="), "!=": compareTest("!="),
		"lt": compareTest("<"), "lessthan": compareTest("<"), "<": compareTest("<"), "le": compareTest("<="), "<=": compareTest("<="),
		"gt": compareTest(">"), "greaterthan": compareTest(">"), ">": compareTest(">"), "ge": compareTest(">="), ">=": compareTest(">="),
		"in": compareTest("in"), "sameas": isSame,
		"filter": nameTest(func(n string) bool { _, ok := filters[n]; return ok }),
		"test":   nameTest(func(n string) bool { _, ok := tests[n]; return ok }),
	}
}

func isKind[T Value](_ *machine, v Value, a *args) (bool, error) {
	_, ok := v.(T)
	return ok, a.none()
}

// none is an error where arguments are given to what takes none.
func (a *args) none() error {
	if len(a.pos)+len(a.names) > 0 {
		return faultf("the test takes no argument")
	}
	return nil
}

func kindTest(f func(Value) bool) testFunc {
	return func(_ *machine, v Value, a *args) (bool, error) { return f(v), a.none() }
}

func isCallable(v Value) bool {
	switch v.(type) {
	case *callable, *loopValue:
		return true
	}
	return false
}

func isIterable(v Value) bool {
	switch v.(type) {
	case String, *List, *Tuple, *Dict, rangeValue, *undefined:
		return true
	}
	return false
}

func isSequence(v Value) bool { return isIterable(v) }

func remainderTest(by, want int64) testFunc {
	return func(_ *machine, v Value, a *args) (bool, error) {
		n, ok := integer(v)
		if !ok {
			return false, faultf("%s is neither odd nor even", article(v))
		}
		return n&(by-1) == want, a.none()
	}
}

func isDivisible(_ *machine, v Value, a *args) (bool, error) {
	p, err := a.take("divisibleby", "num")
	if err != nil {
		return false, err
	}
	n, ok := integer(v)
	if p[0] == nil || !ok {
		return false, faultf("divisibleby divides a whole number by one")
	}
	by, ok := integer(p[0])
	if !ok || by == 0 {
		return false, faultf("divisibleby divides by a whole number that is not zero")
	}
	return by == -1 || n%by == 0, nil
}

// caseTest is Python's islower or isupper: a letter of the wanted case and none of the other.
func caseTest(wrong, right func(rune) bool) testFunc {
	return func(m *machine, v Value, a *args) (bool, error) {
		s, err := m.text(v)
		if err == nil {
			err = m.scan(len(s))
		}
		if err != nil {
			return false, err
		}
		return cased(s, wrong, right), a.none()
	}
}

func cased(s string, wrong, right func(rune) bool) bool {
	return strings.IndexFunc(s, right) >= 0 && strings.IndexFunc(s, wrong) < 0
}

func compareTest(op string) testFunc {
	return func(m *machine, v Value, a *args) (bool, error) {
		p, err := a.take(op, "other")
		if err != nil {
			return false, err
		}
		if p[0] == nil {
			return false, faultf("the test compares with a value, and none is given")
		}
		return m.compare(op, v, p[0])
	}
}

func isSame(m *machine, v Value, a *args) (bool, error) {
	p, err := a.take("sameas", "other")
	if err != nil || p[0] == nil {
		return false, err
	}
	if v.kind() != p[0].kind() {
		return false, nil
	}
	switch v.(type) {
	case None, Bool, Int, Float, String:
		return m.equal(v, p[0], 0)
	}
	return v == p[0], nil
}

func nameTest(f func(string) bool) testFunc {
	return func(m *machine, v Value, a *args) (bool, error) {
		s, ok := v.(String)
		return ok && f(string(s)), cmpErr(m.scan(len(s)), a.none())
	}
}
