package cuda

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// everyValue is all values of a type of 16 bits, or for float32 as many random words.
func everyValue(t *testing.T, rng *rand.Rand, d tensor.DType, dims ...int) *tensor.Tensor {
	t.Helper()
	b := make([]byte, 1<<16*d.Size())
	for i := range 1 << 16 {
		if d == tensor.F32 {
			binary.LittleEndian.PutUint32(b[4*i:], rng.Uint32())
		} else {
			binary.LittleEndian.PutUint16(b[2*i:], uint16(i))
		}
	}
	x, err := tensor.FromBytes(tensor.T(d, dims...), b)
	require.NoError(t, err)
	return x
}

// TestPairsEqualTheProcessor: arithmetic on words of two values of 16 bits is that of float32, rounded: each value with random others, and with itself.
func TestPairsEqualTheProcessor(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 1))
	for _, d := range []tensor.DType{tensor.BF16, tensor.F16} {
		a := everyValue(t, rng, d, 1<<16)
		for round := range 3 {
			b := a
			if round > 0 {
				b = tensor.New(a.Type())
				for i := range 1 << 16 {
					bits := uint16(rng.Uint32())
					if round > 1 { // of the opposite sign and nearly as large, so that differences cancel
						bits = binary.LittleEndian.Uint16(a.Bytes()[2*i:]) ^ 1<<15 ^ uint16(rng.IntN(4))
					}
					binary.LittleEndian.PutUint16(b.Bytes()[2*i:], bits)
				}
			}
			for _, f := range []ops.Func{ops.FnAdd, ops.FnSub, ops.FnMul} {
				gpu, ref := both(t, ops.Pointwise{F: f}, a, b)
				requireSame(t, ref[0], gpu[0], fmt.Sprint(ops.Pointwise{F: f}, d, " round ", round))
			}
		}
	}
}

// TestLogisticOfEveryValue: the logistic function and SiLU of many values in a thread have the bits of the division, which an operand that is one value
// for all of a thread takes.
func TestLogisticOfEveryValue(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 1))
	const wide = 8
	for _, d := range []tensor.DType{tensor.BF16, tensor.F16, tensor.F32} {
		x := everyValue(t, rng, d, 1<<16, 1)
		if d == tensor.F32 { // half of them where the functions change
			for i := range 1 << 15 {
				x.Set(i, rng.NormFloat64()*20)
			}
		}
		whole, ones := tensor.New(tensor.T(d, 1<<16, wide)), tensor.New(tensor.T(d, 1<<16, wide))
		size := d.Size()
		for i := range 1 << 16 {
			for j := range wide {
				ones.Set(i*wide+j, 1)
				copy(whole.Bytes()[(i*wide+j)*size:], x.Bytes()[i*size:(i+1)*size])
			}
		}
		for _, f := range []ops.Func{ops.FnSigmoid, ops.FnSiLU} {
			run := func(x *tensor.Tensor) *tensor.Tensor {
				typ := ones.Type()
				prog := &graph.Program{Instrs: []graph.Instr{{Op: ops.Pointwise{F: f}, Args: []int{-1}, Type: x.Type()},
					{Op: ops.Pointwise{F: ops.FnMul}, Args: []int{0, -2}, Type: typ}}}
				return kernelRun{op: graph.Fused{Prog: prog}, in: []*tensor.Tensor{x, ones}, out: []tensor.Type{typ}}.run(t, testDevice(t), nil)[0]
			}
			requireSame(t, run(x), run(whole), fmt.Sprint(ops.Pointwise{F: f}, d))
		}
	}
}
