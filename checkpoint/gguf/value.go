package gguf

import (
	"encoding/binary"
	"fmt"
	"math"
)

// kind is the number of a metadata type (enum gguf_type).
type kind uint32

const (
	kindU8 kind = iota
	kindI8
	kindU16
	kindI16
	kindU32
	kindI32
	kindF32
	kindBool
	kindString
	kindArray
	kindU64
	kindI64
	kindF64
)

// sizes are the bytes of the types of fixed size.
var sizes = map[kind]int{kindU8: 1, kindI8: 1, kindU16: 2, kindI16: 2, kindU32: 4, kindI32: 4, kindF32: 4, kindBool: 1, kindU64: 8, kindI64: 8, kindF64: 8}

// readValue reads the type of a value and the value.
func readValue(c *cursor) (any, error) {
	n, err := c.u32()
	if err != nil {
		return nil, err
	}
	switch k := kind(n); k {
	case kindString:
		return c.str(math.MaxInt32)
	case kindArray:
		return readArray(c)
	default:
		size, ok := sizes[k]
		if !ok {
			return nil, fmt.Errorf("type %d is unknown", n)
		}
		b, err := c.bytes(size)
		if err != nil {
			return nil, err
		}
		return scalar(k, b)
	}
}

func scalar(k kind, b []byte) (any, error) {
	le := binary.LittleEndian
	switch k {
	case kindU8:
		return b[0], nil
	case kindI8:
		return int8(b[0]), nil
	case kindU16:
		return le.Uint16(b), nil
	case kindI16:
		return int16(le.Uint16(b)), nil
	case kindU32:
		return le.Uint32(b), nil
	case kindI32:
		return int32(le.Uint32(b)), nil
	case kindF32:
		return math.Float32frombits(le.Uint32(b)), nil
	case kindU64:
		return le.Uint64(b), nil
	case kindI64:
		return int64(le.Uint64(b)), nil
	case kindF64:
		return math.Float64frombits(le.Uint64(b)), nil
	}
	if b[0] > 1 {
		return nil, fmt.Errorf("a bool is %d, it must be 0 or 1", b[0])
	}
	return b[0] == 1, nil
}

func readArray(c *cursor) (any, error) {
	n, err := c.u32()
	if err != nil {
		return nil, err
	}
	count, err := c.u64()
	if err != nil {
		return nil, err
	}
	k := kind(n)
	if k == kindString {
		return readStrings(c, count)
	}
	size, ok := sizes[k]
	if !ok {
		return nil, fmt.Errorf("an array of type %d is not supported", n)
	}
	if count > uint64(c.size)/uint64(size) {
		return nil, fmt.Errorf("an array of %d elements, more than the file can hold", count)
	}
	b, err := c.bytes(int(count) * size)
	if err != nil {
		return nil, err
	}
	switch k {
	case kindU8:
		return array[uint8](k, b)
	case kindI8:
		return array[int8](k, b)
	case kindU16:
		return array[uint16](k, b)
	case kindI16:
		return array[int16](k, b)
	case kindU32:
		return array[uint32](k, b)
	case kindI32:
		return array[int32](k, b)
	case kindF32:
		return array[float32](k, b)
	case kindU64:
		return array[uint64](k, b)
	case kindI64:
		return array[int64](k, b)
	case kindF64:
		return array[float64](k, b)
	}
	return array[bool](k, b)
}

func array[T any](k kind, b []byte) ([]T, error) {
	size := sizes[k]
	out := make([]T, len(b)/size)
	for i := range out {
		v, err := scalar(k, b[i*size:])
		if err != nil {
			return nil, err
		}
		out[i] = v.(T)
	}
	return out, nil
}

// readStrings finds the end of all first, so that they can share one copy of their bytes.
func readStrings(c *cursor, count uint64) ([]string, error) {
	const least = 8 // bytes of an empty one
	if count > (uint64(c.size)-uint64(c.at))/least {
		return nil, fmt.Errorf("an array of %d texts, more than the file can hold", count)
	}
	begin := c.at
	for range count {
		n, err := c.u64()
		if err == nil {
			err = c.need(n)
		}
		if err != nil {
			return nil, err
		}
		c.at += int(n)
	}
	all := string(c.buf[begin:c.at])
	out := make([]string, count)
	at := 0
	for i := range out {
		n := int(binary.LittleEndian.Uint64(c.buf[begin+at:]))
		out[i] = all[at+8 : at+8+n]
		at += 8 + n
	}
	return out, nil
}

// appendValue writes the type of a value and the value.
func appendValue(out []byte, v any) ([]byte, error) {
	if k, ok := kindOf(v); ok {
		return appendScalar(appendU32(out, uint32(k)), v), nil
	}
	switch v := v.(type) {
	case []uint8:
		return appendArray(out, kindU8, v), nil
	case []int8:
		return appendArray(out, kindI8, v), nil
	case []uint16:
		return appendArray(out, kindU16, v), nil
	case []int16:
		return appendArray(out, kindI16, v), nil
	case []uint32:
		return appendArray(out, kindU32, v), nil
	case []int32:
		return appendArray(out, kindI32, v), nil
	case []float32:
		return appendArray(out, kindF32, v), nil
	case []bool:
		return appendArray(out, kindBool, v), nil
	case []string:
		return appendArray(out, kindString, v), nil
	case []uint64:
		return appendArray(out, kindU64, v), nil
	case []int64:
		return appendArray(out, kindI64, v), nil
	case []float64:
		return appendArray(out, kindF64, v), nil
	}
	return nil, fmt.Errorf("a value of Go type %T cannot be written", v)
}

func appendArray[T any](out []byte, k kind, v []T) []byte {
	out = binary.LittleEndian.AppendUint64(appendU32(appendU32(out, uint32(kindArray)), uint32(k)), uint64(len(v)))
	for i := range v {
		out = appendScalar(out, v[i])
	}
	return out
}

func appendU32(out []byte, v uint32) []byte { return binary.LittleEndian.AppendUint32(out, v) }

func appendString(out []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint64(out, uint64(len(s))), s...)
}

// kindOf is the type of a scalar.
func kindOf(v any) (kind, bool) {
	switch v.(type) {
	case uint8:
		return kindU8, true
	case int8:
		return kindI8, true
	case uint16:
		return kindU16, true
	case int16:
		return kindI16, true
	case uint32:
		return kindU32, true
	case int32:
		return kindI32, true
	case float32:
		return kindF32, true
	case bool:
		return kindBool, true
	case string:
		return kindString, true
	case uint64:
		return kindU64, true
	case int64:
		return kindI64, true
	case float64:
		return kindF64, true
	}
	return 0, false
}

// appendScalar writes a value for which kindOf has a type.
func appendScalar(out []byte, v any) []byte {
	le := binary.LittleEndian
	switch v := v.(type) {
	case uint8:
		return append(out, v)
	case int8:
		return append(out, uint8(v))
	case uint16:
		return le.AppendUint16(out, v)
	case int16:
		return le.AppendUint16(out, uint16(v))
	case uint32:
		return le.AppendUint32(out, v)
	case int32:
		return le.AppendUint32(out, uint32(v))
	case float32:
		return le.AppendUint32(out, math.Float32bits(v))
	case uint64:
		return le.AppendUint64(out, v)
	case int64:
		return le.AppendUint64(out, uint64(v))
	case float64:
		return le.AppendUint64(out, math.Float64bits(v))
	case string:
		return appendString(out, v)
	case bool:
		if v {
			return append(out, 1)
		}
	}
	return append(out, 0) // false
}
