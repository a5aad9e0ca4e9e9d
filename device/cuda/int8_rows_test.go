package cuda

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Rows that a block holds in registers, of one pack of eight and of several a thread, have the processor's codes, statistics and marks: with outliers, NaN, infinities, zeros
// and numbers whose reciprocals are not numbers.
func TestQuantizeRowsInRegisters(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	for _, dt := range []tensor.DType{tensor.BF16, tensor.F16} {
		for _, columns := range []int{8, 64, 576, 8200} {
			x := awkward(dt, 9*max(columns, 64), rng)
			x, err := x.Reshape(9*max(columns, 64)/columns, columns)
			require.NoError(t, err)
			for _, o := range []ops.QuantizeRows8{{}, {Threshold: 2}, {Threshold: 2, Strict: true}, {Strict: true}} {
				t.Run(fmt.Sprintf("%v/%d/%+v", dt, columns, o), func(t *testing.T) {
					gpu, ref := both(t, o, x)
					for k := range ref {
						requireSame(t, ref[k], gpu[k], fmt.Sprint("output ", k))
					}
				})
			}
		}
	}
}
