package cuda

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/internal/optest/interp"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Tests of kernels whose results must equal the processor's bit for bit, NaN apart.

// both launches an op on the GPU and on the processor.
func both(t *testing.T, op graph.Op, in ...*tensor.Tensor) (gpu, ref []*tensor.Tensor) {
	t.Helper()
	types := make([]tensor.Type, len(in))
	for i, x := range in {
		types[i] = x.Type()
	}
	out, err := op.Infer(types)
	require.NoError(t, err)
	c := cpu.New(cpu.Options{Threads: 1})
	defer c.Close()
	ref, err = interp.Launch(c, op, in, out)
	require.NoError(t, err)
	gpu, err = interp.Launch(testDevice(t), op, in, out)
	require.NoError(t, err)
	return gpu, ref
}

// requireSame compares bits; any NaN is as good as another.
func requireSame(t *testing.T, want, got *tensor.Tensor, what string) {
	t.Helper()
	require.Equal(t, want.Type(), got.Type(), what)
	if slices.Equal(want.Bytes(), got.Bytes()) {
		return
	}
	size := want.DType().Size()
	for i := range want.Type().Size() {
		w, g := want.At(i), got.At(i)
		if !slices.Equal(want.Bytes()[i*size:(i+1)*size], got.Bytes()[i*size:(i+1)*size]) && !(w != w && g != g) {
			require.Failf(t, "differs", "%s: element %d is %v, want %v", what, i, g, w)
		}
	}
}

// anyNumbers is a tensor of numbers of all magnitudes, among them those at which types end.
func anyNumbers(rng *rand.Rand, d tensor.DType, dims ...int) *tensor.Tensor {
	x := tensor.New(tensor.T(d, dims...))
	edges := []float64{0, 1, -1, 0.5, 127, -128, 128, 255, 256, 32767, 65504, 65520, 2147483647, -2147483648, 4294967295, 1e19, -1e19, 1e-8, 1e-40, 1e30,
		math.Inf(1), math.Inf(-1), math.NaN(), math.Copysign(0, -1)}
	for i := range x.Type().Size() {
		switch rng.IntN(6) {
		case 0:
			x.Set(i, edges[rng.IntN(len(edges))])
		case 1:
			x.Set(i, rng.NormFloat64()*math.Pow(2, float64(rng.IntN(40)-20)))
		default:
			x.Set(i, rng.NormFloat64()*4)
		}
	}
	if d == tensor.U64 || d == tensor.I64 {
		words := tensor.View[uint64](x.Bytes())
		for i := range words {
			switch rng.IntN(4) {
			case 0:
				words[i] = rng.Uint64()
			case 1:
				words[i] = math.MaxUint64 - uint64(rng.IntN(3))
			}
		}
	}
	return x
}

// exactFuncs have one right result.
var exactFuncs = []ops.Func{ops.FnAdd, ops.FnSub, ops.FnMul, ops.FnDiv, ops.FnMin, ops.FnMax, ops.FnEq, ops.FnNe, ops.FnLt, ops.FnLe, ops.FnAnd, ops.FnOr,
	ops.FnNot, ops.FnWhere, ops.FnNeg, ops.FnAbs, ops.FnSign, ops.FnFloor, ops.FnSqrt, ops.FnReLU, ops.FnIsFinite, ops.FnCeil, ops.FnRound, ops.FnTrunc,
	ops.FnBitAnd, ops.FnBitOr, ops.FnBitXor, ops.FnBitNot, ops.FnShl, ops.FnShr, ops.FnRem, ops.FnMod, ops.FnCast, ops.FnFill}

var allTypes = []tensor.DType{tensor.F64, tensor.F32, tensor.BF16, tensor.F16, tensor.I64, tensor.I32, tensor.I16, tensor.I8, tensor.U8, tensor.U16, tensor.U32,
	tensor.U64, tensor.Bool}

