// Package tensor holds what every other package speaks: element types, shapes, and tensors in host memory.
//
// Shape and Type are comparable values. A Tensor owns its bytes in row-major, little-endian order, so that files, devices and
// kernels agree on one layout. The package imports nothing of this module.
package tensor

import (
	"fmt"
	"unsafe"
)

// Tensor is a tensor in host memory, row-major and contiguous.
type Tensor struct {
	typ  Type
	data []byte
}

// Element is the set of Go types a tensor's storage can be viewed as.
type Element interface {
	~bool | ~int8 | ~int16 | ~int32 | ~int64 | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~float32 | ~float64
}

// New returns a zeroed tensor, 64-byte aligned. An invalid type gives an empty tensor of Invalid type.
func New(t Type) *Tensor {
	if !t.Shape.Valid() || t.DType.Size() == 0 {
		return &Tensor{}
	}
	return &Tensor{t, AlignedBytes(int(t.Bytes()))}
}

// FromBytes wraps b, which must hold exactly the tensor's bytes; the tensor shares it. Storage that is not aligned for the
// element type is copied.
func FromBytes(t Type, b []byte) (*Tensor, error) {
	if !t.Shape.Valid() || t.DType.Size() == 0 {
		return nil, fmt.Errorf("tensor: %v is not a valid type", t)
	}
	if int64(len(b)) != t.Bytes() {
		return nil, fmt.Errorf("tensor: %v needs %d bytes, got %d", t, t.Bytes(), len(b))
	}
	if len(b) > 0 && uintptr(unsafe.Pointer(&b[0]))%uintptr(t.DType.Size()) != 0 {
		c := AlignedBytes(len(b))
		copy(c, b)
		b = c
	}
	return &Tensor{t, b}, nil
}

// Of copies vals into a new tensor; without dims it is a vector. The element type follows E.
func Of[E Element](vals []E, dims ...int) (*Tensor, error) {
	if len(dims) == 0 {
		dims = []int{len(vals)}
	}
	t := Type{dtypeOf[E](), S(dims...)}
	if !t.Shape.Valid() || t.Size() != len(vals) {
		return nil, fmt.Errorf("tensor: %d values do not fill shape %v", len(vals), t.Shape)
	}
	out := New(t)
	copy(View[E](out.data), vals)
	return out, nil
}

// Scalar returns a rank-0 tensor.
func Scalar[E Element](v E) *Tensor {
	out := New(Type{dtypeOf[E](), S()})
	View[E](out.data)[0] = v
	return out
}

// Type returns the tensor's element type and shape.
func (t *Tensor) Type() Type { return t.typ }

// Shape returns the tensor's shape.
func (t *Tensor) Shape() Shape { return t.typ.Shape }

// DType returns the tensor's element type.
func (t *Tensor) DType() DType { return t.typ.DType }

// Bytes returns the storage itself, not a copy.
func (t *Tensor) Bytes() []byte { return t.data }

// Clone returns a deep copy.
func (t *Tensor) Clone() *Tensor {
	c := &Tensor{t.typ, AlignedBytes(len(t.data))}
	copy(c.data, t.data)
	return c
}

// Reshape returns a tensor that shares t's storage under another shape of the same size.
func (t *Tensor) Reshape(dims ...int) (*Tensor, error) {
	s := S(dims...)
	if !s.Valid() || s.Size() != t.typ.Size() {
		return nil, fmt.Errorf("tensor: cannot reshape %v to %v", t.typ, dims)
	}
	return &Tensor{Type{t.typ.DType, s}, t.data}, nil
}

// Data views the storage as a slice of E without copying. E must have the element's size (uint16 for f16 and bf16);
// otherwise the view is nil.
func Data[E Element](t *Tensor) []E {
	var e E
	if int(unsafe.Sizeof(e)) != t.typ.DType.Size() {
		return nil
	}
	return View[E](t.data)
}

// View reinterprets bytes as a slice of E, dropping a remainder shorter than one element.
func View[E Element](b []byte) []E {
	var e E
	n := len(b) / int(unsafe.Sizeof(e))
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*E)(unsafe.Pointer(&b[0])), n)
}

// AsBytes is the inverse of View: the storage of s as bytes.
func AsBytes[E Element](s []E) []byte {
	if len(s) == 0 {
		return nil
	}
	var e E
	return unsafe.Slice((*byte)(unsafe.Pointer(&s[0])), len(s)*int(unsafe.Sizeof(e)))
}

// AlignedBytes returns n zeroed bytes whose first is on a 64-byte boundary, as vector loads want.
func AlignedBytes(n int) []byte {
	const align = 64
	b := make([]byte, n+align)
	off := int(-uintptr(unsafe.Pointer(&b[0])) & (align - 1))
	return b[off : off+n : off+n]
}

func dtypeOf[E Element]() DType {
	var e E
	switch any(e).(type) {
	case BFloat16:
		return BF16
	case Float16:
		return F16
	}
	return kindOf(e)
}
