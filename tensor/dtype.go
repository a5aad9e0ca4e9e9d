package tensor

// DType is the element type of a tensor. The zero value is Invalid.
type DType uint8

// The element types. Bool is one byte holding 0 or 1; BF16 is bfloat16 (8 exponent bits), F16 is IEEE 754 binary16.
const (
	Invalid DType = iota
	Bool
	I8
	I16
	I32
	I64
	U8
	U16
	U32
	U64
	F16
	BF16
	F32
	F64
	numDTypes
)

// dtypes is the one table of what is known about each element type.
var dtypes = [numDTypes]struct {
	name  string
	size  int
	class class
}{
	Invalid: {"invalid", 0, 0},
	Bool:    {"bool", 1, 0},
	I8:      {"i8", 1, signed},
	I16:     {"i16", 2, signed},
	I32:     {"i32", 4, signed},
	I64:     {"i64", 8, signed},
	U8:      {"u8", 1, unsigned},
	U16:     {"u16", 2, unsigned},
	U32:     {"u32", 4, unsigned},
	U64:     {"u64", 8, unsigned},
	F16:     {"f16", 2, float},
	BF16:    {"bf16", 2, float},
	F32:     {"f32", 4, float},
	F64:     {"f64", 8, float},
}

type class uint8

const (
	signed class = iota + 1
	unsigned
	float
)

// String returns the short name used in printed types and errors: "f32", "bf16", "i64".
func (d DType) String() string {
	if d >= numDTypes {
		return "invalid"
	}
	return dtypes[d].name
}

// Size returns the bytes of one element, 0 for Invalid.
func (d DType) Size() int {
	if d >= numDTypes {
		return 0
	}
	return dtypes[d].size
}

// IsFloat reports whether d is f16, bf16, f32 or f64.
func (d DType) IsFloat() bool { return d < numDTypes && dtypes[d].class == float }

// IsInt reports whether d is a signed or unsigned integer type (not bool).
func (d DType) IsInt() bool {
	return d < numDTypes && (dtypes[d].class == signed || dtypes[d].class == unsigned)
}

// IsSigned reports whether d is a signed integer type.
func (d DType) IsSigned() bool { return d < numDTypes && dtypes[d].class == signed }

// ParseDType is the inverse of DType.String; ok is false for an unknown name.
func ParseDType(name string) (d DType, ok bool) {
	for i := Bool; i < numDTypes; i++ {
		if dtypes[i].name == name {
			return i, true
		}
	}
	return Invalid, false
}

// DTypes lists every valid element type in declaration order.
func DTypes() []DType {
	out := make([]DType, 0, numDTypes-1)
	for d := Bool; d < numDTypes; d++ {
		out = append(out, d)
	}
	return out
}