// randomChain puts exact functions together on inputs of several types, extents that broadcast, and immediates.
func randomChain(rng *rand.Rand, shapes [][]int, out []int, length int) (graph.Fused, []*tensor.Tensor) {
	prog := &graph.Program{}
	var in []*tensor.Tensor
	types := map[int]tensor.Type{}
	operand := func(d tensor.DType) int {
		var fit []int
		for v, typ := range types {
			if typ.DType == d {
				fit = append(fit, v)
			}
		}
		slices.Sort(fit)
		if len(fit) > 0 && rng.IntN(3) > 0 {
			return fit[rng.IntN(len(fit))]
		}
		in = append(in, anyNumbers(rng, d, shapes[rng.IntN(len(shapes))]...))
		types[-len(in)] = in[len(in)-1].Type()
		return -len(in)
	}
	for len(prog.Instrs) < length {
		op := ops.Pointwise{F: exactFuncs[rng.IntN(len(exactFuncs))]}
		d := allTypes[rng.IntN(len(allTypes))]
		if n := len(prog.Instrs); n > 0 && rng.IntN(4) > 0 {
			d = prog.Instrs[n-1].Type.DType // go on with it
		}
		if op.F == ops.FnCast || op.F == ops.FnFill {
			op.To = allTypes[rng.IntN(len(allTypes))]
			op.Val = float64(rng.IntN(9)) - 4.5
		}
		var args []int
		var argTypes []tensor.Type
		for j := range op.Row().Arity {
			want := d
			if op.F == ops.FnWhere && j == 0 {
				want = tensor.Bool
			}
			args = append(args, operand(want))
			argTypes = append(argTypes, types[args[j]])
		}
		t, err := op.Infer(argTypes)
		if err != nil {
			continue // not of this type
		}
		types[len(prog.Instrs)] = t[0]
		prog.Instrs = append(prog.Instrs, graph.Instr{Op: op, Args: args, Type: t[0]})
	}
	last := prog.Instrs[length-1]
	in = append(in, anyNumbers(rng, last.Type.DType, out...)) // so that the result has its full shape
	args := []int{length - 1, -len(in)}
	op := ops.Pointwise{F: ops.FnEq}
	if last.Type.DType.IsInt() || last.Type.DType.IsFloat() {
		op.F = ops.FnMax
	}
	t, _ := op.Infer([]tensor.Type{last.Type, in[len(in)-1].Type()})
	prog.Instrs = append(prog.Instrs, graph.Instr{Op: op, Args: args, Type: t[0]})
	return graph.Fused{Prog: prog}, in
}

// TestChainsEqualTheProcessor: chains of functions with one right result, over packs, rows, columns and single elements.
func TestChainsEqualTheProcessor(t *testing.T) {
	shapes := [][][]int{
		{{7, 24}, {24}, {7, 1}, {}, {1, 1}},
		{{5, 13}, {13}, {5, 1}, {5, 13}},
		{{2, 3, 4, 8}, {3, 1, 8}, {2, 1, 4, 1}, {4, 8}, {2, 1, 1, 8}},
		{{2000}, {1}},
	}
	for seed := range 24 {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(uint64(seed), 5))
			s := shapes[seed%len(shapes)]
			op, in := randomChain(rng, s, s[0], 1+seed/2)
			gpu, ref := both(t, op, in...)
			requireSame(t, ref[0], gpu[0], op.String())
		})
	}
}

// TestIntegersEqualTheProcessor: functions of the widest integers at the ends of their ranges.
func TestIntegersEqualTheProcessor(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, d := range []tensor.DType{tensor.U64, tensor.I64} {
		for _, f := range []ops.Func{ops.FnDiv, ops.FnRem, ops.FnMod, ops.FnMin, ops.FnLt, ops.FnShl, ops.FnShr, ops.FnSign, ops.FnAbs} {
			op := ops.Pointwise{F: f}
			var in []*tensor.Tensor
			for range op.Row().Arity {
				in = append(in, anyNumbers(rng, d, 300))
			}
			gpu, ref := both(t, op, in...)
			requireSame(t, ref[0], gpu[0], fmt.Sprint(op, " ", d))
		}
	}
}

// TestChainAnywhere: operands that do not lie on multiples of an access, and an output at an input's address, give the same.
func TestChainAnywhere(t *testing.T) {
	dev := testDevice(t)
	const n = 1003
	typ := tensor.T(tensor.BF16, n)
	rng := rand.New(rand.NewPCG(1, 1))
	a, b := anyNumbers(rng, tensor.BF16, n), anyNumbers(rng, tensor.BF16, n)
	_, ref := both(t, ops.Pointwise{F: ops.FnMul}, a, b)
	k, err := dev.Kernel(device.Spec{Op: ops.Pointwise{F: ops.FnMul}, In: []tensor.Type{typ, typ}, Out: []tensor.Type{typ}})
	require.NoError(t, err)
	s := dev.Stream(0)
	for _, off := range []int64{0, 2, 8} {
		buf, err := dev.Alloc(3 * 4096)
		require.NoError(t, err)
		x, y, z := device.Ptr{Buf: buf, Off: off}, device.Ptr{Buf: buf, Off: 4096 + 2*off}, device.Ptr{Buf: buf, Off: 8192}
		for _, out := range []device.Ptr{z, x, y} {
			require.NoError(t, s.Upload(x, a.Bytes()))
			require.NoError(t, s.Upload(y, b.Bytes()))
			require.NoError(t, k.Launch(s, []device.Ptr{x, y}, []device.Ptr{out}, device.Ptr{}))
			got := tensor.New(typ)
			require.NoError(t, s.Download(got.Bytes(), out))
			requireSame(t, ref[0], got, fmt.Sprint("offset ", off))
		}
		require.NoError(t, buf.Free())
	}
}

