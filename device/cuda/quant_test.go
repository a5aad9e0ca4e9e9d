package cuda

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// launchOp runs one op on the device. Inputs begin `skew` elements into buffers, so that they can be less aligned.
func launchOp(t testing.TB, d *Device, skew int, op graph.Op, in ...*tensor.Tensor) []*tensor.Tensor {
	t.Helper()
	types := make([]tensor.Type, len(in))
	for i, x := range in {
		types[i] = x.Type()
	}
	out, err := op.Infer(types)
	require.NoError(t, err)
	k, err := d.Kernel(device.Spec{Op: op, In: types, Out: out})
	require.NoError(t, err)
	return launchBuilt(t, d, skew, k, out, in...)
}

// launchBuilt is launchOp of a kernel.
func launchBuilt(t testing.TB, d *Device, skew int, k device.Kernel, out []tensor.Type, in ...*tensor.Tensor) []*tensor.Tensor {
	t.Helper()
	s := d.Stream(0)
	alloc := func(n int64) device.Ptr {
		b, err := d.Alloc(n)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, b.Free()) })
		return device.Ptr{Buf: b}
	}
	ins, outs := make([]device.Ptr, len(in)), make([]device.Ptr, len(out))
	for i, x := range in {
		at := int64(skew * x.DType().Size())
		ins[i] = alloc(x.Type().Bytes() + at).Add(at)
		require.NoError(t, s.Upload(ins[i], x.Bytes()))
	}
	for i, o := range out {
		outs[i] = alloc(o.Bytes())
	}
	require.NoError(t, k.Launch(s, ins, outs, alloc(k.Scratch())))
	results := make([]*tensor.Tensor, len(out))
	for i, o := range out {
		results[i] = tensor.New(o)
		require.NoError(t, s.Download(results[i].Bytes(), outs[i]))
	}
	return results
}

// awkward is a tensor whose blocks of 64 hold normal numbers, zeros, denormal, huge and infinite ones, NaN, and values beside thresholds.
func awkward(d tensor.DType, n int, rng *rand.Rand) *tensor.Tensor {
	x := tensor.New(tensor.T(d, n))
	for i := range n {
		v := rng.NormFloat64()
		switch i / 64 % 9 {
		case 1:
			v = math.Copysign(0, v)
		case 2:
			v *= 1e-40
		case 3:
			v *= 8e37
		case 4:
			v *= 1e-36
		case 5:
			if i%64 == 7 {
				v = math.Inf(1)
			}
		case 6:
			if i%64 == 3 {
				v = math.NaN()
			}
		case 7:
			v = math.Round(8*v) / 24
		}
		x.Set(i, v)
	}
	return x
}

var quantized = []tensor.DType{tensor.F32, tensor.BF16, tensor.F16}

// TestReciprocal: the unit of the GPU, and its twin for the emulator, are what package quant says.
func TestReciprocal(t *testing.T) {
	d := testDevice(t)
	f, err := d.Function(Program{Files: []string{"approx.cuh"}, Text: `KERNEL rcp_test(const float *x, float *y, i32 n) {
  for (i64 i = global_thread(); i < n; i += global_threads()) y[i] = rcp_approx(x[i]);
}`}, "rcp_test")
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(3, 4))
	x := make([]float32, 1<<16)
	for i := range x {
		x[i] = math.Float32frombits(rng.Uint32())
		if i < 1<<10 {
			x[i] = math.Float32frombits(uint32(i)<<13 | 0x3f800000)
		}
	}
	copy(x, []float32{0, float32(math.Copysign(0, -1)), float32(math.Inf(1)), 1e-40, 3e38, -2e38, 1e38, 8.5e37})
	s, y := d.Stream(0).(*Stream), make([]float32, len(x))
	b, err := d.Alloc(int64(8 * len(x)))
	require.NoError(t, err)
	defer b.Free()
	from, to := device.Ptr{Buf: b}, device.Ptr{Buf: b, Off: int64(4 * len(x))}
	require.NoError(t, s.Upload(from, tensor.AsBytes(x)))
	at, err := d.address(from, int64(8*len(x)))
	require.NoError(t, err)
	c := Call{Dev: d, Stream: s}
	require.NoError(t, d.enter(func() error { return c.Launch(f, Rows(64, 128), at, at+Addr(4*len(x)), int32(len(x))) }))
	require.NoError(t, s.Download(tensor.AsBytes(y), to))
	for i := range x {
		if want := quant.Rcp(x[i]); want == want || y[i] == y[i] {
			require.Equal(t, math.Float32bits(want), math.Float32bits(y[i]), "1/%v (%08x)", x[i], math.Float32bits(x[i]))
		}
	}
}

