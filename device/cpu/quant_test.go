package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/golden/bnb"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// quantWeight draws and quantizes a weight; parts are its tensors.
func quantWeight(t testing.TB, r *rand.Rand, s quant.Scheme, blocksize, n, k int, nested bool) (parts []*tensor.Tensor) {
	t.Helper()
	w := nnRandom(r, tensor.F32, n, k)
	st, err := quant.Quantize(w, quant.Config{Scheme: s, Blocksize: blocksize, Double: nested})
	require.NoError(t, err)
	wrap := func(d tensor.DType, b []byte, dims ...int) {
		x, err := tensor.FromBytes(tensor.T(d, dims...), b)
		require.NoError(t, err)
		parts = append(parts, x)
	}
	wrap(tensor.U8, st.Codes, len(st.Codes), 1)
	if !nested {
		wrap(tensor.F32, tensor.AsBytes(st.Absmax), len(st.Absmax))
		return parts
	}
	wrap(tensor.U8, st.AbsmaxU8, len(st.AbsmaxU8))
	wrap(tensor.F32, tensor.AsBytes(st.NestedAbsmax), len(st.NestedAbsmax))
	return append(parts, tensor.Scalar(st.NestedOffset))
}

type quantCase struct {
	scheme       quant.Scheme
	blocksize, m int
	n, k         int
	nested       bool
	dtype        tensor.DType
}

func quantCases() (out []quantCase) {
	shapes := []struct{ bs, m, n, k int }{
		{64, 1, 7, 172}, {64, 17, 131, 172}, {64, 40, 97, 64}, {32, 3, 13, 33}, {4096, 9, 300, 129}, {128, 130, 61, 512}, {64, 2, 1, 1}, {64, 0, 4, 8},
		{64, 1, 130, 256}, {64, 5, 40, 688}, {32, 2, 77, 96}, {128, 4, 1100, 384}, {64, 3, 66, 320}, {50, 4, 30, 100}, {96, 2, 50, 192}, {256, 20, 72, 1024},
	}
	for i, s := range shapes {
		for _, d := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16, tensor.F64} {
			out = append(out, quantCase{quant.Scheme(i % 2), s.bs, s.m, s.n, s.k, i%3 != 0, d})
			out = append(out, quantCase{quant.Scheme((i + 1) % 2), s.bs, s.m, s.n, s.k, i%3 == 0, d})
		}
	}
	return out
}

// TestQuantMatMul compares the kernel with dequantizing and multiplying, both ways, and one thread with two.
func TestQuantMatMul(t *testing.T) {
	one, two := New(Options{Threads: 1}), New(Options{Threads: 2})
	defer func() { require.NoError(t, one.Close()); require.NoError(t, two.Close()) }()
	for _, c := range quantCases() {
		t.Run(fmt.Sprintf("%v/%d/%dx%dx%d/%v/%v", c.scheme, c.blocksize, c.m, c.n, c.k, c.nested, c.dtype), func(t *testing.T) {
			r := nnRand(uint64(c.n*c.k + c.m))
			for _, trans := range []bool{false, true} {
				o := ops.QuantMatMul{Scheme: c.scheme, Blocksize: c.blocksize, N: c.n, K: c.k, Nested: c.nested, Trans: trans}
				in := c.k
				if trans {
					in = c.n
				}
				g := graph.New("quant")
				vals, feed := nnFeed(g, append([]*tensor.Tensor{nnRandom(r, c.dtype, c.m, in)}, quantWeight(t, r, c.scheme, c.blocksize, c.n, c.k, c.nested)...))
				y := ops.QuantLinear(o, vals[0], vals[1:]...)
				want := o.Decompose(vals)[0]
				a, err := plan.Eval(one, feed, y, want)
				require.NoError(t, err)
				b, err := plan.Eval(two, feed, y)
				require.NoError(t, err)
				require.Equal(t, a[0].Bytes(), b[0].Bytes(), "threads change nothing")
				tol := map[tensor.DType]float64{tensor.F64: 1e-12, tensor.F32: 2e-6, tensor.BF16: 8e-3, tensor.F16: 1e-3}[c.dtype]
				require.LessOrEqual(t, relativeError(a[0], a[1]), tol)
			}
		})
	}
}

