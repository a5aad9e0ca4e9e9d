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
	"github.com/bitsandbyes/bitsandbyes/internal/optest"
	"github.com/bitsandbyes/bitsandbyes/internal/optest/interp"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// kernelRun is one launch of a kernel on given inputs, nil ones absent.
type kernelRun struct {
	op    device.Op
	in    []*tensor.Tensor
	out   []tensor.Type
	shift int64 // bytes by which every operand is off the start of its buffer
	alias []int // by output: the input whose place it takes, -1 for none; nil: none does
	f32   []int // inputs that are float32 in every dtype
}

// run launches the op's kernel, or the one of build.
func (l kernelRun) run(t *testing.T, dev device.Device, build func(s device.Spec) (device.Kernel, error)) []*tensor.Tensor {
	t.Helper()
	spec := device.Spec{Op: l.op, Out: l.out}
	s := dev.Stream(0)
	place := func(n int64) device.Ptr {
		b, err := dev.Alloc(n + l.shift)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, b.Free()) })
		return device.Ptr{Buf: b, Off: l.shift}
	}
	in, out := make([]device.Ptr, len(l.in)), make([]device.Ptr, len(l.out))
	for i, x := range l.in {
		if x == nil {
			spec.In = append(spec.In, tensor.Type{})
			continue
		}
		spec.In = append(spec.In, x.Type())
		in[i] = place(x.Type().Bytes())
		require.NoError(t, s.Upload(in[i], x.Bytes()))
	}
	for i, typ := range l.out {
		if l.alias != nil && l.alias[i] >= 0 {
			out[i] = in[l.alias[i]]
			continue
		}
		out[i] = place(typ.Bytes())
		require.NoError(t, s.Upload(out[i], filledBytes(typ.Bytes())), "what was there must not matter")
	}
	if build == nil {
		build = dev.Kernel
	}
	k, err := build(spec)
	require.NoError(t, err)
	var scratch device.Ptr
	if k.Scratch() > 0 {
		b, err := dev.Alloc(k.Scratch())
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, b.Free()) })
		scratch = device.Ptr{Buf: b}
		require.NoError(t, s.Upload(scratch, filledBytes(k.Scratch())))
	}
	require.NoError(t, k.Launch(s, in, out, scratch))
	var got []*tensor.Tensor
	for i, typ := range l.out {
		x := tensor.New(typ)
		require.NoError(t, s.Download(x.Bytes(), out[i]))
		got = append(got, x)
	}
	return got
}

// filledBytes are NaNs in every float dtype.
func filledBytes(n int64) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = 0xff
	}
	return b
}

// check compares the launch on the test's device with the CPU in float64.
func (l kernelRun) check(t *testing.T, limit float64, build func(s device.Spec) (device.Kernel, error)) {
	t.Helper()
	dev, ref := testDevice(t), cpu.New(cpu.Options{Threads: 1})
	g := graph.New(l.op.Name())
	feed, in := map[graph.Value]*tensor.Tensor{}, make([]graph.Value, len(l.in))
	for i, x := range l.in {
		if x == nil {
			continue
		}
		if x.DType().IsFloat() && !slices.Contains(l.f32, i) {
			w, err := x.Convert(tensor.F64)
			require.NoError(t, err)
			x = w
		}
		in[i] = g.Input(fmt.Sprint("x", i), x.Type())
		feed[in[i]] = x
	}
	want, err := interp.Run(interp.Options{Device: ref}, interp.Env{Feed: feed}, g.Apply(l.op.(graph.Op), in...)...)
	require.NoError(t, err)
	for i, got := range l.run(t, dev, build) {
		require.NoError(t, optest.Compare(got, want[i], limit), "output %d", i)
	}
}

// normal is a tensor of normal numbers, rounded to the dtype.
func normal(dt tensor.DType, rng *rand.Rand, dims ...int) *tensor.Tensor {
	x := tensor.New(tensor.T(dt, dims...))
	for i := range x.Type().Size() {
		x.Set(i, rng.NormFloat64())
	}
	return x
}

// rowLengths reach every layout: some rows a warp, a row some warps, most accesses a thread, rows in memory, odd lengths. Each is compiled.
var rowLengths = map[tensor.DType][]int{
	tensor.BF16: {5, 64, 130, 4096, 4104, 16392}, tensor.F32: {1, 8, 130, 8200, 16392}, tensor.F64: {130, 4096}, tensor.F16: {768},
}

