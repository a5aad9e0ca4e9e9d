package plan_test

import (
	"context"
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// token is a graph of products of few rows, with weights that are read from a store.
type token struct {
	g     *graph.Graph
	store *plan.Store
	feed  plan.Feed

	floats []graph.Value // that were read
}

const tokenIn = 64

func newToken(dev device.Device) *token {
	return &token{g: graph.New("token"), store: plan.NewStore(dev), feed: plan.Feed{}}
}

func (k *token) input(dt tensor.DType, dims ...int) graph.Value {
	v := k.g.Input(fmt.Sprint("x", len(k.feed)), tensor.T(dt, dims...))
	k.feed[v] = filled(v.Type(), uint64(len(k.feed)+1))
	return v
}

func (k *token) read(t require.TestingT, name string, typ tensor.Type) graph.Value {
	v := graph.NewVar(name, typ)
	x := filled(typ, uint64(len(name)))
	if typ.DType == tensor.U8 {
		for i := range x.Bytes() {
			x.Bytes()[i] = byte(i * 37)
		}
	}
	require.NoError(t, k.store.Set(v, x))
	if typ.DType.IsFloat() && typ.Rank() == 2 {
		k.floats = append(k.floats, k.g.Read(v))
	}
	return k.g.Read(v)
}

// base is x·Wᵀ by n rows of 4 bits.
func (k *token) base(t require.TestingT, x graph.Value, name string, n, blocksize int) graph.Value {
	size := n * x.Dim(-1)
	o := ops.QuantMatMul{Scheme: quant.NF4, Blocksize: blocksize, N: n, K: x.Dim(-1)}
	return ops.QuantLinear(o, x, k.read(t, name+".codes", tensor.T(tensor.U8, size/2)), k.read(t, name+".absmax", tensor.T(tensor.F32, quant.Blocks(size, blocksize))))
}

// adapted adds an adapter of rank r, which is stored in a type.
func (k *token) adapted(t require.TestingT, x graph.Value, name string, n, r int, stored tensor.DType) graph.Value {
	y := k.base(t, x, name, n, 64)
	a := ops.Cast(k.read(t, name+".a", tensor.T(stored, r, tokenIn)), x.DType())
	b := ops.Cast(ops.Scale(k.read(t, name+".b", tensor.T(stored, n, r)), 2), x.DType())
	return ops.Add(y, ops.Linear(ops.Linear(x, a), b))
}

// run compiles and runs outs and counts launches by name.
func (k *token) run(t require.TestingT, dev device.Device, o plan.Options, outs ...graph.Value) (names map[string]int, got []*tensor.Tensor) {
	o.Device, o.Store, o.Verify = dev, k.store, true
	p, err := plan.Compile(outs, o)
	require.NoError(t, err)
	require.NoError(t, p.CheckArena())
	names = map[string]int{}
	for _, l := range p.Launches() {
		names[l.Node.Op.Name()]++
	}
	res, err := p.Run(context.Background(), k.feed)
	require.NoError(t, err)
	for _, v := range outs {
		got = append(got, res.Tensor(v))
	}
	require.NoError(t, p.Close())
	return names, got
}

func grouping() composed {
	return withKernels(ops.QuantMatMulGroup{}, ops.MatMulGroup{}, ops.AddQuantMatMul{})
}

// TestGroups: projections of one input become one launch, and so do the narrow sides of their adapters, whose casts and sums are part of those two; results
// are those of the plan without groups, but for what is not rounded in between.
func TestGroups(t *testing.T) {
	for _, dt := range []tensor.DType{tensor.F32, tensor.BF16} {
		for _, stored := range []tensor.DType{tensor.F32, tensor.BF16} {
			if stored == tensor.BF16 && dt == tensor.F32 {
				continue // casts to a wider type stay
			}
			build := func(dev device.Device, o plan.Options) (map[string]int, []*tensor.Tensor) {
				k := newToken(dev)
				x := ops.Tanh(k.input(dt, 1, 2, tokenIn))
				return k.run(t, dev, o, k.adapted(t, x, "q", 32, 4, stored), k.adapted(t, x, "key", 16, 4, stored), k.adapted(t, x, "value", 16, 2, stored),
					k.base(t, x, "other", 8, 32), k.base(t, x, "fifth", 8, 64))
			}
			_, want := build(withKernels(), plan.Options{})
			names, got := build(grouping(), plan.Options{})
			require.Equal(t, 1, names["matmul_group"], "%v", names)
			require.Equal(t, 1, names["quant_matmul_group"], "%v", names)
			require.Equal(t, 1, names["quant_matmul"], "a group has four: %v", names)
			require.Zero(t, names["add_quant_matmul"]+names["matmul"], "%v", names)
			if stored == tensor.F32 {
				require.Zero(t, names["cast"]+names["fused"], "read as they are stored: %v", names)
			}
			for i := range want {
				limit := map[tensor.DType]float64{tensor.F32: 1e-5, tensor.BF16: 0.02}[dt]
				for j := range want[i].Type().Size() {
					require.InDelta(t, want[i].At(j), got[i].At(j), limit*(1+math.Abs(want[i].At(j))), "%v, stored %v, value %d", dt, stored, i)
				}
			}
			for _, o := range []plan.Options{{NoFuse: true}, {Exact: true}} {
				names, _ = build(grouping(), o)
				require.Zero(t, names["matmul_group"]+names["quant_matmul_group"], "%v", names)
			}
		}
	}
}

// TestGroupsApart: what reads another input, needs the first's result, or is needed by something else, stays.
func TestGroupsApart(t *testing.T) {
	for name, c := range map[string]struct {
		build func(k *token, x graph.Value) []graph.Value
		want  map[string]int
	}{
		"another input": {func(k *token, x graph.Value) []graph.Value {
			return []graph.Value{k.base(t, x, "a", 8, 64), k.base(t, ops.Tanh(x), "b", 8, 64)}
		}, map[string]int{"quant_matmul": 2}},
		"an input in another shape": {func(k *token, x graph.Value) []graph.Value {
			return []graph.Value{k.base(t, x, "a", 8, 64), k.base(t, ops.Reshape(x, 2, tokenIn), "b", 8, 64)}
		}, map[string]int{"quant_matmul_group": 1}},
		"an input of other rows": {func(k *token, x graph.Value) []graph.Value {
			wide := ops.Reshape(x, 1, 2*tokenIn)
			return []graph.Value{k.base(t, x, "a", 8, 64), k.base(t, wide, "b", 8, 64),
				ops.Linear(x, k.read(t, "c", tensor.T(tensor.F32, 4, tokenIn))), ops.Linear(wide, k.read(t, "d", tensor.T(tensor.F32, 4, 2*tokenIn)))}
		}, map[string]int{"quant_matmul": 2, "matmul_group": 2}},
		"what a product is added to": {func(k *token, _ graph.Value) []graph.Value {
			h := k.read(t, "state", tensor.T(tensor.F32, 2, tokenIn))
			a := k.base(t, h, "a", 8, 64)
			k.g.Write(h.Node().Op.(graph.Read).Var, ops.Add(h, k.base(t, ops.Tanh(h), "c", tokenIn, 64)))
			return []graph.Value{a, k.base(t, h, "b", 8, 64)}
		}, map[string]int{"quant_matmul_group": 1, "add_quant_matmul": 1}},
		"a result that is needed": {func(k *token, x graph.Value) []graph.Value {
			y := k.base(t, x, "a", 4, 64)
			s := ops.Linear(y, k.read(t, "b", tensor.T(tensor.F32, 16, 4)))
			return []graph.Value{ops.Add(k.base(t, x, "c", 16, 64), s)}
		}, map[string]int{"quant_matmul_group": 1, "quant_matmul": 1, "add_quant_matmul": 0}},
		"what is added is needed": {func(k *token, x graph.Value) []graph.Value {
			s := ops.Linear(ops.Linear(x, k.read(t, "a", tensor.T(tensor.F32, 4, tokenIn))), k.read(t, "b", tensor.T(tensor.F32, 16, 4)))
			return []graph.Value{ops.Add(k.base(t, x, "c", 16, 64), s), ops.Tanh(s)}
		}, map[string]int{"quant_matmul_group": 0, "matmul_group": 1, "matmul": 1}},
		"not thin": {func(k *token, x graph.Value) []graph.Value {
			return []graph.Value{ops.Linear(x, k.read(t, "a", tensor.T(tensor.F32, 40, tokenIn))), ops.Linear(x, k.read(t, "b", tensor.T(tensor.F32, 17, tokenIn)))}
		}, map[string]int{"matmul_group": 0, "matmul": 2}},
		"something between": {func(k *token, x graph.Value) []graph.Value {
			y := k.base(t, x, "a", tokenIn, 64)
			z := k.base(t, ops.Softmax(y, -1), "b", 4, 64)
			s := ops.Linear(z, k.read(t, "c", tensor.T(tensor.F32, 16, 4)))
			return []graph.Value{y, s, k.base(t, x, "d", 16, 64)}
		}, map[string]int{"quant_matmul_group": 1, "quant_matmul": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			run := func(dev device.Device) (map[string]int, []*tensor.Tensor) {
				k := newToken(dev)
				return k.run(t, dev, plan.Options{}, c.build(k, k.input(tensor.F32, 1, 2, tokenIn))...)
			}
			_, want := run(withKernels())
			names, got := run(grouping())
			for op, n := range c.want {
				require.Equal(t, n, names[op], "%s of %v", op, names)
			}
			for i := range want {
				require.InDeltaSlice(t, want[i].Float32s(), got[i].Float32s(), 1e-4)
			}
		})
	}
}

// TestRotations: what is turned by the same tables is turned at once, with the same bits; by other tables, or as another one's result, it is not.
func TestRotations(t *testing.T) {
	for name, c := range map[string]struct {
		build func(k *token, x, y, cos, sin graph.Value) []graph.Value
		want  map[string]int
	}{
		"queries and keys": {func(k *token, x, y, cos, sin graph.Value) []graph.Value {
			q, v := ops.RoPE(ops.Tanh(x), cos, sin, false), ops.Softmax(y, -1)
			return []graph.Value{q, ops.RoPE(y, cos, sin, false), v}
		}, map[string]int{"rope_group": 1, "rope": 0}},
		"other tables": {func(k *token, x, y, cos, sin graph.Value) []graph.Value {
			return []graph.Value{ops.RoPE(x, cos, sin, false), ops.RoPE(y, cos, cos, false)}
		}, map[string]int{"rope_group": 0, "rope": 2}},
		"other pairs": {func(k *token, x, y, cos, sin graph.Value) []graph.Value {
			return []graph.Value{ops.RoPE(x, cos, sin, false), ops.RoPE(y, cos, sin, true)}
		}, map[string]int{"rope_group": 0, "rope": 2}},
		"twice": {func(k *token, x, _, cos, sin graph.Value) []graph.Value {
			return []graph.Value{ops.RoPE(ops.RoPE(x, cos, sin, false), cos, sin, false)}
		}, map[string]int{"rope_group": 0, "rope": 2}},
		"late": {func(k *token, x, y, cos, sin graph.Value) []graph.Value {
			return []graph.Value{ops.RoPE(x, cos, sin, false), ops.RoPE(ops.Softmax(y, -1), cos, sin, false)}
		}, map[string]int{"rope_group": 0, "rope": 2}},
	} {
		t.Run(name, func(t *testing.T) {
			run := func(dev device.Device) (map[string]int, []*tensor.Tensor) {
				k := newToken(dev)
				x, y, cos, sin := k.input(tensor.F32, 2, 3, 5, 8), k.input(tensor.F32, 2, 3, 2, 8), k.input(tensor.F32, 2, 3, 4), k.input(tensor.F32, 2, 3, 4)
				return k.run(t, dev, plan.Options{}, c.build(k, x, y, cos, sin)...)
			}
			_, want := run(withKernels())
			names, got := run(withKernels(ops.RoPEGroup{}))
			for op, n := range c.want {
				require.Equal(t, n, names[op], "%s of %v", op, names)
			}
			for i := range want {
				require.Equal(t, want[i].Float32s(), got[i].Float32s())
			}
		})
	}
}

// TestAnyGroups: whatever reads what, in whatever order, results stay.
func TestAnyGroups(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		steps := rapid.SliceOfN(rapid.IntRange(0, 1<<16), 2, 14).Draw(t, "steps")
		run := func(dev device.Device) []*tensor.Tensor {
			k := newToken(dev)
			values := []graph.Value{ops.Tanh(k.input(tensor.F32, 2, tokenIn))}
			for i, s := range steps {
				x, name := values[s/8%len(values)], fmt.Sprint("w", i)
				other := values[s/64%len(values)]
				var y graph.Value
				switch s % 8 {
				case 0, 1:
					y = k.adapted(t, x, name, tokenIn, 1+s%3, tensor.F32)
				case 2:
					y = k.base(t, x, name, tokenIn, 64)
				case 3:
					y = ops.Add(other, k.base(t, x, name, tokenIn, 32))
				case 4:
					narrow := ops.Linear(x, k.read(t, name, tensor.T(tensor.F32, 4, tokenIn)))
					y = ops.Add(k.base(t, other, name+"q", tokenIn, 64), ops.Linear(narrow, k.read(t, name+"b", tensor.T(tensor.F32, tokenIn, 4))))
				case 5:
					y = ops.Reshape(k.base(t, ops.Reshape(x, 4, tokenIn/2), name, tokenIn/2, 64), 2, tokenIn)
				case 6:
					y = ops.Concat(0, k.adapted(t, ops.Slice(x, 0, 0, 1), name, tokenIn, 2, tensor.F32), k.base(t, ops.Slice(other, 0, 1, 2), name+"q", tokenIn, 64))
				default:
					y = ops.Mul(x, other)
				}
				values = append(values, ops.Tanh(ops.Scale(y, 0.1)))
			}
			outs := values[max(1, len(values)-4):]
			grads, err := autograd.GradValues(ops.Sum(ops.Mul(outs[0], outs[len(outs)-1])), k.floats...)
			require.NoError(t, err)
			_, got := k.run(t, dev, plan.Options{}, append(outs, grads...)...)
			return got
		}
		want, got := run(withKernels()), run(grouping())
		for i := range want {
			require.InDeltaSlice(t, want[i].Float32s(), got[i].Float32s(), 1e-3)
		}
	})
}