// relativeError is the largest difference as a share of the largest value wanted.
func relativeError(got, want *tensor.Tensor) float64 {
	var diff, top float64
	for i := range want.Type().Size() {
		diff = max(diff, math.Abs(got.At(i)-want.At(i)))
		top = max(top, math.Abs(want.At(i)))
	}
	if top == 0 {
		return diff
	}
	return diff / top
}

// TestDequantizeBits compares the kernel with its decomposition and with package quant, bit for bit.
func TestDequantizeBits(t *testing.T) {
	d := New(Options{Threads: 2})
	defer func() { require.NoError(t, d.Close()) }()
	for _, c := range quantCases() {
		r := nnRand(uint64(c.n + c.k))
		g := graph.New("dequantize")
		parts := quantWeight(t, r, c.scheme, c.blocksize, c.n, c.k, c.nested)
		vals, feed := nnFeed(g, parts)
		o := ops.Dequantize{Scheme: c.scheme, Blocksize: c.blocksize, Rows: c.n, Cols: c.k, To: c.dtype, Nested: c.nested}
		out, err := plan.Eval(d, feed, ops.DequantizeWeight(o, vals...), o.Decompose(vals)[0])
		require.NoError(t, err)
		require.Equal(t, out[1].Bytes(), out[0].Bytes(), "%+v", c)
		if c.nested || c.dtype != tensor.F32 {
			continue
		}
		want := make([]float32, c.n*c.k)
		require.NoError(t, quant.Dequantize4(want, parts[0].Bytes(), tensor.Data[float32](parts[1]), c.blocksize, c.scheme))
		require.Equal(t, want, tensor.Data[float32](out[0]))
	}
}

// TestQuantGradient checks dx by finite differences in float64 and the refusal of the weight's gradient.
func TestQuantGradient(t *testing.T) {
	d := New(Options{Threads: 1})
	defer func() { require.NoError(t, d.Close()) }()
	r := nnRand(11)
	o := ops.QuantMatMul{Blocksize: 64, N: 7, K: 172, Nested: true}
	g := graph.New("grad")
	x := nnRandom(r, tensor.F64, 2, 3, 172)
	vals, feed := nnFeed(g, append([]*tensor.Tensor{x}, quantWeight(t, r, quant.NF4, 64, 7, 172, true)...))
	y := ops.QuantLinear(o, vals[0], vals[1:]...)
	require.Equal(t, tensor.T(tensor.F64, 2, 3, 7), y.Type())
	loss := ops.Sum(ops.Sin(y))
	grads, err := autograd.GradValues(loss, vals[0])
	require.NoError(t, err)
	out, err := plan.Eval(d, feed, grads[0])
	require.NoError(t, err)
	dir, want := nnRandom(r, tensor.F64, 2, 3, 172), 0.0
	for i := range x.Type().Size() {
		want += dir.At(i) * out[0].At(i)
	}
	at := func(h float64) float64 {
		moved := x.Clone()
		for i := range x.Type().Size() {
			moved.Set(i, x.At(i)+h*dir.At(i))
		}
		feed[vals[0]] = moved
		res, err := plan.Eval(d, feed, loss)
		require.NoError(t, err)
		return res[0].At(0)
	}
	const h = 1e-5
	require.InEpsilon(t, want, (at(h)-at(-h))/(2*h), 1e-6)

	for i := range 4 {
		_, err = autograd.GradValues(loss, vals[1+i])
		if vals[1+i].DType().IsFloat() {
			require.ErrorContains(t, err, "frozen")
		}
	}
}

