package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// nnTypes are the dtypes every kernel is tried in, with the error allowed against its decomposition, as a share of 1 + the
// largest value.
var nnTypes = []struct {
	d   tensor.DType
	tol float64
}{{tensor.F64, 1e-12}, {tensor.F32, 3e-6}, {tensor.BF16, 1.0 / 100}, {tensor.F16, 1.0 / 800}}

// nnRandom is a tensor of normal deviates rounded to d.
func nnRandom(r *rand.Rand, d tensor.DType, dims ...int) *tensor.Tensor {
	t := tensor.New(tensor.T(d, dims...))
	for i := range t.Type().Size() {
		t.Set(i, r.NormFloat64())
	}
	return t
}

// nnLabels are labels in [0, v) with about every fourth ignored.
func nnLabels(r *rand.Rand, v int, dims ...int) *tensor.Tensor {
	t := tensor.New(tensor.T(tensor.I32, dims...))
	for i := range t.Type().Size() {
		t.Set(i, float64(r.IntN(v)))
		if r.IntN(4) == 0 {
			t.Set(i, -100)
		}
	}
	return t
}

func nnRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 7)) }

// nnFeed declares an input for each tensor; nil tensors are absent.
func nnFeed(g *graph.Graph, in []*tensor.Tensor) ([]graph.Value, plan.Feed) {
	vals, feed := make([]graph.Value, len(in)), plan.Feed{}
	for i, x := range in {
		if x != nil {
			vals[i] = g.Input(fmt.Sprintf("in%d", i), x.Type())
			feed[vals[i]] = x
		}
	}
	return vals, feed
}

// nnEval builds a graph on the inputs and runs it.
func nnEval(t *testing.T, threads int, in []*tensor.Tensor, build func(v []graph.Value) []graph.Value) []*tensor.Tensor {
	t.Helper()
	out, err := nnTry(t, threads, in, build)
	require.NoError(t, err)
	return out
}

func nnTry(t *testing.T, threads int, in []*tensor.Tensor, build func(v []graph.Value) []graph.Value) ([]*tensor.Tensor, error) {
	t.Helper()
	g := graph.New("nn")
	vals, feed := nnFeed(g, in)
	outs := build(vals)
	require.NoError(t, g.Err())
	dev := New(Options{Threads: threads})
	defer func() { require.NoError(t, dev.Close()) }()
	return plan.Eval(dev, feed, outs...)
}

// nnKernel checks one op: its kernel exists, gives the same bits on one and two threads and in place where the op allows it,
// and agrees with the decomposition.
func nnKernel(t *testing.T, op graph.Op, tol float64, in ...*tensor.Tensor) {
	t.Helper()
	apply := func(v []graph.Value) []graph.Value {
		return v[0].Graph().Apply(op, v...)
	}
	got := nnLaunch(t, 1, op, -1, in)
	for i, y := range nnLaunch(t, 2, op, -1, in) {
		require.Equal(t, got[i].Bytes(), y.Bytes(), "output %d: threads change the bits", i)
	}
	for i, y := range nnEval(t, 2, in, apply) {
		require.Equal(t, got[i].Bytes(), y.Bytes(), "output %d: the plan changes the bits", i)
	}
	if d, ok := op.(graph.Decomposable); ok {
		for i, want := range nnEval(t, 1, in, d.Decompose) {
			nnClose(t, want, got[i], tol, fmt.Sprintf("output %d against the decomposition", i))
		}
	}
	if a, ok := op.(graph.Aliaser); ok {
		for _, pair := range a.Alias() {
			for i, y := range nnLaunch(t, 2, op, pair.In, in) {
				require.Equal(t, got[i].Bytes(), y.Bytes(), "output %d: wrong in place of input %d", i, pair.In)
			}
		}
	}
}

