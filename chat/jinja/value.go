package jinja

import (
	"math"
	"strconv"
)

// Value is one value of the language: None, Bool, Int, Float, String, *List, *Tuple, *Dict, or one of the kinds that only a
// template makes (undefined, namespace, range, macro, function, loop). The set is closed.
type Value interface {
	// kind is the name of the type as messages give it.
	kind() string
}

// The plain values.
type (
	// None is null.
	None struct{}
	// Bool is a truth value.
	Bool bool
	// Int is a whole number; one that leaves 64 bits ends the rendering with an error.
	Int int64
	// Float is a float64.
	Float float64
	// String is a text; indices and lengths count its characters, not its bytes.
	String string
	// List is an ordered collection.
	List struct{ Items []Value }
	// Tuple is a list that compares unequal to one and prints in parentheses.
	Tuple struct{ Items []Value }
	// Dict keeps the order in which its keys came.
	Dict struct {
		keys  []Value
		vals  []Value
		index map[key]int
	}
)

// undefined is the value of a name or attribute that is not there. It prints as nothing and is an error where more is asked.
type undefined struct {
	what   string
	unsafe bool
}

type rangeValue struct{ start, step, n int64 }

type namespace struct{ vars *Dict }

// callable is a function, a method bound to its object, or a macro.
type callable struct {
	name  string
	macro *macro
	fn    func(m *machine, a *args) (Value, error)
}

// cycler is what the globals cycler and joiner make.
type cycler struct {
	items []Value
	next  int
}

func (None) kind() string       { return "none" }
func (Bool) kind() string       { return "bool" }
func (Int) kind() string        { return "int" }
func (Float) kind() string      { return "float" }
func (String) kind() string     { return "string" }
func (*List) kind() string      { return "list" }
func (*Tuple) kind() string     { return "tuple" }
func (*Dict) kind() string      { return "dict" }
func (*undefined) kind() string { return "undefined" }
func (rangeValue) kind() string { return "range" }
func (*namespace) kind() string { return "namespace" }
func (*callable) kind() string  { return "function" }
func (*cycler) kind() string    { return "cycler" }
func (*loopValue) kind() string { return "loop" }

// key is a Value as the key of a map: 1, 1.0 and true are the same, as in Python.
type key struct {
	kind byte
	n    int64
	s    string
}

// NewDict returns an empty Dict.
func NewDict() *Dict { return &Dict{index: map[key]int{}} }

// Len is the number of entries.
func (d *Dict) Len() int { return len(d.keys) }

// At is the i-th entry in order.
func (d *Dict) At(i int) (k, v Value) { return d.keys[i], d.vals[i] }

// Get is the value under a string key.
func (d *Dict) Get(name string) (Value, bool) {
	i, ok := d.index[key{kind: 's', s: name}]
	if !ok {
		return nil, false
	}
	return d.vals[i], true
}

// Set puts a value under a string key; a key that is there keeps its place.
func (d *Dict) Set(name string, v Value) { d.put(key{kind: 's', s: name}, String(name), v) }

// Clone is a copy that shares the values.
func (d *Dict) Clone() *Dict {
	c := NewDict()
	for i, k := range d.keys {
		kk, _ := keyOf(k)
		c.put(kk, k, d.vals[i])
	}
	return c
}

func (d *Dict) put(k key, kv, v Value) {
	if i, ok := d.index[k]; ok {
		d.vals[i] = v
		return
	}
	d.index[k] = len(d.keys)
	d.keys, d.vals = append(d.keys, kv), append(d.vals, v)
}

func keyOf(v Value) (key, error) {
	switch v := v.(type) {
	case String:
		return key{kind: 's', s: string(v)}, nil
	case Int:
		return key{kind: 'n', n: int64(v)}, nil
	case Bool:
		return key{kind: 'n', n: int64(asInt(v))}, nil
	case None:
		return key{kind: '0'}, nil
	case Float:
		f := float64(v)
		if f == math.Trunc(f) && math.Abs(f) < 1<<62 {
			return key{kind: 'n', n: int64(f)}, nil
		}
		return key{kind: 'f', n: int64(math.Float64bits(f))}, nil
	case *Tuple:
		b, err := appendKey(nil, v, 0)
		return key{kind: 't', s: string(b)}, err
	}
	return key{}, faultf("a %s cannot be a key", v.kind())
}

// maxTupleKey bounds what a tuple as a key comes to in bytes; others are errors.
const maxTupleKey = 4096

// appendKey writes the key of a value inside a tuple so that no two tuples are written alike: each part says how long it is.
func appendKey(b []byte, v Value, depth int) ([]byte, error) {
	t, ok := v.(*Tuple)
	if !ok {
		k, err := keyOf(v)
		if err != nil {
			return nil, err
		}
		b = append(strconv.AppendInt(append(b, k.kind), k.n, 36), ',')
		b = append(strconv.AppendInt(b, int64(len(k.s)), 10), ':')
		if len(b)+len(k.s) > maxTupleKey {
			return nil, faultf("a tuple this large cannot be a key")
		}
		return append(b, k.s...), nil
	}
	b = append(strconv.AppendInt(append(b, 't'), int64(len(t.Items)), 10), ':')
	if depth > 20 || len(b) > maxTupleKey {
		return nil, faultf("a tuple this large cannot be a key")
	}
	for _, it := range t.Items {
		var err error
		if b, err = appendKey(b, it, depth+1); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func asInt(b Bool) Int {
	if b {
		return 1
	}
	return 0
}

// truth is Python's bool().
func truth(v Value) bool {
	switch v := v.(type) {
	case None, *undefined:
		return false
	case Bool:
		return bool(v)
	case Int:
		return v != 0
	case Float:
		return v != 0
	case String:
		return v != ""
	case *List:
		return len(v.Items) > 0
	case *Tuple:
		return len(v.Items) > 0
	case *Dict:
		return v.Len() > 0
	case rangeValue:
		return v.n > 0
	}
	return true
}

// number is the value as a float where it is one; ok is false otherwise. Booleans are numbers, as in Python.
func number(v Value) (f float64, ok bool) {
	switch v := v.(type) {
	case Int:
		return float64(v), true
	case Float:
		return float64(v), true
	case Bool:
		return float64(asInt(v)), true
	}
	return 0, false
}

func integer(v Value) (int64, bool) {
	switch v := v.(type) {
	case Int:
		return int64(v), true
	case Bool:
		return int64(asInt(v)), true
	}
	return 0, false
}
