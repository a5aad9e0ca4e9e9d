package cublaslt

import (
	"encoding/binary"
	"fmt"
	"math"
)

// A problem that has no algorithm: CUBLAS_STATUS_NOT_SUPPORTED, and CUBLAS_STATUS_INVALID_VALUE for leading dimensions that the library does
// not take.
const (
	notSupported = 15
	invalidValue = 7
)

const allocFailed = 3 // CUBLAS_STATUS_ALLOC_FAILED

// names are those of cublasStatus_t (cublas_api.h).
var names = map[int32]string{
	1: "NOT_INITIALIZED", allocFailed: "ALLOC_FAILED", invalidValue: "INVALID_VALUE", 8: "ARCH_MISMATCH", 11: "MAPPING_ERROR", 13: "EXECUTION_FAILED",
	14: "INTERNAL_ERROR", notSupported: "NOT_SUPPORTED", 16: "LICENSE_ERROR",
}

// Error is a status of the library other than success.
type Error struct {
	Function string
	Status   int32
}

// Error implements error.
func (e *Error) Error() string {
	name := names[e.Status]
	if name == "" {
		name = "unknown status"
	}
	return fmt.Sprintf("cuBLASLt: %s failed: %s (%d)", e.Function, name, e.Status)
}

// OutOfMemory tells whether the library had no memory to work with.
func (e *Error) OutOfMemory() bool { return e.Status == allocFailed }

func status(function string, r uintptr) error {
	if s := int32(r); s != 0 {
		return &Error{function, s}
	}
	return nil
}

func putFloat32(at *[8]byte, v float64) {
	binary.NativeEndian.PutUint32(at[:], math.Float32bits(float32(v)))
}
func putFloat64(at *[8]byte, v float64) { binary.NativeEndian.PutUint64(at[:], math.Float64bits(v)) }
func putInt32(at *[8]byte, v float64)   { binary.NativeEndian.PutUint32(at[:], uint32(int32(v))) }
