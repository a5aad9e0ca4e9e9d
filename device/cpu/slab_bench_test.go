package cpu

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// cpuTime is the processor time that the process has used, nil where it cannot be read.
var cpuTime func() time.Duration

// BenchmarkSlab runs each update and the norm over a slab of 1e7 elements, in place; bytes are those that must move. cpu-ns/elem is the
// processor time of the cheapest launch, which other work on the machine moves far less than it moves the clock's.
func BenchmarkSlab(b *testing.B) {
	l := ops.NewLayout(10_000_000)
	rules := []struct {
		name string
		h    ops.Hyper
	}{
		{"adamw", ops.Hyper{Rule: ops.AdamTorch, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.01}},
		{"adam", ops.Hyper{Rule: ops.Adam, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.01}},
		{"ademamix", ops.Hyper{Rule: ops.AdEMAMix, Beta1: 0.9, Beta2: 0.999, Beta3: 0.9999, Alpha: 5, Eps: 1e-8}},
		{"lamb", ops.Hyper{Rule: ops.Adam, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, MaxUnorm: 1}},
		{"lion", ops.Hyper{Rule: ops.Lion, Beta1: 0.9, Beta2: 0.99}},
		{"sgd", ops.Hyper{Rule: ops.Momentum, Beta1: 0.9}},
		{"plain_sgd", ops.Hyper{Rule: ops.Momentum}},
		{"rmsprop", ops.Hyper{Rule: ops.RMSprop, Beta1: 0.99, Eps: 1e-8}},
		{"adagrad", ops.Hyper{Rule: ops.Adagrad, Eps: 1e-10}},
	}
	for _, r := range rules {
		benchUpdate(b, r.name, l, ops.Update{Hyper: r.h, Layout: l})
		if len(r.h.Moments()) > 0 {
			benchUpdate(b, r.name+"8bit", l, ops.Update8bit{Hyper: r.h, Layout: l})
		}
	}
	for _, threads := range []int{1, 2} {
		b.Run("sum_squares"+map[int]string{1: "/one", 2: "/two"}[threads], func(b *testing.B) {
			benchSlab(b, threads, ops.SumSquares{}, []tensor.Type{l.Type()})
		})
	}
}

// benchUpdate runs an update on one and two threads.
func benchUpdate(b *testing.B, name string, l *ops.Layout, op updateOp) {
	in := []tensor.Type{l.Type(), l.Type()}
	for _, s := range op.States() {
		in = append(in, s.Type)
	}
	one := tensor.T(tensor.F32)
	in = append(in, one, one, one, one)
	for _, threads := range []int{1, 2} {
		b.Run(name+map[int]string{1: "/one", 2: "/two"}[threads], func(b *testing.B) { benchSlab(b, threads, op, in) })
	}
}

func benchSlab(b *testing.B, threads int, op graph.Op, in []tensor.Type) {
	dev := New(Options{Threads: threads})
	defer func() { require.NoError(b, dev.Close()) }()
	out, err := op.Infer(in)
	require.NoError(b, err)
	k, err := dev.Kernel(device.Spec{Op: op, In: in, Out: out})
	require.NoError(b, err)
	r := nnRand(5)
	bytes := int64(0)
	alloc := func(t tensor.Type) device.Ptr {
		buf, err := dev.Alloc(t.Bytes())
		require.NoError(b, err)
		bytes += t.Bytes()
		return device.Ptr{Buf: buf}
	}
	ins := make([]device.Ptr, len(in))
	for i, t := range in {
		x := tensor.New(t)
		if t.Rank() == 0 {
			x.Set(0, 1)
		} else if i == 1 || len(in) == 1 { // the gradient
			x = nnRandom(r, t.DType, t.Dim(0))
		}
		ins[i] = alloc(t)
		require.NoError(b, dev.Stream(0).Upload(ins[i], x.Bytes()))
	}
	outs := make([]device.Ptr, len(out))
	for i, t := range out {
		if a, ok := op.(graph.Aliaser); ok {
			outs[i] = ins[a.Alias()[i].In]
			bytes += t.Bytes()
		} else {
			outs[i] = alloc(t)
		}
	}
	var scratch device.Ptr
	if k.Scratch() > 0 {
		buf, err := dev.Alloc(k.Scratch())
		require.NoError(b, err)
		scratch.Buf = buf
	}
	b.SetBytes(bytes)
	least := time.Duration(math.MaxInt64)
	for b.Loop() {
		var start time.Duration
		if cpuTime != nil {
			start = cpuTime()
		}
		require.NoError(b, k.Launch(dev.Stream(0), ins, outs, scratch))
		if cpuTime != nil {
			least = min(least, cpuTime()-start)
		}
	}
	if cpuTime != nil {
		b.ReportMetric(float64(least)/float64(in[0].Size()), "cpu-ns/elem")
	}
}