// TestQuantizeOps compares the quantizing kernels with package quant, in every dtype and over task borders.
func TestQuantizeOps(t *testing.T) {
	d := New(Options{Threads: 2})
	defer func() { require.NoError(t, d.Close()) }()
	for _, n := range []int{0, 1, 255, 256, 257, 70001} {
		for _, dt := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16} {
			x := nnRandom(nnRand(uint64(n)), dt, n)
			g := graph.New("quantize")
			vals, feed := nnFeed(g, []*tensor.Tensor{x})
			c4, a4 := ops.QuantizeTo4(vals[0], quant.FP4, 64)
			c8, a8 := ops.QuantizeTo8(ops.Quantize8{Blocksize: 256, Moment: true}, vals[0])
			back := ops.DequantizeFrom8(c8, a8, 256, false)
			plain := ops.Dequantize8{Blocksize: 256, To: tensor.F32}.Decompose([]graph.Value{c8, a8})[0]
			out, err := plan.Eval(d, feed, c4, a4, c8, a8, back, plain)
			require.NoError(t, err)
			f := make([]float32, n)
			for i := range f {
				f[i] = float32(x.At(i))
			}
			codes, absmax := make([]byte, quant.PackedSize(n)), make([]float32, quant.Blocks(n, 64))
			require.NoError(t, quant.Quantize4(codes, absmax, f, 64, quant.FP4))
			require.Equal(t, codes, append([]byte{}, out[0].Bytes()...))
			require.Equal(t, absmax, append([]float32{}, tensor.Data[float32](out[1])...))
			codes = make([]byte, n)
			for lo := 0; lo < n; lo += 256 {
				hi := min(lo+256, n)
				scale := quant.DynamicSigned().QuantizeBlockSigned(codes[lo:hi], f[lo:hi])
				require.Equal(t, scale, tensor.Data[float32](out[3])[lo/256])
			}
			require.Equal(t, codes, append([]byte{}, out[2].Bytes()...))
			require.Equal(t, out[5].Bytes(), out[4].Bytes())
		}
	}
}

// TestGoldenBNB compares the ops of 4-bit and 8-bit formats with the CUDA library.
func TestGoldenBNB(t *testing.T) {
	d := New(Options{Threads: 2})
	defer func() { require.NoError(t, d.Close()) }()
	t.Run("Blockwise4", func(t *testing.T) { bnb.Blockwise4(t, d) })
	t.Run("Blockwise8", func(t *testing.T) { bnb.Blockwise8(t, d) })
	t.Run("Linear4bit", func(t *testing.T) { bnb.Linear4bit(t, d) })
}

func TestQuantErrors(t *testing.T) {
	types := func(d ...tensor.Type) []tensor.Type { return d }
	u8, f := func(n int) tensor.Type { return tensor.T(tensor.U8, n) }, func(n ...int) tensor.Type { return tensor.T(tensor.F32, n...) }
	for want, c := range map[string]struct {
		op graph.Op
		in []tensor.Type
	}{
		"blocksize 0":     {ops.QuantMatMul{N: 4, K: 4}, types(f(4), u8(8), f(1))},
		"codes of a":      {ops.QuantMatMul{Blocksize: 64, N: 4, K: 4}, types(f(4), u8(9), f(1))},
		"absmax of a":     {ops.QuantMatMul{Blocksize: 64, N: 4, K: 4, Nested: true}, types(f(4), u8(8), f(1), f(1), f(1))},
		"last axis":       {ops.QuantMatMul{Blocksize: 64, N: 4, K: 4}, types(f(5), u8(8), f(1))},
		"must be a float": {ops.QuantMatMul{Blocksize: 64, N: 4, K: 4}, types(u8(4), u8(8), f(1))},
		"not valid":       {ops.Dequantize{Blocksize: 64, Rows: 1 << 40, Cols: 1 << 40, To: tensor.F32}, types(u8(8), f(1))},
		"4-bit scheme":    {ops.Quantize4{Scheme: 9, Blocksize: 64}, types(f(4))},
		"cannot quantize": {ops.Quantize8{Blocksize: 64}, types(tensor.T(tensor.F64, 3))},
		"at least 1":      {ops.Quantize8{}, types(f(4))},
		"signed":          {ops.Quantize8{Blocksize: 1, Unsigned: true, Moment: true}, types(f(4))},
		"absmax must be":  {ops.Dequantize8{Blocksize: 2, To: tensor.F32}, types(u8(4), f(1))},
		"dequantize to":   {ops.Dequantize8{Blocksize: 2, To: tensor.U8}, types(u8(4), f(2))},
	} {
		_, err := c.op.Infer(c.in)
		require.ErrorContains(t, err, want)
		require.NotContains(t, strings.ToLower(graph.OpText(c.op)), "0x", "no addresses in printed graphs")
	}
}