// nnLaunch runs the kernel itself, with output 0 at the address of input over (-1: none) and all other memory dirty.
func nnLaunch(t *testing.T, threads int, op graph.Op, over int, in []*tensor.Tensor) []*tensor.Tensor {
	t.Helper()
	dev := New(Options{Threads: threads})
	defer func() { require.NoError(t, dev.Close()) }()
	spec := device.Spec{Op: op}
	var ins, outs []device.Ptr
	for _, x := range in {
		if x == nil {
			spec.In, ins = append(spec.In, tensor.Type{}), append(ins, device.Ptr{})
			continue
		}
		spec.In, ins = append(spec.In, x.Type()), append(ins, nnUpload(t, dev, x.Bytes()))
	}
	var err error
	spec.Out, err = op.Infer(spec.In)
	require.NoError(t, err)
	for i, typ := range spec.Out {
		if over >= 0 && i == 0 {
			outs = append(outs, ins[over])
			continue
		}
		outs = append(outs, nnDirty(t, dev, typ.Bytes()))
	}
	k, err := dev.Kernel(spec)
	require.NoError(t, err)
	require.NoError(t, k.Launch(dev.Stream(0), ins, outs, nnDirty(t, dev, k.Scratch())))
	res := make([]*tensor.Tensor, len(outs))
	for i, typ := range spec.Out {
		res[i] = tensor.New(typ)
		require.NoError(t, dev.Stream(0).Download(res[i].Bytes(), outs[i]))
	}
	return res
}

func nnDirty(t *testing.T, dev *Device, n int64) device.Ptr {
	t.Helper()
	dirt := make([]byte, n)
	for i := range dirt {
		dirt[i] = 0xff // a NaN in every float type
	}
	return nnUpload(t, dev, dirt)
}

func nnUpload(t *testing.T, dev *Device, b []byte) device.Ptr {
	t.Helper()
	buf, err := dev.Alloc(int64(len(b)))
	require.NoError(t, err)
	p := device.Ptr{Buf: buf}
	require.NoError(t, dev.Stream(0).Upload(p, b))
	return p
}

// nnClose compares within tol·(1 + max|want|); NaNs must match.
func nnClose(t *testing.T, want, got *tensor.Tensor, tol float64, what string) {
	t.Helper()
	require.Equal(t, want.Type(), got.Type(), what)
	limit := 1.0
	for i := range want.Type().Size() {
		if w := math.Abs(want.At(i)); !math.IsInf(w, 0) && !math.IsNaN(w) {
			limit = max(limit, 1+w)
		}
	}
	for i := range want.Type().Size() {
		w, g := want.At(i), got.At(i)
		if w == g || (math.IsNaN(w) && math.IsNaN(g)) {
			continue
		}
		if !(math.Abs(w-g) <= tol*limit) {
			require.Failf(t, what, "element %d of %v: want %v, got %v (limit %g)", i, want.Type(), w, g, tol*limit)
		}
	}
}

// nnGrad compares the gradient of Σ f(in)·R, for random R, along one random direction of the inputs listed, with the central
// difference in float64.
func nnGrad(t *testing.T, wrt []int, in []*tensor.Tensor, f func(v []graph.Value) []graph.Value) {
	t.Helper()
	loss := func(v []graph.Value) graph.Value {
		var total graph.Value
		for i, y := range f(v) {
			r := y.Graph().Const(nnRandom(nnRand(uint64(90+i)), tensor.F64, y.Shape().Dims()...))
			if s := ops.Sum(ops.Mul(y, r)); total.Absent() {
				total = s
			} else {
				total = ops.Add(total, s)
			}
		}
		return total
	}
	dir := map[int]*tensor.Tensor{}
	for _, i := range wrt {
		dir[i] = nnRandom(nnRand(uint64(50+i)), tensor.F64, in[i].Shape().Dims()...)
	}
	grads := nnEval(t, 1, in, func(v []graph.Value) []graph.Value {
		vars := make([]graph.Value, len(wrt))
		for k, i := range wrt {
			vars[k] = v[i]
		}
		gs, err := autograd.GradValues(loss(v), vars...)
		require.NoError(t, err)
		return gs
	})
	var slope float64
	for k, i := range wrt {
		for j := range grads[k].Type().Size() {
			slope += grads[k].At(j) * dir[i].At(j)
		}
	}
	const h = 1e-5
	at := func(step float64) float64 {
		moved := append([]*tensor.Tensor(nil), in...)
		for i, d := range dir {
			moved[i] = in[i].Clone()
			for j := range d.Type().Size() {
				moved[i].Set(j, in[i].At(j)+step*d.At(j))
			}
		}
		return nnEval(t, 1, moved, func(v []graph.Value) []graph.Value { return []graph.Value{loss(v)} })[0].At(0)
	}
	require.InDelta(t, (at(h)-at(-h))/(2*h), slope, 1e-6*(1+math.Abs(slope)), "finite difference against gradient")
}
