package cuda

import "github.com/bitsandbyes/bitsandbyes/tensor"

// WarpSize is the number of threads that run in step.
const WarpSize = 32

// cType is the name in kernels/prelude.cuh of the elements of a dtype; bool is a byte.
func cType(d tensor.DType) string {
	if d == tensor.Bool {
		return "u8"
	}
	return d.String()
}

// aligned rounds a part of scratch memory up, so that the next part begins as aligned as the first.
func aligned(bytes int64) int64 { return (bytes + 255) &^ 255 }
