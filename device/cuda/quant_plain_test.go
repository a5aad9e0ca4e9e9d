package cuda

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// beside are borders between codes and the float32s next to them, of both signs, and cells of the tables of plain blocks where they meet.
func beside(borders []float32) []float32 {
	for k := -17; k <= 17; k++ {
		borders = append(borders, float32(k)/16, (float32(k)/16*2048-0.5)/2048)
	}
	for e := -26; e <= 0; e++ {
		borders = append(borders, float32(math.Ldexp(1, e)), float32(math.Ldexp(1+1./128, e)))
	}
	var out []float32
	for _, b := range append(borders, 0, 1e-30, 1e-38, 1e-42) {
		for _, v := range []float32{b, -b} {
			for d := -2; d <= 2; d++ {
				out = append(out, math.Float32frombits(uint32(int32(math.Float32bits(v))+int32(d))))
			}
		}
	}
	kept := out[:0]
	for _, v := range out {
		if v >= -1 && v <= 1 {
			kept = append(kept, v)
		}
	}
	return kept
}

// plainBlocks are blocks of 64 whose largest magnitude is a power of two that turns, so that scaled elements are exact, and which hold values.
func plainBlocks(values []float32, most []int) []float32 {
	var out []float32
	for i, v := range values {
		scale := most[i/63%len(most)]
		if i%63 == 0 {
			out = append(out, float32(math.Copysign(math.Ldexp(1, scale), float64(i%2*2-1))))
		}
		out = append(out, float32(math.Ldexp(float64(v), scale)))
	}
	return out
}

// Plain blocks, which are found in tables: values beside every border, for each size of absmax up to those that are not plain any more.
func TestQuantizePlain(t *testing.T) {
	d := testDevice(t)
	values := map[bool][]float32{}
	for _, unsigned := range []bool{false, true} {
		book := book8(unsigned).Table()
		var borders []float32
		for i := range 255 {
			borders = append(borders, (book[i]+book[i+1])/2)
		}
		values[unsigned] = beside(borders)
	}
	check := func(t *testing.T, x []float32, op graph.Op, want func(codes []byte, absmax []float32) error) {
		in := tensor.New(tensor.T(tensor.F32, len(x)))
		copy(tensor.View[float32](in.Bytes()), x)
		got := launchOp(t, d, 0, op, in)
		codes, absmax := make([]byte, got[0].Type().Size()), make([]float32, got[1].Type().Size())
		require.NoError(t, want(codes, absmax))
		require.Equal(t, floatWords(absmax), floatWords(tensor.View[float32](got[1].Bytes())), "absmax")
		require.Equal(t, codes, got[0].Bytes(), "codes")
	}
	for _, most := range [][]int{{0}, {-120, 3, 15}, {20, 22, 21}, {126, 127}} {
		x := plainBlocks(beside(quant.NF4.Thresholds()), most)
		t.Run(fmt.Sprint("nf4 ", most), func(t *testing.T) {
			check(t, x, ops.Quantize4{Scheme: quant.NF4, Blocksize: 64}, func(codes []byte, absmax []float32) error {
				return quant.Quantize4(codes, absmax, x, 64, quant.NF4)
			})
		})
		for _, o := range []ops.Quantize8{{Blocksize: 64}, {Blocksize: 64, Unsigned: true}, {Blocksize: 64, Moment: true}} {
			x := plainBlocks(values[o.Unsigned], most)
			t.Run(fmt.Sprint(graph.OpText(o), " ", most), func(t *testing.T) {
				check(t, x, o, func(codes []byte, absmax []float32) error { return quantize8(codes, absmax, x, o) })
			})
		}
	}
}

// Numbers as tensors have them, of all element types and kinds of blocks; the last tile is not full.
func TestQuantizeNoise(t *testing.T) {
	d := testDevice(t)
	rng := rand.New(rand.NewPCG(7, 8))
	for _, dtype := range quantized {
		for _, blocksize := range []int{32, 256, 1024, 2048} {
			x := tensor.New(tensor.T(dtype, 2048*5))
			for i := range x.Type().Size() {
				x.Set(i, rng.NormFloat64()*math.Exp2(float64(i/2048)))
			}
			t.Run(fmt.Sprintf("%v/%d", dtype, blocksize), func(t *testing.T) {
				got := launchOp(t, d, 0, ops.Quantize4{Scheme: quant.NF4, Blocksize: blocksize}, x)
				codes, absmax := make([]byte, got[0].Type().Size()), make([]float32, got[1].Type().Size())
				require.NoError(t, quant.Quantize4(codes, absmax, x.Float32s(), blocksize, quant.NF4))
				require.Equal(t, codes, got[0].Bytes(), "4 bits")
				o := ops.Quantize8{Blocksize: blocksize}
				got, codes = launchOp(t, d, 0, o, x), make([]byte, x.Type().Size())
				require.NoError(t, quantize8(codes, absmax, x.Float32s(), o))
				require.Equal(t, codes, got[0].Bytes(), "8 bits")
				require.Equal(t, floatWords(absmax), floatWords(tensor.View[float32](got[1].Bytes())), "absmax")
			})
		}
	}
}
