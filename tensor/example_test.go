package tensor_test

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Tensors print as NumPy prints arrays.
func ExampleOf() {
	t, err := tensor.Of([]float32{1, 2, 3, 4, 5, 6.5}, 2, 3)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(t)
	// Output:
	// f32[2,3]
	// [[  1   2   3]
	//  [  4   5 6.5]]
}

// Converting rounds to the nearest value, ties to even.
func ExampleTensor_Convert() {
	t, err := tensor.Of([]float32{1, 1.00390625, 3.14159})
	if err != nil {
		fmt.Println(err)
		return
	}
	half, err := t.Convert(tensor.BF16)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(half.Type(), half.Float32s())
	// Output: bf16[3] [1 1 3.140625]
}

// Shapes are comparable values and broadcast as NumPy's do.
func ExampleBroadcast() {
	s, err := tensor.Broadcast(tensor.S(8, 1, 6), tensor.S(7, 1))
	fmt.Println(s, err, s == tensor.S(8, 7, 6))
	_, err = tensor.Broadcast(tensor.S(3), tensor.S(4))
	fmt.Println(err)
	// Output:
	// [8,7,6] <nil> true
	// shapes [3] and [4] do not broadcast: extents 3 and 4 on axis 1 from the end
}
