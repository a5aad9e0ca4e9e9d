package quant

import (
	"math/rand/v2"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/internal/guard"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/stretchr/testify/require"
)

// operands hands out slices of guarded memory, each at the end or at the start of a mapping of its own.
type operands struct {
	t     *testing.T
	start bool
	rooms []guard.Memory
	next  int
}

// again begins another set of operands.
func (o *operands) again(start bool) { o.next, o.start = 0, start }

func place[E tensor.Element](o *operands, n int) []E {
	if o.next == len(o.rooms) {
		o.rooms = append(o.rooms, guard.New(o.t, 1<<17))
	}
	m := o.rooms[o.next]
	o.next++
	if o.start {
		return guard.Start[E](m, n)
	}
	return guard.End[E](m, n)
}

func placed[E tensor.Element](o *operands, x []E) []E {
	to := place[E](o, len(x))
	copy(to, x)
	return to
}

// No loop touches memory beside its operands, wherever they begin and however long they are.
func TestLoopsStayInside(t *testing.T) {
	t.Run("f32", loopsStayInside[float32])
	t.Run("bf16", loopsStayInside[tensor.BFloat16])
	t.Run("f16", loopsStayInside[tensor.Float16])
}

func loopsStayInside[E Real](t *testing.T) {
	o := &operands{t: t}
	rng := rand.New(rand.NewPCG(7, 7))
	eachLevel(t, func(string) {
		for n := range 202 {
			if n >= 200 { // more than is scaled at a time
				n = n*runElements - 199*runElements + n
			}
			for _, start := range []bool{false, true} {
				x := make([]float32, n)
				for i := range x {
					x[i] = float32(rng.NormFloat64())
				}
				o.again(start)
				blocksInside(o, as[E](x))
				o.again(start)
				rowsInside(o, as[E](x))
				o.again(start)
				formatsInside(o, x)
			}
		}
	})
}

// blocksInside quantizes and dequantizes in blocks.
func blocksInside[E Real](o *operands, x []E) {
	n := len(x)
	src, dst := placed(o, x), place[E](o, n)
	codes, bad := place[byte](o, n), o.next
	for _, blocksize := range []int{16, 32, 48, 64, 96} {
		o.next = bad
		blocks := Blocks(n, blocksize)
		absmax := place[float32](o, blocks)
		require.NoError(o.t, Quantize8(codes, absmax, src, blocksize, DynamicUnsigned()))
		require.NoError(o.t, QuantizeMoments8(codes, absmax, src, blocksize, DynamicSigned()))
		require.NoError(o.t, Dequantize8(dst, codes, absmax, blocksize, DynamicSigned()))
		require.NoError(o.t, Dequantize8Large(dst, codes, absmax, blocksize, DynamicSigned()))
		packed := place[byte](o, PackedSize(n))
		for _, scheme := range []Scheme{NF4, FP4} {
			if blocksize >= MinBlocksize {
				require.NoError(o.t, Quantize4(packed, absmax, src, blocksize, scheme))
				require.NoError(o.t, Dequantize4(dst, packed, absmax, blocksize, scheme))
			}
		}
	}
}

// rowsInside is LLM.int8() of one row.
func rowsInside[E Real](o *operands, x []E) {
	n := len(x)
	src, codes, mask := placed(o, x), place[int8](o, n), place[bool](o, n)
	QuantizeRow(codes, src, 0, nil)
	QuantizeRow(codes, src, 1.5, mask)
	HasNaN(src)
	dst, stats := place[E](o, n), place[float32](o, n)
	require.NoError(o.t, DequantizeRows(dst, codes, []float32{2}, 1, n))
	ScaleCodes(dst, codes, 0.5)
	acc := place[int32](o, n)
	require.NoError(o.t, DequantizeProduct(dst, acc, []float32{2}, stats, nil, 1, n))
	require.NoError(o.t, DequantizeProduct(dst, acc, []float32{2}, stats, src, 1, n))
	for _, found := range []int{1, 3} {
		kept, weight := place[float32](o, found), place[float32](o, Blocks(n, OutlierStrip)*found*OutlierStrip)
		require.NoError(o.t, AddOutliers(dst, kept, weight))
	}
}

// formatsInside encodes the formats that read float32 alone.
func formatsInside(o *operands, x []float32) {
	src, codes := placed(o, x), place[uint8](o, len(x))
	for _, f := range []Float8{E4M3, E5M2} {
		encodeFloat8(f, codes, src, 0.25)
	}
	for _, stochastic := range []bool{false, true} {
		a := affine{step: 0.1, zero: 8, lowest: -8, highest: 7, stochastic: stochastic}
		if done := len(src) &^ 7; affineCodes(codes, src[:done], a) {
			a.codes(codes[done:], src[done:])
		}
	}
	encodeRow(codes, src, AbsMax(src))
}