// TestQuantize: codes and scales are those of package quant for every element type, block size and alignment.
func TestQuantize(t *testing.T) {
	d := testDevice(t)
	rng := rand.New(rand.NewPCG(5, 6))
	sizes := map[tensor.DType][]int{tensor.F32: {34, 64, 4096}, tensor.BF16: {32, 64, 256, 512}, tensor.F16: {128}}
	for i, dtype := range quantized {
		for _, blocksize := range sizes[dtype] {
			x := awkward(dtype, 64*9*2+blocksize+37*(i+1), rng)
			for _, skew := range []int{0, 1} {
				for _, scheme := range []quant.Scheme{quant.NF4, quant.FP4} {
					t.Run(fmt.Sprintf("%v/%d/%v/%d", scheme, blocksize, dtype, skew), func(t *testing.T) {
						got := launchOp(t, d, skew, ops.Quantize4{Scheme: scheme, Blocksize: blocksize}, x)
						codes, absmax := make([]byte, got[0].Type().Size()), make([]float32, got[1].Type().Size())
						require.NoError(t, quant.Quantize4(codes, absmax, x.Float32s(), blocksize, scheme))
						require.Equal(t, floatWords(absmax), floatWords(tensor.View[float32](got[1].Bytes())), "absmax")
						require.Equal(t, codes, got[0].Bytes(), "codes")
					})
				}
				for _, o := range []ops.Quantize8{{Blocksize: blocksize}, {Blocksize: blocksize, Unsigned: true}, {Blocksize: blocksize, Moment: true}} {
					t.Run(fmt.Sprintf("%v/%v/%d", graph.OpText(o), dtype, skew), func(t *testing.T) {
						got := launchOp(t, d, skew, o, x)
						codes, absmax := make([]byte, got[0].Type().Size()), make([]float32, got[1].Type().Size())
						require.NoError(t, quantize8(codes, absmax, x.Float32s(), o))
						require.Equal(t, floatWords(absmax), floatWords(tensor.View[float32](got[1].Bytes())), "absmax")
						require.Equal(t, codes, got[0].Bytes(), "codes")
					})
				}
			}
		}
	}
}

func quantize8(codes []byte, absmax []float32, x []float32, o ops.Quantize8) error {
	if o.Moment {
		return quant.QuantizeMoments8(codes, absmax, x, o.Blocksize, quant.DynamicSigned())
	}
	return quant.Quantize8(codes, absmax, x, o.Blocksize, book8(o.Unsigned))
}

func book8(unsigned bool) *quant.Codebook {
	if unsigned {
		return quant.DynamicUnsigned()
	}
	return quant.DynamicSigned()
}

