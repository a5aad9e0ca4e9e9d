package jinja

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
)

// maxJSONDepth bounds lists and objects inside each other in data given to a template.
const maxJSONDepth = 200

// FromJSON reads one JSON text as a value: objects keep their order, whole numbers are Int, others Float. A key that comes twice
// keeps its first place and its last value, as in Python.
func FromJSON(data []byte) (Value, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	v, err := readJSON(dec, 0)
	if err != nil {
		return nil, fmt.Errorf("JSON at byte %d: %w", dec.InputOffset(), err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("JSON at byte %d: more follows the first value; give one value", dec.InputOffset())
	}
	return v, nil
}

func readJSON(dec *json.Decoder, depth int) (Value, error) {
	if depth > maxJSONDepth {
		return nil, fmt.Errorf("values lie more than %d deep in each other", maxJSONDepth)
	}
	tok, err := dec.Token()
	if errors.Is(err, io.EOF) {
		return nil, io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	switch t := tok.(type) {
	case json.Delim:
		if t == '[' {
			return readArray(dec, depth)
		}
		return readObject(dec, depth)
	case bool:
		return Bool(t), nil
	case string:
		return String(t), nil
	case json.Number:
		return jsonNumber(string(t))
	}
	return None{}, nil
}

func readArray(dec *json.Decoder, depth int) (Value, error) {
	l := &List{}
	for dec.More() {
		v, err := readJSON(dec, depth+1)
		if err != nil {
			return nil, err
		}
		l.Items = append(l.Items, v)
	}
	_, err := dec.Token()
	return l, err
}

func readObject(dec *json.Decoder, depth int) (Value, error) {
	d := NewDict()
	for dec.More() {
		k, err := dec.Token()
		if err != nil {
			return nil, err
		}
		v, err := readJSON(dec, depth+1)
		if err != nil {
			return nil, err
		}
		d.Set(k.(string), v)
	}
	_, err := dec.Token()
	return d, err
}

func jsonNumber(s string) (Value, error) {
	if i, err := strconv.ParseInt(s, 10, 64); err == nil {
		return Int(i), nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil && !math.IsInf(f, 0) {
		return nil, fmt.Errorf("number %.40q: %w", s, err)
	}
	return Float(f), nil
}

// size is about how many bytes a value holds; budgets grow with the size of the context.
func size(v Value) int {
	switch v := v.(type) {
	case String:
		return 16 + len(v)
	case *List:
		return sizeOf(v.Items)
	case *Tuple:
		return sizeOf(v.Items)
	case *Dict:
		return sizeOf(v.keys) + sizeOf(v.vals)
	}
	return 16
}

func sizeOf(items []Value) int {
	n := 16
	for _, it := range items {
		n += size(it)
	}
	return n
}
