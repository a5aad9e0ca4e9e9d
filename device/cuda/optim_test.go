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
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// severalTensors is a layout whose tensors have several chunks, tiles and ragged ends, and rates and decays of their own.
func severalTensors(d tensor.DType) *ops.Layout {
	l := ops.NewLayout(300*70, 5, 0, 70*530, 8192, 8193)
	l.Rows = []int{300, 0, 0, 70, 0, 0}
	l.LRScale = []float64{1, 2, 1, 0.5, 1, 1}
	l.LR = []float64{0, 0, 0, 0, 0.01, 0}
	l.Decay = []float64{0.1, 0, 0, 0.2, 0.1, 0}
	l.Sites = []uint32{9, 8, 7, 6, 5, 4}
	l.DType = d
	return l
}

// slabOf draws a slab: normal numbers in the tensors, zeros between.
func slabOf(rng *rand.Rand, l *ops.Layout, d tensor.DType, scale float64, square bool) *tensor.Tensor {
	x := tensor.New(l.TypeOf(d))
	for i, at := range l.Offsets {
		for j := range l.Sizes[i] {
			v := scale * rng.NormFloat64()
			if square {
				v *= v
			}
			x.Set(at+j, v)
		}
	}
	return x
}

func updateInputs(rng *rand.Rand, l *ops.Layout, grad tensor.DType, states []ops.StateSpec) []*tensor.Tensor {
	in := []*tensor.Tensor{slabOf(rng, l, l.Type().DType, 1, false), slabOf(rng, l, grad, 0.1, false)}
	for _, s := range states {
		switch {
		case s.Type.DType == tensor.U8:
			x := tensor.New(s.Type)
			for i, at := range l.Offsets {
				for j := range l.Sizes[i] {
					x.Set(at+j, float64(rng.IntN(256)))
				}
			}
			in = append(in, x)
		case s.Name == "comp":
			in = append(in, slabOf(rng, l, s.Type.DType, 1e-3, false))
		case s.Each == ops.EachElement:
			in = append(in, slabOf(rng, l, s.Type.DType, 0.1, s.Name == "state2"))
		default:
			x := tensor.New(s.Type)
			for i := range x.Type().Size() {
				x.Set(i, 0.01+rng.Float64()*0.1)
			}
			in = append(in, x)
		}
	}
	for _, v := range []float64{1e-2, 7, 0.5, 1} { // lr, step, gscale, ok
		x := tensor.New(tensor.T(tensor.F32))
		x.Set(0, v)
		in = append(in, x)
	}
	return in
}

// Updates of tensors in several chunks, with all that differs between them, agree with the processor's.
func TestUpdatesOfManyChunks(t *testing.T) {
	adam := ops.Hyper{Rule: ops.Adam, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.1}
	lamb, sgd := adam, ops.Hyper{Rule: ops.Momentum, Beta1: 0.9, WeightDecay: 0.1, Nesterov: true}
	lamb.MaxUnorm = 0.01
	stochastic, kahan := adam, adam
	stochastic.Rule, stochastic.WeightRounding = ops.AdamTorch, ops.WeightRounding{Rounding: ops.Stochastic, Seed: 1 << 40}
	kahan.WeightRounding = ops.WeightRounding{Rounding: ops.Kahan}
	factor := ops.Adafactor{Decay: 0.8, Eps1: 1e-30, Eps2: 1e-3, Clip: 0.5, Beta1: 0.9, Relative: true, WeightDecay: 0.1}
	rounded := factor
	rounded.Beta1, rounded.WeightRounding = 0, kahan.WeightRounding
	for i, c := range []struct {
		types [2]tensor.DType
		op    func(l *ops.Layout) (graph.Op, []ops.StateSpec)
	}{
		{[2]tensor.DType{tensor.F32, tensor.F32}, update(adam)}, {[2]tensor.DType{tensor.BF16, tensor.BF16}, update8(adam)},
		{[2]tensor.DType{tensor.F32, tensor.F32}, update8(lamb)}, {[2]tensor.DType{tensor.F16, tensor.F32}, update(sgd)},
		{[2]tensor.DType{tensor.BF16, tensor.F32}, update(stochastic)}, {[2]tensor.DType{tensor.BF16, tensor.BF16}, update8(kahan)},
		{[2]tensor.DType{tensor.F32, tensor.F32}, adafactor(factor)}, {[2]tensor.DType{tensor.BF16, tensor.F32}, adafactor(rounded)},
	} {
		l := severalTensors(c.types[0])
		op, states := c.op(l)
		t.Run(fmt.Sprintf("%d/%s/%v", i, op.Name(), c.types), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(3, uint64(i)))
			gpu, ref := both(t, op, updateInputs(rng, l, c.types[1], states)...)
			for k := range ref {
				closeBy(t, gpu[k], ref[k], fmt.Sprintf("output %d", k))
			}
		})
	}
}

