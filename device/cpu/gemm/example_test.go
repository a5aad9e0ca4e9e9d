package gemm_test

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device/cpu/gemm"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/pool"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// A linear layer y = x*Wᵀ: the weight is stored [N,K] and used transposed.
func ExampleGemm() {
	workers := pool.New(0)
	defer workers.Close()
	x, w, y := []float32{1, 2, 3}, []float32{1, 0, 0, 0, 1, 1}, make([]float32, 2)
	scratch := make([]byte, gemm.ScratchBytes(1, 2, 3, workers.Threads()))
	err := gemm.Gemm(workers, scratch, 1, gemm.Args{
		M: 1, N: 2, K: 3,
		A: gemm.Mat{Data: tensor.AsBytes(x), DType: tensor.F32},
		B: gemm.Mat{Data: tensor.AsBytes(w), DType: tensor.F32, Trans: true},
		C: gemm.Out{Data: tensor.AsBytes(y), DType: tensor.F32},
	})
	fmt.Println(y, err)
	// Output: [1 5] <nil>
}
