package onnx

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// elem is what is known of an ONNX element type. Types that package tensor lacks are carried in a wider one that holds each of
// their values: four- and two-bit integers in a byte, 8- and 4-bit floats in float32.
type elem struct {
	name  string
	id    int // ONNX's number, as attributes have it
	dtype tensor.DType
	bits  int // of the true type
}

var elems = []elem{
	{"FLOAT", 1, tensor.F32, 32}, {"UINT8", 2, tensor.U8, 8}, {"INT8", 3, tensor.I8, 8}, {"UINT16", 4, tensor.U16, 16},
	{"INT16", 5, tensor.I16, 16}, {"INT32", 6, tensor.I32, 32}, {"INT64", 7, tensor.I64, 64}, {"BOOL", 9, tensor.Bool, 8},
	{"FLOAT16", 10, tensor.F16, 16}, {"DOUBLE", 11, tensor.F64, 64}, {"UINT32", 12, tensor.U32, 32}, {"UINT64", 13, tensor.U64, 64},
	{"BFLOAT16", 16, tensor.BF16, 16}, {"FLOAT8E4M3FN", 17, tensor.F32, 8}, {"FLOAT8E5M2", 19, tensor.F32, 8},
	{"UINT4", 21, tensor.U8, 4}, {"INT4", 22, tensor.I8, 4}, {"FLOAT4E2M1", 23, tensor.F32, 4},
	{"UINT2", 25, tensor.U8, 2}, {"INT2", 26, tensor.I8, 2},
}

func elemNamed(name string) (elem, bool) {
	for _, e := range elems {
		if e.name == name {
			return e, true
		}
	}
	return elem{}, false
}

// TypeName returns the name of an ONNX element type number, "" when it is unknown.
func TypeName(id int) string {
	for _, e := range elems {
		if e.id == id {
			return e.name
		}
	}
	return ""
}

var stored = map[string]tensor.DType{
	"BOOL": tensor.Bool, "U8": tensor.U8, "I8": tensor.I8, "I16": tensor.I16, "U16": tensor.U16, "F16": tensor.F16,
	"BF16": tensor.BF16, "I32": tensor.I32, "U32": tensor.U32, "F32": tensor.F32, "F64": tensor.F64, "I64": tensor.I64, "U64": tensor.U64,
}

// decode makes a tensor of stored bytes; 8-bit floats become float32.
func decode(dtype string, shape []int, b []byte) (*tensor.Tensor, error) {
	if d, ok := stored[dtype]; ok {
		t, err := tensor.FromBytes(tensor.T(d, shape...), b)
		if err != nil {
			return nil, err
		}
		return t.Clone(), nil
	}
	exponent, mantissa := 4, 3
	switch dtype {
	case "F8_E4M3":
	case "F8_E5M2":
		exponent, mantissa = 5, 2
	default:
		return nil, fmt.Errorf("element type %q is unknown", dtype)
	}
	t := tensor.New(tensor.T(tensor.F32, shape...))
	if t.Type().Size() != len(b) {
		return nil, fmt.Errorf("%d bytes do not fill shape %v", len(b), shape)
	}
	for i, code := range b {
		t.Set(i, float8(code, exponent, mantissa))
	}
	return t, nil
}

// float8 is the value of an 8-bit float (Micikevicius et al. 2022). E4M3 has no infinity: only the code of all ones is NaN.
func float8(code byte, exponent, mantissa int) float64 {
	bias := 1<<(exponent-1) - 1
	e, m := int(code>>mantissa)&(1<<exponent-1), int(code)&(1<<mantissa-1)
	v := math.Ldexp(float64(m|1<<mantissa), e-bias-mantissa)
	switch {
	case e == 0:
		v = math.Ldexp(float64(m), 1-bias-mantissa)
	case exponent == 4 && code&0x7f == 0x7f, exponent == 5 && e == 31 && m != 0:
		v = math.NaN()
	case exponent == 5 && e == 31:
		v = math.Inf(1)
	}
	if code&0x80 != 0 {
		v = -v
	}
	return v
}
