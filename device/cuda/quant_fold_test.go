package cuda

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// foldCase is a weight and an adapter of it.
type foldCase struct {
	scheme           quant.Scheme
	blocksize        int
	nested           bool
	rows, cols, rank int
	dtype            tensor.DType
}

// TestFoldedWeights: a weight that is decoded with an adapter is the sum of both in float64, rounded once: blocks that are parts of a row and several rows,
// strips of each width, ranks that fill no step, rows beyond the last one, operands at odd addresses.
func TestFoldedWeights(t *testing.T) {
	d := testDevice(t)
	rng := rand.New(rand.NewPCG(5, 14))
	for i, c := range []foldCase{
		{rows: 20, cols: 256, blocksize: 64, rank: 16}, {rows: 301, cols: 512, blocksize: 64, rank: 8}, {rows: 5, cols: 64, blocksize: 64, rank: 1},
		{rows: 17, cols: 320, blocksize: 32, rank: 17}, {rows: 33, cols: 384, blocksize: 128, rank: 30}, {rows: 300, cols: 64, blocksize: 256, rank: 64},
		{rows: 70, cols: 768, blocksize: 4096, rank: 33}, {rows: 9, cols: 256, blocksize: 32, rank: 47}, {rows: 1, cols: 128, blocksize: 512, rank: 2},
	} {
		for k, nested := range []bool{false, true} {
			c.nested, c.scheme = nested, []quant.Scheme{quant.NF4, quant.FP4}[(i+k)%2]
			c.dtype = []tensor.DType{tensor.BF16, tensor.F16}[(i/2+k)%2]
			state, parts := randomWeight(rng, c.scheme, c.blocksize, c.rows, c.cols, nested)
			w, err := state.Dequantize(tensor.F32)
			require.NoError(t, err)
			a, b := normal(c.dtype, rng, c.rank, c.cols), normal(c.dtype, rng, c.rows, c.rank)
			alpha := []float32{1, -0.003}[i%2]
			in := append(parts[:len(parts):len(parts)], a, b)
			got := decodeFolded(t, d, c, alpha, in, 0, 1+k*d.sms)
			c.require(t, got, w, a, b, float64(alpha))
			require.Equal(t, got.Bytes(), decodeFolded(t, d, c, alpha, in, 4, 2).Bytes(), "%+v: bits follow neither from addresses nor from the device's size", c)
		}
	}
}

// TestFoldedNothing: with an adapter that adds nothing, every value is the one that decoding alone gives.
func TestFoldedNothing(t *testing.T) {
	d := testDevice(t)
	rng := rand.New(rand.NewPCG(8, 3))
	for i, dtype := range []tensor.DType{tensor.BF16, tensor.F16} {
		c := foldCase{rows: 37, cols: 128, blocksize: 64, rank: 5 - i, nested: i == 0, scheme: []quant.Scheme{quant.NF4, quant.FP4}[i], dtype: dtype}
		_, parts := randomWeight(rng, c.scheme, c.blocksize, c.rows, c.cols, c.nested)
		op := ops.Dequantize{Scheme: c.scheme, Blocksize: c.blocksize, Rows: c.rows, Cols: c.cols, To: dtype, Nested: c.nested}
		want := kernelRun{op: op, in: parts, out: []tensor.Type{tensor.T(dtype, c.rows, c.cols)}}.run(t, d, d.Kernel)[0]
		a, b := normal(dtype, rng, c.rank, c.cols), tensor.New(tensor.T(dtype, c.rows, c.rank))
		got := decodeFolded(t, d, c, -2, append(parts[:len(parts):len(parts)], a, b), 0, d.sms)
		for k := range c.rows * c.cols {
			require.Equal(t, want.At(k)+0, got.At(k)+0, "%+v: element %d", c, k) // a zero may have lost its sign
		}
	}
}

// decodeFolded launches the decoder, cut for so many multiprocessors. Its result begins at a multiple of 16 bytes wherever its operands are.
func decodeFolded(t *testing.T, d *Device, c foldCase, alpha float32, in []*tensor.Tensor, shift int64, processors int) *tensor.Tensor {
	const spare = 8 // elements
	build := func(s device.Spec) (device.Kernel, error) {
		f, err := d.foldingDecoder(weight4{c.scheme, c.blocksize, c.rows, c.cols, c.nested}, c.dtype, c.rank, alpha)
		if err != nil {
			return nil, err
		}
		f.cut(processors)
		k := &Kernel{Enqueue: func(call *Call) error { return f.enqueue(call, call.In, (call.Out[0]+15)&^15) }}
		return k.bind(d, s), nil
	}
	out := kernelRun{op: ops.FoldedQuantMatMul{}, in: in, out: []tensor.Type{tensor.T(c.dtype, c.rows*c.cols+spare)}, shift: shift}.run(t, d, build)[0]
	y := tensor.New(tensor.T(c.dtype, c.rows, c.cols))
	copy(y.Bytes(), out.Bytes()[(16-shift)%16:])
	return y
}

// require compares y with w + alpha·b·a.
func (c foldCase) require(t *testing.T, y, w, a, b *tensor.Tensor, alpha float64) {
	t.Helper()
	unit := map[tensor.DType]float64{tensor.BF16: 0x1p-9, tensor.F16: 0x1p-12}[c.dtype] // half a unit in the last place, of 1
	for i := range c.rows {
		for j := range c.cols {
			sum, size := w.At(i*c.cols+j), math.Abs(w.At(i*c.cols+j))
			for r := range c.rank {
				p := alpha * b.At(i*c.rank+r) * a.At(r*c.cols+j)
				sum, size = sum+p, size+math.Abs(p)
			}
			require.InDelta(t, sum, y.At(i*c.cols+j), 2*unit*math.Abs(sum)+1e-6*size+0x1p-25, "%+v: row %d, column %d", c, i, j)
		}
	}
}

