package calib_test

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/quant/calib"
)

// A range for static 8-bit activations, from batches.
func ExampleObserver() {
	o := calib.NewMinMax()
	for _, batch := range [][]float32{{-0.5, 2}, {0.25, 3.5}} {
		if err := o.Observe(batch); err != nil {
			fmt.Println(err)
		}
	}
	r, err := o.Range()
	p := calib.Affine{Bits: 8}.Params(r)
	fmt.Printf("%v %.4f %d %v\n", r, p.Step, p.Zero, err)
	// Output: {-0.5 3.5} 0.0157 32 <nil>
}

// Two inputs that are always equal: GPTQ rounds the second weight up, because the first was rounded down.
func ExampleGPTQ() {
	samples := calib.Matrix{Rows: 3, Cols: 3, Data: []float32{1, 1, 0, 2, 2, 0, 0, 0, 1}}
	h, err := calib.NewHessian(3)
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := h.Add(samples, nil); err != nil {
		fmt.Println(err)
		return
	}
	w := calib.Matrix{Rows: 1, Cols: 3, Data: []float32{0.4, 0.4, 1}}
	r, err := calib.GPTQ(w, h, quant.AffineFormat{Bits: 2, Per: quant.PerChannel}, calib.GPTQOptions{Static: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(r.Values.Data)
	// Output: [0 1 1]
}
