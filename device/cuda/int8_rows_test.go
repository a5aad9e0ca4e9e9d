package cuda

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/internal/optest/interp"
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

// Values that are rounded to f16 on their way to codes, as LLM.int8() has them, have the codes, statistics and marks that they have as f16, those beyond its range too.
func TestQuantizeRowsThroughHalf(t *testing.T) {
	d, c := testDevice(t), cpu.New(cpu.Options{Threads: 1})
	defer c.Close()
	rng := rand.New(rand.NewPCG(13, 14))
	const rows, columns = 90, 64
	x, err := awkward(tensor.BF16, rows*columns, rng).Reshape(rows, columns)
	require.NoError(t, err)
	for i := range rows * columns { // of four of nine rows awkward values are beyond f16 either way
		if i/columns%9 >= 7 {
			x.Set(i, x.At(i)*1e5)
		}
	}
	half := tensor.New(tensor.T(tensor.F16, rows, columns))
	for i := range rows * columns {
		half.Set(i, x.At(i))
	}
	for _, o := range []ops.QuantizeRows8{{}, {Threshold: 2}, {Threshold: 2, Strict: true}, {Strict: true}} {
		t.Run(fmt.Sprintf("%+v", o), func(t *testing.T) {
			types, err := o.Infer([]tensor.Type{half.Type()})
			require.NoError(t, err)
			want, err := interp.Launch(c, o, []*tensor.Tensor{half}, types)
			require.NoError(t, err)
			q, err := d.rows8(rows, columns, o, tensor.BF16, true)
			require.NoError(t, err)
			require.NotNil(t, q.packed)
			k := &Kernel{ScratchBytes: q.scratch(), Enqueue: func(c *Call) error { return q.enqueue(c, c.In[0], c.Out[0], c.Out[1], c.Out[2], c.Scratch) }}
			got := launchBuilt(t, d, 0, k.bind(d, device.Spec{Op: o, In: []tensor.Type{x.Type()}, Out: types}), types, x)
			for i := range want {
				requireSame(t, want[i], got[i], fmt.Sprint("output ", i))
			}
		})
	}
}