// TestRandomWordsEqualTheProcessor: words of the generator and masks of dropout, also of widths that no access divides.
func TestRandomWordsEqualTheProcessor(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 9))
	ids := func() *tensor.Tensor { return anyNumbers(rng, tensor.I32, 2, 5) }
	key, err := tensor.FromBytes(tensor.T(tensor.U32, 2), []byte{1, 2, 3, 4, 250, 6, 7, 255})
	require.NoError(t, err)
	for _, n := range []int{1, 7, 8, 130} {
		sample, pos := ids(), ids()
		gpu, ref := both(t, ops.PhiloxOp{Site: 7, N: int64(n)}, key, sample, pos)
		requireSame(t, ref[0], gpu[0], fmt.Sprint("philox ", n))
		for _, d := range []tensor.DType{tensor.F64, tensor.F32, tensor.BF16, tensor.F16} {
			gpu, ref = both(t, ops.DropoutOp{Rate: 0.3, Site: 2}, anyNumbers(rng, d, 2, 5, n), key, sample, pos)
			requireSame(t, ref[0], gpu[0], fmt.Sprint("dropout ", n, d))
		}
	}
}

// TestDropoutInPlace: threads that read places ahead have dropout's values at the address of its input, too, aligned or not.
func TestDropoutInPlace(t *testing.T) {
	d, rng := testDevice(t), rand.New(rand.NewPCG(10, 9))
	const tokens, n = 700, 40
	key, err := tensor.FromBytes(tensor.T(tensor.U32, 2), []byte{1, 2, 3, 4, 250, 6, 7, 255})
	require.NoError(t, err)
	ids := anyNumbers(rng, tensor.I32, tokens)
	op := ops.DropoutOp{Rate: 0.3, Site: 2}
	for _, dt := range []tensor.DType{tensor.F32, tensor.BF16} {
		x := anyNumbers(rng, dt, tokens, n)
		_, ref := both(t, op, x, key, ids, ids)
		spec := device.Spec{Op: op, In: []tensor.Type{x.Type(), key.Type(), ids.Type(), ids.Type()}, Out: []tensor.Type{x.Type()}}
		k, err := d.Kernel(spec)
		require.NoError(t, err)
		for _, off := range []int64{0, int64(dt.Size())} {
			var at []device.Ptr
			for _, in := range []*tensor.Tensor{x, key, ids} {
				b, err := d.Alloc(in.Type().Bytes() + off)
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, b.Free()) })
				p := device.Ptr{Buf: b}
				if in == x {
					p.Off = off
				}
				require.NoError(t, d.Stream(0).Upload(p, in.Bytes()))
				at = append(at, p)
			}
			require.NoError(t, k.Launch(d.Stream(0), append(at, at[2]), at[:1], device.Ptr{}))
			got := tensor.New(x.Type())
			require.NoError(t, d.Stream(0).Download(got.Bytes(), at[0]))
			requireSame(t, ref[0], got, fmt.Sprint(dt, " at ", off))
		}
	}
}

// TestSeveralResults: a chain with several results of several types, at the addresses of its inputs too, is each of them by itself.
func TestSeveralResults(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 9))
	const rows, n = 9, 136
	x, y := anyNumbers(rng, tensor.BF16, rows, n), anyNumbers(rng, tensor.BF16, rows, n)
	typ, mask := x.Type(), tensor.T(tensor.Bool, rows, n)
	prog := &graph.Program{Outs: []int{0, 1, 2}, Instrs: []graph.Instr{
		{Op: ops.Pointwise{F: ops.FnMul}, Args: []int{-1, -2}, Type: typ},
		{Op: ops.Pointwise{F: ops.FnLt}, Args: []int{-1, -2}, Type: mask},
		{Op: ops.Pointwise{F: ops.FnAdd}, Args: []int{0, -2}, Type: typ},
	}}
	gpu, ref := both(t, graph.Fused{Prog: prog}, x, y)
	for k := range ref {
		requireSame(t, ref[k], gpu[k], fmt.Sprint("result ", k))
	}
	dev := testDevice(t)
	k, err := dev.Kernel(device.Spec{Op: graph.Fused{Prog: prog}, In: []tensor.Type{typ, typ}, Out: []tensor.Type{typ, mask, typ}})
	require.NoError(t, err)
	buf, err := dev.Alloc(3 * 4096)
	require.NoError(t, err)
	s := dev.Stream(0)
	a, b, m := device.Ptr{Buf: buf}, device.Ptr{Buf: buf, Off: 4096}, device.Ptr{Buf: buf, Off: 8192}
	require.NoError(t, s.Upload(a, x.Bytes()))
	require.NoError(t, s.Upload(b, y.Bytes()))
	require.NoError(t, k.Launch(s, []device.Ptr{a, b}, []device.Ptr{b, m, a}, device.Ptr{}))
	for i, at := range []device.Ptr{b, m, a} {
		got := tensor.New(ref[i].Type())
		require.NoError(t, s.Download(got.Bytes(), at))
		requireSame(t, ref[i], got, fmt.Sprint("in place, result ", i))
	}
	require.NoError(t, buf.Free())
}