// TestFoldedProductsWhere: the device takes products with an adapter folded in where that pays and its kernel can.
func TestFoldedProductsWhere(t *testing.T) {
	d := testDevice(t)
	good := ops.FoldedQuantMatMul{Of: ops.QuantMatMul{Scheme: quant.NF4, Blocksize: 64, N: 192, K: 256}, Rank: 16, Alpha: 1}
	for name, c := range map[string]struct {
		change func(o *ops.FoldedQuantMatMul)
		rows   int
		dtype  tensor.DType
		ok     bool
	}{
		"as it is":     {nil, 512, tensor.BF16, true},
		"transposed":   {func(o *ops.FoldedQuantMatMul) { o.Of.Trans = true }, 512, tensor.F16, true},
		"nested":       {func(o *ops.FoldedQuantMatMul) { o.Of.Nested = true }, 512, tensor.BF16, true},
		"few rows":     {nil, 511, tensor.BF16, false},
		"float32":      {nil, 512, tensor.F32, false},
		"rank 65":      {func(o *ops.FoldedQuantMatMul) { o.Rank = 65 }, 512, tensor.BF16, false},
		"odd columns":  {func(o *ops.FoldedQuantMatMul) { o.Of.K = 96 }, 512, tensor.BF16, false},
		"odd blocks":   {func(o *ops.FoldedQuantMatMul) { o.Of.Blocksize = 48 }, 512, tensor.BF16, false},
		"many columns": {func(o *ops.FoldedQuantMatMul) { o.Of.K, o.Rank, o.Of.N = 14336, 64, 4096 }, 512, tensor.BF16, true},
	} {
		t.Run(name, func(t *testing.T) {
			o := good
			if c.change != nil {
				c.change(&o)
			}
			from := o.Of.K
			if o.Of.Trans {
				from = o.Of.N
			}
			for _, add := range []bool{false, true} {
				k, err := d.foldedProduct(o, tensor.T(c.dtype, c.rows, from), add)
				if !c.ok {
					require.ErrorIs(t, err, device.ErrNoKernel)
					continue
				}
				require.NoError(t, err)
				require.Contains(t, k.Label, "dequantize_fold/")
				plain, err := d.wholeProduct(weight4{o.Of.Scheme, o.Of.Blocksize, o.Of.N, o.Of.K, o.Of.Nested}, tensor.T(c.dtype, c.rows, from), o.Of.Trans, add)
				require.NoError(t, err)
				require.Equal(t, plain.ScratchBytes, k.ScratchBytes, "it takes no more memory")
			}
		})
	}
	_, err := (&Device{capability: 75}).foldedProduct(good, tensor.T(tensor.F16, 512, 256), false)
	require.ErrorIs(t, err, device.ErrNoKernel, "its products of tensor cores came with 8.0")
}

// BenchmarkFoldedWeights times decoding with an adapter beside decoding alone, also with blocks that come in several rounds. It needs a
// GPU; one round tells all:
//
//	cuda.test -test.run NONE -test.bench FoldedWeights -test.benchtime 1x
func BenchmarkFoldedWeights(b *testing.B) {
	if onEmulator() {
		b.Skip("times of the emulator say nothing")
	}
	for _, shape := range [][2]int{{4096, 14336}, {14336, 4096}, {4096, 4096}, {1024, 4096}} {
		w := weight4{quant.NF4, 64, shape[0], shape[1], true}
		benchDecoder(b, w, 16, "alone", func(d *Device) (func(c *Call, in []Addr, y Addr) error, error) {
			r, err := d.decoder(w, tensor.BF16)
			return func(c *Call, in []Addr, y Addr) error { return r.enqueue(c, in, y) }, err
		})
		for _, rank := range []int{16, 32, 64} {
			for _, rounds := range []int{1, 2, 3, 4} {
				benchDecoder(b, w, rank, fmt.Sprintf("rank=%d/rounds=%d", rank, rounds), func(d *Device) (func(c *Call, in []Addr, y Addr) error, error) {
					f, err := d.foldingDecoder(w, tensor.BF16, rank, 1)
					if err == nil {
						f.cut(rounds * d.sms)
					}
					return func(c *Call, in []Addr, y Addr) error { return f.enqueue(c, in, y) }, err
				})
			}
		}
	}
}

// benchDecoder times what writes the values of a weight; rates count codes, scales and values.
func benchDecoder(b *testing.B, w weight4, rank int, name string, build func(d *Device) (func(c *Call, in []Addr, y Addr) error, error)) {
	b.Run(fmt.Sprintf("%dx%d/%s", w.rows, w.cols, name), func(b *testing.B) {
		d := testDevice(b)
		enqueue, err := build(d)
		require.NoError(b, err)
		n := w.size()
		turns := int(min(160<<20/(2*n)+2, 8))
		codes, absmax, y := space(b, d, turns, n/2), space(b, d, turns, n/64+n/64/64+4096), space(b, d, turns, 2*n)
		adapter := space(b, d, turns, aligned(int64(2*rank*w.cols))+int64(2*rank*w.rows))
		in := make([][]Addr, turns)
		for i := range in {
			outer := absmax[i] + Addr(aligned(n/64))
			in[i] = []Addr{codes[i], absmax[i], outer, outer, adapter[i], adapter[i] + Addr(aligned(int64(2*rank*w.cols)))}
		}
		graphTime(b, d, 2.5*float64(n)+float64(n)/64, turns, func(c *Call, i int) error { return enqueue(c, in[i], y[i]) })
	})
}