// TestGroupsWithBiases: biases of projections, in front of adapters' parts too, are part of their group; one that is added along another axis, or to what is
// needed without it, is not.
func TestGroupsWithBiases(t *testing.T) {
	build := func(dev device.Device, o plan.Options) (map[string]int, []*tensor.Tensor) {
		k := newToken(dev)
		x := ops.Tanh(k.input(tensor.BF16, 1, 2, tokenIn))
		biased := func(name string, n, rank int, stored tensor.DType) graph.Value {
			y := ops.Add(k.base(t, x, name, n, 64), ops.Cast(k.read(t, name+".bias", tensor.T(stored, n)), tensor.BF16))
			if rank == 0 {
				return y
			}
			a, b := k.read(t, name+".a", tensor.T(tensor.F32, rank, tokenIn)), k.read(t, name+".b", tensor.T(tensor.F32, n, rank))
			return ops.Add(y, ops.Linear(ops.Linear(x, ops.Cast(a, tensor.BF16)), ops.Cast(ops.Scale(b, 2), tensor.BF16)))
		}
		return k.run(t, dev, o, biased("q", 32, 4, tensor.F32), biased("key", 16, 4, tensor.F32), biased("value", 16, 0, tensor.BF16), k.base(t, x, "other", 8, 32))
	}
	_, want := build(withKernels(), plan.Options{})
	names, got := build(grouping(), plan.Options{})
	require.Equal(t, map[string]int{"tanh": 1, "matmul_group": 1, "quant_matmul_group": 1}, names)
	for i := range want {
		for j := range want[i].Type().Size() {
			require.InDelta(t, want[i].At(j), got[i].At(j), 0.02*(1+math.Abs(want[i].At(j))), "value %d", i)
		}
	}

	dev := grouping()
	k := newToken(dev)
	x := ops.Tanh(k.input(tensor.F32, 16, tokenIn))
	y := k.base(t, x, "a", 16, 64)
	column := ops.Add(k.base(t, x, "b", 16, 64), ops.Reshape(k.read(t, "rows", tensor.T(tensor.F32, 16)), 16, 1))
	names, _ = k.run(t, dev, plan.Options{}, y, ops.Add(y, k.read(t, "bias", tensor.T(tensor.F32, 16))), column)
	require.Equal(t, 2, names["add"], "%v", names)
}

