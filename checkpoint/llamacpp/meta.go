package llamacpp

import (
	"fmt"
	"math"
	"strconv"

	"github.com/bitsandbyes/bitsandbyes/checkpoint/gguf"
)

// kv is an entry of metadata whose key may begin with "%", which stands for the architecture.
type kv = gguf.KV

// meta reads the metadata of a file. The first error stays and is asked for at the end.
type meta struct {
	f    *gguf.File
	arch string
	err  error
}

func (m *meta) fail(format string, args ...any) {
	if m.err == nil {
		m.err = badFile(m.f.Path(), "", fmt.Sprintf(format, args...), "convert the original model again with a current llama.cpp")
	}
}

// key writes out the architecture in "%.block_count".
func (m *meta) key(key string) string {
	if key[0] == '%' {
		return m.arch + key[1:]
	}
	return key
}

func (m *meta) has(key string) bool { _, ok := m.f.Value(m.key(key)); return ok }

// number reads a number of any type, or an array of equal ones, which some models have one of for each layer.
func (m *meta) number(key string) (v float64, ok bool) {
	raw, ok := m.f.Value(m.key(key))
	if !ok {
		return 0, false
	}
	if v, ok = scalar(raw); ok {
		return v, true
	}
	list := numbers(raw)
	if len(list) == 0 {
		m.fail("metadata key %q is no number", m.key(key))
		return 0, false
	}
	for _, x := range list {
		if x != list[0] {
			m.fail("metadata key %q differs from layer to layer, which is not supported", m.key(key))
			return 0, false
		}
	}
	return list[0], true
}

// scalar widens a number; a float32 becomes the float64 that is written alike, so that 1e-5 stays 1e-5.
func scalar(v any) (float64, bool) {
	switch v := v.(type) {
	case uint8:
		return float64(v), true
	case int8:
		return float64(v), true
	case uint16:
		return float64(v), true
	case int16:
		return float64(v), true
	case uint32:
		return float64(v), true
	case int32:
		return float64(v), true
	case uint64:
		return float64(v), true
	case int64:
		return float64(v), true
	case float32:
		return decimal(v), true
	case float64:
		return v, true
	}
	return 0, false
}

// decimal is the float64 nearest to the shortest text that gives v.
func decimal(v float32) float64 {
	out, err := strconv.ParseFloat(strconv.FormatFloat(float64(v), 'g', -1, 32), 64)
	if err != nil {
		return float64(v)
	}
	return out
}

func numbers(v any) []float64 {
	switch v := v.(type) {
	case []uint8:
		return widened(v)
	case []int8:
		return widened(v)
	case []uint16:
		return widened(v)
	case []int16:
		return widened(v)
	case []uint32:
		return widened(v)
	case []int32:
		return widened(v)
	case []uint64:
		return widened(v)
	case []int64:
		return widened(v)
	case []float32:
		return widened(v)
	case []float64:
		return widened(v)
	}
	return nil
}

func widened[T any](list []T) []float64 {
	out := make([]float64, len(list))
	for i, v := range list {
		out[i], _ = scalar(any(v))
	}
	return out
}

// integer reads a whole number, def where there is none.
func (m *meta) integer(key string, def int) int {
	v, ok := m.number(key)
	if !ok {
		return def
	}
	if v != math.Trunc(v) || v < math.MinInt32 || v > math.MaxInt32 {
		m.fail("metadata key %q is %v, which is no count", m.key(key), v)
		return def
	}
	return int(v)
}

// needed is integer for a key that must be there.
func (m *meta) needed(key string) int {
	if !m.has(key) {
		m.fail("metadata key %q is missing", m.key(key))
	}
	return m.integer(key, 0)
}

// float reads a finite number, def where there is none.
func (m *meta) float(key string, def float64) float64 {
	v, ok := m.number(key)
	if !ok {
		return def
	}
	if math.IsNaN(v) || math.IsInf(v, 0) {
		m.fail("metadata key %q is %v", m.key(key), v)
		return def
	}
	return v
}

// text reads a string, "" where there is none.
func (m *meta) text(key string) string {
	v, ok := m.f.Value(m.key(key))
	if !ok {
		return ""
	}
	s, ok := v.(string)
	if !ok {
		m.fail("metadata key %q is a %T, a text is needed", m.key(key), v)
	}
	return s
}

// floats reads a small tensor of factors; nil where there is none.
func (m *meta) floats(tensor string) []float32 {
	t, ok := m.f.Tensor(tensor)
	if !ok {
		return nil
	}
	const most = 4096 // half the features of a head
	if t.Shape.Rank() != 1 || t.Shape.Size() == 0 || t.Shape.Size() > most {
		m.fail("tensor %q has shape %v, a list of factors is needed", tensor, t.Shape)
		return nil
	}
	out := make([]float32, t.Shape.Size())
	if err := m.f.Decode(tensor, out, 0); err != nil && m.err == nil {
		m.err = err
	}
	for _, v := range out {
		if !(v > 0) || math.IsInf(float64(v), 0) {
			m.fail("tensor %q holds the factor %v, which must be positive", tensor, v)
			return nil
		}
	}
	return out
}