// randomWeight is a quantized weight of random bytes and its parts as operands of ops.
func randomWeight(rng *rand.Rand, s quant.Scheme, blocksize, rows, cols int, nested bool) (*quant.State, []*tensor.Tensor) {
	n := rows * cols
	blocks := quant.Blocks(n, blocksize)
	random := func(n int) *tensor.Tensor {
		x := tensor.New(tensor.T(tensor.U8, n))
		for i := range x.Bytes() {
			x.Bytes()[i] = byte(rng.Uint32())
		}
		return x
	}
	uniform := func(dims ...int) *tensor.Tensor {
		x := tensor.New(tensor.T(tensor.F32, dims...))
		for i := range x.Type().Size() {
			x.Set(i, 0.01+rng.Float64()/32)
		}
		return x
	}
	codes := random(quant.PackedSize(n))
	if n%2 == 1 {
		codes.Bytes()[n/2] = codes.Bytes()[n/2]&0xf0 | s.ZeroCode()
	}
	state := &quant.State{Scheme: s, Blocksize: blocksize, Shape: tensor.S(rows, cols), DType: tensor.F32, Codes: codes.Bytes()}
	if !nested {
		absmax := uniform(blocks)
		state.Absmax = tensor.View[float32](absmax.Bytes())
		return state, []*tensor.Tensor{codes, absmax}
	}
	absmax, outer, offset := random(blocks), uniform(quant.Blocks(blocks, quant.StateBlocksize)), uniform()
	state.AbsmaxU8, state.NestedAbsmax, state.NestedOffset = absmax.Bytes(), tensor.View[float32](outer.Bytes()), float32(offset.At(0))
	return state, []*tensor.Tensor{codes, absmax, outer, offset}
}

// TestDequantize: values are those of package quant, whole weights and rows of them.
func TestDequantize(t *testing.T) {
	d := testDevice(t)
	rng := rand.New(rand.NewPCG(7, 8))
	for _, shape := range [][2]int{{7, 43}, {24, 96}, {5, 1000}} {
		for _, blocksize := range []int{32, 64, 50, 256} {
			for _, nested := range []bool{false, true} {
				scheme := quant.Scheme(rng.IntN(2))
				state, parts := randomWeight(rng, scheme, blocksize, shape[0], shape[1], nested)
				for _, to := range quantized {
					t.Run(fmt.Sprintf("%v/%v/%d/%v/%v", scheme, shape, blocksize, nested, to), func(t *testing.T) {
						want, err := state.Dequantize(to)
						require.NoError(t, err)
						o := ops.Dequantize{Scheme: scheme, Blocksize: blocksize, Rows: shape[0], Cols: shape[1], To: to, Nested: nested}
						require.Equal(t, want.Bytes(), launchOp(t, d, 0, o, parts...)[0].Bytes())
						require.Equal(t, want.Bytes(), launchOp(t, d, 1, o, parts...)[0].Bytes(), "less aligned")

						ids := tensor.New(tensor.T(tensor.I32, 5))
						row := shape[1] * to.Size()
						var picked []byte
						for i, id := range []int{2, -1, shape[0] - 1, shape[0], 0} {
							ids.Set(i, float64(id))
							if id < 0 || id >= shape[0] {
								picked = append(picked, make([]byte, row)...)
								continue
							}
							picked = append(picked, want.Bytes()[id*row:(id+1)*row]...)
						}
						got := launchOp(t, d, 0, ops.QuantEmbed(o), append([]*tensor.Tensor{ids}, parts...)...)
						require.Equal(t, picked, got[0].Bytes(), "rows")
					})
				}
			}
		}
	}
}