// A gradient that is read in wide accesses where it must not be is refused, not read.
func TestUpdateByAnOddGradient(t *testing.T) {
	l := ops.NewLayout(300)
	op, states := update(ops.Hyper{Rule: ops.Adam, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8})(l)
	in := updateInputs(rand.New(rand.NewPCG(1, 1)), l, tensor.F32, states)
	spec := device.Spec{Op: op}
	for _, x := range in {
		spec.In = append(spec.In, x.Type())
	}
	var err error
	spec.Out, err = op.Infer(spec.In)
	require.NoError(t, err)
	d := testDevice(t)
	k, err := d.Kernel(spec)
	require.NoError(t, err)
	place := func(types []tensor.Type) (at []device.Ptr) {
		for _, typ := range types {
			b, err := d.Alloc(typ.Bytes() + 4)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, b.Free()) })
			at = append(at, device.Ptr{Buf: b})
		}
		return at
	}
	ins, outs := place(spec.In), place(spec.Out)
	require.NoError(t, k.Launch(d.Stream(0), ins, outs, device.Ptr{}))
	ins[1].Off = 4
	require.ErrorContains(t, k.Launch(d.Stream(0), ins, outs, device.Ptr{}), "the gradient of an update is at an odd address")
	require.NoError(t, d.Stream(0).Sync())
}

func update(h ops.Hyper) func(*ops.Layout) (graph.Op, []ops.StateSpec) {
	return func(l *ops.Layout) (graph.Op, []ops.StateSpec) {
		o := ops.Update{Hyper: h, Layout: l}
		return o, o.States()
	}
}

func update8(h ops.Hyper) func(*ops.Layout) (graph.Op, []ops.StateSpec) {
	return func(l *ops.Layout) (graph.Op, []ops.StateSpec) {
		o := ops.Update8bit{Hyper: h, Layout: l}
		return o, o.States()
	}
}

func adafactor(o ops.Adafactor) func(*ops.Layout) (graph.Op, []ops.StateSpec) {
	return func(l *ops.Layout) (graph.Op, []ops.StateSpec) {
		o.Layout = l
		return o, o.States()
	}
}

// closeBy compares within approximate arithmetic: floats within 2e-5 of the largest and a unit of 16 bits, codes within one; a few of a
// thousand may be off, where a rounding fell to the other side and 8-bit moments carry it on.
func closeBy(t *testing.T, got, want *tensor.Tensor, what string) {
	require.Equal(t, want.Type(), got.Type())
	unit := map[tensor.DType]float64{tensor.BF16: 1.0 / 128, tensor.F16: 1.0 / 1024}[want.DType()]
	n, far, top := want.Type().Size(), 0, 0.0
	for i := range n {
		top = max(top, math.Abs(want.At(i)))
	}
	for i := range n {
		limit := 2e-5*top + unit*math.Abs(want.At(i))
		if want.DType() == tensor.U8 {
			limit = 1
		}
		if !(math.Abs(got.At(i)-want.At(i)) <= limit) {
			far++
		}
	}
	require.LessOrEqual(t, far, n/500, "%s: %d of %d are far", what, far, n)
}
