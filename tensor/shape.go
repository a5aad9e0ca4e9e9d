package tensor

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"
)

// MaxRank is the largest number of axes a Shape can have.
const MaxRank = 8

// Shape is the extent of each axis, row-major. It is a comparable value: equal shapes are == and may key a map.
// The zero value is the shape of a scalar.
type Shape struct {
	rank int8
	dims [MaxRank]int64
}

// S makes a Shape. More than MaxRank axes, a negative extent, or an element count beyond int64 give a shape for which
// Valid reports false; constructors of tensors and graph nodes refuse it with a message.
func S(dims ...int) Shape {
	var s Shape
	if len(dims) > MaxRank {
		return Shape{rank: -1}
	}
	s.rank = int8(len(dims))
	count := uint64(1)
	for i, d := range dims {
		if d < 0 {
			return Shape{rank: -1}
		}
		hi, lo := bits.Mul64(count, uint64(d))
		if hi != 0 || lo > math.MaxInt64 {
			return Shape{rank: -1}
		}
		count, s.dims[i] = lo, int64(d)
	}
	return s
}

// Valid reports whether the shape was made within the limits of S.
func (s Shape) Valid() bool { return s.rank >= 0 }

// Rank is the number of axes.
func (s Shape) Rank() int { return max(int(s.rank), 0) }

// Dim returns the extent of axis i; a negative i counts from the end (-1 is the last). An axis out of range gives 0.
func (s Shape) Dim(i int) int {
	if i < 0 {
		i += s.Rank()
	}
	if i < 0 || i >= s.Rank() {
		return 0
	}
	return int(s.dims[i])
}

// Dims returns the extents as a new slice.
func (s Shape) Dims() []int {
	out := make([]int, s.Rank())
	for i := range out {
		out[i] = int(s.dims[i])
	}
	return out
}

// Size is the number of elements: the product of the extents, 1 for a scalar.
func (s Shape) Size() int {
	n := int64(1)
	for i := 0; i < s.Rank(); i++ {
		n *= s.dims[i]
	}
	return int(n)
}

// Strides returns the row-major stride of each axis in elements.
func (s Shape) Strides() []int {
	out := make([]int, s.Rank())
	n := 1
	for i := s.Rank() - 1; i >= 0; i-- {
		out[i] = n
		n *= int(s.dims[i])
	}
	return out
}

// Axis normalises an axis that may count from the end; ok is false when it is out of range.
func (s Shape) Axis(i int) (axis int, ok bool) {
	if i < 0 {
		i += s.Rank()
	}
	return i, i >= 0 && i < s.Rank()
}

// String prints "[2,3]".
func (s Shape) String() string {
	if !s.Valid() {
		return "[invalid]"
	}
	var b strings.Builder
	b.WriteByte('[')
	for i := 0; i < s.Rank(); i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.FormatInt(s.dims[i], 10))
	}
	b.WriteByte(']')
	return b.String()
}

// Broadcast returns the shape that a and b broadcast to by NumPy's rule: axes are aligned at the end, and extents must be
// equal or 1.
func Broadcast(a, b Shape) (Shape, error) {
	n := max(a.Rank(), b.Rank())
	dims := make([]int, n)
	for i := 1; i <= n; i++ {
		x, y := 1, 1
		if i <= a.Rank() {
			x = a.Dim(-i)
		}
		if i <= b.Rank() {
			y = b.Dim(-i)
		}
		switch {
		case x == y || y == 1:
			dims[n-i] = x
		case x == 1:
			dims[n-i] = y
		default:
			return Shape{}, fmt.Errorf("shapes %v and %v do not broadcast: extents %d and %d on axis %d from the end", a, b, x, y, i)
		}
	}
	return S(dims...), nil
}

// Type is an element type and a shape. It is comparable.
type Type struct {
	DType DType
	Shape Shape
}

// T makes a Type.
func T(d DType, dims ...int) Type { return Type{d, S(dims...)} }

// Bytes is the storage of a tensor of this type.
func (t Type) Bytes() int64 { return int64(t.Shape.Size()) * int64(t.DType.Size()) }

// Size is the number of elements.
func (t Type) Size() int { return t.Shape.Size() }

// Rank is the number of axes.
func (t Type) Rank() int { return t.Shape.Rank() }

// Dim is Shape.Dim.
func (t Type) Dim(i int) int { return t.Shape.Dim(i) }

// With returns the same shape with another element type.
func (t Type) With(d DType) Type { return Type{d, t.Shape} }

// String prints "f32[8,2048]".
func (t Type) String() string { return t.DType.String() + t.Shape.String() }