func TestDequantize8(t *testing.T) {
	d := testDevice(t)
	rng := rand.New(rand.NewPCG(9, 10))
	for _, blocksize := range []int{1, 64, 100, 256} {
		for _, unsigned := range []bool{false, true} {
			const n = 3*256 + 77
			codes, absmax := tensor.New(tensor.T(tensor.U8, n)), tensor.New(tensor.T(tensor.F32, quant.Blocks(n, blocksize)))
			for i := range n {
				codes.Bytes()[i] = byte(rng.Uint32())
			}
			for i := range absmax.Type().Size() {
				absmax.Set(i, rng.ExpFloat64())
			}
			for _, to := range quantized {
				o := ops.Dequantize8{Blocksize: blocksize, Unsigned: unsigned, To: to}
				want := tensor.New(tensor.T(to, n))
				var err error
				scales := tensor.View[float32](absmax.Bytes())
				switch to {
				case tensor.BF16:
					err = quant.Dequantize8(tensor.View[tensor.BFloat16](want.Bytes()), codes.Bytes(), scales, blocksize, book8(unsigned))
				case tensor.F16:
					err = quant.Dequantize8(tensor.View[tensor.Float16](want.Bytes()), codes.Bytes(), scales, blocksize, book8(unsigned))
				default:
					err = quant.Dequantize8(tensor.View[float32](want.Bytes()), codes.Bytes(), scales, blocksize, book8(unsigned))
				}
				require.NoError(t, err)
				require.Equal(t, want.Bytes(), launchOp(t, d, 0, o, codes, absmax)[0].Bytes(), "%v", graph.OpText(o))
				require.Equal(t, want.Bytes(), launchOp(t, d, 1, o, codes, absmax)[0].Bytes(), "%v, less aligned", graph.OpText(o))
			}
		}
	}
}

// TestQuantThin: products by few rows are those of the dequantized weight in float64, within the rounding of the result.
func TestQuantThin(t *testing.T) {
	d := testDevice(t)
	rng := rand.New(rand.NewPCG(11, 12))
	for _, c := range []struct{ m, n, k, blocksize int }{{1, 40, 128, 64}, {3, 33, 96, 64}, {5, 16, 2080, 32}, {11, 50, 256, 4096}, {40, 17, 160, 64}, {2, 9, 43, 64}, {4, 8, 64, 50}, {2, 18, 20512, 64}, {9, 17, 5280, 64}} {
		for _, dtype := range quantized {
			for _, nested := range []bool{false, true} {
				state, parts := randomWeight(rng, quant.NF4, c.blocksize, c.n, c.k, nested)
				w, err := state.Dequantize(dtype)
				require.NoError(t, err)
				x := tensor.New(tensor.T(dtype, c.m, c.k))
				for i := range x.Type().Size() {
					x.Set(i, rng.NormFloat64())
				}
				o := ops.QuantMatMul{Scheme: quant.NF4, Blocksize: c.blocksize, N: c.n, K: c.k, Nested: nested}
				p, err := d.thinProduct(weight4{quant.NF4, c.blocksize, c.n, c.k, nested}, dtype, c.m, false)
				require.NoError(t, err)
				if p == nil {
					continue
				}
				for _, skew := range []int{0, 1} {
					got := launchOp(t, d, skew, o, append([]*tensor.Tensor{x}, parts...)...)[0]
					what := fmt.Sprintf("%+v %v nested %v skew %d", c, dtype, nested, skew)
					sameProduct(t, got, x, w, nil, what)
					to := got.Clone()
					got = launchOp(t, d, skew, ops.AddQuantMatMul{QuantMatMul: o}, append([]*tensor.Tensor{to, x}, parts...)...)[0]
					sameProduct(t, got, x, w, to, what+" added")
				}
			}
		}
	}
}

// sameProduct compares y with x·wᵀ, added to c if there is one.
func sameProduct(t *testing.T, y, x, w, c *tensor.Tensor, what string) {
	t.Helper()
	m, n, k := x.Type().Dim(0), w.Type().Dim(0), w.Type().Dim(1)
	limit := map[tensor.DType]float64{tensor.F32: 2e-6, tensor.BF16: 0x1p-8, tensor.F16: 0x1p-11}[y.DType()]
	for i := range m {
		for j := range n {
			sum, size := 0.0, 0.0
			for e := range k {
				p := x.At(i*k+e) * w.At(j*k+e)
				sum, size = sum+p, size+math.Abs(p)
			}
			if c != nil {
				sum += c.At(i*n + j)
			}
			require.InDelta(t, sum, y.At(i*n+j), limit*math.Abs(sum)+2e-6*size, "%s: row %d, column %d", what, i, j)
		}
	}
}