// lacking is a device without kernels for groups that have a product with so many rows.
type lacking struct {
	composed
	rows int
}

func (d lacking) Kernel(s device.Spec) (device.Kernel, error) {
	if o, ok := s.Op.(ops.QuantMatMulGroup); ok {
		for _, q := range o.Of {
			if q.N == d.rows {
				return nil, device.ErrNoKernel
			}
		}
	}
	return d.composed.Kernel(s)
}

// TestGroupsOfWhatThereIs: one product that the device cannot compute with others stays alone, wherever it stands, and the others are one launch.
func TestGroupsOfWhatThereIs(t *testing.T) {
	for at := range 4 {
		build := func(dev device.Device) (map[string]int, []*tensor.Tensor) {
			k := newToken(dev)
			x := ops.Tanh(k.input(tensor.F32, 2, tokenIn))
			var outs []graph.Value
			for i := range 4 {
				n := 16
				if i == at {
					n = 48
				}
				outs = append(outs, k.base(t, x, fmt.Sprint("w", i), n, 64))
			}
			return k.run(t, dev, plan.Options{}, outs...)
		}
		_, want := build(withKernels())
		names, got := build(lacking{grouping(), 48})
		require.Equal(t, 1, names["quant_matmul_group"], "product %d: %v", at, names)
		require.Equal(t, 1, names["quant_matmul"], "product %d: %v", at, names)
		require.Equal(t, want, got)
	}
}