func TestNorms(t *testing.T) {
	for dt, lengths := range rowLengths {
		for _, n := range lengths {
			t.Run(fmt.Sprintf("%v/%d", dt, n), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(1, uint64(n)))
				rows := max(2, min(11, 9000/n))
				x, w, b, g, c := normal(dt, rng, rows, n), normal(dt, rng, n), normal(dt, rng, n), normal(dt, rng, rows, n), normal(dt, rng, rows, n)
				whole, row := []tensor.Type{x.Type()}, w.Type()
				limit := optest.Limits[dt]
				sums := limit * math.Sqrt(float64(rows)) // dw has the errors of all rows
				kernelRun{op: ops.RMSNormOp{Eps: 1e-5}, in: []*tensor.Tensor{x, w}, out: whole, alias: []int{0}}.check(t, limit, nil)
				kernelRun{op: ops.LayerNormOp{Eps: 1e-5}, in: []*tensor.Tensor{x, w, b}, out: whole}.check(t, limit, nil)
				kernelRun{op: ops.LayerNormOp{Eps: 1e-5}, in: []*tensor.Tensor{x, nil, b}, out: whole, shift: int64(dt.Size())}.check(t, limit, nil)
				two := []tensor.Type{x.Type(), x.Type()}
				kernelRun{op: ops.AddNormOp{Eps: 1e-5}, in: []*tensor.Tensor{g, x, w, nil}, out: two, alias: []int{1, 0}}.check(t, 2*limit, nil)
				kernelRun{op: ops.AddNormOp{Eps: 1e-5, Centre: true}, in: []*tensor.Tensor{g, x, nil, b}, out: two, shift: int64(dt.Size())}.check(t, 2*limit, nil)
				if n == 1 && dt != tensor.F64 {
					return // x̂ is a sign: its gradient is rounding
				}
				kernelRun{op: ops.RMSNormGradOp{Eps: 1e-5, NeedX: true}, in: []*tensor.Tensor{x, w, g}, out: whole, alias: []int{2}}.check(t, 4*limit, nil)
				kernelRun{op: ops.AddRMSNormGradOp{Eps: 1e-5}, in: []*tensor.Tensor{c, x, w, g}, out: whole, alias: []int{0}}.check(t, 4*limit, nil)
				kernelRun{op: ops.RMSNormGradOp{Eps: 1e-5, NeedX: true, NeedW: true}, in: []*tensor.Tensor{x, w, g}, out: []tensor.Type{x.Type(), row}, shift: 64}.check(t, 4*sums, nil)
				kernelRun{op: ops.LayerNormGradOp{Eps: 1e-5, NeedX: true, NeedW: true, NeedB: true}, in: []*tensor.Tensor{x, w, g},
					out: []tensor.Type{x.Type(), row, row}, alias: []int{0, -1, -1}}.check(t, 4*sums, nil)
				kernelRun{op: ops.LayerNormGradOp{Eps: 1e-5, NeedB: true}, in: []*tensor.Tensor{x, nil, g}, out: []tensor.Type{row}, shift: int64(dt.Size())}.check(t, sums, nil)
			})
		}
	}
}

// TestNormOfNothing: no rows give parameters no gradient.
func TestNormOfNothing(t *testing.T) {
	x, w := tensor.New(tensor.T(tensor.F32, 0, 8)), tensor.New(tensor.T(tensor.F32, 8))
	got := kernelRun{op: ops.RMSNormGradOp{Eps: 1e-5, NeedX: true, NeedW: true}, in: []*tensor.Tensor{x, w, x}, out: []tensor.Type{x.Type(), w.Type()}}.run(t, testDevice(t), nil)
	require.Equal(t, w, got[1])
}

// TestManyRows: blocks that go over many rows, several of which are on their way, take each once; weights' gradients repeat to the bit.
func TestManyRows(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	dev := testDevice(t)
	few := func(centre, more bool, build func(o norm) (*Kernel, error)) func(s device.Spec) (device.Kernel, error) {
		return func(s device.Spec) (device.Kernel, error) {
			o := newNorm(1e-5, s, centre, 3)
			o.more = more
			k, err := build(o)
			if err != nil {
				return nil, err
			}
			return k.bind(dev, s), nil
		}
	}
	for _, n := range []int{40, 520, 768} {
		x, w, g := normal(tensor.BF16, rng, 300, n), normal(tensor.BF16, rng, n), normal(tensor.BF16, rng, 300, n)
		limit, row := optest.Limits[tensor.BF16], w.Type()
		l := kernelRun{op: ops.LayerNormGradOp{Eps: 1e-5, NeedX: true, NeedW: true, NeedB: true}, in: []*tensor.Tensor{x, w, g}, out: []tensor.Type{x.Type(), row, row}, alias: []int{2, -1, -1}}
		build := few(true, false, func(o norm) (*Kernel, error) { return buildNormGrad(dev, o, true, true, true) })
		l.check(t, 4*limit, build)
		require.Equal(t, l.run(t, dev, build), l.run(t, dev, build))
		kernelRun{op: ops.AddRMSNormGradOp{Eps: 1e-5}, in: []*tensor.Tensor{x, x, w, g}, out: []tensor.Type{x.Type()}, alias: []int{0}}.check(t, 4*limit,
			few(false, true, func(o norm) (*Kernel, error) { return buildNormGrad(dev, o, true, false, false) }))
		kernelRun{op: ops.AddNormOp{Eps: 1e-5, Centre: true}, in: []*tensor.Tensor{g, x, w, w}, out: []tensor.Type{x.Type(), x.Type()}, alias: []int{1, 0}}.check(t, 2*limit,
			few(true, true, func(o norm) (*Kernel, error) { return buildNorm(dev, o) }))
	}
}

