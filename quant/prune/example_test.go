package prune_test

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/quant/prune"
)

// Two of every four neighbours stay.
func ExampleNM() {
	w := []float32{0.1, -3, 2, 0.5, 1, 1, -4, 0}
	mask, err := prune.NM(prune.Magnitudes(w), 8, 2, 4)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(mask.Apply(w), w, mask.Sparsity())
	// Output: <nil> [0 -3 2 0 1 0 -4 0] 0.5
}
