package tensor

import (
	"fmt"
	"math"
	"reflect"
)

// kindOf maps a Go element to its DType by kind, so that named types (type Token int32) work.
func kindOf(e any) DType {
	switch reflect.TypeOf(e).Kind() {
	case reflect.Bool:
		return Bool
	case reflect.Int8:
		return I8
	case reflect.Int16:
		return I16
	case reflect.Int32:
		return I32
	case reflect.Int64:
		return I64
	case reflect.Uint8:
		return U8
	case reflect.Uint16:
		return U16
	case reflect.Uint32:
		return U32
	case reflect.Uint64:
		return U64
	case reflect.Float32:
		return F32
	}
	return F64
}

// At returns element i (flat, row-major) as a float64. Integers beyond 2^53 lose precision.
func (t *Tensor) At(i int) float64 {
	switch t.typ.DType {
	case Bool, U8:
		return float64(t.data[i])
	case I8:
		return float64(int8(t.data[i]))
	case I16:
		return float64(View[int16](t.data)[i])
	case I32:
		return float64(View[int32](t.data)[i])
	case I64:
		return float64(View[int64](t.data)[i])
	case U16:
		return float64(View[uint16](t.data)[i])
	case U32:
		return float64(View[uint32](t.data)[i])
	case U64:
		return float64(View[uint64](t.data)[i])
	case F16:
		return float64(View[Float16](t.data)[i].Float32())
	case BF16:
		return float64(View[BFloat16](t.data)[i].Float32())
	case F32:
		return float64(View[float32](t.data)[i])
	case F64:
		return View[float64](t.data)[i]
	}
	return math.NaN()
}

// Set stores v at element i (flat, row-major), rounding to the element type; out-of-range integers saturate.
func (t *Tensor) Set(i int, v float64) {
	switch t.typ.DType {
	case Bool:
		t.data[i] = 0
		if v != 0 {
			t.data[i] = 1
		}
	case I8:
		t.data[i] = byte(int8(saturate(v, math.MinInt8, math.MaxInt8)))
	case U8:
		t.data[i] = byte(saturate(v, 0, math.MaxUint8))
	case I16:
		View[int16](t.data)[i] = int16(saturate(v, math.MinInt16, math.MaxInt16))
	case U16:
		View[uint16](t.data)[i] = uint16(saturate(v, 0, math.MaxUint16))
	case I32:
		View[int32](t.data)[i] = int32(saturate(v, math.MinInt32, math.MaxInt32))
	case U32:
		View[uint32](t.data)[i] = uint32(saturate(v, 0, math.MaxUint32))
	case I64:
		View[int64](t.data)[i] = ToInt64(v)
	case U64:
		View[uint64](t.data)[i] = toUint64(v)
	case F16:
		View[Float16](t.data)[i] = ToF16(float32(v))
	case BF16:
		View[BFloat16](t.data)[i] = ToBF16(float32(v))
	case F32:
		View[float32](t.data)[i] = float32(v)
	case F64:
		View[float64](t.data)[i] = v
	}
}

// Convert returns a copy in another element type: floats round to nearest even, integers saturate, a float becomes an integer
// by truncation (NaN gives 0).
func (t *Tensor) Convert(d DType) (*Tensor, error) {
	if d.Size() == 0 {
		return nil, fmt.Errorf("tensor: cannot convert %v to dtype %v", t.typ, d)
	}
	if d == t.typ.DType {
		return t.Clone(), nil
	}
	out := New(t.typ.With(d))
	n := t.typ.Size()
	if t.typ.DType.IsInt() && d.IsInt() {
		for i := range n {
			out.setInt(i, t.intAt(i), t.typ.DType == U64)
		}
		return out, nil
	}
	for i := range n {
		out.Set(i, t.At(i))
	}
	return out, nil
}

// Float32s returns the elements as a new []float32.
func (t *Tensor) Float32s() []float32 {
	out := make([]float32, t.typ.Size())
	if t.typ.DType == F32 {
		copy(out, View[float32](t.data))
		return out
	}
	for i := range out {
		out[i] = float32(t.At(i))
	}
	return out
}

// ToInt64 truncates and saturates; NaN gives 0.
func ToInt64(v float64) int64 {
	switch {
	case v != v:
		return 0
	case v >= math.MaxInt64:
		return math.MaxInt64
	case v <= math.MinInt64:
		return math.MinInt64
	}
	return int64(v)
}

func toUint64(v float64) uint64 {
	switch {
	case !(v > 0):
		return 0
	case v >= math.MaxUint64:
		return math.MaxUint64
	}
	return uint64(v)
}

func saturate(v, lo, hi float64) int64 {
	if v != v {
		return 0
	}
	return int64(min(max(v, lo), hi))
}

// intAt returns an integer element exactly, u64 by its bits.
func (t *Tensor) intAt(i int) int64 {
	switch t.typ.DType {
	case I64:
		return View[int64](t.data)[i]
	case U64:
		return int64(View[uint64](t.data)[i])
	}
	return int64(t.At(i))
}

func (t *Tensor) setInt(i int, v int64, fromU64 bool) {
	switch {
	case t.typ.DType == U64 && (v >= 0 || fromU64):
		View[uint64](t.data)[i] = uint64(v)
	case t.typ.DType == U64:
		View[uint64](t.data)[i] = 0
	case fromU64 && v < 0:
		t.Set(i, math.MaxInt64) // beyond int64: saturates in every narrower type
	case t.typ.DType == I64:
		View[int64](t.data)[i] = v
	default:
		t.Set(i, float64(v))
	}
}

// RangeError says that an element is finite and would be infinite in another element type.
type RangeError struct {
	Index int // flat, row-major
	Value float64
	DType DType
}

// Error implements error.
func (e *RangeError) Error() string {
	return fmt.Sprintf("element %d is %v, which %v cannot hold", e.Index, e.Value, e.DType)
}

// Narrow is Convert for numbers that have to stay numbers: a finite element that would round to infinity is a *RangeError.
func (t *Tensor) Narrow(d DType) (*Tensor, error) {
	out, err := t.Convert(d)
	if err != nil || t.typ.DType == d {
		return out, err
	}
	next := func(int) int { return -1 } // integers have no infinity
	switch {
	case reach(d) > reach(t.typ.DType):
	case d == F16:
		next = func(from int) int { return infinity(View[uint16](out.data), from, 0x7c00) }
	case d == BF16:
		next = func(from int) int { return infinity(View[uint16](out.data), from, 0x7f80) }
	case d == F32:
		next = func(from int) int { return infinity(View[uint32](out.data), from, 0x7f800000) }
	}
	for i := next(0); i >= 0; i = next(i + 1) {
		if !math.IsInf(t.At(i), 0) {
			return nil, &RangeError{i, t.At(i), d}
		}
	}
	return out, nil
}

// infinity is the index of the first number at from or after it that has the bits of an infinity, besides the sign; -1 without any.
func infinity[B uint16 | uint32](bits []B, from int, inf B) int {
	for i, b := range bits[from:] {
		if b<<1 == inf<<1 {
			return from + i
		}
	}
	return -1
}

// reach orders element types: one of a larger reach holds, rounded, whatever one of a smaller reach does.
func reach(d DType) int {
	switch d {
	case F16:
		return 16
	case BF16:
		return 128
	case F32:
		return 129
	case F64:
		return 1024
	}
	return 8 * d.Size() // bits of an integer
}