func TestRoPE(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, dt := range optest.Floats {
		for _, c := range []struct{ tokens, heads, size, half int }{{5, 3, 16, 8}, {9, 32, 128, 64}, {3, 5, 24, 8}, {2, 1, 7, 3}, {2, 2, 8, 0}, {300, 8, 64, 16}} {
			if c.tokens > 5 && dt != tensor.BF16 {
				continue // the same code
			}
			for _, op := range []ops.RoPEOp{{}, {Inverse: true}, {Interleaved: true}, {Interleaved: true, Inverse: true}} {
				x, co, si := normal(dt, rng, c.tokens, c.heads, c.size), normal(tensor.F32, rng, c.tokens, c.half), normal(tensor.F32, rng, c.tokens, c.half)
				l := kernelRun{op: op, in: []*tensor.Tensor{x, co, si}, out: []tensor.Type{x.Type()}, f32: []int{1, 2}}
				l.check(t, optest.Limits[dt], nil)
				l.shift = 8
				l.check(t, optest.Limits[dt], nil)
				l.alias = []int{0}
				l.check(t, optest.Limits[dt], nil)
			}
		}
	}
}

// classLabels are labels of which some are ignored.
func classLabels(rng *rand.Rand, n, classes int) *tensor.Tensor {
	y := tensor.New(tensor.T(tensor.I32, n))
	for i := range n {
		y.Set(i, float64(rng.IntN(classes)))
		if i%5 == 2 {
			y.Set(i, -100)
		}
	}
	return y
}

func TestTokenLoss(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 2))
	for _, dt := range optest.Floats {
		sum := tensor.F32
		if dt == tensor.F64 {
			sum = dt
		}
		for _, classes := range []int{1, 7, 32, 1001, 20000} {
			const n = 6
			z, y := normal(dt, rng, n, classes), classLabels(rng, n, classes)
			row := tensor.T(sum, n)
			loss := kernelRun{op: ops.TokenLossOp{}, in: []*tensor.Tensor{z, y}, out: []tensor.Type{row, row}}
			limit := max(optest.Limits[sum], 1e-5*float64(min(dt.Size()%8, 1)))
			loss.check(t, limit, nil)
			out := loss.run(t, testDevice(t), nil)
			for _, g := range [][2]*tensor.Tensor{{normal(sum, rng, n), normal(sum, rng, n)}, {nil, normal(sum, rng, n)}, {normal(sum, rng, n), nil}} {
				grad := kernelRun{op: ops.TokenLossGradOp{}, in: []*tensor.Tensor{z, y, out[1], g[0], g[1]}, out: []tensor.Type{z.Type()}}
				grad.check(t, optest.Limits[dt], nil)
				grad.alias = []int{0}
				grad.check(t, optest.Limits[dt], nil)
			}
		}
	}
}

// TestTokenLossOfWrongLabels: a label that is no class makes loss and gradient NaN, and logits of -inf have no weight.
func TestTokenLossOfWrongLabels(t *testing.T) {
	z, y := tensor.New(tensor.T(tensor.F32, 2, 5)), tensor.New(tensor.T(tensor.I32, 2))
	y.Set(0, 5)
	y.Set(1, 1)
	z.Set(5, math.Inf(-1))
	row := tensor.T(tensor.F32, 2)
	out := kernelRun{op: ops.TokenLossOp{}, in: []*tensor.Tensor{z, y}, out: []tensor.Type{row, row}}.run(t, testDevice(t), nil)
	require.True(t, math.IsNaN(out[0].At(0)))
	require.InDelta(t, math.Log(4), out[0].At(1), 1e-6)
	grad := kernelRun{op: ops.TokenLossGradOp{}, in: []*tensor.Tensor{z, y, out[1], out[1], nil}, out: []tensor.Type{z.Type()}}.run(t, testDevice(t), nil)
	require.True(t, math.IsNaN(grad[0].At(0)))
	require.Zero(t, grad[0].At(5))
}
